// A pseudo-terminal of our own. Nobody may have opened its slave: then the master reports a hang-up again and
// again, so it is looked at once in a while instead.
#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/fd.h"
#include "chardev/backends.h"
#include "chardev/fd_channel.h"

namespace ostler::chardev {
namespace {

constexpr int64_t kProbeNs = 300'000'000;

class Pty final : public FdChannel {
 public:
  Pty(event::Loop& loop, Fd master, std::string path)
      : FdChannel(loop),
        master_(std::move(master)),
        path_(std::move(path)),
        probe_(loop, [this] { probe(); }) {
    probe();
  }
  ~Pty() override { disconnect(); }
  const std::string& path() const { return path_; }

 private:
  void peer_closed() override {
    disconnect();
    probe_.start(kProbeNs);
  }
  void probe() {
    pollfd state{master_.get(), POLLIN, 0};
    ::poll(&state, 1, 0);
    if ((state.revents & POLLHUP) != 0)
      probe_.start(kProbeNs);
    else
      connect(master_.get(), master_.get());
  }

  Fd master_;
  std::string path_;
  event::HostTimer probe_;
};

}  // namespace

Result<std::unique_ptr<CharBackend>> make_pty(event::Loop& loop) {
  Fd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  char path[128];
  if (!master || grantpt(master.get()) != 0 || unlockpt(master.get()) != 0 ||
      ptsname_r(master.get(), path, sizeof path) != 0)
    return errno_error("character device: cannot make a pseudo-terminal", errno);
  {
    // A hang-up is only reported after the slave was open once.
    const Fd slave(::open(path, O_RDWR | O_NOCTTY | O_CLOEXEC));
    termios mode{};
    if (slave && tcgetattr(slave.get(), &mode) == 0) {
      cfmakeraw(&mode);
      tcsetattr(slave.get(), TCSANOW, &mode);
    }
  }
  return std::unique_ptr<CharBackend>(std::make_unique<Pty>(loop, std::move(master), path));
}

std::string pty_path(const CharBackend& backend) {
  const auto* pty = dynamic_cast<const Pty*>(&without_log(backend));
  return pty == nullptr ? std::string() : pty->path();
}

}  // namespace ostler::chardev
