#include "bt/perf_map.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

namespace ostler::bt {

std::string PerfMap::path_of_this_process() {
  return fmt::format("/tmp/perf-{}.map", getpid());
}

Result<std::unique_ptr<PerfMap>> PerfMap::create(const std::string& path) {
  // Anybody may have put a link under a name in /tmp that can be guessed.
  unlink(path.c_str());
  Fd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_APPEND | O_CLOEXEC, 0600));
  if (!file) return errno_error(fmt::format("perfmap: cannot create '{}'", path), errno);
  return std::unique_ptr<PerfMap>(new PerfMap(std::move(file)));
}

void PerfMap::add(const void* host, size_t bytes, std::string_view name) {
  if (bytes == 0) return;
  const std::string line = fmt::format("{:x} {:x} {}\n", reinterpret_cast<uintptr_t>(host), bytes, name);
  static_cast<void>(!write(file_.get(), line.data(), line.size()));
}

void PerfMap::clear() {
  static_cast<void>(!ftruncate(file_.get(), 0));
}

}  // namespace ostler::bt
