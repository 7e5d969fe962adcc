#include "machine/backends.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/suggest.h"
#include "chardev/open.h"
#include "config/key_values.h"

namespace ostler::machine {
namespace {

// Seconds until a socket's client tries again; 0: never.
Result<unsigned> take_reconnect(config::KeyValues& keys, bool server) {
  TRY_ASSIGN(const auto seconds, keys.take_number("reconnect"));
  if (seconds.value_or(0) > 3600) return keys.error("reconnect", "is more than 3600 seconds");
  if (seconds.value_or(0) != 0 && server)
    return keys.error("reconnect", "is not for server=on, where the other side comes again by itself");
  return static_cast<unsigned>(seconds.value_or(0));
}

// Switches of QEMU's sockets that may say what is so anyway.
Result<void> take_settled(config::KeyValues& keys) {
  TRY(keys.take_bool("nodelay"));  // bytes never wait for more of them
  struct Absent {
    std::string_view name, instead;
  };
  static constexpr Absent kAbsent[] = {
      {"telnet", "connect without that protocol, with nc or socat"},
      {"websocket", "connect without that protocol, with nc or socat"},
      {"tn3270", "leave it out"},
      {"abstract", "give a path in a folder"},
  };
  for (const auto& [name, instead] : kAbsent) {
    TRY_ASSIGN(const auto on, keys.take_bool(name));
    if (on.value_or(false)) return keys.error(name, fmt::format("is not available; {}", instead));
  }
  return {};
}

// The options of -chardev, checked and typed.
Result<chardev::Options> chardev_options(const config::Chardev& chardev) {
  chardev::Options options;
  auto keys = config::KeyValues::from(chardev.origin, chardev.properties);
  if (chardev.backend == "null") options.kind = chardev::Kind::kNull;
  if (chardev.backend == "stdio") {
    options.kind = chardev::Kind::kStdio;
    TRY_ASSIGN(const auto signals, keys.take_bool("signal"));
    options.signals = signals.value_or(!chardev.mux);
  }
  if (chardev.backend == "file" || chardev.backend == "pipe") {
    options.kind = chardev.backend == "file" ? chardev::Kind::kFile : chardev::Kind::kPipe;
    const auto path = keys.take("path");
    if (!path) return keys.error("path", "is missing");
    options.path = *path;
    TRY_ASSIGN(const auto append, keys.take_bool("append"));
    options.append = append.value_or(false);
  }
  if (chardev.backend == "pty") options.kind = chardev::Kind::kPty;
  if (chardev.backend == "socket") {
    if (auto path = keys.take("path")) {
      options.kind = chardev::Kind::kUnixSocket;
      options.path = *path;
    } else {
      options.kind = chardev::Kind::kTcpSocket;
      options.host = keys.take("host").value_or("");
      const auto port = keys.take("port");
      if (!port) return keys.error("port", "is missing; a socket needs a path, or a host and a port");
      options.port = *port;
    }
    TRY_ASSIGN(const auto server, keys.take_bool("server"));
    options.server = server.value_or(false);
    TRY_ASSIGN(const auto wait, keys.take_bool("wait"));
    options.wait = wait.value_or(options.server);
    TRY_ASSIGN(options.reconnect_seconds, take_reconnect(keys, options.server));
    TRY(take_settled(keys));
  }
  if (chardev.backend == "udp") {
    options.kind = chardev::Kind::kUdp;
    options.host = keys.take("host").value_or("");
    const auto port = keys.take("port");
    if (!port) return keys.error("port", "is missing: nobody would get what the guest writes");
    options.port = *port;
    options.local_host = keys.take("localaddr").value_or("");
    options.local_port = keys.take("localport").value_or("");
  }
  if (chardev.backend == "ringbuf") {
    options.kind = chardev::Kind::kRingBuffer;
    TRY_ASSIGN(const auto size, keys.take_size("size", 1));
    options.ring_size = size.value_or(options.ring_size);
  }
  options.log_path = keys.take("logfile").value_or("");
  TRY_ASSIGN(const auto log_append, keys.take_bool("logappend"));
  if (log_append && options.log_path.empty())
    return keys.error("logappend", "is about a logfile=, and there is none");
  options.log_append = log_append.value_or(false);
  TRY(keys.finish());
  return options;
}

// Whether a vhost-user device or network speaks through it.
bool is_for_vhost_user(const config::Machine& config, const config::Chardev& chardev) {
  const auto names_it = [&](const config::Properties& properties) {
    return std::ranges::any_of(properties, [&](const config::KeyValue& property) {
      return property.key == "chardev" && property.value == chardev.id;
    });
  };
  return std::ranges::any_of(config.devices,
                             [&](const config::Device& device) {
                               return device.type.starts_with("vhost-user-") && names_it(device.properties);
                             }) ||
         std::ranges::any_of(config.netdevs, [&](const config::Netdev& netdev) {
           return netdev.type == "vhost-user" && names_it(netdev.properties);
         });
}

std::string value_of(const config::Chardev& chardev, std::string_view key) {
  for (const auto& [name, value] : chardev.properties)
    if (name == key) return value;
  return {};
}

Result<virtio::vhost_user::Address> vhost_user_address(const config::Chardev& chardev) {
  auto keys = config::KeyValues::from(chardev.origin, chardev.properties);
  const auto path = keys.take("path");
  if (chardev.backend != "socket" || chardev.mux || !path)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("{}: a vhost-user back end is at a UNIX socket; say -chardev socket,id={},path=…",
                    chardev.origin, chardev.id));
  TRY_ASSIGN(const auto server, keys.take_bool("server"));
  TRY_ASSIGN(const auto wait, keys.take_bool("wait"));
  if (wait && (!server.value_or(false) || !*wait))
    return keys.error("wait", "can only be on, with server=on: what the back end has is asked at the start");
  TRY_ASSIGN(const unsigned reconnect, take_reconnect(keys, server.value_or(false)));
  TRY(keys.finish());
  virtio::vhost_user::Address address{.path = *path, .reconnect = reconnect};
  if (!server.value_or(false)) return address;
  auto listener = virtio::vhost_user::Listener::open(*path);
  if (!listener) return std::move(listener).error().with_context(chardev.origin);
  address.listener = *std::move(listener);
  return address;
}

}  // namespace

