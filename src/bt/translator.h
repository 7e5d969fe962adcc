// From guest code to host code: one superblock at a time. See docs/bt/design.md for the shape of what is
// emitted.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "bt/assembler.h"
#include "bt/code_cache.h"
#include "bt/guest_code.h"
#include "bt/options.h"
#include "bt/routines.h"

namespace ostler::bt {

// Writes translations into an arena of a code cache. Each vCPU has one.
class Translator {
 public:
  Translator(CodeCache& cache, const Routines& routines, const Options& options);
  Translator(const Translator&) = delete;
  Translator& operator=(const Translator&) = delete;

  // The block for `code`, whose page has the number `page`, and whose other page has `second_page` if it
  // straddles. The arena has room. Stays until the next one.
  const Draft& translate(const GuestCode& code, uint32_t page, uint32_t second_page, const Arena& arena);

 private:
  struct Fields;  // what an instruction's encoding names
  enum class Direction : uint8_t { kRead, kWrite };

  void body();
  void entries(uint32_t page, uint32_t second_page, bool memory_entry);
  void check_own_page(uint64_t rip, uint32_t number, Offset& id_field);
  void check_shared_page(uint32_t number);
  // `reg` = where `rip` is, which counts from the page's start in shared code. Leaves flags alone.
  void rip_to(Assembler& a, Reg reg, uint64_t rip, bool wide = true);
  void instruction(const GuestInsn& g);

  // ---- flags ----
  void spill_flags();
  void reload_flags();
  // Before code that clobbers the host's flags, when `live` of the guest's are still wanted.
  void free_flags(uint16_t live);
  void want_flags();  // in the host's
  void flags_set();   // the host's are the guest's now
  uint16_t live_before(const GuestInsn& g) const { return code_->live_before(g); }

  // ---- memory (memory_access.cpp) ----
  // The address of the memory operand as a host operand, without its segment; loads registers that live in
  // memory.
  HostMem address_operand(const x86::Instruction& insn);
  // kS0 becomes the memory operand's linear address. Flags are free.
  void address(const GuestInsn& g);
  // kS0 becomes the operand's offset in its segment.
  void offset(const GuestInsn& g);
  // Checks `size` bytes at kS0: then kS0 + kS1 is their host address. Flags are free.
  void check(const GuestInsn& g, unsigned size, Direction direction);
  // The same two with the guest's flags in the host's all the while.
  // `size` bytes at kS0, for instructions that access more of the same page.
  void check_in_page(const GuestInsn& g, unsigned size, Direction direction);
  void address_keeping_flags(const GuestInsn& g);
  void check_keeping_flags(const GuestInsn& g, unsigned size, Direction direction);
  void miss_info(const GuestInsn& g, unsigned size, bool write, Offset resume, bool shares = false);
  uint32_t look_up(unsigned size, bool write, Reg page_from, size_t array);
  void make_look_ups();
  void miss_call(const GuestInsn& g, unsigned size, bool write, uint32_t miss);
  HostMem checked_at_register(const GuestInsn& g, unsigned size, Direction direction);
  // The memory operand, covered by a shared check: an offset from kS0.
  HostMem shared_operand(const GuestInsn& g, bool keep_later);
  void keep_shared(const GuestInsn& g);
  void check_shared(const GuestInsn& g, const Share& share);
  void leave_for_unshared(const GuestInsn& g);
  // A scratch register, or both, may hold something else now.
  void forget_held(Reg r) {
    if (r == kS0) held_share_ = 0;
    if (r == kS1) held_window_ = false;
  }
  void forget_held() {
    held_share_ = 0;
    held_window_ = false;
  }
  static size_t shared_at(const GuestInsn& g) { return offsetof(Hot, shared) + (g.share - 1u) * 8; }
  // The block's stack window check.
  void check_window(const GuestInsn& g);
  // `disp` bytes from RSP, in the window; loads kS1.
  HostMem in_window(int32_t disp);
  // The operand for `size` bytes there, checked in the window or alone.
  HostMem stack_operand(const GuestInsn& g, int32_t disp, unsigned size, Direction direction);
  void check_at(const GuestInsn& g, const HostMem& where, unsigned size, Direction direction);

