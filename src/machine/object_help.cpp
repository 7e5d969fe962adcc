#include "machine/object_help.h"

#include <fmt/format.h>

#include <array>
#include <span>
#include <string_view>

#include "config/object_types.h"

namespace ostler::machine {
namespace {

struct Line {
  std::string_view property, help;
};

constexpr std::array kOfMemory{
    Line{"size=<size>", "bytes, with a suffix like 2G"},
    Line{"share=<bool>", "other processes that map it see what the guest writes"},
    Line{"prealloc=<bool>", "take all of it before the guest starts"},
    Line{"prealloc-threads=<uint32>", "threads that do so, 1 to 1024"},
    Line{"reserve=<bool>",
         "count it against the host's limit of overcommitment at once; off: more than the host has is "
         "allowed"},
    Line{"merge=<bool>", "the host may merge equal pages (KSM)"},
    Line{"dump=<bool>", "in core dumps of this program"},
    Line{"policy=<default|preferred|bind|interleave>", "on which of the host's NUMA nodes it is"},
    Line{"host-nodes=<first[-last]>", "those nodes; may be given several times"},
};
constexpr std::array kOfMemfd{
    Line{"hugetlb=<bool>", "in huge pages that the host has reserved"},
    Line{"hugetlbsize=<size>", "of each, 2M or 1G"},
    Line{"seal=<bool>", "nobody changes its size"},
};
constexpr std::array kOfFile{
    Line{"mem-path=<file or folder>", "where it is; in a folder nobody else sees the file"},
    Line{"offset=<size>", "of the memory in the file"},
    Line{"align=<size>", "of its address, a power of two"},
};
std::span<const Line> own_lines(std::string_view type) {
  if (type == "memory-backend-memfd") return kOfMemfd;
  if (type == "memory-backend-file") return kOfFile;
  return {};
}

}  // namespace

std::string object_help(const std::string& type) {
  std::string text = type.empty() ? "Objects (-object TYPE,help tells what each takes):\n" : "";
  for (const config::ObjectType& each : config::kObjectTypes) {
    if (type.empty()) text += fmt::format("  {:<21} {}\n", each.name, each.help);
    if (type != each.name) continue;
    if (!each.page.empty())
      return fmt::format("{}: {}; {} tells its properties\n", each.name, each.help, each.page);
    text += fmt::format("{} options:\n", each.name);
    for (const std::span<const Line> lines : {std::span<const Line>(kOfMemory), own_lines(each.name)})
      for (const Line& line : lines) text += fmt::format("  {:<30} - {}\n", line.property, line.help);
  }
  return text;
}

}  // namespace ostler::machine
