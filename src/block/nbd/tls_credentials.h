// Whom an NBD connection with TLS trusts and how it shows who it is: certificates (X.509) or shared keys
// (PSK, RFC 4279), by GnuTLS. They lie in a folder with QEMU's names: ca-cert.pem, ca-crl.pem,
// server-cert.pem, server-key.pem, client-cert.pem, client-key.pem; or keys.psk. Loaded once and not changed;
// any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/result.h"

struct gnutls_certificate_credentials_st;
struct gnutls_priority_st;
struct gnutls_psk_client_credentials_st;
struct gnutls_psk_server_credentials_st;
struct gnutls_session_int;

namespace ostler::block::nbd {

enum class TlsEndpoint { kServer, kClient };

struct TlsSettings {
  enum class Kind { kCertificates, kKeys };
  Kind kind = Kind::kCertificates;
  TlsEndpoint endpoint = TlsEndpoint::kClient;
  // Empty, for clients: libnbd's folders, or else the certificates that the host trusts.
  std::string folder = {};
  // Certificates: the peer needs one that ca-cert.pem has signed; a server's must be for the name that the
  // client expects.
  bool verify_peer = true;
  bool sanity_check = true;                  // of the certificates in the folder, when they are loaded
  std::string priority = {};                 // as gnutls_priority_init() has it; empty: GnuTLS's "NORMAL"
  std::string username = "qemu";             // of a client with keys
  std::optional<std::string> password = {};  // of the folder's private key
};

struct EndTlsSession {
  void operator()(gnutls_session_int* session) const;
};
using TlsSession = std::unique_ptr<gnutls_session_int, EndTlsSession>;

class TlsCredentials {
 public:
  // Errors name the file and what it should hold.
  static Result<std::shared_ptr<const TlsCredentials>> load(TlsSettings settings);
  // The same for a folder alone: its files say whether certificates or keys are meant.
  static Result<std::shared_ptr<const TlsCredentials>> load_folder(const std::string& folder,
                                                                   TlsEndpoint endpoint, bool verify_peer);
  ~TlsCredentials();
  TlsCredentials(const TlsCredentials&) = delete;
  TlsCredentials& operator=(const TlsCredentials&) = delete;

  TlsEndpoint endpoint() const { return settings_.endpoint; }
  // A client that has no name to compare with the server's certificate must not begin.
  bool needs_hostname() const;
  // For a socket that does not block, before its handshake. `hostname`, of clients, must outlive that. Null:
  // memory has run out.
  TlsSession new_session(const std::string& hostname = {}) const;

 private:
  explicit TlsCredentials(TlsSettings settings) : settings_(std::move(settings)) {}
  Result<void> load_priority();
  Result<void> load_certificates();
  Result<void> load_keys();
  bool is_server() const { return settings_.endpoint == TlsEndpoint::kServer; }
  bool has_keys() const { return settings_.kind == TlsSettings::Kind::kKeys; }

  const TlsSettings settings_;
  gnutls_priority_st* priority_ = nullptr;
  gnutls_certificate_credentials_st* certificates_ = nullptr;
  gnutls_psk_server_credentials_st* server_keys_ = nullptr;
  gnutls_psk_client_credentials_st* client_keys_ = nullptr;
};

// Why a call on `session` failed with `code`, for a sentence about the peer.
std::string tls_failure(gnutls_session_int* session, int code);

}  // namespace ostler::block::nbd
