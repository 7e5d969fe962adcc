#include "block/nbd/tls_channel.h"

#include <gnutls/gnutls.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>

#include "block/io_context.h"

namespace ostler::block::nbd {
namespace {

bool waits(ssize_t result) {
  return result == GNUTLS_E_AGAIN || result == GNUTLS_E_INTERRUPTED;
}

class TlsChannel final : public Channel {
 public:
  TlsChannel(TlsSession session, Channel& plain)
      : owner_(std::move(session)), session_(owner_.get()), plain_(plain) {}
  // Best effort: the socket does not block.
  ~TlsChannel() override { gnutls_bye(session_, GNUTLS_SHUT_WR); }

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
  const TlsSession owner_;
  const gnutls_session_t session_;
  Channel& plain_;
};

}  // namespace

Task<std::unique_ptr<Channel>> accept_tls(const TlsCredentials& credentials, Channel& plain) {
  std::unique_ptr<Channel> result;
  TlsSession session = credentials.new_session();
  if (!session) co_return result;
  gnutls_transport_set_int(session.get(), plain.fd());
  auto channel = std::make_unique<TlsChannel>(std::move(session), plain);
  const int error = co_await channel->handshake();
  if (error == 0) result = std::move(channel);
  co_return result;
}

}  // namespace ostler::block::nbd
