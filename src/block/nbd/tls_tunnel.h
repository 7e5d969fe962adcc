// TLS for a client that speaks NBD without it. libnbd 1.14 has TLS of its own, but verifies no certificate
// behind a unix socket (CVE-2024-7383) and can be told neither the name that a certificate is for nor a
// priority. So it gets one end of a pair of sockets, and a thread carries its bytes to the server and back.
//
// open() makes the connection secure before libnbd sees any of it; the server's greeting is then told once
// more to libnbd, which negotiates the rest.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/fd.h"
#include "block/nbd/dial.h"
#include "block/nbd/tls_credentials.h"

namespace ostler::block::nbd {

class TlsTunnel {
 public:
  // `server`: connected, not blocking. `hostname`: what the server's certificate must be for; "" if the
  // credentials need none. Waits on the caller's thread.
  static Result<std::unique_ptr<TlsTunnel>> open(Fd server, std::shared_ptr<const TlsCredentials> credentials,
                                                 std::string hostname, const MayWait& may_wait);
  // Breaks the connection if it is still there.
  ~TlsTunnel();
  TlsTunnel(const TlsTunnel&) = delete;
  TlsTunnel& operator=(const TlsTunnel&) = delete;

  // The client's end; once.
  Fd take_end() { return std::move(far_end_); }
  // Why the connection has ended, as far as TLS knows; "" otherwise. Any thread.
  std::string failure() const;

 private:
  TlsTunnel(Fd server, std::shared_ptr<const TlsCredentials> credentials, std::string hostname);
  struct Bytes;
  struct Wanted;
  enum class Moved { kNothing, kSome, kEnd };

  Result<std::string> ask_for_tls(const MayWait& may_wait);
  Result<void> shake_hands(const MayWait& may_wait);
  Result<void> begin(const std::string& greeting);
  void carry();
  Moved to_server(Bytes& bytes, Wanted& wanted);
  Moved to_client(Bytes& bytes, Wanted& wanted);
  short next_direction() const;
  void failed(long code);

  const Fd server_;
  const std::shared_ptr<const TlsCredentials> credentials_;
  const std::string hostname_;
  Fd near_end_, far_end_;
  TlsSession session_;  // of the thread, once that runs
  bool client_left_ = false, server_left_ = false, said_goodbye_ = false;
  std::atomic<bool> stopping_ = false;
  mutable std::mutex mutex_;
  std::string failure_;
  std::thread thread_;
};

}  // namespace ostler::block::nbd