  // ---- families ----
  void generic(const GuestInsn& g);
  void lea(const GuestInsn& g);
  void push(const GuestInsn& g);
  void pop(const GuestInsn& g);
  void leave(const GuestInsn& g);
  void push_value(const GuestInsn& g, uint64_t value);
  void push_return(const GuestInsn& g);
  void conditional_jump(const GuestInsn& g);
  void count_jump(const GuestInsn& g);
  void call(const GuestInsn& g);
  void indirect(const GuestInsn& g);
  void ret(const GuestInsn& g);
  void target_to_s0(const GuestInsn& g);
  uint32_t look_up_user_target();
  void note_branch(int32_t undo);
  void mix_mode();
  Offset lookup() const {
    return (mode_key(code_->mode) != 0 ? routines_.lookup_mixed : routines_.lookup)[supervisor()];
  }
  bool never_returns(const GuestInsn& g) const;
  void landing(const GuestInsn& g);
  void interpret(const GuestInsn& g);

  // ---- system.cpp ----
  void system(const GuestInsn& g);
  void load_to_register(const GuestInsn& g, size_t at);
  void segment_base(const GuestInsn& g);
  void smap(const GuestInsn& g);
  void pushf(const GuestInsn& g);
  void popf(const GuestInsn& g);
  void verw(const GuestInsn& g);
  void rdtsc(const GuestInsn& g);
  void flags_to_s0();
  void repeated_string(const GuestInsn& g);
  void single_string(const GuestInsn& g);
  void bit_string(const GuestInsn& g);
  void leave_if(uint8_t cc, const GuestInsn& g);
  void give_back_budget(const GuestInsn& g);  // in cold code: `g` and what follows it does not run

  // ---- leaving ----
  enum class Branch : uint8_t { kJump, kCall, kCondition };
  // A patchable jump to `target`, when `live` flags are wanted there.
  void exit_to(uint64_t target, uint16_t live, Branch branch, uint8_t cc = 0);
  // Of the jump whose rel32 is at `field`; until it is linked it leads to where the cold code is now.
  Exit& new_exit(uint64_t target, uint32_t field, uint16_t live);
  void poll();
  void count_down();
  void cold_jump(uint32_t field, uint64_t rip,
                 Offset routine);  // field jumps to cold code: kS0 = rip; jmp routine

  void renamed(const GuestInsn& g);
  void reencode(const GuestInsn& g, const Renaming& r, const HostMem& mem);
  HostMem memory_operand(const GuestInsn& g, unsigned size, bool write, unsigned needs, bool may_be_direct,
                         bool& s0_is_free);
  void flags_for(const GuestInsn& g);

  static TlbKind tlb_of(Mode mode);
  static size_t base_of(TlbKind tlb);
  TlbKind tlb() const { return tlb_; }
  size_t tlb_base() const { return base_of(tlb_); }
  bool bits32() const { return code_->bits32(); }
  bool wide() const { return !bits32(); }
  int32_t word() const { return static_cast<int32_t>(code_->word()); }
  // RSP += bytes, in the stack's address size; flags stay.
  void move_sp(int32_t bytes) { hot_.lea(kSp, {.base = kSp, .disp = bytes}, wide()); }
  bool supervisor() const { return (code_->mode & mode::kSupervisor) != 0; }
  // In hot or cold code being written.
  void land(uint32_t field, Offset target) {
    const uint32_t distance = target - (field + 4);
    std::memcpy(memory_ + field, &distance, sizeof distance);
  }

  CodeCache& cache_;
  const Routines& routines_;
  uint8_t* const memory_;  // the cache's, to be written
  const bool bmi2_;
  const bool count_, direct_, keep_flags_;
  // look_up() for RAX and one byte, by TLB, whether it is a write, and whether the distance is wanted: for
  // other registers and sizes a few bytes of it change.
  struct LookUp {
    std::array<uint8_t, 48> code{};
    uint8_t size = 0, compared = 0, miss = 0;  // bytes; where the bound and the jump's rel32 stand
  };
  std::array<std::array<std::array<LookUp, 2>, 2>, 3> look_ups_;
  const GuestCode* code_ = nullptr;
  TlbKind tlb_ = TlbKind::kUser;  // of its mode
  Arena arena_;                   // what is left of it
  Draft draft_;
  Block& block_ = draft_.block;
  // Of the instruction that is being translated: bytes from the start of the block, and whether the host's
  // flags are the guest's where it may fault.
  uint16_t guest_at_ = 0;
  bool host_flags_ = false;
  Offset poll_exit_ = 0;  // where the block's entries leave to look at what is pending; 0: not written yet
  Assembler hot_, cold_;
  uint8_t held_share_ = 0;                          // kS0 is what that shared check has let through
  bool held_window_ = false;                        // kS1 is Hot::window_delta
  bool host_valid_ = false, memory_valid_ = false;  // where the guest's flags are; neither: nobody wants them
};

}  // namespace ostler::bt
