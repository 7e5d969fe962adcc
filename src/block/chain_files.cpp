#include "block/chain_files.h"

#include <filesystem>

#include "block/edge.h"

namespace ostler::block {

std::string find_file_in_chain(const Node& node, const std::string& path) {
  std::error_code none;
  if (node.is_protocol() && std::filesystem::equivalent(node.filename(), path, none)) return node.filename();
  for (const Edge* edge : node.children())
    if (std::string found = find_file_in_chain(*edge->node(), path); !found.empty()) return found;
  return {};
}

}  // namespace ostler::block
