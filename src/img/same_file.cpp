#include "img/same_file.h"

#include <sys/stat.h>

#include "block/edge.h"

namespace ostler::img {
namespace {

// The file of `node` or of one below it that is `wanted`; empty: none is.
std::string find_file(const block::Node& node, const struct stat& wanted) {
  struct stat status;
  if (node.is_protocol() && stat(node.filename().c_str(), &status) == 0 && status.st_dev == wanted.st_dev &&
      status.st_ino == wanted.st_ino)
    return node.filename();
  for (const block::Edge* edge : node.children())
    if (std::string found = find_file(*edge->node(), wanted); !found.empty()) return found;
  return {};
}

}  // namespace

Result<void> check_not_read_from(const std::string& target, const Image& source) {
  struct stat wanted;
  const std::string path = target.starts_with("file:") ? target.substr(5) : target;
  if (stat(path.c_str(), &wanted) != 0) return {};  // a new file
  const std::string found = find_file(*source.node(), wanted);
  if (found.empty()) return {};
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("{} cannot be the target: its file {} is read as the source; name another target",
                           target, found));
}

}  // namespace ostler::img
