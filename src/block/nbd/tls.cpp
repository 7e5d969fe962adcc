#include "block/nbd/tls.h"

#include <fmt/format.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/lazy_library.h"
#include "block/io_context.h"

namespace ostler::block::nbd {
namespace {

bool waits(ssize_t result) {
  return result == GNUTLS_E_AGAIN || result == GNUTLS_E_INTERRUPTED;
}

class TlsChannel final : public Channel {
 public:
  TlsChannel(gnutls_session_t session, Channel& plain) : session_(session), plain_(plain) {}
  ~TlsChannel() override {
    gnutls_bye(session_, GNUTLS_SHUT_WR);  // best effort: the socket does not block
    gnutls_deinit(session_);
  }

  Task<int> handshake() {
    for (;;) {
      const int result = gnutls_handshake(session_);
      if (result == GNUTLS_E_SUCCESS) co_return 0;
      if (!waits(result)) co_return -EPROTO;
      const int ready = co_await poll_for(plain_.fd(), next_direction());
      if (ready < 0) co_return ready;
    }
  }

  Task<int> receive(void* to, size_t most) override {
    for (;;) {
      const ssize_t done = gnutls_record_recv(session_, to, std::min<size_t>(most, 1 << 20));
      if (done >= 0) co_return static_cast<int>(done);
      if (done == GNUTLS_E_PREMATURE_TERMINATION) co_return 0;
      if (!waits(done)) co_return -ECONNRESET;
      const int ready = co_await poll_for(plain_.fd(), POLLIN);
      if (ready < 0) co_return ready;
    }
  }

  Task<int> send(Buffers from) override {
    for (const iovec& piece : from) {
      size_t sent = 0;
      while (sent != piece.iov_len) {
        const ssize_t done = gnutls_record_send(session_, static_cast<const char*>(piece.iov_base) + sent,
                                                piece.iov_len - sent);
        if (done >= 0) {
          sent += static_cast<size_t>(done);
          continue;
        }
        if (!waits(done)) co_return -ECONNRESET;
        const int ready = co_await poll_for(plain_.fd(), POLLOUT);
        if (ready < 0) co_return ready;
      }
    }
    co_return 0;
  }

  void shutdown() override { plain_.shutdown(); }
  int fd() const override { return plain_.fd(); }

 private:
  short next_direction() const { return gnutls_record_get_direction(session_) == 0 ? POLLIN : POLLOUT; }
  const gnutls_session_t session_;
  Channel& plain_;
};

Error tls_error(const std::string& what, int code) {
  return Error(ErrorKind::kInvalidArgument, fmt::format("{}: {}", what, gnutls_strerror(code)));
}

bool exists(const std::string& path) {
  return access(path.c_str(), F_OK) == 0;
}

}  // namespace

TlsCredentials::~TlsCredentials() {
  if (certificates_ != nullptr) gnutls_certificate_free_credentials(certificates_);
  if (keys_ != nullptr) gnutls_psk_free_server_credentials(keys_);
}

Result<std::shared_ptr<TlsCredentials>> TlsCredentials::load(const std::string& folder, bool verify_peer) {
  TRY(ostler_lazy_gnutls.load());
  std::shared_ptr<TlsCredentials> made(new TlsCredentials);
  made->verify_peer_ = verify_peer;
  const std::string certificate = folder + "/server-cert.pem", key = folder + "/server-key.pem",
                    authority = folder + "/ca-cert.pem", revoked = folder + "/ca-crl.pem",
                    shared_keys = folder + "/keys.psk";
  if (!exists(certificate)) {
    if (!exists(shared_keys))
      return Error(ErrorKind::kNotFound,
                   fmt::format("{}: there is neither server-cert.pem nor keys.psk; certtool or psktool make "
                               "them",
                               folder));
    gnutls_psk_allocate_server_credentials(&made->keys_);
    const int code = gnutls_psk_set_server_credentials_file(made->keys_, shared_keys.c_str());
    if (code < 0) return tls_error(shared_keys, code);
    gnutls_psk_set_server_known_dh_params(made->keys_, GNUTLS_SEC_PARAM_MEDIUM);
    return made;
  }
  gnutls_certificate_allocate_credentials(&made->certificates_);
  int code = gnutls_certificate_set_x509_key_file(made->certificates_, certificate.c_str(), key.c_str(),
                                                  GNUTLS_X509_FMT_PEM);
  if (code < 0) return tls_error(fmt::format("{} with {}", certificate, key), code);
  if (verify_peer && !exists(authority))
    return Error(ErrorKind::kNotFound,
                 authority +
                     " is missing; it says whose clients' certificates are good (--tls-verify-peer off "
                     "takes every client)");
  if (exists(authority)) {
    code =
        gnutls_certificate_set_x509_trust_file(made->certificates_, authority.c_str(), GNUTLS_X509_FMT_PEM);
    if (code < 0) return tls_error(authority, code);
  }
  if (exists(revoked)) {
    code = gnutls_certificate_set_x509_crl_file(made->certificates_, revoked.c_str(), GNUTLS_X509_FMT_PEM);
    if (code < 0) return tls_error(revoked, code);
  }
  gnutls_certificate_set_known_dh_params(made->certificates_, GNUTLS_SEC_PARAM_MEDIUM);
  return made;
}

Task<std::unique_ptr<Channel>> TlsCredentials::accept(Channel& plain) const {
  gnutls_session_t session = nullptr;
  std::unique_ptr<Channel> result;
  if (gnutls_init(&session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) < 0) co_return result;
  auto channel = std::make_unique<TlsChannel>(session, plain);
  const char* const priority = keys_ != nullptr ? "NORMAL:+ECDHE-PSK:+DHE-PSK:+PSK" : "NORMAL";
  int code = gnutls_priority_set_direct(session, priority, nullptr);
  if (code >= 0 && keys_ != nullptr)
    code = gnutls_credentials_set(session, GNUTLS_CRD_PSK, keys_);
  else if (code >= 0)
    code = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, certificates_);
  if (code < 0) co_return result;
  if (keys_ == nullptr && verify_peer_) {
    gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
    gnutls_session_set_verify_cert(session, nullptr, 0);
  }
  gnutls_transport_set_int(session, plain.fd());
  const int error = co_await channel->handshake();
  if (error == 0) result = std::move(channel);
  co_return result;
}

}  // namespace ostler::block::nbd
