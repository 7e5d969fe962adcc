// Null, file and named-pipe back ends.
#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>

#include "base/fd.h"
#include "chardev/backends.h"
#include "chardev/fd_channel.h"

namespace ostler::chardev {
namespace {

class Null final : public CharBackend {
 public:
  void attach(CharFrontend*) override {}
  size_t write(std::span<const std::byte> bytes) override { return bytes.size(); }
  void accept_input() override {}
};

class Files final : public FdChannel {
 public:
  Files(event::Loop& loop, Fd in, Fd out) : FdChannel(loop), in_(std::move(in)), out_(std::move(out)) {
    connect(in_.get(), out_.get());
  }
  ~Files() override { disconnect(); }

 private:
  Fd in_, out_;
};

}  // namespace

std::unique_ptr<CharBackend> make_null() {
  return std::make_unique<Null>();
}

Result<std::unique_ptr<CharBackend>> make_file(event::Loop& loop, const Options& options) {
  const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (options.append ? O_APPEND : O_TRUNC);
  Fd file(::open(options.path.c_str(), flags, 0666));
  if (!file)
    return errno_error(fmt::format("character device: cannot open '{}' for writing", options.path), errno);
  return std::unique_ptr<CharBackend>(std::make_unique<Files>(loop, Fd(), std::move(file)));
}

// PATH.in and PATH.out if both exist, else PATH for both directions, as QEMU spells it.
Result<std::unique_ptr<CharBackend>> make_pipe(event::Loop& loop, const Options& options) {
  // Opened for both directions, a pipe neither waits for its other end nor is closed with it.
  Fd in(::open((options.path + ".in").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  Fd out(::open((options.path + ".out").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!in || !out) {
    in = Fd(::open(options.path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!in)
      return errno_error(
          fmt::format("character device: cannot open pipe '{0}' (nor '{0}.in' and '{0}.out')", options.path),
          errno);
    out = Fd(::fcntl(in.get(), F_DUPFD_CLOEXEC, 0));
  }
  return std::unique_ptr<CharBackend>(std::make_unique<Files>(loop, std::move(in), std::move(out)));
}

}  // namespace ostler::chardev
