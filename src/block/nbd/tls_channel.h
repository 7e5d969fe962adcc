// TLS of the server's connections (NBD protocol, "TLS support"), by GnuTLS.
#pragma once

#include <memory>

#include "block/nbd/channel.h"
#include "block/nbd/tls_credentials.h"

namespace ostler::block::nbd {

// The server's side of the handshake over `plain`, which stays in use below the new channel. Null: it failed.
// Limits no time: the caller shuts `plain` down.
Task<std::unique_ptr<Channel>> accept_tls(const TlsCredentials& credentials, Channel& plain);

}  // namespace ostler::block::nbd