Result<void> Backends::open_chardevs(const config::Machine& config, event::Loop& loop,
                                     const std::function<void()>& quit) {
  for (const config::Chardev& each : config.chardevs) {
    if (chardevs_.contains(each.id) || vhost_user_.contains(each.id))
      return Error(
          ErrorKind::kInvalidArgument,
          fmt::format("{}: the id '{}' is taken by another character back end", each.origin, each.id));
    if (is_for_vhost_user(config, each)) {
      if (each.backend == config::Chardev::kVirtiofsd) {
        const std::string folder = value_of(each, "path");
        auto daemon = Virtiofsd::start(folder);
        if (!daemon) return std::move(daemon).error().with_context(each.origin);
        std::fprintf(stderr, "ostler: shared folder %s: in the guest, mount -t virtiofs %s /mnt\n",
                     folder.c_str(), value_of(each, "tag").c_str());
        vhost_user_.emplace(each.id, (*daemon)->address());
        daemons_.push_back(*std::move(daemon));
        continue;
      }
      TRY_ASSIGN(auto address, vhost_user_address(each));
      vhost_user_.emplace(each.id, std::move(address));
      continue;
    }
    TRY_ASSIGN(const auto options, chardev_options(each));
    auto backend = chardev::open(loop, options);
    if (!backend) return std::move(backend).error().with_context(each.origin);
    Chardev opened;
    if (const std::string path = chardev::pty_path(**backend); !path.empty())
      std::fprintf(stderr, "char device redirected to %s (label %s)\n", path.c_str(), each.id.c_str());
    if (each.mux)
      opened.mux = std::make_unique<chardev::Mux>(loop, *std::move(backend), quit);
    else
      opened.backend = *std::move(backend);
    chardevs_.emplace(each.id, std::move(opened));
  }
  return {};
}

