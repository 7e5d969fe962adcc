#include "block/nbd/tls_objects.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>

namespace ostler::block::nbd {
namespace {

std::string_view name_of(TlsEndpoint endpoint) {
  return endpoint == TlsEndpoint::kServer ? "server" : "client";
}

Result<TlsSettings> take_settings(const Opener& opener, bool keys, OptionReader& options) {
  TlsSettings settings;
  if (keys) settings.kind = TlsSettings::Kind::kKeys;
  TRY_ASSIGN(const auto folder, options.string("dir"));
  if (!folder || folder->empty())
    return options.error("dir", keys ? "is missing: the folder of keys.psk"
                                     : "is missing: the folder of ca-cert.pem and the other certificates");
  settings.folder = *folder;
  TRY_ASSIGN(const auto endpoint, options.choice("endpoint", {"client", "server"}));
  if (endpoint == "server") settings.endpoint = TlsEndpoint::kServer;
  TRY_ASSIGN(const auto priority, options.string("priority"));
  settings.priority = priority.value_or("");
  TRY_ASSIGN(const auto verify, options.boolean("verify-peer"));
  settings.verify_peer = verify.value_or(true);
  if (keys) {
    TRY_ASSIGN(const auto username, options.string("username"));
    if (username && endpoint == "server")
      return options.error("username", "is a client's; the users that a server knows are those in keys.psk");
    settings.username = username.value_or(settings.username);
    TRY(options.finish());
    return settings;
  }
  TRY_ASSIGN(const auto check, options.boolean("sanity-check"));
  settings.sanity_check = check.value_or(true);
  TRY_ASSIGN(const auto password, options.string("passwordid"));
  TRY(options.finish());
  if (password) {
    TRY_ASSIGN(settings.password, opener.secret(*password, options.where() + ": passwordid"));
  }
  return settings;
}

}  // namespace

Result<void> add_tls_object(Opener& opener, std::string_view type, const std::string& id,
                            OptionReader options) {
  TRY_ASSIGN(TlsSettings settings, take_settings(opener, type == kTlsKeys, options));
  auto loaded = TlsCredentials::load(std::move(settings));
  if (!loaded) return std::move(loaded).error().with_context(options.where());
  return opener.add_tls(id, *std::move(loaded));
}

Result<std::shared_ptr<const TlsCredentials>> find_tls(const Opener& opener, const std::string& name,
                                                       TlsEndpoint endpoint, bool verify_peer) {
  if (auto object = opener.tls(name)) {
    if (object->endpoint() == endpoint) return object;
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("tls-creds: the object '{0}' is for a {1}, and this is a {2}; give it "
                             "endpoint={2}",
                             name, name_of(object->endpoint()), name_of(endpoint)));
  }
  std::error_code ignored;
  if (name.empty() || std::filesystem::is_directory(name, ignored))
    return TlsCredentials::load_folder(name, endpoint, verify_peer);
  return Error(ErrorKind::kNotFound,
               fmt::format("tls-creds: there is no object '{0}', and no folder of that name; --object "
                           "tls-creds-x509,id={0},dir=DIR,endpoint={1} makes the object",
                           name, name_of(endpoint)));
}

}  // namespace ostler::block::nbd
