#include "doctor/process_limits.h"

#include <sys/mman.h>
#include <unistd.h>

namespace ostler::doctor {
namespace {

Limit read_limit(__rlimit_resource resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0) return {};
  return {.now = limit.rlim_cur, .most = limit.rlim_max};
}

// By trying, as the capability counts in the first user namespace only. Nothing is read into memory: the
// pages would be locked when they are touched.
bool can_lock_beyond(rlim_t limit) {
  constexpr rlim_t kMostTried = rlim_t{1} << 40;
  if (limit > kMostTried) return true;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t size = (static_cast<size_t>(limit) / page + 1) * page;
  void* const memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  const bool locked = mlock2(memory, size, MLOCK_ONFAULT) == 0;
  munmap(memory, size);
  return locked;
}

// The kernel counts no processes of the root of the first user namespace; one inside that is somebody else
// outside has a limit.
bool is_root_of_host(const Host& host) {
  if (geteuid() != 0) return false;
  const std::string map = host.line("/proc/self/uid_map").value_or("0 0");
  const size_t inside = map.find_first_not_of(' ');
  if (inside == std::string::npos) return true;
  const size_t outside = map.find_first_not_of(' ', map.find(' ', inside));
  return outside != std::string::npos && map.substr(outside, map.find(' ', outside) - outside) == "0";
}

}  // namespace

ProcessLimits ProcessLimits::current(const Host& host) {
  ProcessLimits limits{.processes = read_limit(RLIMIT_NPROC),
                       .files = read_limit(RLIMIT_NOFILE),
                       .locked_memory = read_limit(RLIMIT_MEMLOCK),
                       .address_space = read_limit(RLIMIT_AS)};
  limits.may_lock_more = can_lock_beyond(limits.locked_memory.now);
  limits.may_start_more = is_root_of_host(host);
  return limits;
}

}  // namespace ostler::doctor
