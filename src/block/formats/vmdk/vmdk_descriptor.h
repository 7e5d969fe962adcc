// The descriptor of a VMDK image: lines of text that name its extents and its parent.
// Source: VMware, "Virtual Disk Format 5.0" (2011), "The Descriptor File".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "block/formats/mapped/image_file.h"

namespace ostler::block {

struct VmdkDescriptor {
  static constexpr size_t kMostBytes = 1 << 20;
  static constexpr size_t kMostExtents = 1024;
  static constexpr uint64_t kMostSectors = uint64_t{1} << 44;  // of a disk
  static constexpr uint32_t kNoParent = 0xffffffff;

  struct Extent {
    std::string access;  // RW, RDONLY, NOACCESS
    uint64_t sectors = 0;
    std::string type;  // FLAT, SPARSE, …
    std::string filename;
    uint64_t offset = 0;  // sectors, of FLAT
  };
  uint32_t cid = kNoParent;
  uint32_t parent_cid = kNoParent;
  std::string create_type;
  std::string parent_hint;  // parentFileNameHint
  std::vector<Extent> extents;

  static bool recognised(std::string_view text);
  // `file` is for the messages.
  static Result<VmdkDescriptor> parse(std::string_view text, const Node& file);
  // `text` with another CID; every other byte stays.
  static std::string with_cid(const std::string& text, uint32_t cid);
};

}  // namespace ostler::block
