// A node of the block graph: bytes at offsets. Files, formats and filters implement it; they nest.
//
// Requests are coroutines, from any thread that runs an IoContext, any number at once; each goes on on the
// context where it began. They return 0 or a negative errno. Nodes check neither permissions nor their own
// size: the users' end (block/client.h) does, once. No order holds among requests in flight; a flush covers
// what was done before it was issued. Memory and iovecs of a request stay valid until its end.
#pragma once

#include <cerrno>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "block/buffers.h"
#include "block/edge.h"
#include "block/permissions.h"
#include "block/task.h"

namespace ostler::block {

class Snapshots;
class Bitmaps;
class Checker;

struct ZeroFlags {
  bool may_unmap = false;    // giving the space back is welcome
  bool no_fallback = false;  // -ENOTSUP instead of writing zeros
};

// off: nothing; metadata: a format's tables; falloc: space is reserved; full: zeros are written.
enum class Preallocation { kOff, kMetadata, kFalloc, kFull };

// What a run of bytes is, from the offset that was asked for.
struct BlockStatus {
  uint64_t bytes = 0;      // length of the run, 1 or more unless the offset is at the end
  bool data = false;       // this node or a lower one has bytes for it
  bool zero = false;       // reads as zeros
  bool allocated = false;  // this node decides what is read; else its backing node
  bool compressed = false;
  bool recurse = false;  // `file` may know more (holes)
  bool offset_valid = false;
  uint64_t offset = 0;  // in `file`, of the run's first byte
  Node* file = nullptr;
};

enum class StatusDetail {
  kQuick,  // whether and where it is allocated
  // And whether it reads as zeros. Holes of the host's file count where no table could tell zeros: in raw
  // images, those of a fixed layout, qcow2's preallocated metadata. What `map` shows.
  kLayout,
  kPrecise,  // the same, with the holes below every cluster
};

struct Limits {
  uint32_t request_alignment = 1;     // bytes; requests that are not aligned cost more
  uint64_t cluster_bytes = 0;         // unit of allocation; 0: none
  uint64_t most_transfer = 1u << 30;  // bytes of one request
  uint64_t discard_alignment = 1;
};

// What a user's writes of zeros become: as they are, write_zeroes(), or the same giving the space back.
enum class DetectZeroes { kOff, kOn, kUnmap };

class Node : public Parent, public std::enable_shared_from_this<Node> {
 public:
  explicit Node(std::string driver) : driver_(std::move(driver)) {}
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // --- requests ---
  // Reading past the end gives zeros. Writing past the end grows a file, and is an error elsewhere.
  virtual Task<int> read(uint64_t offset, Buffers to) = 0;
  virtual Task<int> write(uint64_t offset, Buffers from) = 0;
  virtual Task<int> flush() = 0;
  virtual Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) = 0;
  // A hint: the content becomes unspecified (zeros or as it was), space may be given back.
  virtual Task<int> discard(uint64_t offset, uint64_t bytes);
  // One cluster's worth (or less, at the end), aligned, stored compressed. -ENOTSUP: not by this node.
  virtual Task<int> write_compressed(uint64_t offset, Buffers from);
  // `bytes` limits how far it looks; the run told may be shorter than it could be.
  virtual Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status);
  // Grown space reads as zeros. Shrinking drops content.
  virtual Task<Result<void>> truncate(uint64_t size, Preallocation preallocation);
  // Writes what is kept in memory; the last call on a node, also after failures. The error is of that
  // writing.
  virtual Task<Result<void>> close();
  // At once or not at all, on any thread, without an I/O context: 0, an error, or -EAGAIN when the request
  // must take the long way. Buffers are unspecified then.
  virtual int try_read(uint64_t, Buffers) { return -EAGAIN; }
  virtual int try_write(uint64_t, Buffers) { return -EAGAIN; }
  // Makes waiting requests (throttled ones, connections to be made again) end with -ECANCELED, from any
  // thread.
  virtual void cancel();

  // --- description ---
  const std::string& driver() const { return driver_; }
  const std::string& name() const { return name_; }  // "node-name", unique in the graph
  void set_name(std::string name) { name_ = std::move(name); }
  DetectZeroes detect_zeroes() const { return detect_zeroes_; }         // heeded by clients of this node
  void set_detect_zeroes(DetectZeroes mode) { detect_zeroes_ = mode; }  // before it has users
  virtual uint64_t size() const = 0;                                    // bytes
  virtual bool read_only() const = 0;
  virtual Limits limits() const { return {}; }
  // Unallocated space of this node reads as zeros (no backing node), so that zeros need not be written to a
  // new one.
  virtual bool new_space_is_zero() const { return false; }
  // How a user would name it: a file name, or "json:{…}".
  virtual std::string filename() const;
  // Options that open this node again: {"driver": …}.
  virtual nlohmann::json options() const;
  // Bytes that the host's file takes; -ENOTSUP if unknown.
  virtual int64_t allocated_bytes() const;
  // {"type": …, "data": {…}} as `qemu-img info` has it, or null.
  virtual nlohmann::json format_specific_info() const;
  virtual bool is_protocol() const { return false; }  // has no file below it
  virtual bool encrypted() const { return false; }
  virtual bool compresses() const { return false; }  // write_compressed() works
  virtual bool dirty() const { return false; }       // not closed cleanly, or corrupt
  // As written in the image; empty: none.
  virtual std::string backing_file_name() const { return {}; }
  virtual std::string backing_file_format() const { return {}; }

  // --- graph ---
  virtual std::vector<const Edge*> children() const { return {}; }
  const Edge* child(std::string_view name) const;
  NodePtr backing() const;   // by role
  NodePtr filtered() const;  // of a filter: what it filters
  NodePtr file() const;
  // Replaces the backing node in the graph (not the name in the image). Drained.
  virtual Result<void> set_backing(NodePtr node);
  // Takes up or gives up write access. Drained.
  virtual Task<Result<void>> reopen(bool writable);
  std::vector<Edge::Use> uses() const;

  // --- what some formats can do besides; null: not this one ---
  virtual Snapshots* snapshots() { return nullptr; }
  virtual Bitmaps* bitmaps() { return nullptr; }
  virtual Checker* checker() { return nullptr; }
  // Changes creation options of an existing image.
  virtual Task<Result<void>> amend(nlohmann::json options);
  // Drops all content of an image with a backing file: it reads as that from then on. Drained.
  virtual Task<Result<void>> make_empty();
  // Writes name and format of the backing file into the image ("" for none); the graph stays.
  virtual Task<Result<void>> change_backing_file(std::string file, std::string format);

  // --- Parent: a node is idle when its parents are ---
  const std::string& parent_name() const override { return name_; }
  void drain_begin() override;
  void drain_end() override;
  bool busy() const override;
  void resized() override;  // tells the parents

 private:
  friend class Edge;
  Result<void> admit(const Edge::Use& use, const Edge::Use* instead,
                     std::span<const Parent* const> leaving = {});
  std::vector<Parent*> parents() const;

  const std::string driver_;
  std::string name_;
  DetectZeroes detect_zeroes_ = DetectZeroes::kOff;
  // Of graph_mutex():
  std::vector<Edge::Use*> uses_;
  unsigned drains_ = 0;  // new parents start drained
};

// Whole requests on memory in one piece.
Task<int> read_bytes(Node& node, uint64_t offset, void* to, size_t bytes);
Task<int> write_bytes(Node& node, uint64_t offset, const void* from, size_t bytes);
// Writes zeros by write_zeroes(), or by writing them where that is not supported.
Task<int> write_zeroes_anyhow(Node& node, uint64_t offset, uint64_t bytes, ZeroFlags flags);

// The first node from `node` on that is not a filter.
NodePtr skip_filters(NodePtr node);
// The backing node below filters and `node`, itself without its filters; null: none.
NodePtr next_in_chain(const NodePtr& node);

// Where in the chain from `top` to before `base` (null: all of it) the content at `offset` comes from.
// `depth`: 0 for `top` and one more per backing node; what nobody has is zero and not allocated.
struct ChainStatus : BlockStatus {
  unsigned depth = 0;
  Node* node = nullptr;
};
Task<int> chain_status(NodePtr top, NodePtr base, uint64_t offset, uint64_t bytes, StatusDetail detail,
                       ChainStatus& status);

}  // namespace ostler::block
