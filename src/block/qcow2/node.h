// The format "qcow2".
//
// One std::mutex guards the metadata in memory and is never held over a wait; reads and writes of data
// overlap freely. What survives a power cut, and why, is in docs/block.md. The member functions lie in files
// by subject: open.cpp, io.cpp (reads and writes), allocation.cpp, refcount.cpp, commit.cpp (writing
// metadata), status.cpp (block_status), zero.cpp, compressed.cpp, resize.cpp, snapshot.cpp, bitmap*.cpp,
// check.cpp, encryption.cpp.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_set>

#include "block/capabilities.h"
#include "block/mutex.h"
#include "block/node.h"
#include "block/open.h"
#include "block/qcow2/bitmap_store.h"
#include "block/qcow2/encryption.h"
#include "block/qcow2/epochs.h"
#include "block/qcow2/header.h"
#include "block/qcow2/page_cache.h"
#include "block/qcow2/snapshot_table.h"

namespace ostler::block {
struct CreateRequest;
struct OpenRequest;
}  // namespace ostler::block

namespace ostler::block::qcow2 {

// Host clusters that lose one reference.
struct GivenUp {
  uint64_t first, count;
  bool discard;  // the host gets them back
};

// What an L2 entry says of a guest cluster.
struct Entry {
  uint64_t word = 0;
  uint64_t bitmap = 0;  // extended L2 only
  uint64_t host() const { return word & kOffsetMask; }
  bool compressed() const { return (word & kCompressed) != 0; }
  bool copied() const { return (word & kCopied) != 0; }
};

enum class Content : uint8_t { kNone, kZero, kData, kCompressedData };

// Refcounts of 1 << order bits in a block.
uint64_t load_refcount(const std::byte* block, uint64_t index, unsigned order);
void store_refcount(std::byte* block, uint64_t index, unsigned order, uint64_t value);

// A table in memory as it is in the file (big-endian), and which of its sectors must be written.
struct TopTable {
  uint64_t offset = 0;  // in the file
  std::vector<uint64_t> words;
  std::vector<bool> dirty;  // per 512 bytes
  bool any_dirty = false;
  uint64_t get(uint64_t index) const { return load_be<uint64_t>(&words[index]); }
  void set(uint64_t index, uint64_t value);
  void assign(uint64_t new_offset, std::vector<uint64_t> content);
};

// The L1 table of an image that is only read: the parts of it that were needed. A chain of large images has
// megabytes of these tables, of which a guest's start looks at a few pages.
struct PartialTable {
  static constexpr uint64_t kPartWords = 512;
  using Part = std::array<uint64_t, kPartWords>;  // big-endian
  uint64_t offset = 0, entries = 0;
  std::vector<std::unique_ptr<Part>> parts;  // null: not read yet
  PartialTable(uint64_t in_file, uint64_t count)
      : offset(in_file), entries(count), parts((count + kPartWords - 1) / kPartWords) {}
};

class Qcow2Node final : public Node, public Snapshots, public Checker {
 public:
  explicit Qcow2Node(Header header);
  ~Qcow2Node() override;
  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> flush() override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> write_compressed(uint64_t offset, Buffers from) override;
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override;
  Task<Result<void>> make_empty() override;
  Task<Result<void>> close() override;
  int try_read(uint64_t offset, Buffers to) override;
  int try_write(uint64_t offset, Buffers from) override;

  uint64_t size() const override { return virtual_size_.load(std::memory_order_relaxed); }
  bool read_only() const override { return read_only_; }
  Limits limits() const override;
  bool new_space_is_zero() const override { return !backing_; }
  nlohmann::json format_specific_info() const override;
  bool encrypted() const override { return header_.encryption != 0; }
  // A compressed cluster would lie in the file as everybody can read it.
  bool compresses() const override { return !data_file_ && !encrypted(); }
  bool dirty() const override { return header_.has(kDirty) || header_.has(kCorrupt); }
  std::string backing_file_name() const override { return header_.backing_file; }
  std::string backing_file_format() const override { return header_.backing_format; }
  std::vector<const Edge*> children() const override;
  std::string filename() const override { return file_ ? file_->filename() : ""; }
  nlohmann::json options() const override;
  Result<void> set_backing(NodePtr node) override;
  Task<Result<void>> reopen(bool writable) override;
  Task<Result<void>> amend(nlohmann::json options) override;
  Task<Result<void>> change_backing_file(std::string file, std::string format) override;
  Snapshots* snapshots() override { return this; }
  Bitmaps* bitmaps() override;
  Checker* checker() override { return this; }

