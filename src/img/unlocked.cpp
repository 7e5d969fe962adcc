#include "img/unlocked.h"

namespace ostler::img {

Result<void> check_unlocked(Tool& tool, const Image& image) {
  for (block::NodePtr node = image.node(); node; node = block::next_in_chain(node)) {
    if (!node->encrypted() || node->size() == 0) continue;
    char byte = 0;
    if (tool.run(block::read_bytes(*node, 0, &byte, 1)) != -EACCES) continue;
    const char* const option = node->driver() == "qcow2" ? "encrypt.key-secret" : "key-secret";
    return Error(ErrorKind::kPermission,
                 fmt::format("{} is encrypted: give the passphrase by --object secret,id=NAME,file=PATH and, "
                             "with --image-opts, the option {}=NAME",
                             node->filename(), option),
                 EACCES);
  }
  return {};
}

}  // namespace ostler::img
