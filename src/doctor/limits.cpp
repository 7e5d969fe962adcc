// How much of the kernel's own things one process may have: mappings, locked memory, files, threads.
#include <fmt/format.h>

#include <algorithm>

#include "doctor/checks.h"
#include "doctor/control_group.h"

namespace ostler::doctor {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;
// A guest takes a few hundred mappings; devices that map memory and many vCPUs take more.
constexpr uint64_t kLeastMaps = 65530;
// What shells begin with suffices for a usual guest; shared folders and many queues ask for more.
constexpr uint64_t kUsualFiles = 1024, kLeastFiles = 4096;
// The most vCPUs, and the workers of disks and shared folders beside them.
constexpr uint64_t kLeastThreads = 256;

// What to do when a soft limit is too low: this user's own affair up to the hard one.
std::string raise(const Limit& limit, std::string_view option, std::string_view item, uint64_t wanted) {
  if (limit.most == RLIM_INFINITY || limit.most >= wanted)
    return fmt::format("ulimit -{} {}", option, wanted);
  return fmt::format("a line \"* - {} {}\" in /etc/security/limits.d/ostler.conf, and log in again", item,
                     wanted);
}

Finding map_count(const Host& host) {
  Finding finding{.id = "max-map-count", .says = {}, .cure = {}};
  constexpr std::string_view file = "/proc/sys/vm/max_map_count";
  const auto most = host.number(file);
  if (!most) {
    const std::string why = host.unseen(file, "/proc/sys/vm");
    finding.state = State::kUnknown;
    finding.says = fmt::format("the limit of mappings (vm.max_map_count) cannot be looked at: {}",
                               why.empty() ? "the kernel does not show it" : why);
    finding.cure = "look from outside of the container, or mount /proc";
    return finding;
  }
  finding.figures = {{"value", std::to_string(*most)}};
  finding.says = fmt::format("a process may have {} mappings", *most);
  if (*most < kLeastMaps) {
    finding.state = State::kLimited;
    finding.cure = fmt::format("{}sudo sysctl vm.max_map_count={}", host.where_to_write(file), kLeastMaps);
  }
  return finding;
}

Finding locked_memory(const ProcessLimits& limits) {
  Finding finding{.id = "memlock", .says = {}, .cure = {}};
  if (limits.locked_memory.now == RLIM_INFINITY || limits.may_lock_more) {
    finding.says = "any amount of memory may be locked";
    return finding;
  }
  finding.figures = {{"limit-bytes", std::to_string(limits.locked_memory.now)}};
  finding.says = fmt::format("{} KiB of memory may be locked (ulimit -l)", limits.locked_memory.now / 1024);
  finding.state = State::kLimited;
  finding.cure =
      "a line \"* - memlock unlimited\" in /etc/security/limits.d/ostler.conf, if memory shall be locked";
  return finding;
}

Finding open_files(const ProcessLimits& limits) {
  Finding finding{.id = "open-files", .says = {}, .cure = {}};
  const Limit& limit = limits.files;
  if (limit.now == RLIM_INFINITY) {
    finding.says = "any number of files may be open";
    return finding;
  }
  finding.figures = {{"limit", std::to_string(limit.now)}};
  finding.says = fmt::format("{} files may be open (ulimit -n)", limit.now);
  if (limit.most > limit.now) {
    finding.says += limit.most == RLIM_INFINITY ? ", any number when asked for"
                                                : fmt::format(", {} when asked for", limit.most);
  }
  if (limit.now < kUsualFiles || limit.most < kLeastFiles) {
    finding.state = State::kLimited;
    finding.cure = raise(limit, "n", "nofile", kLeastFiles);
  }
  return finding;
}

Finding address_space(const ProcessLimits& limits) {
  Finding finding{.id = "address-space", .says = {}, .cure = {}};
  const Limit& limit = limits.address_space;
  if (limit.now == RLIM_INFINITY) {
    finding.says = "the address space has no limit";
    return finding;
  }
  finding.figures = {{"limit-bytes", std::to_string(limit.now)}};
  finding.state = State::kLimited;
  finding.says = fmt::format(
      "the address space is limited to {} MiB (ulimit -v), and the binary translator reserves several GiB "
      "of addresses for each vCPU",
      limit.now / kMib);
  finding.cure = limit.most == RLIM_INFINITY
                     ? "ulimit -v unlimited"
                     : "a line \"* - as unlimited\" in /etc/security/limits.d/ostler.conf, and log in again";
  return finding;
}

Finding threads(const Host& host, const ProcessLimits& limits) {
  Finding finding{.id = "threads", .says = {}, .cure = {}};
  std::vector<std::string> found;
  const Limit& limit = limits.processes;
  if (!limits.may_start_more && limit.now != RLIM_INFINITY) {
    found.push_back(fmt::format("this user may have {} threads (ulimit -u)", limit.now));
    finding.figures.emplace_back("limit", std::to_string(limit.now));
    if (limit.now < kLeastThreads) finding.cure = raise(limit, "u", "nproc", 4096);
  }
  const auto group = tightest_limit(host, kPidsController);
  if (group) {
    found.push_back(
        fmt::format("the control group may have {} threads, and has {} now", group->limit, group->in_use));
    finding.figures.emplace_back("group-limit", std::to_string(group->limit));
    finding.figures.emplace_back("group-used", std::to_string(group->in_use));
    if (group->left() < kLeastThreads) {
      if (!finding.cure.empty()) finding.cure += "; ";
      finding.cure +=
          fmt::format("raise {} (TasksMax= of the systemd unit; a container's --pids-limit)", group->file);
    }
  }
  finding.says = fmt::format("{}", fmt::join(found, "; "));
  if (!finding.cure.empty()) {
    finding.state = State::kLimited;
    finding.says += "; a guest takes one for each vCPU, and more for its disks and folders";
  } else if (const std::string why = groups_unseen(host); !group && !why.empty()) {
    finding.state = State::kUnknown;
    finding.says += fmt::format("{}limits of threads by control groups cannot be looked at: {}",
                                found.empty() ? "" : "; ", why);
    finding.cure = "look from outside of the container, or show it the host's /sys and /proc";
  } else if (found.empty()) {
    finding.says = "the number of threads has no limit of its own";
  }
  return finding;
}

}  // namespace

Section check_limits(const Host& host, const ProcessLimits& limits) {
  return {"Limits",
          {map_count(host), locked_memory(limits), open_files(limits), address_space(limits),
           threads(host, limits)}};
}

}  // namespace ostler::doctor
