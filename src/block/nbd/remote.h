// Where a client finds its NBD server: options of the node, "nbd://…" (doc/uri.md of the NBD project) and
// QEMU's older "nbd:HOST:PORT" and "nbd:unix:PATH".
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"
#include "block/options.h"

namespace ostler::block::nbd {

struct Remote {
  std::string path;  // of a unix socket; empty: TCP
  std::string host;
  std::string port;
  std::string export_name;
  bool tls = false;
  std::string tls_credentials;  // as find_tls() takes it; empty: what clients have without
  std::string tls_hostname;     // what the server's certificate is for; empty: the host

  std::string uri() const;
};

Result<Remote> parse_remote(std::string_view name);
// Takes "filename", or "server" and "export"; "tls-creds", "tls-hostname".
Result<Remote> take_remote(OptionReader& options);

}  // namespace ostler::block::nbd
