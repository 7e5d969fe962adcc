// Taking a guest's memory from the host before it runs, with several threads: the host clears each page, at
// some 10 GiB/s for each processor.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "memory/host_memory.h"

namespace ostler::memory {
namespace {

constexpr uint64_t kStep = uint64_t{32} << 20;
constexpr std::chrono::milliseconds kReport{200};

// Since Linux 5.14; unlike a touch it fails with an error where the host has no page, and not with SIGBUS.
int populate_step(std::byte* from, uint64_t bytes) {
  while (madvise(from, bytes, MADV_POPULATE_WRITE) != 0)
    if (errno != EINTR && errno != EAGAIN) return errno;
  return 0;
}

}  // namespace

Result<void> HostMemory::populate(const std::string& name, unsigned threads,
                                  const std::function<void(uint64_t done)>& progress) const {
  const uint64_t step = std::max(kStep, page_size_);
  const auto steps = static_cast<unsigned>(std::min<uint64_t>((size_ + step - 1) / step, 1024));
  threads = std::clamp(threads, 1u, steps);
  std::atomic<uint64_t> next{0}, done{0};
  std::atomic<int> error{0};
  std::mutex mutex;
  std::condition_variable ended;
  unsigned running = threads;

  const auto work = [&] {
    while (error.load() == 0) {
      const uint64_t from = next.fetch_add(step);
      if (from >= size_) break;
      const uint64_t bytes = std::min(step, size_ - from);
      if (const int failed = populate_step(data_ + from, bytes); failed != 0) {
        error.store(failed);
        break;
      }
      done.fetch_add(bytes);
    }
    const std::lock_guard lock(mutex);
    if (--running == 0) ended.notify_one();
  };
  std::vector<std::jthread> workers;
  workers.reserve(threads);
  unsigned missing = 0;
  for (unsigned i = 0; i < threads; ++i) {
    try {
      workers.emplace_back(work);
    } catch (const std::system_error&) {
      ++missing;  // the host lets us have no more: the others do it, or this very thread
    }
  }
  std::unique_lock lock(mutex);
  running -= missing;
  if (workers.empty()) {
    running = 1;
    lock.unlock();
    work();
    lock.lock();
  }
  while (!ended.wait_for(lock, kReport, [&] { return running == 0; })) {
    lock.unlock();
    if (progress) progress(done.load());
    lock.lock();
  }
  lock.unlock();
  workers.clear();
  if (progress) progress(done.load());
  if (error.load() == 0) return {};
  return errno_error(
      fmt::format(
          "memory '{}': the host has only {} MiB of the {} MiB that prealloc asks for; give the guest "
          "less, or free memory on the host",
          name, done.load() >> 20, size_ >> 20),
      error.load());
}

Result<void> HostMemory::lock(const std::string& name) const {
  // Not mlock(), which does nothing under the sanitizers.
  if (mlock2(data_, size_, 0) == 0) return {};
  return errno_error(
      fmt::format("memory '{}': {} MiB cannot be locked; raise the limit (ulimit -l unlimited), "
                  "or leave mem-lock out",
                  name, size_ >> 20),
      errno);
}

}  // namespace ostler::memory
