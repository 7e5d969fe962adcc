// Checking an image: what is referred to against what is counted.
//
// References are counted for a window of the file at a time, so that memory stays bounded whatever an image
// claims; larger files take several walks through the metadata.
#pragma once

#include <fmt/format.h>

#include <vector>

#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

class RefcountCheck {
 public:
  RefcountCheck(Qcow2Node& image, CheckOptions options) : image_(image), options_(options) {}
  Task<Result<CheckReport>> run();

 private:
  Task<Result<void>> walk();
  Task<Result<void>> walk_l1(uint64_t offset, uint64_t entries, bool active);
  Task<Result<void>> walk_l2(uint64_t offset, bool active);
  Task<Result<void>> walk_bitmaps();
  // One reference to each cluster of these bytes.
  void mark(uint64_t offset, uint64_t bytes, const char* what);
  Task<Result<void>> compare();
  Task<Result<void>> check_copied_bits();
  Task<Result<void>> rebuild();
  Task<Result<void>> count_window(uint64_t first);

  template <class... Args>
  void tell(fmt::format_string<Args...> format, Args&&... args) {
    if (first_walk_) add_message(fmt::format(format, std::forward<Args>(args)...));
  }
  void add_message(std::string message);
  void corruption() {
    if (first_walk_) ++report_.corruptions;
  }

  Qcow2Node& image_;
  const CheckOptions options_;
  CheckReport report_;
  uint64_t file_clusters_ = 0;
  uint64_t window_ = 0;           // its first cluster
  std::vector<uint32_t> counts_;  // of the window
  bool first_walk_ = true;
  bool skip_refcount_structures_ = false;
  bool must_rebuild_ = false;
  uint64_t highest_ = 0;        // cluster in use
  uint64_t next_in_a_row_ = 0;  // where an unfragmented image goes on
};

}  // namespace ostler::block::qcow2
