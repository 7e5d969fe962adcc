#include "net/open.h"

#include <algorithm>
#include <iterator>

#include "net/socket_options.h"
#include "net/tap_backend.h"
#include "net/user_backend.h"
#include "net/user_options.h"

namespace ostler::net {
namespace {

using Made = Result<std::unique_ptr<Backend>>;

struct Type {
  std::string_view name;
  Made (*open)(event::Loop&, std::span<const config::KeyValue>);
};

// A backend from options that are parsed already.
template <class Own, class Options>
Made create(event::Loop& loop, Result<Options> options) {
  if (!options) return std::move(options).error();
  TRY_ASSIGN(auto backend, Own::create(loop, *options));
  return std::unique_ptr<Backend>(std::move(backend));
}

Made open_socket(event::Loop& loop, std::span<const config::KeyValue> values) {
  TRY_ASSIGN(const SocketOptions options, parse_socket(values));
  if (const auto* const stream = std::get_if<StreamOptions>(&options))
    return create<StreamBackend>(loop, Result<StreamOptions>(*stream));
  return create<DatagramBackend>(loop, Result<DatagramOptions>(std::get<DatagramOptions>(options)));
}

// A back end whose options are `parse`d first.
template <class Own, auto parse>
Made open_with(event::Loop& loop, std::span<const config::KeyValue> values) {
  return create<Own>(loop, parse(values));
}

constexpr Type kTypes[] = {
    {"user", open_with<UserBackend, UserOptions::parse>},  {"tap", open_with<TapBackend, parse_tap>},
    {"bridge", open_with<TapBackend, parse_bridge>},       {"socket", open_socket},
    {"stream", open_with<StreamBackend, parse_stream>},    {"peer", open_with<StreamBackend, parse_peer>},
    {"dgram", open_with<DatagramBackend, parse_datagram>},
};

}  // namespace

std::vector<std::string_view> backend_types() {
  std::vector<std::string_view> names;
  std::transform(std::begin(kTypes), std::end(kTypes), std::back_inserter(names),
                 [](const Type& type) { return type.name; });
  return names;
}

Made open(event::Loop& loop, std::string_view type, std::span<const config::KeyValue> options) {
  for (const Type& each : kTypes)
    if (each.name == type) return each.open(loop, options);
  return Error(ErrorKind::kUnsupported,
               "networks of type '" + std::string(type) + "' are not available in this version");
}

}  // namespace ostler::net
