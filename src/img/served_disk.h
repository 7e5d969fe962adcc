// What `serve` gives its clients: an image, a snapshot of it, a part of it, or a copy that takes the writes
// and is forgotten at the end.
#pragma once

#include <memory>
#include <vector>

#include "img/tool.h"

namespace ostler::img {

class ServedDisk {
 public:
  // The image that the arguments name: -f, --image-opts, -U, -r, --cache, -n, --aio, --discard,
  // --detect-zeroes, -s, -l and --offset.
  static Result<ServedDisk> open(Tool& tool, const Arguments& arguments);

  // Outlives whatever it is given to, until close().
  block::Client& client() const { return client_ ? *client_ : image_.client(); }
  bool read_only() const { return read_only_; }
  Result<void> close();

 private:
  ServedDisk(Tool& tool, Image image, bool read_only)
      : tool_(&tool), image_(std::move(image)), read_only_(read_only) {}
  Result<void> attach(const Arguments& arguments, bool writethrough);

  Tool* tool_;
  Image image_;
  std::vector<block::NodePtr> above_;      // nodes on top of the image's, the lowest first
  std::shared_ptr<block::Client> client_;  // of the topmost; null: the image's own
  bool read_only_;
};

}  // namespace ostler::img
