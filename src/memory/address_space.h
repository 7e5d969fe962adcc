// Guest-physical memory, and the I/O port space (where a GuestPhys is a port number): a tree of regions that
// commits turn into an immutable FlatView. Any thread may change the tree; readers never wait for a change.
//
// Lock order: device locks -> AddressSpace. A commit tells the listeners, which may wait for vCPU threads to
// let go of removed RAM; a vCPU thread must therefore not count as running (mmu::VcpuGroup) while it is
// inside a device.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "memory/address.h"
#include "memory/flat_view.h"
#include "memory/region.h"

namespace ostler::memory {

// What a commit changed, in address order. A range that was split or moved is removed and added.
struct ViewChange {
  std::span<const FlatRange> removed;
  std::span<const FlatRange> added;
  const FlatView& view;  // the new one, already published
};

// Told on the thread that commits, under the address space's mutex: must not change the space.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void view_changed(const ViewChange& change) = 0;
};

class AddressSpace {
 public:
  static constexpr uint64_t kMemorySize = uint64_t{1} << 52;  // the largest MAXPHYADDR
  static constexpr uint64_t kPortSize = 0x10000;

  AddressSpace(std::string name, uint64_t size);
  ~AddressSpace();
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;

  Region& root() { return root_; }
  // The current view; keeps it alive. Any thread.
  std::shared_ptr<const FlatView> view() const;
  // Calls `listener` with everything as added, then at each commit. The caller removes it before destroying
  // it.
  void add_listener(Listener& listener);
  void remove_listener(Listener& listener);

  // Who is told of writes to pages with code (at most one; set before vCPUs run).
  void set_code_listener(CodeListener* listener) {
    code_listener_.store(listener, std::memory_order_release);
  }
  // To be called after [offset, offset + length) of `ram` was written by other means than the vCPUs' fast
  // paths: dirty log, code. Any thread.
  void ram_written(RamBlock& ram, uint64_t offset, uint64_t length) const;

  // One thread's way of reading the space: caches the view until a commit replaces it.
  class Reader {
   public:
    explicit Reader(AddressSpace& space) : space_(space) {}
    Reader(const Reader& other) : space_(other.space_) {}
    Reader& operator=(const Reader&) = delete;

    AddressSpace& space() const { return space_; }
    // Valid until the next call of any member.
    const FlatView& view() {
      if (generation_ != space_.generation_.load(std::memory_order_acquire)) [[unlikely]]
        refresh();
      return *view_;
    }
    // The view that the last call used, without looking for a newer one.
    const std::shared_ptr<const FlatView>& current() const { return view_; }
    // The range that covers `address`, or null. Valid until the next call of any member.
    const FlatRange* find(GuestPhys address) {
      const FlatView& now = view();
      if (last_ != nullptr && address >= last_->first && address <= last_->last) return last_;
      return last_ = now.find(address);
    }

    // `size` is 1 to 8 bytes, at any alignment. Unassigned addresses read as all ones; writes to them, and to
    // ROM, are dropped. An access that straddles ranges is split.
    uint64_t read(GuestPhys address, unsigned size);
    void write(GuestPhys address, unsigned size, uint64_t value);

   private:
    void refresh();

    AddressSpace& space_;
    std::shared_ptr<const FlatView> view_;
    const FlatRange* last_ = nullptr;  // of view_
    uint64_t generation_ = 0;          // 0: nothing fetched yet
  };

 private:
  friend class Transaction;
  friend class Region;
  void commit_locked();

  const std::string name_;
  std::mutex mutex_;  // the tree, listeners_
  std::vector<Listener*> listeners_;
  std::atomic<CodeListener*> code_listener_{nullptr};
  std::atomic<uint64_t> generation_{1};  // stored with view_mutex_ held
  mutable std::mutex view_mutex_;        // view_; held for a pointer copy only
  std::shared_ptr<const FlatView> view_;
  ContainerRegion root_;
};

// Changes of a tree that readers see all at once, when the transaction ends. Holds the address space's mutex:
// keep it short, and never nest two on one space.
//
//     { memory::Transaction change(space);  change.move(bar, address);  change.set_enabled(bar, true); }
class Transaction {
 public:
  explicit Transaction(AddressSpace& space) : space_(space), lock_(space.mutex_) {}
  ~Transaction() { space_.commit_locked(); }
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  // Parts of `child` beyond the parent's end are not visible.
  void add(Region& parent, uint64_t offset, Region& child, int priority = 0);
  void remove(Region& child);  // nothing when it is in no tree
  void move(Region& child, uint64_t offset);
  void set_enabled(Region& child, bool enabled);

 private:
  friend class Region;
  static void detach(Region& child);
  AddressSpace& space_;
  std::lock_guard<std::mutex> lock_;
};

}  // namespace ostler::memory
