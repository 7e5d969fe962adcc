// Which of the host's files a chain of images has.
#pragma once

#include <string>

#include "block/node.h"

namespace ostler::block {

// The name that the file `path` has in the chain at `node`, where it may be another one; empty: it is not in
// it, or there is no such file.
std::string find_file_in_chain(const Node& node, const std::string& path);

}  // namespace ostler::block
