#include "img/same_file.h"

#include "block/chain_files.h"

namespace ostler::img {

Result<void> check_not_read_from(const std::string& target, const Image& source) {
  const std::string path = target.starts_with("file:") ? target.substr(5) : target;
  const std::string found = block::find_file_in_chain(*source.node(), path);
  if (found.empty()) return {};
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("{} cannot be the target: its file {} is read as the source; name another target",
                           target, found));
}

}  // namespace ostler::img
