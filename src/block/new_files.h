// The files that come about while an image is made (Opener::create): its own, and extents or data files
// beside it. They are made when the format asks for them, with its options read, so that a mistake in those
// costs no content. After an error those that did not exist before go away again.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "block/open.h"

namespace ostler::block {

struct Driver;

class NewFiles {
 public:
  // `protocol`: the driver that makes the image's file, with `options`; `description`: how that is opened.
  NewFiles(Opener& opener, const Driver& protocol, nlohmann::json description, nlohmann::json options,
           OpenFlags flags);

  // The image's own file, open for writing: `size` bytes of zeros (an existing one loses its content, unless
  // its file system cannot hold that size). `preallocation`: off, falloc, full.
  Task<Result<NodePtr>> make_own(uint64_t size = 0, std::string preallocation = "off");
  // A file of the host beside it, of `size` bytes of zeros.
  Task<Result<void>> make_other(std::string path, uint64_t size = 0);
  // For protocols: the file at `path` was not there before.
  void made(std::string path) { made_.push_back(std::move(path)); }
  // Closes the image's own file and, if `result` or that is an error, removes what was made.
  Task<Result<void>> finish(Result<void> result);

 private:
  Opener& opener_;
  const Driver& protocol_;
  const nlohmann::json description_, options_;
  OpenFlags flags_;
  NodePtr own_;
  std::vector<std::string> made_;
};

}  // namespace ostler::block
