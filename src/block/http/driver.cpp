// Options of "http" and "https": url (or a name), readahead, timeout, cookie, cookie-secret, username,
// password-secret, sslverify.
#include "block/driver.h"
#include "block/http/http_node.h"
#include "block/io_context.h"

namespace ostler::block {
namespace {

Result<http::Settings> read_settings(OpenRequest& request, std::string_view scheme) {
  OptionReader& options = request.options;
  http::Settings settings;
  TRY_ASSIGN(const auto name, options.string("filename"));
  TRY_ASSIGN(const auto url, options.string("url"));
  if (name.has_value() == url.has_value()) return options.error("url", "is needed, once");
  settings.url = url ? *url : *name;
  if (!settings.url.starts_with(std::string(scheme) + "://"))
    return options.error("url", "must begin with " + std::string(scheme) + "://");
  TRY_ASSIGN(const auto ahead, options.size("readahead"));
  if (ahead && (*ahead == 0 || *ahead % 512 != 0))
    return options.error("readahead", "must be a multiple of 512, and not 0");
  settings.read_ahead = ahead.value_or(settings.read_ahead);
  TRY_ASSIGN(const auto timeout, options.number("timeout", 10000));
  if (timeout == 0) return options.error("timeout", "must be 1 second or more");
  settings.timeout = timeout.value_or(settings.timeout);
  TRY_ASSIGN(const auto cookie, options.string("cookie"));
  TRY_ASSIGN(const auto cookie_secret, options.string("cookie-secret"));
  if (cookie && cookie_secret) return options.error("cookie", "and 'cookie-secret' exclude each other");
  settings.cookie = cookie.value_or("");
  if (cookie_secret) {
    TRY_ASSIGN(settings.cookie, request.opener.secret(*cookie_secret, "cookie-secret"));
  }
  TRY_ASSIGN(const auto username, options.string("username"));
  settings.username = username.value_or("");
  TRY_ASSIGN(const auto password, options.string("password-secret"));
  if (password && !username) return options.error("password-secret", "needs a 'username'");
  if (password) {
    TRY_ASSIGN(settings.password, request.opener.secret(*password, "password-secret"));
  }
  TRY_ASSIGN(const auto verify, options.boolean("sslverify"));
  settings.verify = verify.value_or(true);
  TRY(options.finish());
  if (request.flags.writable)
    return Error(ErrorKind::kPermission, settings.url + ": it cannot be written to; open it read-only");
  return settings;
}

Task<Result<NodePtr>> open_url(OpenRequest request, std::string scheme) {
  CO_TRY_ASSIGN(http::Settings settings, read_settings(request, scheme));
  Result<std::shared_ptr<http::HttpNode>> opened = std::shared_ptr<http::HttpNode>();
  co_await IoContext::current()->offload(
      [&] { opened = http::HttpNode::open(std::move(settings), std::move(scheme)); });
  if (!opened) co_return std::move(opened).error();
  co_return NodePtr(*std::move(opened));
}

Task<Result<NodePtr>> open_http(OpenRequest request) {
  return open_url(std::move(request), "http");
}
Task<Result<NodePtr>> open_https(OpenRequest request) {
  return open_url(std::move(request), "https");
}

}  // namespace

extern const Driver kHttpDriver, kHttpsDriver;
const Driver kHttpDriver = {
    .name = "http", .kind = DriverKind::kProtocol, .open = open_http, .schemes = "http"};
const Driver kHttpsDriver = {
    .name = "https", .kind = DriverKind::kProtocol, .open = open_https, .schemes = "https"};

}  // namespace ostler::block
