// The format "vdi" (VirtualBox), dynamic and static: a map of 32-bit block numbers, then the blocks.
#pragma once

#include <atomic>

#include "block/formats/mapped/mapped_node.h"
#include "block/formats/vdi/vdi_header.h"

namespace ostler::block {

class VdiNode final : public MappedNode {
 public:
  static Task<Result<std::shared_ptr<VdiNode>>> open(NodePtr file, bool read_only);
  explicit VdiNode(bool read_only) : MappedNode("vdi", read_only) {}

 protected:
  Task<int> find(uint64_t cluster, Place& place) override;
  Task<int> reserve(uint64_t cluster, uint64_t& count, uint64_t& offset) override;
  Task<int> publish(uint64_t cluster, uint64_t count, uint64_t offset) override;
  Task<int> write_before_tables() override;
  Task<Result<void>> prepare_writing() override;
  Task<Result<void>> check_more(CheckReport& report) override;
  bool fixed() const override { return header_.type == VdiHeader::kStatic; }

 private:
  // How many blocks behind data_offset the map's entries use, the last one included, or are needed for that.
  Task<Result<uint32_t>> blocks_in_use();
  VdiHeader header_;
  std::atomic<uint32_t> next_block_{0};  // changed with allocation() held
};

}  // namespace ostler::block
