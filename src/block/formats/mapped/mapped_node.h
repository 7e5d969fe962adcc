// What formats that cut a disk into clusters have in common: requests are taken apart by where their
// clusters lie, clusters without a place get one when they are written.
//
// A format says where a cluster is (find), gives space (reserve) and makes it visible (publish), in memory:
// changed tables are stored when a flush asks, when too many wait and at the end. Data, and the zeros of new
// tables, are flushed before the tables that point to them: after a power cut a cluster is as it was at the
// last flush or as it was written since. Requests run side by side; those that need space take turns.
#pragma once

#include <optional>

#include "block/capabilities.h"
#include "block/formats/mapped/table_pages.h"
#include "block/mutex.h"
#include "block/node.h"

namespace ostler::block {

// Where one or more consecutive clusters are.
struct Place {
  enum class Kind : uint8_t {
    kAbsent,  // the backing node's content, or zeros, in a format that can have one
    kZero,
    kData,        // consecutive in the file from `offset` on
    kCompressed,  // one cluster; the format unpacks it
  };
  Kind kind = Kind::kAbsent;
  uint64_t offset = 0;    // in the file, bytes
  uint64_t clusters = 1;  // that are alike
  uint32_t packed_bytes = 0;
};

class MappedNode : public Node, protected Checker {
 public:
  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> flush() override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  // Clusters keep their places, which become holes of the file.
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  Task<Result<void>> reopen(bool writable) override;
  Task<Result<void>> close() override { return settle(); }

  uint64_t size() const override { return size_; }
  bool read_only() const override { return read_only_; }
  Limits limits() const override { return {.cluster_bytes = cluster_bytes_}; }
  bool new_space_is_zero() const override { return below() == nullptr; }
  std::vector<const Edge*> children() const override { return {&file_}; }
  Checker* checker() override { return this; }

 protected:
  MappedNode(std::string driver, bool read_only) : Node(std::move(driver)), read_only_(read_only) {}
  void set_geometry(uint64_t size, uint64_t cluster_bytes);
  Result<void> attach_file(NodePtr file);

  // The place of `cluster`, which lies within the disk; -EIO if the image is wrong there, for
  // `place.clusters`.
  virtual Task<int> find(uint64_t cluster, Place& place) = 0;
  // Space for `count` clusters from `cluster` on, at `offset` of the file; fewer are all right: `count`
  // tells. One call at a time, and publish() follows unless writing failed.
  virtual Task<int> reserve(uint64_t cluster, uint64_t& count, uint64_t& offset) = 0;
  virtual Task<int> publish(uint64_t cluster, uint64_t count, uint64_t offset) = 0;
  // Lets clusters without space read as zeros in spite of a backing node. -ENOTSUP: the format cannot.
  virtual Task<int> publish_zero(uint64_t cluster, uint64_t count);
  // Unpacks a whole cluster.
  virtual Task<int> read_packed(uint64_t cluster, Place place, std::byte* to);
  // What absent clusters show; null: zeros. Its bytes begin at below_offset() of this disk's offset 0.
  virtual Node* below() const { return nullptr; }
  virtual uint64_t below_offset() const { return 0; }
  // Every cluster has its place from the beginning, so that the tables know no zeros.
  virtual bool fixed() const { return false; }
  // Called once before the first change, and when the node becomes writable.
  virtual Task<Result<void>> prepare_writing();
  // Before each change of the tables, with allocation() held: prepares, and stores if too many changes wait.
  // 0 or an error; that of the preparation is logged.
  Task<int> begin_change();
  // Writes what must be stable before the tables are; `tables_` has their state already.
  virtual Task<int> write_before_tables();
  // Makes durable what was published, and all data.
  Task<int> store_tables();
  // The same if anything was published since; the error names the file.
  Task<Result<void>> settle();

  Task<Result<CheckReport>> check(CheckOptions options) override;
  // Adds what else the format knows.
  virtual Task<Result<void>> check_more(CheckReport& report);
  static void complain(CheckReport& report, std::string message);

  uint64_t clusters() const { return (size_ + cluster_bytes_ - 1) / cluster_bytes_; }
  uint64_t cluster_bytes() const { return cluster_bytes_; }
  const Edge& file_edge() const { return file_; }
  Node& image() const { return *file_; }
  void change_size(uint64_t size) { size_ = size; }
  Mutex& allocation() { return allocation_; }

  TablePages tables_;

 private:
  // The place at `offset` and how many of `bytes` are alike.
  Task<int> run_at(uint64_t offset, uint64_t bytes, Place& place, uint64_t& run);
  Task<int> read_below(uint64_t offset, Buffers to);
  Task<int> read_piece_packed(uint64_t offset, Buffers to, Place place);
  // Writes into clusters without space, as many bytes as `done` tells.
  Task<int> write_new(uint64_t offset, Buffers from, uint64_t& done);
  Task<int> fill_rest(uint64_t offset, uint64_t bytes, uint64_t at, bool old_content);

  bool read_only_;
  bool prepared_ = false;  // of allocation_
  bool told_ = false;      // why it cannot be: the guest may try again and again
  uint64_t size_ = 0;
  uint64_t cluster_bytes_ = 1;
  Edge file_;
  Mutex allocation_;
  Mutex storing_;
};

}  // namespace ostler::block
