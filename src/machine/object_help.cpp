// Each property is read where its object is made: memory_backend.cpp, disk_objects.cpp,
// net/filter_options.cpp.
#include "machine/object_help.h"

#include <fmt/format.h>

#include <array>
#include <span>
#include <string_view>

namespace ostler::machine {
namespace {

struct Line {
  std::string_view property, help;
};
struct Type {
  std::string_view name, help, more;  // `more`: the page that tells the rest, where no properties follow
  std::span<const Line> special;
};

constexpr std::array kOfMemory{
    Line{"size=<size>", "bytes, with a suffix like 2G"},
    Line{"share=<bool>", "other processes that map it see what the guest writes"},
    Line{"prealloc=<bool>", "take all of it before the guest starts"},
    Line{"prealloc-threads=<uint32>", "threads that do so, 1 to 1024"},
    Line{"reserve=<bool>", "count it against the host's limit of overcommitment at once"},
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
constexpr std::array kTypes{
    Type{"filter-dump", "a capture of a network", "docs/networks.md", {}},
    Type{"filter-rate", "a limit of a network", "docs/networks.md", {}},
    Type{"iothread", "a thread for disks", "docs/disks.md", {}},
    Type{"memory-backend-file", "guest memory in a file, or in huge pages of hugetlbfs", "", kOfFile},
    Type{"memory-backend-memfd", "guest memory that other processes can map", "", kOfMemfd},
    Type{"memory-backend-ram", "guest memory", "", {}},
    Type{"rng-builtin", "random numbers of the host's kernel for virtio-rng", "docs/virtio.md", {}},
    Type{"rng-random", "the same, by the name of its device file", "docs/virtio.md", {}},
    Type{"secret", "a passphrase or key", "docs/block.md", {}},
    Type{"throttle-group", "limits that disks share", "docs/disks.md", {}},
    Type{"tls-creds-psk", "keys of NBD servers and clients", "docs/nbd.md", {}},
    Type{"tls-creds-x509", "certificates of NBD servers and clients", "docs/nbd.md", {}},
};

}  // namespace

std::string object_help(const std::string& type) {
  std::string text = type.empty() ? "Objects (-object TYPE,help tells what each takes):\n" : "";
  for (const Type& each : kTypes) {
    if (type.empty()) text += fmt::format("  {:<21} {}\n", each.name, each.help);
    if (type != each.name) continue;
    if (!each.more.empty())
      return fmt::format("{}: {}; {} tells its properties\n", each.name, each.help, each.more);
    text += fmt::format("{} options:\n", each.name);
    for (const std::span<const Line> lines : {std::span<const Line>(kOfMemory), each.special})
      for (const Line& line : lines) text += fmt::format("  {:<30} - {}\n", line.property, line.help);
  }
  return text;
}

}  // namespace ostler::machine
