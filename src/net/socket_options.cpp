#include "net/socket_options.h"

#include <sys/socket.h>

#include <cerrno>

namespace ostler::net {
namespace {

using config::boolean;
using config::number;
using config::Property;
using config::PropertyTable;
using config::text;

Error invalid(std::string sentence) {
  return Error(ErrorKind::kInvalidArgument, std::move(sentence));
}

constexpr int kNoFd = -1;

template <class Options>
Property<Options> descriptor(std::string name, int Options::*member) {
  return {{std::move(name), "descriptor", "an open socket that this program inherited"},
          [member](Options& options, std::string_view value) -> Result<void> {
            TRY_ASSIGN(const uint64_t fd, config::parse_number_between(value, 0, INT32_MAX));
            options.*member = static_cast<int>(fd);
            return {};
          },
          [](const Options&) { return std::string(); }};
}

struct SocketWords {
  std::string id, listen, connect, mcast, udp, localaddr;
  int fd = kNoFd;
};

const PropertyTable<SocketWords>& socket_properties() {
  using Words = SocketWords;
  static const PropertyTable<Words> table(
      "socket", {
                    text<Words>("id", &Words::id, "the name that a device's netdev= uses"),
                    descriptor<Words>("fd", &Words::fd),
                    text<Words>("listen", &Words::listen, "[host]:port to wait for a peer at"),
                    text<Words>("connect", &Words::connect, "host:port of a peer that listens"),
                    text<Words>("mcast", &Words::mcast, "group:port of a bus of guests"),
                    text<Words>("udp", &Words::udp, "host:port to send datagrams to"),
                    text<Words>("localaddr", &Words::localaddr,
                                "host:port to receive datagrams at; of mcast: the interface's address"),
                });
  return table;
}

// An address as -netdev stream and dgram spell it, with its own keys.
struct AddressWords {
  std::string type, host, port, path, str;
  bool abstract = false, tight = true, ipv4 = true, ipv6 = true;