  std::vector<SnapshotInfo> list() const override;
  Task<Result<void>> create(SnapshotInfo info) override;
  Task<Result<void>> apply(std::string which) override;
  Task<Result<void>> remove(std::string which) override;
  Task<Result<void>> load(std::string which) override;

  Task<Result<CheckReport>> check(CheckOptions options) override;

  const Header& header() const { return header_; }

 private:
  friend class RefcountCheck;
  friend Task<Result<void>> create_qcow2(CreateRequest request);
  friend Task<Result<NodePtr>> open_qcow2(OpenRequest request);

  // --- shared by the files of this folder ---

  Result<void> connect(NodePtr file, NodePtr data, OpenFlags flags);
  Task<Result<void>> finish_open(bool repair);
  // Bitmaps (bitmap.cpp).
  Task<Result<void>> load_bitmaps();
  Task<Result<void>> load_bitmap(BitmapStore::Bitmap& bitmap, uint64_t bits);
  Task<int> mark_bitmaps_in_use();
  Task<Result<void>> store_bitmaps();
  Task<Result<void>> write_bitmap(const BitmapStore::Bitmap& bitmap, BitmapEntry& entry);
  Task<Result<void>> collect_bitmap_clusters(std::vector<GivenUp>& clusters);
  void add_bitmap_info(nlohmann::json& data) const;
  // A table that does not reach beyond the end of the file.
  Result<void> check_table(uint64_t offset, uint64_t entries, std::string_view what) const;
  Task<Result<void>> read_table(TopTable& table, uint64_t offset, uint64_t entries, std::string what);

  // Writes dirty metadata in its safe order; clusters given up before it become free. 0 or an error.
  Task<int> commit();
  Task<int> commit_alone(bool final_flush);
  // commit() when so much is dirty that memory must be had again.
  Task<int> commit_if_much();
  Task<int> flush_files();
  Task<Result<void>> write_header();

  // Has the L1 table in memory as a whole from here on.
  Task<Result<void>> read_l1(uint64_t offset, uint64_t entries);
  // Where the L2 table for `offset` is, 0: there is none; false: that part of the L1 table is not in memory.
  bool find_table_locked(uint64_t offset, uint64_t& table) const;
  Task<int> load_l1_part(uint64_t offset);
  // L2. The page with the entry of `offset`; a null pin if there is no L2 table.
  Task<int> load_l2(uint64_t offset, Pin& pin);
  // The same, with a table of this image's own that may be changed.
  Task<int> load_own_l2(uint64_t offset, Pin& pin);
  Pin find_l2_locked(uint64_t offset, bool& no_table);
  Task<int> make_own_l2(uint64_t l1_index);
  Entry entry_locked(const Pin& page, uint64_t offset) const;
  void set_entry_locked(const Pin& page, uint64_t offset, Entry entry);
  Content content(const Entry& entry, uint64_t offset) const;  // of the unit that holds `offset`
  // Guest bytes from `offset` on that `page` has entries for.
  uint64_t page_span(uint64_t offset) const;

  struct Run {
    Content content = Content::kNone;
    uint64_t bytes = 0;
    uint64_t host = 0;    // of what is placed: where the first byte is; of kCompressedData: the descriptor
    bool placed = false;  // kData, and others that keep a place for later
    bool own = false;     // kData: written in place
    bool bad = false;     // the entry breaks the format
  };
  uint64_t file_clusters_end() const;
  // What reads of a table's entry that breaks the format give: -EIO, and once a warning. `what` of `guest`
  // would be at `host`.
  int damaged(std::string_view what, uint64_t guest, uint64_t host);
  // What runs have in common: the content, and where it is read the place; or the place in any case.
  enum class Runs { kOfContent, kInOnePlace };
  Run find_run_locked(const Pin& page, uint64_t offset, uint64_t bytes, Runs runs = Runs::kOfContent) const;
  Task<int> read_run(Run run, uint64_t offset, Buffers whole, uint64_t from, uint64_t epoch);
  Task<int> read_backing(uint64_t offset, Buffers to);
  Task<int> read_compressed(uint64_t descriptor, uint64_t offset, Buffers to);
  Task<int> write_run(uint64_t host, Buffers whole, uint64_t from, uint64_t bytes, uint64_t epoch);
  Task<int> write_here(uint64_t offset, Buffers from);

