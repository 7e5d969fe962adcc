#include "doctor/control_group.h"

#include <vector>

namespace ostler::doctor {
namespace {

constexpr std::string_view kMount = "/sys/fs/cgroup";
constexpr uint64_t kNoLimit = uint64_t{1} << 62;  // version 1 writes a number just below 2^63

bool names(std::string_view list, std::string_view wanted) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    if (list.substr(0, comma) == wanted) return true;
    list = comma == std::string_view::npos ? std::string_view{} : list.substr(comma + 1);
  }
  return false;
}

// The group and those above it. A container's mount may begin at its own group, whose full path is told
// nevertheless, so each beginning of the path is tried below the mount, its root too.
void look(const Host& host, const Controller& controller, unsigned version, const std::string& mount,
          std::string group, std::optional<GroupLimit>& tightest) {
  for (;;) {
    const std::string folder = mount + (group == "/" ? "" : group);
    GroupLimit found;
    found.file = folder + "/" + std::string(controller.limit[2 - version]);
    if (const auto limit = host.number(found.file); limit && *limit < kNoLimit) {
      found.limit = *limit;
      found.in_use = host.number(folder + "/" + std::string(controller.in_use[2 - version])).value_or(0);
      if (!tightest || found.left() < tightest->left()) tightest = std::move(found);
    }
    const size_t slash = group.rfind('/');
    if (group.size() <= 1 || slash == std::string::npos) return;
    group.resize(slash == 0 ? 1 : slash);
  }
}

}  // namespace

std::optional<GroupLimit> tightest_limit(const Host& host, const Controller& controller) {
  std::optional<GroupLimit> tightest;
  const std::string all = host.text("/proc/self/cgroup").value_or("");
  // "4:memory:/a/b", "0::/a/b".
  for (std::string_view rest = all; !rest.empty();) {
    const size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
    const size_t first = line.find(':');
    const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::string group(line.substr(second + 1));
    if (controllers.empty()) {
      look(host, controller, 2, std::string(kMount), group, tightest);
      look(host, controller, 2, std::string(kMount) + "/unified", group, tightest);
    } else if (names(controllers, controller.name)) {
      look(host, controller, 1, std::string(kMount) + "/" + std::string(controllers), group, tightest);
    }
  }
  return tightest;
}

std::string groups_unseen(const Host& host) {
  if (auto why = host.unseen("/proc/self/cgroup", "/proc/self"); !why.empty()) return why;
  if (host.entries("/sys").empty()) return "/sys is not mounted";
  if (host.entries(kMount).empty()) return std::string(kMount) + " is not mounted";
  return "";
}

}  // namespace ostler::doctor
