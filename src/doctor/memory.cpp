#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>

#include "doctor/checks.h"

namespace ostler::doctor {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;
// A guest takes a few hundred mappings; devices that map memory and many vCPUs take more.
constexpr uint64_t kLeastMaps = 65530;
constexpr uint64_t kLeastFiles = 4096;

// The word in brackets: "always [madvise] never".
std::string chosen(const std::string& line) {
  const size_t begin = line.find('['), end = line.find(']');
  return begin == std::string::npos || end == std::string::npos || end < begin
             ? std::string()
             : line.substr(begin + 1, end - begin - 1);
}

Finding transparent_huge_pages(const Host& host) {
  Finding finding{.id = "transparent-huge-pages", .says = {}, .cure = {}};
  const auto line = host.line("/sys/kernel/mm/transparent_hugepage/enabled");
  const std::string mode = line ? chosen(*line) : "";
  if (mode == "always" || mode == "madvise") {
    finding.says = fmt::format("guest memory comes in huge pages by itself (mode {})", mode);
    return finding;
  }
  finding.state = State::kLimited;
  finding.says = line ? "transparent huge pages are off: guests miss the TLB more often"
                      : "this kernel has no transparent huge pages";
  if (line) finding.cure = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled";
  return finding;
}

Finding reserved_huge_pages(const Host& host) {
  Finding finding{.id = "reserved-huge-pages", .says = {}, .cure = {}};
  uint64_t total = 0, free = 0;
  for (const std::string& folder : host.entries("/sys/kernel/mm/hugepages")) {
    // hugepages-2048kB
    const size_t dash = folder.find('-');
    if (dash == std::string::npos) continue;
    const uint64_t kib = std::strtoull(folder.c_str() + dash + 1, nullptr, 10);
    const std::string base = "/sys/kernel/mm/hugepages/" + folder;
    total += host.number(base + "/nr_hugepages").value_or(0) * kib * 1024;
    free += host.number(base + "/free_hugepages").value_or(0) * kib * 1024;
  }
  finding.figures = {{"total-bytes", std::to_string(total)}, {"free-bytes", std::to_string(free)}};
  if (total != 0) {
    finding.says =
        fmt::format("{} MiB are reserved as huge pages, {} MiB of them free", total / kMib, free / kMib);
    return finding;
  }
  finding.says = "no memory is reserved as huge pages";
  return finding;
}

Finding same_page_merging(const Host& host) {
  Finding finding{.id = "ksm", .says = {}, .cure = {}};
  const auto run = host.number("/sys/kernel/mm/ksm/run");
  if (run && *run == 1) {
    const uint64_t sharing = host.number("/sys/kernel/mm/ksm/pages_sharing").value_or(0);
    finding.says =
        fmt::format("equal pages of guests are kept once; {} MiB are saved now", sharing * 4096 / kMib);
    finding.figures = {{"pages-sharing", std::to_string(sharing)}};
    return finding;
  }
  finding.state = run ? State::kLimited : State::kMissing;
  finding.says = run ? "KSM is off: equal pages of guests are kept several times"
                     : "this kernel has no KSM (CONFIG_KSM)";
  if (run) finding.cure = "echo 1 | sudo tee /sys/kernel/mm/ksm/run";
  return finding;
}

Finding map_count(const Host& host) {
  Finding finding{.id = "max-map-count", .says = {}, .cure = {}};
  const auto most = host.number("/proc/sys/vm/max_map_count");
  if (!most) {
    finding.state = State::kLimited;
    finding.says = "the limit of mappings (vm.max_map_count) cannot be read";
    return finding;
  }
  finding.figures = {{"value", std::to_string(*most)}};
  finding.says = fmt::format("a process may have {} mappings", *most);
  if (*most < kLeastMaps) {
    finding.state = State::kLimited;
    finding.cure = fmt::format("sudo sysctl vm.max_map_count={}", kLeastMaps);
  }
  return finding;
}

std::string limit_text(rlim_t value, uint64_t unit, std::string_view name) {
  return value == RLIM_INFINITY ? std::string("any number of ") + std::string(name)
                                : fmt::format("{} {}", value / unit, name);
}

Finding locked_memory() {
  Finding finding{.id = "memlock", .says = {}, .cure = {}};
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  finding.says = fmt::format("{} may be locked", limit_text(limit.rlim_cur, kMib, "MiB"));
  if (limit.rlim_cur != RLIM_INFINITY) {
    finding.state = State::kLimited;
    finding.cure =
        "a line \"* - memlock unlimited\" in /etc/security/limits.d/ostler.conf, if memory shall be locked";
  }
  return finding;
}

Finding open_files() {
  Finding finding{.id = "open-files", .says = {}, .cure = {}};
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  finding.says = fmt::format("{} may be open", limit_text(limit.rlim_max, 1, "files"));
  if (limit.rlim_max < kLeastFiles) {
    finding.state = State::kLimited;
    finding.cure = fmt::format("ulimit -n {}", kLeastFiles);
  }
  return finding;
}

}  // namespace

Section check_memory(const Host& host) {
  return {"Memory and limits",
          {transparent_huge_pages(host), reserved_huge_pages(host), same_page_merging(host), map_count(host),
           locked_memory(), open_files()}};
}

}  // namespace ostler::doctor