  // Encryption (encryption.cpp). `guest`: the disk's offset of the first byte.
  Task<Result<void>> open_encryption(EncryptOptions options, const Opener& opener);
  Task<Result<void>> create_encryption(LuksPlan plan, std::string passphrase);
  Task<Result<void>> amend_encryption(nlohmann::json values, bool force);
  Task<int> read_sectors(uint64_t host, uint64_t guest, std::span<std::byte> to);
  Task<int> read_encrypted(uint64_t host, uint64_t guest, Buffers to);
  Task<int> write_encrypted(uint64_t host, Buffers from);
  void add_encryption_info(nlohmann::json& data) const;
  // Data of new or own clusters.
  Task<int> write_data(uint64_t host, Buffers from) {
    return encryption_ ? write_encrypted(host, from) : data_node().write(host, from);
  }

  // Allocation.
  struct Allocation;
  Task<int> write_allocating(uint64_t offset, Buffers from, uint64_t& done);
  Task<int> fill_and_write(const Allocation& allocation, uint64_t offset, Buffers from);
  Task<int> zero_clusters(uint64_t offset, uint64_t bytes, bool may_unmap, bool is_discard);
  Task<int> zero_in_page(uint64_t offset, uint64_t end, bool may_unmap, bool is_discard, uint64_t& done);
  Task<int> zero_part(uint64_t offset, uint64_t bytes, ZeroFlags flags);
  bool may_have_holes();
  Task<bool> has_unwritten_places();
  Task<int> compare_space_with_refcounts(bool& less);
  Task<int> reads_as_zero(uint64_t offset, uint64_t bytes, bool& zero);
  // The host clusters that an entry refers to; false: none.
  bool clusters_of(const Entry& entry, GivenUp& clusters) const;
  void give_up_locked(const Entry& entry);
  // The allocation that overlaps [first, end), which this request must wait for.
  Allocation* find_allocation_locked(uint64_t first, uint64_t end) const;
  Node& data_node() const { return data_file_ ? *data_file_ : *file_; }

  // Refcounts.
  Task<int> load_refcount_page(uint64_t cluster, Pin& pin);  // a null pin: no block, all zero
  uint64_t refcount_locked(const Pin& page, uint64_t cluster) const;
  void set_refcount_locked(const Pin& page, uint64_t cluster, uint64_t value);
  Task<int> refcount(uint64_t cluster, uint64_t& value);
  Task<int> change_refcount(uint64_t cluster, int64_t delta, uint64_t& now);
  Task<int> change_refcounts(uint64_t first, uint64_t count, int64_t delta);
  // 1 to `want` clusters in a row with a refcount of one; exactly `want` with `all`.
  Task<int> allocate_clusters(uint64_t want, bool all, uint64_t& offset, uint64_t& got);
  Task<int> allocate_behind(uint64_t want, uint64_t& offset);
  Task<int> take_clusters(uint64_t from, uint64_t want, uint64_t& first, uint64_t& got);
  Task<int> allocate_metadata(uint64_t bytes, uint64_t& offset);
  Task<int> grow_refcounts(uint64_t table_index);
  Task<int> grow_refcount_table(uint64_t table_index);
  Task<int> release_given_up(bool all);
  bool overlaps_metadata_locked(uint64_t offset, uint64_t bytes);
  void note_metadata_locked(uint64_t offset);
  Task<int> report_corruption(std::string what);
  Task<bool> share_cluster(uint64_t at);
  Task<int> allocate_compressed(uint64_t bytes, uint64_t& offset);
  Task<int> prepare_first_write();

  // Snapshots (snapshot.cpp).
  Task<Result<void>> read_snapshots();
  Task<Result<void>> write_snapshots(std::vector<Stored> snapshots);
  Result<size_t> find_snapshot(const std::string& which) const;
  Task<Result<std::vector<uint64_t>>> read_snapshot_l1(size_t index);
  Task<int> can_count_references(const std::vector<uint64_t>& l1);
  Task<int> count_references(const std::vector<uint64_t>& l1);
  Task<int> give_up_references(const std::vector<uint64_t>& l1);
  Task<int> refresh_copied_bits();
  Task<int> settle_references();

