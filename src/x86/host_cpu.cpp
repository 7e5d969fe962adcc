#include "x86/host_cpu.h"

#include <cpuid.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/fd.h"

namespace ostler::x86 {
namespace {

CpuidResult host_cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidResult r;
  __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
  return r;
}

uint32_t max_leaf(uint32_t range) {
  return host_cpuid(range, 0).eax;
}

uint64_t host_xcr0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low | static_cast<uint64_t>(high) << 32;
}

HostCpu read_host() {
  HostCpu host;
  const CpuidResult zero = host_cpuid(0, 0);
  char vendor[12];
  std::memcpy(vendor, &zero.ebx, 4);
  std::memcpy(vendor + 4, &zero.edx, 4);
  std::memcpy(vendor + 8, &zero.ecx, 4);
  host.vendor.assign(vendor, 12);

  const uint32_t signature = host_cpuid(1, 0).eax;
  host.family = (signature >> 8) & 15;
  host.model = (signature >> 4) & 15;
  host.stepping = signature & 15;
  if (host.family == 15 || host.family == 6) host.model |= (signature >> 12) & 0xf0;
  if (host.family == 15) host.family += (signature >> 20) & 0xff;

  const uint32_t basic = max_leaf(0), extended = max_leaf(0x80000000);
  if (extended >= 0x80000004) {
    char brand[49] = {};
    for (uint32_t i = 0; i < 3; ++i) {
      const CpuidResult r = host_cpuid(0x80000002 + i, 0);
      std::memcpy(brand + 16 * i, &r, 16);
    }
    host.brand = brand;
  }
  if (extended >= 0x80000008) host.physical_bits = host_cpuid(0x80000008, 0).eax & 0xff;

  CpuidResult r;
  uint32_t asked_leaf = ~0u, asked_subleaf = 0;
  for (size_t i = 0; i < kFeatureCount; ++i) {
    const FeatureInfo& info = feature_info(static_cast<Feature>(i));
    const uint32_t limit = info.leaf >= 0x80000000 ? extended : info.leaf >= 0x40000000 ? 0 : basic;
    if (info.leaf > limit) continue;
    // CPUID traps in virtual machines, and the list is sorted by leaf: ask once for each.
    if (info.leaf != asked_leaf || info.subleaf != asked_subleaf) r = host_cpuid(info.leaf, info.subleaf);
    asked_leaf = info.leaf, asked_subleaf = info.subleaf;
    const uint32_t value[] = {r.eax, r.ebx, r.ecx, r.edx};
    host.features.set(static_cast<Feature>(i), (value[static_cast<size_t>(info.reg)] >> info.bit) & 1);
  }
  // The kernel may not save AVX registers (noxsave): then executing AVX would fault.
  const bool avx_state = host.features.has(Feature::kOsxsave) && (host_xcr0() & 6) == 6;
  if (!avx_state)
    for (Feature feature : {Feature::kAvx, Feature::kAvx2, Feature::kFma, Feature::kF16c})
      host.features.set(feature, false);
  if (!host.features.has(Feature::kOsxsave)) host.features.set(Feature::kXsave, false);
  return host;
}

int64_t monotonic_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

// The kernel publishes how it turns TSC ticks into nanoseconds in the page of any perf event:
// ns = ticks * time_mult >> time_shift. 0 when perf is not permitted.
uint64_t tsc_hz_from_perf() {
  perf_event_attr attributes{};
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.size = sizeof attributes;
  attributes.config = PERF_COUNT_SW_DUMMY;
  attributes.exclude_kernel = 1;
  attributes.exclude_hv = 1;
  const long fd = syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0) return 0;
  uint64_t hz = 0;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* mapped = mmap(nullptr, page, PROT_READ, MAP_SHARED, static_cast<int>(fd), 0);
  if (mapped != MAP_FAILED) {
    const auto& shared = *static_cast<const perf_event_mmap_page*>(mapped);
    if (shared.cap_user_time && shared.time_mult != 0 && shared.time_shift < 64) {
      __extension__ using uint128 = unsigned __int128;
      hz = static_cast<uint64_t>((uint128{1'000'000'000} << shared.time_shift) / shared.time_mult);
    }
    munmap(mapped, page);
  }
  close(static_cast<int>(fd));
  return hz;
}

struct Sample {
  uint64_t ticks;
  int64_t ns;
};

// The closest of several pairs of readings, so that one preemption does not spoil it.
Sample sample_clocks() {
  Sample best{};
  uint64_t best_gap = ~uint64_t{0};
  for (int i = 0; i < 16; ++i) {
    const uint64_t before = __builtin_ia32_rdtsc();
    const int64_t ns = monotonic_ns();
    const uint64_t after = __builtin_ia32_rdtsc();
    if (after - before < best_gap) {
      best_gap = after - before;
      best = {before + (after - before) / 2, ns};
    }
  }
  return best;
}

uint64_t measure_tsc_hz(int64_t spin_ns) {
  const Sample start = sample_clocks();
  while (monotonic_ns() - start.ns < spin_ns) {
  }
  const Sample end = sample_clocks();
  const double seconds = static_cast<double>(end.ns - start.ns) / 1e9;
  return seconds > 0 ? static_cast<uint64_t>(static_cast<double>(end.ticks - start.ticks) / seconds) : 0;
}

// The kernel derives BogoMIPS from the TSC frequency it calibrated, to 5 kHz: 500000 ticks each. 0 when it
// did not, as a short measurement shows.
uint64_t tsc_hz_from_bogomips() {
  const Fd file(open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC));
  if (!file) return 0;
  char text[4097] = {};
  const ssize_t length = read(file.get(), text, sizeof text - 1);
  if (length <= 0) return 0;
  const char* line = std::strstr(text, "bogomips");
  const char* colon = line != nullptr ? std::strchr(line, ':') : nullptr;
  if (colon == nullptr) return 0;
  const double told = std::strtod(colon + 1, nullptr) * 500000;
  const double measured = static_cast<double>(measure_tsc_hz(500'000));
  constexpr double kTolerance = 0.002;
  return std::abs(told - measured) < measured * kTolerance ? static_cast<uint64_t>(told) : 0;
}

uint64_t find_tsc_hz() {
  if (max_leaf(0) >= 0x15) {
    const CpuidResult r = host_cpuid(0x15, 0);
    if (r.eax != 0 && r.ebx != 0 && r.ecx != 0) return uint64_t{r.ecx} * r.ebx / r.eax;
  }
  if (HostCpu::current().features.has(Feature::kHypervisor) && max_leaf(0x40000000) >= 0x40000010) {
    const uint64_t khz = host_cpuid(0x40000010, 0).eax;
    if (khz > 100'000 && khz < 20'000'000) return khz * 1000;
  }
  if (const uint64_t hz = tsc_hz_from_perf(); hz != 0) return hz;
  if (const uint64_t hz = tsc_hz_from_bogomips(); hz != 0) return hz;
  return measure_tsc_hz(5'000'000);
}

}  // namespace

const HostCpu& HostCpu::current() {
  static const HostCpu host = read_host();
  return host;
}

uint64_t host_tsc_hz() {
  static const uint64_t hz = find_tsc_hz();
  return hz;
}

}  // namespace ostler::x86
