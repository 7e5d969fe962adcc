#include "img/background.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace ostler::img {
namespace {

// Until the other end is closed.
std::string read_all(int fd) {
  std::string text;
  char piece[512];
  for (;;) {
    const ssize_t got = read(fd, piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(piece, static_cast<size_t>(got));
  }
}

Result<void> write_all(int fd, std::string_view text, const std::string& what) {
  while (!text.empty()) {
    const ssize_t put = write(fd, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno_error(what, errno);
    text.remove_prefix(static_cast<size_t>(put));
  }
  return {};
}

}  // namespace

Result<void> Readiness::tell(const std::string& text, bool keep_errors) {
  const Fd nobody(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!nobody) return errno_error("--fork: /dev/null cannot be opened", errno);
  std::fflush(stdout);
  for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (standard != STDERR_FILENO || !keep_errors) dup2(nobody.get(), standard);
  TRY(write_all(pipe_.get(), text, "--fork: the first process has ended"));
  pipe_.reset();
  return {};
}

Result<int> run_in_background(const std::function<Result<int>(Readiness& readiness)>& work,
                              const std::function<void(const std::string& text)>& say) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno_error("--fork: there is no pipe", errno);
  Fd from(ends[0]), to(ends[1]);
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) return errno_error("--fork: there is no new process", errno);
  if (child == 0) {
    from.reset();
    setsid();
    Readiness readiness(std::move(to));
    return work(readiness);
  }
  to.reset();
  const std::string text = read_all(from.get());
  if (!text.empty()) {
    say(text);
    return 0;
  }
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  return 1;
}

Result<PidFile> PidFile::create(const std::string& path) {
  Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644));
  if (!fd) return errno_error(fmt::format("--pid-file: {} cannot be written", path), errno);
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (fcntl(fd.get(), F_OFD_SETLK, &lock) != 0 && (errno == EAGAIN || errno == EACCES))
    return Error(ErrorKind::kBusy,
                 fmt::format("--pid-file: {} belongs to another server that runs; name another file", path));
  if (ftruncate(fd.get(), 0) != 0 && errno != EINVAL)
    return errno_error(fmt::format("--pid-file: {} cannot be emptied", path), errno);
  TRY(write_all(fd.get(), fmt::format("{}\n", getpid()),
                fmt::format("--pid-file: {} cannot be written", path)));
  return PidFile(path, std::move(fd));
}

PidFile::~PidFile() {
  if (fd_) unlink(path_.c_str());
}

}  // namespace ostler::img