  Task<Result<void>> downgrade();
  Task<Result<void>> change_refcount_width(unsigned order);
  Task<Result<void>> survey_refcounts(unsigned block_bits, uint64_t most, std::set<uint64_t>& blocks,
                                      uint64_t& end);
  Task<Result<void>> drop_above(uint64_t size);
  Task<int> last_in_block(uint64_t table_index, uint64_t& last, bool& only, bool& found);
  Task<int> shorten_file();
  Task<Result<void>> grow_l1(uint64_t entries);
  Task<Result<void>> preallocate(uint64_t from, uint64_t to, Preallocation mode);
  Error failed(std::string what, int error) const;

  uint64_t cluster_mask() const { return cluster_bytes_ - 1; }
  uint64_t most_refcount() const {
    return header_.refcount_order == 6 ? ~uint64_t{0} : (uint64_t{1} << (1u << header_.refcount_order)) - 1;
  }
  uint64_t refcounts_per_block() const { return uint64_t{1} << refcount_block_bits_; }

  Header header_;
  const unsigned cluster_bits_;
  const uint64_t cluster_bytes_;
  const unsigned l2_bits_;        // entries of an L2 table, log2
  const unsigned entry_bytes_;    // of an L2 entry
  const uint64_t unit_bytes_;     // what is allocated by itself: a cluster or subcluster
  unsigned refcount_block_bits_;  // refcounts of a block, log2
  std::atomic<uint64_t> virtual_size_;
  bool read_only_ = true;
  bool discards_ = true;      // as requests ask for
  bool discard_host_ = true;  // freed clusters give their space back
  Edge file_, data_file_, backing_;
  OpenFlags flags_;

  std::mutex mutex_;
  // Of mutex_:
  PageCache pages_;
  TopTable l1_, refcount_table_;
  std::unique_ptr<PartialTable> partial_l1_;  // instead of l1_, while nothing needs all of it
  Epochs epochs_;
  std::vector<GivenUp> given_up_;  // since the last commit
  struct Batch {
    uint64_t epoch;
    std::vector<GivenUp> clusters;
  };
  std::deque<Batch> waiting_;  // committed, but requests may still use them
  std::list<Allocation*> allocating_;
  uint64_t search_from_ = 0;               // no cluster below is free
  uint64_t virgin_from_ = ~uint64_t{0};    // the file reads as zeros from here on; ~0: nowhere
  uint64_t compressed_at_ = 0;             // where the next compressed cluster goes; 0: a new cluster
  std::unordered_set<uint64_t> metadata_;  // clusters of L2 tables and refcount blocks
  bool metadata_known_ = false;
  std::atomic<bool> corrupt_{false}, told_damage_{false};
  std::atomic<int> holes_{-1};         // may_have_holes(); not asked yet
  std::atomic<int> unwritten_{-1};     // has_unwritten_places(); not asked yet
  std::atomic<bool> shorten_{false};   // the file, when it is closed
  std::atomic<bool> prepared_{false};  // the header says that we write
  std::vector<Stored> snapshots_;

  // Held over waits.
  Mutex committing_, growing_, owning_, preparing_, packing_, writing_header_;

  struct Decompressed {
    uint64_t descriptor = 0;
    AlignedBuffer data;
  };
  std::shared_ptr<const Decompressed> decompressed_;  // the last one; of mutex_

  std::unique_ptr<BitmapStore> bitmaps_;
  std::unique_ptr<Encryption> encryption_;  // null: the image is not encrypted
};

// Guest bytes [first, end), whole units' clusters, that a request is giving a place; others wait for it.
struct Qcow2Node::Allocation {
  uint64_t first = 0, end = 0;  // cluster-aligned
  uint64_t host = 0;            // of `first`
  bool fresh = false;           // the host's clusters are new
  bool virgin = false;          // and read as zeros
  std::vector<Entry> old;       // per cluster
  WaitQueue done;
  std::list<Allocation*>::iterator place;
};

}  // namespace ostler::block::qcow2
