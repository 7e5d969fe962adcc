// The format "qed": two levels of tables of 64-bit offsets, a backing file.
//
// Data and the zeros of a new table are flushed before what points to them, so that a power cut leaves at
// most unused clusters and the header's "need check" mark is never set by us. An image with the
// mark is examined when it is opened for writing.
#pragma once

#include "block/driver.h"
#include "block/formats/mapped/mapped_node.h"
#include "block/formats/qed/qed_header.h"

namespace ostler::block {

class QedNode final : public MappedNode {
 public:
  static Task<Result<NodePtr>> open(OpenRequest request);
  explicit QedNode(bool read_only) : MappedNode("qed", read_only) {}

  bool dirty() const override { return (header_.features & QedHeader::kNeedCheck) != 0; }
  std::string backing_file_name() const override { return backing_name_; }
  std::string backing_file_format() const override {
    return (header_.features & QedHeader::kBackingIsRaw) != 0 ? "raw" : "";
  }
  std::vector<const Edge*> children() const override;
  Result<void> set_backing(NodePtr node) override;
  Task<Result<void>> change_backing_file(std::string file, std::string format) override;
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override;

 protected:
  Task<int> find(uint64_t cluster, Place& place) override;
  Task<int> reserve(uint64_t cluster, uint64_t& count, uint64_t& offset) override;
  Task<int> publish(uint64_t cluster, uint64_t count, uint64_t offset) override;
  Task<int> publish_zero(uint64_t cluster, uint64_t count) override;
  Task<Result<void>> prepare_writing() override;
  Node* below() const override { return backing_ ? backing_.node().get() : nullptr; }

 private:
  Task<Result<void>> clear_need_check();
  Task<Result<void>> write_header();
  bool valid_offset(uint64_t offset, uint64_t bytes) const;
  // Where the table for `cluster` is; 0: nowhere.
  Task<int> table_of(uint64_t cluster, uint64_t& offset);
  Task<int> need_table(uint64_t cluster, uint64_t& offset);
  Task<int> write_entries(uint64_t cluster, const std::vector<uint64_t>& entries);

  QedHeader header_;
  std::string backing_name_;
  Edge backing_;
  uint64_t next_ = 0;  // of allocation()
};

}  // namespace ostler::block
