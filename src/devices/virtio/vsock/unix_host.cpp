#include "devices/virtio/vsock/unix_host.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace ostler::virtio::vsock {
namespace {

constexpr size_t kLongestSuffix = 11;  // "_4294967295"
constexpr int kBacklog = 64;

struct Address {
  explicit Address(const std::string& path) {
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, path.data(), path.size());
    size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name); }
  sockaddr_un name{};
  socklen_t size;
};

Fd stream_socket() {
  return Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

}  // namespace

Result<std::unique_ptr<UnixHost>> UnixHost::create(event::Loop& loop, const std::string& path) {
  constexpr size_t kMost = sizeof(sockaddr_un::sun_path) - 1 - kLongestSuffix;
  if (path.empty() || path.size() > kMost)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("uds-path: '{}' is empty or longer than {} bytes", path, kMost));
  const Address address(path);
  Fd listener = stream_socket();
  if (!listener) return errno_error(fmt::format("uds-path: no socket for '{}'", path), errno);
  int failed = ::bind(listener.get(), address.get(), address.size) == 0 ? 0 : errno;
  struct stat info {};
  if (failed == EADDRINUSE && ::lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) {
    // Left by a process that was killed, or in use.
    const Fd probe = stream_socket();
    if (probe && ::connect(probe.get(), address.get(), address.size) != 0 && errno == ECONNREFUSED) {
      ::unlink(path.c_str());
      failed = ::bind(listener.get(), address.get(), address.size) == 0 ? 0 : errno;
    }
  }
  if (failed == EADDRINUSE)
    return Error(ErrorKind::kBusy,
                 fmt::format("uds-path: '{}' exists and is in use; choose another path", path), failed);
  if (failed != 0 || ::listen(listener.get(), kBacklog) != 0)
    return errno_error(fmt::format("uds-path: cannot listen on '{}'", path), failed != 0 ? failed : errno);
  return std::unique_ptr<UnixHost>(new UnixHost(loop, path, std::move(listener)));
}

UnixHost::UnixHost(event::Loop& loop, std::string path, Fd listener)
    : path_(std::move(path)),
      listener_(std::move(listener)),
      acceptor_(loop, "uds-path '" + path_ + "'", [this] {
        if (Fd peer = acceptor_.accept()) accepted_(std::move(peer));
      }) {}

UnixHost::~UnixHost() {
  acceptor_.stop();
  ::unlink(path_.c_str());
}

void UnixHost::listen(std::function<void(Fd)> accepted) {
  accepted_ = std::move(accepted);
  acceptor_.start(listener_.get());
}

Fd UnixHost::connect(uint32_t port) {
  Fd socket = stream_socket();
  const Address address(fmt::format("{}_{}", path_, port));
  // EAGAIN, a full queue of the server, is a refusal too: nothing would tell when there is room.
  if (!socket || ::connect(socket.get(), address.get(), address.size) != 0) return {};
  return socket;
}

}  // namespace ostler::virtio::vsock
