#include "block/nbd/remote.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/port_number.h"
#include "block/nbd/protocol.h"

namespace ostler::block::nbd {
namespace {

using nlohmann::json;

Error bad_name(std::string_view name, std::string_view problem) {
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("'{}' is no NBD address: {}; write nbd://HOST[:PORT]/EXPORT or "
                           "nbd+unix:///EXPORT?socket=PATH",
                           name, problem));
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = static_cast<char>(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// RFC 3986 §2.1
bool decode(std::string_view text, std::string& result) {
  result.clear();
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      result += text[i];
      continue;
    }
    if (i + 2 >= text.size() || hex_digit(text[i + 1]) < 0 || hex_digit(text[i + 2]) < 0) return false;
    result += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
    i += 2;
  }
  return result.find('\0') == std::string::npos;
}

std::string encode(std::string_view text, std::string_view kept = "-._~/") {
  std::string result;
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
                       kept.find(c) != std::string_view::npos;
    if (plain)
      result += c;
    else
      result += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return result;
}

// "host", "host:port", "[address]:port"
bool parse_host(std::string_view text, Remote& remote) {
  if (const size_t at = text.rfind('@'); at != std::string_view::npos) text.remove_prefix(at + 1);
  std::string_view host = text, port;
  if (text.starts_with('[')) {
    const size_t end = text.find(']');
    if (end == std::string_view::npos) return false;
    host = text.substr(1, end - 1);
    port = text.substr(end + 1);
  } else if (const size_t colon = text.find(':'); colon != std::string_view::npos) {
    host = text.substr(0, colon);
    port = text.substr(colon);
  }
  if (!port.empty()) {
    if (port[0] != ':') return false;
    port.remove_prefix(1);
  }
  remote.port = port.empty() ? std::to_string(kDefaultPort) : std::string(port);
  const auto in_port = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-'; };
  if (!std::ranges::all_of(remote.port, in_port) || !may_be_port(remote.port)) return false;
  return decode(host.empty() ? "localhost" : host, remote.host) && !remote.host.empty() &&
         remote.host.find_first_of("/@[]") == std::string::npos;
}

Result<Remote> parse_old(std::string_view name) {
  Remote remote;
  std::string_view rest = name.substr(4);
  constexpr std::string_view kExport = ":exportname=";
  if (const size_t at = rest.find(kExport); at != std::string_view::npos) {
    remote.export_name = rest.substr(at + kExport.size());
    rest = rest.substr(0, at);
  }
  if (rest.starts_with("unix:")) {
    remote.path = rest.substr(5);
    if (remote.path.empty()) return bad_name(name, "the socket's path is missing");
    return remote;
  }
  if (rest.empty() || !parse_host(rest, remote)) return bad_name(name, "host and port are missing");
  return remote;
}

}  // namespace

std::string Remote::uri() const {
  const char* const secure = tls ? "s" : "";
  if (!path.empty())
    return fmt::format("nbd{}+unix:///{}?socket={}", secure, encode(export_name), encode(path));
  const std::string shown =
      host.find(':') != std::string::npos ? "[" + encode(host, "-._~:") + "]" : encode(host);
  return fmt::format("nbd{}://{}:{}/{}", secure, shown, port, encode(export_name));
}

Result<Remote> parse_remote(std::string_view name) {
  const size_t colon = name.find(':');
  const std::string_view scheme = name.substr(0, colon);
  if (scheme != "nbd" && scheme != "nbds" && scheme != "nbd+unix" && scheme != "nbds+unix")
    return bad_name(name, "it does not begin with nbd:");
  if (colon == std::string_view::npos || name.find('\0') != std::string_view::npos)
    return bad_name(name, "it is cut off");
  std::string_view rest = name.substr(colon + 1);
  if (!rest.starts_with("//")) {
    if (scheme == "nbd") return parse_old(name);
    return bad_name(name, "'//' is missing");
  }
  rest.remove_prefix(2);
  Remote remote;
  remote.tls = scheme.starts_with("nbds");
  const bool local = scheme.ends_with("+unix");
  std::string_view query;
  if (const size_t at = rest.find('?'); at != std::string_view::npos) {
    query = rest.substr(at + 1);
    rest = rest.substr(0, at);
  }
  const size_t slash = rest.find('/');
  const std::string_view authority = rest.substr(0, slash);
  if (slash != std::string_view::npos && !decode(rest.substr(slash + 1), remote.export_name))
    return bad_name(name, "the export's name has a '%' without two digits");
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string_view part = query.substr(0, end);
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
    const size_t equals = part.find('=');
    const std::string_view key = part.substr(0, equals);
    std::string value;
    if (equals == std::string_view::npos || !decode(part.substr(equals + 1), value))
      return bad_name(name, "what follows '?' must be NAME=VALUE");
    if (key == "socket")
      remote.path = value;
    else if (key == "tls-certificates" || key == "tls-creds")
      remote.tls_credentials = value;
    else if (key == "tls-hostname")
      remote.tls_hostname = value;
    else
      return bad_name(name, fmt::format("there is no parameter '{}'", key));
  }
  if (local) {
    if (remote.path.empty() || !authority.empty())
      return bad_name(name, "it has three slashes and ?socket=PATH");
    return remote;
  }
  if (!remote.path.empty()) return bad_name(name, "socket= is for nbd+unix");
  if (!parse_host(authority, remote)) return bad_name(name, "the host cannot be read");
  return remote;
}

Result<Remote> take_remote(OptionReader& options) {
  Remote remote;
  TRY_ASSIGN(const auto name, options.string("filename"));
  const auto server = options.take("server");
  if (name && server) return options.error("server", "and a name exclude each other");
  if (name) {
    TRY_ASSIGN(remote, parse_remote(*name));
  } else {
    // The older spelling has host, port and path beside "export".
    OptionReader place(server ? *server : json::object(), options.where());
    OptionReader& from = server ? place : options;
    TRY_ASSIGN(const auto type, from.choice("type", {"unix", "inet"}));
    TRY_ASSIGN(const auto path, from.string("path"));
    TRY_ASSIGN(const auto host, from.string("host"));
    const auto port = from.take("port");
    if (server) TRY(place.finish());
    if (path.has_value() == host.has_value() || (type == "unix" && !path) || (type == "inet" && !host))
      return options.error("server", "needs 'path' of a unix socket, or 'host' and 'port'");
    remote.path = path.value_or("");
    remote.host = host.value_or("");
    remote.port = std::to_string(kDefaultPort);
    if (port && port->is_string()) remote.port = port->get<std::string>();
    if (port && port->is_number_unsigned()) remote.port = std::to_string(port->get<uint64_t>());
    if (!may_be_port(remote.port)) return options.error("port", "is a number up to 65535");
  }
  TRY_ASSIGN(const auto export_name, options.string("export"));
  if (export_name) remote.export_name = *export_name;
  TRY_ASSIGN(const auto credentials, options.string("tls-creds"));
  if (credentials) {
    remote.tls = true;
    remote.tls_credentials = *credentials;
  }
  TRY_ASSIGN(const auto hostname, options.string("tls-hostname"));
  if (hostname) remote.tls_hostname = *hostname;
  if (!remote.tls_hostname.empty() && !remote.tls)
    return options.error("tls-hostname", "is of a connection with TLS; tls-creds=ID makes it one");
  if (remote.export_name.size() > kMostName) return options.error("export", "is too long for the protocol");
  return remote;
}

}  // namespace ostler::block::nbd
