// A block of guest RAM or ROM: host memory, and one flag byte for each page. Host memory is taken as the
// guest touches it, in huge pages where the host has them: they spare the host's TLB most of its misses. The
// mapping lives as long as the block.
//
// Flag bytes tell writers what else a write means. Page state machine of the dirty log:
//     not logged --start_dirty_log()--> kTracked --first write--> kDirty --collect_dirty()--> kTracked ...
// A writer that may keep a page writable without asking again (a software TLB) sets kWriteTagged first and
// looks at the old flags: whoever sets kCode or kTracked afterwards must make it forget (mmu::VcpuGroup).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "memory/address.h"
#include "memory/host_memory.h"

namespace ostler::memory {

namespace page_flag {
inline constexpr uint8_t kCode = 1;         // decoded or translated code of this page exists
inline constexpr uint8_t kCodeSettled = 2;  // ... and no vCPU can write to it unnoticed
inline constexpr uint8_t kWriteTagged = 4;  // some vCPU may hold a direct way to write to it
inline constexpr uint8_t kTracked = 8;      // dirty log: the next write must be noted
inline constexpr uint8_t kDirty = 16;       // dirty log: written since the last collection
}  // namespace page_flag

class RamBlock {
 public:
  // Errors: those of HostMemory.
  static Result<std::shared_ptr<RamBlock>> create(const RamOptions& options);
  ~RamBlock();
  RamBlock(const RamBlock&) = delete;
  RamBlock& operator=(const RamBlock&) = delete;

  const std::string& name() const { return name_; }
  uint64_t size() const { return memory_.size(); }
  std::byte* host() const { return host_; }  // page-aligned
  const HostMemory& memory() const { return memory_; }

  std::atomic<uint8_t>& flags(uint64_t offset) const { return flags_[offset / kPageSize]; }
  // What a writer looks at after it has stored its bytes. A read-modify-write, so that it comes either before
  // the one that sets kCode, whose owner then sees the bytes, or after it, and sees kCode.
  uint8_t flags_after_write(uint64_t offset) const {
    return flags(offset).fetch_add(0, std::memory_order_seq_cst);
  }

  // The dirty log. One control thread calls these. After start and after each collection the caller must make
  // all vCPUs drop their write tags (VcpuGroup::flush_writes) before it reads the pages.
  void start_dirty_log();
  void stop_dirty_log();
  // Sets bit i of `bitmap` for each page i written since the last collection, and begins a new epoch.
  void collect_dirty(std::vector<uint64_t>& bitmap);
  // Notes a write for the dirty log. Any thread; after the bytes were written (or, by a vCPU, just before).
  void note_dirty(uint64_t offset) const {
    std::atomic<uint8_t>& flags = this->flags(offset);
    uint8_t old = flags.load(std::memory_order_relaxed);
    while ((old & page_flag::kTracked) != 0 &&
           !flags.compare_exchange_weak(
               old, static_cast<uint8_t>((old & ~page_flag::kTracked) | page_flag::kDirty))) {
    }
  }

 private:
  RamBlock(std::string name, HostMemory memory)
      : name_(std::move(name)), memory_(std::move(memory)), host_(memory_.data()) {}

  const std::string name_;
  const HostMemory memory_;
  std::byte* const host_;
  std::atomic<uint8_t>* flags_ = nullptr;  // size / 4096, in lazily touched anonymous memory
};

// Told when bytes of a page with kCode were written by anybody but the code's owners' fast paths. Any thread,
// with the writer's locks held: it only queues. Called after the bytes are in place.
class CodeListener {
 public:
  virtual ~CodeListener() = default;
  // [offset, offset + length) within one page of `ram`.
  virtual void code_written(RamBlock& ram, uint64_t offset, uint64_t length) = 0;
};

}  // namespace ostler::memory