Result<void> Backends::open_shared_folders(const config::Machine& config) {
  for (const config::SharedFolder& each : config.shared_folders) {
    if (shares_.contains(each.id))
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: the id '{}' is taken by another shared folder; say id=NAME", each.origin,
                               each.id));
    using fs9p::Security;
    auto share = fs9p::Share::open({.path = each.path,
                                    .security = each.security == "mapped-xattr"  ? Security::kMapped
                                                : each.security == "passthrough" ? Security::kPassthrough
                                                                                 : Security::kNone,
                                    .read_only = each.read_only,
                                    .file_mode = each.file_mode,
                                    .directory_mode = each.directory_mode});
    if (!share) return std::move(share).error().with_context(each.origin);
    if (!each.told_tag.empty())
      std::fprintf(
          stderr,
          "ostler: shared folder %s: in the guest, mount -t 9p -o trans=virtio,version=9p2000.L %s /mnt\n",
          each.path.c_str(), each.told_tag.c_str());
    shares_.emplace(each.id, *std::move(share));
  }
  return {};
}

Result<void> Backends::claim(const std::string& kind, const std::string& id, const std::string& user) {
  const auto [entry, free] = users_.emplace(kind + " " + id, user);
  if (free) return {};
  return Error(ErrorKind::kBusy,
               fmt::format("{}: the {} '{}' is already used by {}", user, kind, id, entry->second));
}

namespace {

template <class Map>
Error unknown(const Map& map, const std::string& kind, const std::string& id, const std::string& user) {
  std::vector<std::string_view> known;
  for (const auto& entry : map) known.push_back(entry.first);
  return Error(ErrorKind::kNotFound,
               fmt::format("{}: there is no {} '{}'{}", user, kind, id, suggestion(id, known)));
}

}  // namespace

Result<chardev::CharBackend*> Backends::take_chardev(const std::string& id, const std::string& user) {
  const auto found = chardevs_.find(id);
  if (found == chardevs_.end()) return unknown(chardevs_, "character back end", id, user);
  if (found->second.mux != nullptr) return &found->second.mux->add_port();
  TRY(claim("character back end", id, user));
  return found->second.backend.get();
}

Result<void> Backends::has_vhost_user(const std::string& id, const std::string& user) const {
  if (vhost_user_.contains(id)) return {};
  return unknown(chardevs_, "character back end", id, user);
}

Result<virtio::vhost_user::Address> Backends::take_vhost_user(const std::string& id,
                                                              const std::string& user) {
  TRY(has_vhost_user(id, user));
  const auto found = vhost_user_.find(id);
  TRY(claim("character back end", id, user));
  return found->second;
}

Result<std::shared_ptr<fs9p::Share>> Backends::take_share(const std::string& id, const std::string& user) {
  const auto found = shares_.find(id);
  if (found == shares_.end()) return unknown(shares_, "shared folder", id, user);
  return found->second;
}

Result<std::unique_ptr<Backends>> Backends::create(const config::Machine& config, event::Loop& loop,
                                                   std::function<void()> quit, Disks::Stop stop) {
  std::unique_ptr<Backends> backends(new Backends);
  TRY_ASSIGN(backends->disks_, Disks::create(config, std::move(stop)));
  TRY(backends->open_shared_folders(config));
  TRY(backends->open_chardevs(config, loop, quit));
  const auto take_chardev = [&](const std::string& id, const std::string& user) {
    return backends->take_chardev(id, user);
  };
  TRY_ASSIGN(backends->networks_, Networks::create(config, loop, take_chardev));
  return backends;
}

}  // namespace ostler::machine
