// A vCPU's window: the memory that translated code addresses relative to GS. There is one view of it for each
// user TLB context; a view has the same things at the same distances, all shared with the other views but the
// user TLB, so that changing address spaces is changing the GS base.
//
//   0          Hot: CpuState and what translated code keeps beside it
//   kHash      hash tables of indirect branch targets: user, supervisor
//   kSup, kAc  supervisor TLBs, without and with EFLAGS.AC
//   kUser      the view's user TLB
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "bt/hot.h"

namespace ostler::bt {

constexpr size_t whole_pages(size_t bytes) {
  return (bytes + 4095) & ~size_t{4095};
}

class Window final : public mmu::TlbStore {
 public:
  static constexpr unsigned kHashEntries = 1u << 16;  // of each table
  // Modes that are mixed into keys have a place of their own for each key (Routines::lookup_mixed).
  static constexpr unsigned kMixedSlot = kHashEntries / 2;
  static constexpr size_t kHashBytes = kHashEntries * sizeof(HashEntry);
  static constexpr size_t kHash = whole_pages(sizeof(Hot));
  static constexpr size_t kSup = kHash + 2 * kHashBytes;
  static constexpr size_t kAc = kSup + whole_pages(sizeof(mmu::Tlb));
  static constexpr size_t kUser = kAc + whole_pages(sizeof(mmu::Tlb));
  static constexpr size_t kSize = kUser + whole_pages(sizeof(mmu::Tlb));

  static Result<std::unique_ptr<Window>> create();
  ~Window() override;
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  Hot& hot() { return *reinterpret_cast<Hot*>(views_[0]); }
  HashEntry* hash(bool supervisor) {
    return reinterpret_cast<HashEntry*>(views_[0] + kHash + (supervisor ? kHashBytes : 0));
  }
  void clear_hash();

  // The GS base with which `user` is the user TLB.
  static std::byte* base_of(mmu::Tlb* user) { return reinterpret_cast<std::byte*>(user) - kUser; }

  mmu::Tlb* user(unsigned context) override;
  mmu::Tlb* supervisor(unsigned context) override;

 private:
  Window() = default;

  std::array<std::byte*, mmu::UserContexts::kMost> views_{};
};

}  // namespace ostler::bt
