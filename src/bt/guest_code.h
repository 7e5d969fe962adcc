// Guest code as the translator sees it: the instructions of one superblock, decoded, with their flags
// analysed.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "bt/form.h"
#include "bt/insn_facts.h"
#include "bt/insn_shapes.h"
#include "bt/mode.h"
#include "bt/options.h"
#include "mmu/soft_mmu.h"
#include "x86/cpu_model.h"

namespace ostler::bt {

struct GuestInsn : InsnFacts {
  bool in_window = false;    // its stack access is covered by the block's window check
  bool window_here = false;  // the check stands before it
  uint8_t share = 0;         // number, from 1, of the shared check that covers its memory operand
  bool share_here = false;   // which stands before it
  uint16_t at = 0;           // from the start of the block
  uint16_t live_after = 0;   // flags that somebody may look at after it
  uint16_t live_taken = 0;   // Jcc: where it leads when taken
  int16_t moved = 0;         // share: of its address, since the check, by what the registers have moved
  int16_t window_from = 0;   // window_here: the first byte, relative to RSP there
  uint16_t window_size = 0;
  Form form;
  const uint8_t* bytes = nullptr;
  x86::Instruction insn;
};

// A check for several accesses whose distances are known.
struct Share {
  int64_t from = 0;  // first byte: a displacement, or relative to the block's RIP
  uint16_t size = 0;
  bool write = false;  // all of it must be writable
};

struct GuestCode {
  static constexpr unsigned kMost = 64;
  static constexpr unsigned kShares = 8;

  uint64_t rip = 0;     // from `base`
  uint64_t base = 0;    // 0, or the page that code which may run elsewhere too was found in
  bool shared = false;  // it may
  uint64_t phys = 0;
  uint64_t second_phys = 0;  // of the other page, when the only instruction crosses into it
  bool straddles = false;
  bool keep = true;  // false: from a device, not to be kept
  Mode mode = 0;
  unsigned count = 0;
  unsigned copies = 1;  // so often the same instructions: a loop, unrolled
  unsigned bytes = 0;
  uint16_t entry_flags = 0;  // live at the start
  bool flags_wait =
      false;  // they would go to memory before anything wants them in the host's: they stay there
  bool uses_stack = false;  // somewhere
  uint8_t shareable = 0;    // instructions that are, at least so many as are not in the window
  std::array<GuestInsn, kMost> insns;
  std::array<Share, kShares> shares;  // by GuestInsn::share - 1
  // Copy of the bytes from `phys` on, as far as they were read. What is behind them is looked at, but counts
  // for nothing.
  uint8_t code[4096 + InsnShapes::kReads];
  unsigned code_read = 0;
  InsnShapes shapes;  // outlive the block

  uint16_t live_before(const GuestInsn& g) const {
    return static_cast<uint16_t>((g.live_after & ~g.writes) | g.reads);
  }
  // It shall run wherever its page is mapped: addresses count from the page's start from now on.
  void share() {
    shared = true;
    base = rip & ~kPageMask;
    rip &= kPageMask;
  }
  uint64_t rip_of(const GuestInsn& insn) const { return rip + insn.at; }
  uint64_t next_rip(const GuestInsn& insn) const { return wrap(rip + insn.at + insn.insn.length); }
  // Where a direct branch leads.
  uint64_t target(const GuestInsn& insn) const { return wrap(next_rip(insn) + insn.insn.imm); }
  bool bits32() const { return (mode & mode::k32) != 0; }
  unsigned word() const { return bits32() ? 4 : 8; }  // bytes of an address
  uint64_t wrap(uint64_t address) const { return bits32() ? address & 0xffff'ffff : address; }
};

// Whether control never goes on to the next instruction within the block.
inline bool ends_block(const GuestInsn& g) {
  return g.ends_block;
}

// Makes copies of a loop that is the start of the block. Before anything else is planned.
void unroll_loop(GuestCode& code);

// What an instruction adds to a register, and nothing else to any.
struct RegisterStep {
  unsigned number = 0;
  int64_t amount = 0;  // 0: it does anything else
};
RegisterStep register_step(const GuestInsn& g, unsigned word);

// Chooses what the stack window's check of the block covers, and where it stands.
void plan_window(GuestCode& code);

// Chooses which other accesses share a check. After plan_window().
void plan_sharing(GuestCode& code);
// Where the memory operand lies, as Share::from counts.
int64_t share_position(const GuestCode& code, const GuestInsn& g);

// Reads and decodes the superblock at `rip`, which lies at `phys`. Registers what it reads with CodePages as
// shared. Raises what fetching the second page of a first instruction that straddles raises. May wait for
// other vCPUs.
void read_guest_code(mmu::SoftMmu& mmu, const x86::CpuModel& model, uint64_t rip, uint64_t phys, Mode mode,
                     const Options& options, GuestCode& out);

}  // namespace ostler::bt
