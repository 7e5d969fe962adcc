// -netdev socket, stream and dgram: what they may be told, from text to plain structs.
#pragma once

#include <optional>
#include <span>
#include <variant>

#include "config/property.h"
#include "net/datagram_backend.h"
#include "net/stream_backend.h"

namespace ostler::net {

using SocketOptions = std::variant<StreamOptions, DatagramOptions>;

// -netdev socket: listen=, connect=, mcast=, udp= (with localaddr=) or fd=.
Result<SocketOptions> parse_socket(std::span<const config::KeyValue> values);
// -netdev stream: server=, addr.type=inet|unix|fd and addr.…, reconnect=.
Result<StreamOptions> parse_stream(std::span<const config::KeyValue> values);
// -netdev dgram: local.… and remote.…, as addr.… of a stream.
Result<DatagramOptions> parse_datagram(std::span<const config::KeyValue> values);
// --net peer=SOCKET: path=, a UNIX socket that two guests meet at, whichever comes first.
Result<StreamOptions> parse_peer(std::span<const config::KeyValue> values);

}  // namespace ostler::net
