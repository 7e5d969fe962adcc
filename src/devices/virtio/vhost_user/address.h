// Where a back end is: the socket that -chardev names.
#pragma once

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace ostler::virtio::vhost_user {

// A socket that listens; its path goes with it.
class Listener {
 public:
  // Replaces a socket that an earlier run left at `path`. Errors name the path.
  static Result<std::shared_ptr<Listener>> open(const std::string& path);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  int fd() const { return fd_.get(); }
  // Waits until somebody comes, however long. A socket that does not block; errors: the host's, and it names
  // the path.
  Result<Fd> wait() const;

 private:
  Listener(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  const Fd fd_;
  const std::string path_;
};

struct Address {
  std::string path;
  unsigned reconnect = 0;                   // seconds until a back end that has gone is looked for; 0: never
  std::shared_ptr<Fd> connected = {};       // a socket that is connected already, for the first who asks
  std::shared_ptr<Listener> listener = {};  // the back end comes to us instead

  // Whether there can be another back end after the first.
  bool reconnects() const { return reconnect != 0 || listener != nullptr; }
};

// A connected socket, not blocking; without a listener. Errors name the path.
Result<Fd> connect_to(const Address& address);

}  // namespace ostler::virtio::vhost_user