  bool given() const {
    return !type.empty() || !host.empty() || !port.empty() || !path.empty() || !str.empty();
  }
};

struct StreamWords {
  std::string id;
  bool server = false;
  uint32_t reconnect = 0;
  AddressWords addr;
};

struct DatagramWords {
  std::string id;
  AddressWords local, remote;
};

// The property `prefix.own` of the address that is `member` of Options.
template <class Options>
void add_address(std::vector<Property<Options>>& list, const std::string& prefix,
                 AddressWords Options::*member) {
  const std::vector<Property<AddressWords>> own = {
      text<AddressWords>("type", &AddressWords::type, "inet, unix or fd"),
      text<AddressWords>("host", &AddressWords::host, "name or address of the host"),
      text<AddressWords>("port", &AddressWords::port, "port of the host"),
      text<AddressWords>("path", &AddressWords::path, "of a UNIX socket"),
      text<AddressWords>("str", &AddressWords::str, "number of an open socket that this program inherited"),
      boolean<AddressWords>("abstract", &AddressWords::abstract, "path is a name outside the file system"),
      boolean<AddressWords>("tight", &AddressWords::tight, "an abstract name ends with its last byte"),
      boolean<AddressWords>("ipv4", &AddressWords::ipv4, "IPv4 may be used"),
      boolean<AddressWords>("ipv6", &AddressWords::ipv6, "IPv6 may be used"),
  };
  for (const auto& each : own)
    list.push_back({{prefix + "." + each.info.name, each.info.type, each.info.help},
                    [member, set = each.set](Options& options, std::string_view value) {
                      return set(options.*member, value);
                    },
                    [member, get = each.get](const Options& options) { return get(options.*member); }});
}

const PropertyTable<StreamWords>& stream_properties() {
  static const PropertyTable<StreamWords> table("stream", [] {
    std::vector<Property<StreamWords>> list = {
        text<StreamWords>("id", &StreamWords::id, "the name that a device's netdev= uses"),
        boolean<StreamWords>("server", &StreamWords::server, "wait for a peer, or connect to one"),
        number<StreamWords, uint32_t>("reconnect", &StreamWords::reconnect, 0, 3600,
                                      "seconds until a client connects again; 0: never"),
    };
    add_address<StreamWords>(list, "addr", &StreamWords::addr);
    return list;
  }());
  return table;
}

const PropertyTable<DatagramWords>& datagram_properties() {
  static const PropertyTable<DatagramWords> table("dgram", [] {
    std::vector<Property<DatagramWords>> list = {
        text<DatagramWords>("id", &DatagramWords::id, "the name that a device's netdev= uses")};
    add_address<DatagramWords>(list, "local", &DatagramWords::local);
    add_address<DatagramWords>(list, "remote", &DatagramWords::remote);
    return list;
  }());
  return table;
}

// `port_needed`: a multicast's local address is an interface alone.
Result<Endpoint> endpoint(const AddressWords& words, const std::string& prefix, bool port_needed = true) {
  Endpoint made;
  if (words.type == "inet") {
    made.kind = Endpoint::Kind::kInet;
    if (words.port.empty() && port_needed) return invalid(prefix + ".port is missing");
    made.host = words.host;
    made.port = words.port;
    made.ipv4 = words.ipv4;
    made.ipv6 = words.ipv6;
    if (!made.ipv4 && !made.ipv6) return invalid(prefix + ": neither IPv4 nor IPv6 may be used");
  } else if (words.type == "unix") {
    made.kind = Endpoint::Kind::kUnix;
    if (words.path.empty()) return invalid(prefix + ".path is missing");
    made.path = words.path;
    made.abstract = words.abstract;
    made.tight = words.tight;
  } else if (words.type == "fd") {
    made.kind = Endpoint::Kind::kFd;
    const auto fd = config::parse_number_between(words.str, 0, INT32_MAX);
    if (!fd) return invalid(prefix + ".str: '" + words.str + "' is not the number of an open socket");
    made.fd = static_cast<int>(*fd);
  } else if (words.type.empty()) {
    return invalid(prefix + ".type is missing: inet, unix or fd");
  } else {
    return invalid(prefix + ".type: '" + words.type + "' is not inet, unix or fd");
  }
  return made;
}

Result<Endpoint> inet(const char* option, const std::string& words) {
  auto made = parse_inet(words);
  if (!made) return std::move(made).error().with_context(option);
  return made;
}

Endpoint from_fd(int fd) {
  Endpoint made;
  made.kind = Endpoint::Kind::kFd;
  made.fd = fd;
  return made;
}

}  // namespace

Result<SocketOptions> parse_socket(std::span<const config::KeyValue> values) {
  TRY_ASSIGN(const SocketWords words, socket_properties().parse(values));
  const int given = (words.fd != kNoFd) + !words.listen.empty() + !words.connect.empty() +
                    !words.mcast.empty() + !words.udp.empty();
  if (given != 1) return invalid("give exactly one of listen, connect, mcast, udp and fd");
  if (!words.localaddr.empty() && words.mcast.empty() && words.udp.empty())
    return invalid("localaddr only goes with mcast and udp");
  StreamOptions stream;
  stream.id = words.id;
  if (!words.listen.empty() || !words.connect.empty()) {
    const bool server = !words.listen.empty();
    TRY_ASSIGN(stream.address, inet(server ? "listen" : "connect", server ? words.listen : words.connect));
    stream.role = server ? StreamOptions::Role::kServer : StreamOptions::Role::kClient;
    return SocketOptions(stream);
  }
  DatagramOptions datagram;
  datagram.id = words.id;
  if (words.fd != kNoFd) {
    int type = 0;
    socklen_t size = sizeof type;
    if (::getsockopt(words.fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0)
      return errno_error("fd: descriptor " + std::to_string(words.fd) + " is not an open socket", errno);
    stream.address = datagram.local = from_fd(words.fd);
    return type == SOCK_STREAM ? SocketOptions(stream) : SocketOptions(datagram);
  }
  if (!words.udp.empty()) {
    TRY_ASSIGN(datagram.remote, inet("udp", words.udp));
    if (words.localaddr.empty()) return invalid("udp needs localaddr, where the peer's datagrams come in");
    TRY_ASSIGN(datagram.local, inet("localaddr", words.localaddr));
    return SocketOptions(datagram);
  }
  TRY_ASSIGN(datagram.remote, inet("mcast", words.mcast));
  if (!words.localaddr.empty()) {
    datagram.local.kind = Endpoint::Kind::kInet;
    datagram.local.host = words.localaddr;
  }
  return SocketOptions(datagram);
}

Result<StreamOptions> parse_stream(std::span<const config::KeyValue> values) {
  TRY_ASSIGN(const StreamWords words, stream_properties().parse(values));
  StreamOptions stream;
  stream.id = words.id;
  TRY_ASSIGN(stream.address, endpoint(words.addr, "addr"));
  stream.role = words.server ? StreamOptions::Role::kServer : StreamOptions::Role::kClient;
  stream.reconnect_seconds = words.reconnect;
  if (words.server && words.reconnect != 0)
    return invalid("reconnect only goes with server=off: a server waits for the next peer anyway");
  return stream;
}

Result<DatagramOptions> parse_datagram(std::span<const config::KeyValue> values) {
  TRY_ASSIGN(const DatagramWords words, datagram_properties().parse(values));
  DatagramOptions datagram;
  datagram.id = words.id;
  if (words.remote.given()) {
    TRY_ASSIGN(datagram.remote, endpoint(words.remote, "remote"));
  }
  if (words.local.given()) {
    TRY_ASSIGN(datagram.local, endpoint(words.local, "local", false));
  }
  if (datagram.remote.kind == Endpoint::Kind::kFd) return invalid("remote.type: a descriptor is local");
  if (datagram.remote.kind == Endpoint::Kind::kUnix && datagram.local.kind == Endpoint::Kind::kNone)
    return invalid("local is missing: a UNIX datagram socket needs a path of its own for its peer");
  return datagram;
}

Result<StreamOptions> parse_peer(std::span<const config::KeyValue> values) {
  struct Words {
    std::string id, path;
  };
  static const PropertyTable<Words> table(
      "peer", {text<Words>("id", &Words::id, "the name that a device's netdev= uses"),
               text<Words>("path", &Words::path, "the UNIX socket where two guests meet")});
  TRY_ASSIGN(const Words words, table.parse(values));
  if (words.path.empty()) return invalid("path is missing: the socket where two guests meet");
  StreamOptions stream;
  stream.id = words.id;
  stream.address.kind = Endpoint::Kind::kUnix;
  stream.address.path = words.path;
  stream.role = StreamOptions::Role::kEither;
  return stream;
}

}  // namespace ostler::net
