// Guest memory: huge pages, equal pages, and how much of it there may be.
#include <fmt/format.h>

#include <cstdlib>

#include "doctor/checks.h"
#include "doctor/control_group.h"

namespace ostler::doctor {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;
// Where kernels that have them show huge pages and KSM; every kernel has the folder.
constexpr std::string_view kFolder = "/sys/kernel/mm";

// The word in brackets: "always [madvise] never".
std::string chosen(const std::string& line) {
  const size_t begin = line.find('['), end = line.find(']');
  return begin == std::string::npos || end == std::string::npos || end < begin
             ? std::string()
             : line.substr(begin + 1, end - begin - 1);
}

// Whether it cannot be told what the file would tell of `subject`; says so.
bool unseen(Finding& finding, const Host& host, std::string_view file, std::string_view subject) {
  const std::string why = host.unseen(file, kFolder);
  if (why.empty()) return false;
  finding.state = State::kUnknown;
  finding.says = fmt::format("{} cannot be looked at: {}", subject, why);
  finding.cure = "look from outside of the container, or show it the host's /sys";
  return true;
}

Finding transparent_huge_pages(const Host& host) {
  Finding finding{.id = "transparent-huge-pages", .says = {}, .cure = {}};
  constexpr std::string_view file = "/sys/kernel/mm/transparent_hugepage/enabled";
  const auto line = host.line(file);
  const std::string mode = line ? chosen(*line) : "";
  if (mode == "always" || mode == "madvise") {
    finding.says = fmt::format("guest memory comes in huge pages by itself (mode {})", mode);
    return finding;
  }
  if (!line && unseen(finding, host, file, "transparent huge pages")) return finding;
  finding.state = State::kLimited;
  finding.says = line ? "transparent huge pages are off: guests miss the TLB more often"
                      : "this kernel has no transparent huge pages";
  if (line) finding.cure = fmt::format("{}echo madvise | sudo tee {}", host.where_to_write(file), file);
  return finding;
}

Finding reserved_huge_pages(const Host& host) {
  Finding finding{.id = "reserved-huge-pages", .says = {}, .cure = {}};
  constexpr std::string_view all = "/sys/kernel/mm/hugepages";
  if (!host.exists(all)) {
    if (unseen(finding, host, all, "reserved huge pages")) return finding;
    finding.state = State::kMissing;
    finding.says = "this kernel has no pages to reserve (CONFIG_HUGETLBFS)";
    return finding;
  }
  uint64_t total = 0, free = 0;
  for (const std::string& folder : host.entries(all)) {
    // hugepages-2048kB
    const size_t dash = folder.find('-');
    if (dash == std::string::npos) continue;
    const uint64_t kib = std::strtoull(folder.c_str() + dash + 1, nullptr, 10);
    const std::string base = fmt::format("{}/{}", all, folder);
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
  constexpr std::string_view file = "/sys/kernel/mm/ksm/run";
  const auto run = host.number(file);
  if (run && *run == 1) {
    const uint64_t sharing = host.number("/sys/kernel/mm/ksm/pages_sharing").value_or(0);
    finding.says =
        fmt::format("equal pages of guests are kept once; {} MiB are saved now", sharing * 4096 / kMib);
    finding.figures = {{"pages-sharing", std::to_string(sharing)}};
    return finding;
  }
  if (!run && unseen(finding, host, file, "KSM")) return finding;
  finding.state = run ? State::kLimited : State::kMissing;
  finding.says = run ? "KSM is off: equal pages of guests are kept several times"
                     : "this kernel has no KSM (CONFIG_KSM)";
  if (run) finding.cure = fmt::format("{}echo 1 | sudo tee {}", host.where_to_write(file), file);
  return finding;
}

// Bytes of the host's memory.
std::optional<uint64_t> memory_of_host(const Host& host) {
  const std::string line = host.line("/proc/meminfo").value_or("");  // "MemTotal:  16384 kB"
  const size_t digits = line.find_first_of("0123456789");
  if (!line.starts_with("MemTotal:") || digits == std::string::npos) return std::nullopt;
  return std::strtoull(line.c_str() + digits, nullptr, 10) * 1024;
}

Finding memory_limit(const Host& host) {
  Finding finding{.id = "memory-limit", .says = {}, .cure = {}};
  const auto limit = tightest_limit(host, kMemoryController);
  if (!limit) {
    if (const std::string why = groups_unseen(host); !why.empty()) {
      finding.state = State::kUnknown;
      finding.says = fmt::format("limits of memory by control groups cannot be looked at: {}", why);
      finding.cure = "look from outside of the container, or show it the host's /sys and /proc";
      return finding;
    }
    finding.says = "no control group limits memory";
    return finding;
  }
  finding.figures = {{"limit-bytes", std::to_string(limit->limit)},
                     {"used-bytes", std::to_string(limit->in_use)}};
  finding.says =
      fmt::format("the control group may use {} MiB, {} MiB of it are in use, file caches included",
                  limit->limit / kMib, limit->in_use / kMib);
  if (const auto all = memory_of_host(host); all && *all <= limit->limit) return finding;
  finding.state = State::kLimited;
  finding.says += "; a guest that takes more is killed";
  finding.cure = fmt::format(
      "give guests less (-m), or raise {} (systemd-run --scope -p MemoryMax=…; a container's --memory)",
      limit->file);
  return finding;
}

}  // namespace

Section check_memory(const Host& host) {
  return {
      "Memory",
      {transparent_huge_pages(host), reserved_huge_pages(host), same_page_merging(host), memory_limit(host)}};
}

}  // namespace ostler::doctor
