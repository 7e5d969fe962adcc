#include "config/qemu_nbd_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/qemu_builder.h"

namespace ostler::config {
namespace {

constexpr uint64_t kMostClients = 65535;

bool has(QemuBuilder& b, std::string_view type) {
  const auto& objects = b.machine().objects;
  return std::any_of(objects.begin(), objects.end(), [&](const Object& each) { return each.type == type; });
}

}  // namespace

Result<NbdServer> nbd_server(const Object& object) {
  auto keys = KeyValues::from(object.origin, object.properties);
  NbdServer server;
  const auto type = keys.take("addr.type");
  const auto path = keys.take("addr.path");
  const auto host = keys.take("addr.host");
  TRY_ASSIGN(const auto port, keys.take_number("addr.port"));
  const bool unix_socket = type ? *type == "unix" : path.has_value();
  if (type && *type != "unix" && *type != "inet")
    return keys.error("addr.type", fmt::format("'{}' is not one of unix, inet", *type));
  if (unix_socket && (!path || path->empty())) return keys.error("addr.path", "is missing");
  if (unix_socket ? host || port : path.has_value())
    return keys.error("addr.path", "is of a unix socket; addr.host and addr.port of addr.type=inet");
  if (!unix_socket && !host) return keys.error("addr.host", "is missing; 0.0.0.0 is every address");
  if (port && *port > 65535) return keys.error("addr.port", fmt::format("there is no port {}", *port));
  server.path = path.value_or("");
  server.host = host.value_or("");
  if (port) server.port = static_cast<uint16_t>(*port);
  const auto credentials = keys.take("tls-creds");
  if (credentials && credentials->empty())
    return keys.error("tls-creds", "is empty; it is the id of a TLS object, or a folder");
  server.tls_credentials = credentials.value_or("");
  if (keys.take("tls-authz"))
    return keys.error("tls-authz",
                      "lists of clients' names are not available; leave it out, and let ca-cert.pem be of an "
                      "authority that signs for these clients alone");
  TRY_ASSIGN(const auto most, keys.take_number("max-connections"));
  if (most) server.most_clients = static_cast<unsigned>(std::min(*most, kMostClients));
  TRY(keys.finish());
  return server;
}

Result<NbdExport> nbd_export(const Object& object) {
  auto keys = KeyValues::from(object.origin, object.properties);
  NbdExport disk;
  const auto type = keys.take("type");
  if (!type) return keys.error("type", "is missing; say nbd");
  if (*type != "nbd") return keys.error("type", fmt::format("'{}' is not available; say nbd", *type));
  const auto node = keys.take("node-name");
  if (!node) return keys.error("node-name", "is missing: the disk to be exported");
  disk.node = *node;
  disk.id = keys.take("id").value_or(disk.node);
  disk.name = keys.take("name").value_or(disk.node);
  disk.description = keys.take("description").value_or("");
  TRY_ASSIGN(const auto writable, keys.take_bool("writable"));
  disk.writable = writable.value_or(false);
  TRY_ASSIGN(const auto depth, keys.take_bool("allocation-depth"));
  disk.allocation_depth = depth.value_or(false);
  if (const auto bitmap = keys.take("bitmap")) disk.bitmaps.push_back(*bitmap);
  for (unsigned i = 0;; ++i) {
    const auto bitmap = keys.take(fmt::format("bitmaps.{}", i));
    if (!bitmap) break;
    disk.bitmaps.push_back(*bitmap);
  }
  TRY(keys.finish());
  return disk;
}

Result<void> option_nbd_server(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse_either("-nbd-server", value, "addr.path"));
  Object object{.type = std::string(kNbdServer), .id = {}, .properties = {}, .origin = keys.origin()};
  object.properties = keys.take_rest();
  TRY_ASSIGN(const NbdServer server, nbd_server(object));
  static_cast<void>(server);
  if (has(b, kNbdServer))
    return Error(ErrorKind::kInvalidArgument, object.origin + ": there is one NBD server; leave this out");
  b.machine().objects.push_back(std::move(object));
  return {};
}

Result<void> option_export(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse_either("-export", value, "type"));
  Object object{.type = std::string(kNbdExport), .id = {}, .properties = {}, .origin = keys.origin()};
  object.properties = keys.take_rest();
  TRY_ASSIGN(const NbdExport disk, nbd_export(object));
  object.id = disk.id;
  b.machine().objects.push_back(std::move(object));
  return {};
}

}  // namespace ostler::config
