// TLS of the server's connections (NBD protocol, "TLS support"), by GnuTLS. Keys and certificates lie in a
// folder with QEMU's names: ca-cert.pem, ca-crl.pem, server-cert.pem, server-key.pem; or keys.psk.
#pragma once

#include <memory>
#include <string>

#include "block/nbd/channel.h"

struct gnutls_certificate_credentials_st;
struct gnutls_psk_server_credentials_st;

namespace ostler::block::nbd {

class TlsCredentials {
 public:
  // With `verify_peer`, clients need a certificate that ca-cert.pem has signed. With keys.psk they need a
  // key.
  static Result<std::shared_ptr<TlsCredentials>> load(const std::string& folder, bool verify_peer);
  ~TlsCredentials();
  TlsCredentials(const TlsCredentials&) = delete;
  TlsCredentials& operator=(const TlsCredentials&) = delete;

  // The server's side of the handshake over `plain`, which stays in use below the new channel. Null: it
  // failed. Limits no time: the caller shuts `plain` down.
  Task<std::unique_ptr<Channel>> accept(Channel& plain) const;

 private:
  TlsCredentials() = default;
  gnutls_certificate_credentials_st* certificates_ = nullptr;
  gnutls_psk_server_credentials_st* keys_ = nullptr;
  bool verify_peer_ = true;
};

}  // namespace ostler::block::nbd
