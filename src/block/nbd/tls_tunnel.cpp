#include "block/nbd/tls_tunnel.h"

#include <gnutls/gnutls.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "block/nbd/start_tls.h"

namespace ostler::block::nbd {
namespace {

constexpr size_t kBufferBytes = 256 << 10;  // of one direction

bool waits(long code) {
  return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED;
}

bool would_block() {
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

// Exactly `bytes`, from a socket without TLS.
Result<std::string> receive_all(int fd, size_t bytes, const MayWait& may_wait) {
  std::string result(bytes, '\0');
  size_t have = 0;
  while (have != bytes) {
    const ssize_t done = recv(fd, result.data() + have, bytes - have, MSG_DONTWAIT);
    if (done == 0) return Error(ErrorKind::kIo, "it ends the connection");
    if (done > 0)
      have += static_cast<size_t>(done);
    else if (would_block())
      TRY(wait_for(fd, POLLIN, may_wait));
    else
      return errno_error("it cannot be read", errno);
  }
  return result;
}

Result<void> send_all(int fd, std::string_view bytes, const MayWait& may_wait) {
  while (!bytes.empty()) {
    const ssize_t done = send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done >= 0)
      bytes.remove_prefix(static_cast<size_t>(done));
    else if (would_block())
      TRY(wait_for(fd, POLLOUT, may_wait));
    else
      return errno_error("it cannot be written to", errno);
  }
  return {};
}

}  // namespace

// What has been read at one end and not yet written to the other.
struct TlsTunnel::Bytes {
  std::vector<char> data = std::vector<char>(kBufferBytes);
  size_t begin = 0, end = 0;
  size_t to_skip = 0;  // of the next bytes: they do not go on
  bool empty() const { return begin == end; }
  void took(size_t bytes) {
    begin += bytes;
    if (empty()) begin = end = 0;
  }
};

// Events of poll(2), of each end, that there is nothing to do before.
struct TlsTunnel::Wanted {
  short server = 0, client = 0;
};

TlsTunnel::TlsTunnel(Fd server, std::shared_ptr<const TlsCredentials> credentials, std::string hostname)
    : server_(std::move(server)), credentials_(std::move(credentials)), hostname_(std::move(hostname)) {}

Result<std::unique_ptr<TlsTunnel>> TlsTunnel::open(Fd server,
                                                   std::shared_ptr<const TlsCredentials> credentials,
                                                   std::string hostname, const MayWait& may_wait) {
  std::unique_ptr<TlsTunnel> tunnel(
      new TlsTunnel(std::move(server), std::move(credentials), std::move(hostname)));
  TRY_ASSIGN(const std::string greeting, tunnel->ask_for_tls(may_wait));
  TRY(tunnel->shake_hands(may_wait));
  TRY(tunnel->begin(greeting));
  return tunnel;
}

TlsTunnel::~TlsTunnel() {
  stopping_ = true;
  shutdown(server_.get(), SHUT_RDWR);
  if (near_end_) shutdown(near_end_.get(), SHUT_RDWR);
  if (thread_.joinable()) thread_.join();
}

std::string TlsTunnel::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

Result<std::string> TlsTunnel::ask_for_tls(const MayWait& may_wait) {
  StartTls start;
  while (start.wanted() != 0) {
    TRY_ASSIGN(const std::string bytes, receive_all(server_.get(), start.wanted(), may_wait));
    TRY_ASSIGN(const std::string answer, start.take(bytes));
    TRY(send_all(server_.get(), answer, may_wait));
  }
  return start.greeting();
}

Result<void> TlsTunnel::shake_hands(const MayWait& may_wait) {
  session_ = credentials_->new_session(hostname_);
  if (!session_) return Error(ErrorKind::kNoResource, "there is no memory for TLS");
  gnutls_transport_set_int(session_.get(), server_.get());
  for (;;) {
    const int code = gnutls_handshake(session_.get());
    if (code == GNUTLS_E_SUCCESS) return {};
    if (!waits(code)) {
      if (gnutls_error_is_fatal(code) == 0) continue;
      return Error(ErrorKind::kIo, "no TLS with this server: " + tls_failure(session_.get(), code));
    }
    const bool reads = gnutls_record_get_direction(session_.get()) == 0;
    TRY(wait_for(server_.get(), reads ? POLLIN : POLLOUT, may_wait));
  }
}

Result<void> TlsTunnel::begin(const std::string& greeting) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
    return errno_error("a pair of sockets cannot be made", errno);
  near_end_.reset(ends[0]);
  far_end_.reset(ends[1]);
  // Much less than such a socket holds.
  if (send(near_end_.get(), greeting.data(), greeting.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(greeting.size()))
    return errno_error("a pair of sockets cannot be used", errno);
  try {
    thread_ = std::thread([this] { carry(); });
  } catch (const std::system_error& error) {
    return Error(ErrorKind::kNoResource,
                 "the host does not let a further thread start; raise the limit (ulimit -u)",
                 error.code().value());
  }
  return {};
}

short TlsTunnel::next_direction() const {
  return gnutls_record_get_direction(session_.get()) == 0 ? POLLIN : POLLOUT;
}

void TlsTunnel::failed(long code) {
  // A broken connection is the socket's, and whoever reads from this end notices it.
  if (code == GNUTLS_E_PULL_ERROR || code == GNUTLS_E_PUSH_ERROR) return;
  const std::lock_guard lock(mutex_);
  failure_ = tls_failure(session_.get(), static_cast<int>(code));
}

TlsTunnel::Moved TlsTunnel::to_server(Bytes& bytes, Wanted& wanted) {
  if (bytes.empty() && !client_left_) {
    const ssize_t done = recv(near_end_.get(), bytes.data.data(), bytes.data.size(), MSG_DONTWAIT);
    if (done < 0 && !would_block()) return Moved::kEnd;
    if (done < 0) wanted.client |= POLLIN;
    if (done == 0) client_left_ = true;
    if (done > 0) {
      bytes.end = static_cast<size_t>(done);
      const size_t skipped = std::min(bytes.end, bytes.to_skip);
      bytes.to_skip -= skipped;
      bytes.took(skipped);
      if (bytes.empty()) return Moved::kSome;  // more may have come behind what was skipped
    }
  }
  if (bytes.empty()) {
    if (client_left_ && !said_goodbye_) {
      gnutls_bye(session_.get(), GNUTLS_SHUT_WR);  // best effort
      said_goodbye_ = true;
    }
    return Moved::kNothing;
  }
  // One that has to wait is repeated with the same bytes, as GnuTLS wants it.
  const ssize_t done =
      gnutls_record_send(session_.get(), bytes.data.data() + bytes.begin, bytes.end - bytes.begin);
  if (done >= 0) {
    bytes.took(static_cast<size_t>(done));
    return Moved::kSome;
  }
  if (waits(done)) {
    wanted.server |= next_direction();
    return Moved::kNothing;
  }
  failed(done);
  return Moved::kEnd;
}

TlsTunnel::Moved TlsTunnel::to_client(Bytes& bytes, Wanted& wanted) {
  Moved moved = Moved::kNothing;
  while (!server_left_ && bytes.end != bytes.data.size()) {
    const ssize_t done =
        gnutls_record_recv(session_.get(), bytes.data.data() + bytes.end, bytes.data.size() - bytes.end);
    if (waits(done)) {
      wanted.server |= next_direction();
      break;
    }
    if (done > 0) {
      bytes.end += static_cast<size_t>(done);
      continue;
    }
    moved = Moved::kSome;
    if (done < 0 && gnutls_error_is_fatal(static_cast<int>(done)) == 0)
      break;  // a warning, a wish for new keys
    if (done < 0 && done != GNUTLS_E_PREMATURE_TERMINATION) failed(done);
    server_left_ = true;
  }
  if (!bytes.empty()) {
    const ssize_t done = send(near_end_.get(), bytes.data.data() + bytes.begin, bytes.end - bytes.begin,
                              MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done < 0 && !would_block()) return Moved::kEnd;
    if (done < 0) wanted.client |= POLLOUT;
    if (done > 0) {
      bytes.took(static_cast<size_t>(done));
      moved = Moved::kSome;
    }
  }
  return server_left_ && bytes.empty() ? Moved::kEnd : moved;
}

void TlsTunnel::carry() {
  Bytes up, down;
  up.to_skip = kClientFlagBytes;  // the server has had ours
  while (!stopping_) {
    Wanted wanted;
    const Moved sent = to_server(up, wanted), received = to_client(down, wanted);
    if (sent == Moved::kEnd || received == Moved::kEnd) break;
    if (sent == Moved::kSome || received == Moved::kSome) continue;
    // An end that nothing is wanted of is left out: if it has ended, it would not let us sleep.
    pollfd entries[2] = {{wanted.server == 0 ? -1 : server_.get(), wanted.server, 0},
                         {wanted.client == 0 ? -1 : near_end_.get(), wanted.client, 0}};
    poll(entries, 2, -1);
  }
  if (!said_goodbye_) gnutls_bye(session_.get(), GNUTLS_SHUT_WR);
  shutdown(server_.get(), SHUT_RDWR);
  shutdown(near_end_.get(), SHUT_RDWR);
}

}  // namespace ostler::block::nbd
