// Guest memory through the software TLB: docs/bt/design.md, "Memory".
#include "base/assert.h"
#include "bt/translator.h"
#include "bt/window.h"

namespace ostler::bt {

namespace {

// Number of the guest register whose byte offset in CpuState::gpr is `offset`.
unsigned number(uint8_t offset) {
  return offset / 8;
}

}  // namespace

HostMem Translator::address_operand(const x86::Instruction& insn) {
  HostMem mem;
  mem.scale = insn.scale;
  mem.disp = static_cast<int32_t>(insn.disp);
  if (insn.base != x86::kNoRegister) {
    mem.base = host_reg(number(insn.base));
    if (mem.base == kNoReg) {
      forget_held(kS0);
      hot_.load(kS0, gpr_at(number(insn.base)));
      mem.base = kS0;
    }
  }
  if (insn.index != x86::kNoRegister) {
    mem.index = host_reg(number(insn.index));
    if (mem.index == kNoReg) {
      forget_held(kS1);
      hot_.load(kS1, gpr_at(number(insn.index)));
      mem.index = kS1;
    }
  }
  return mem;
}

void Translator::offset(const GuestInsn& g) {
  const x86::Instruction& insn = g.insn;
  if (insn.base == x86::kRipBase) {
    const uint64_t target = code_->next_rip(g) + static_cast<uint64_t>(insn.disp);
    rip_to(hot_, kS0, target, insn.address_size == 8);
  } else if (bits32() && insn.base == x86::kNoRegister && insn.index == x86::kNoRegister) {
    hot_.mov_imm(kS0, static_cast<uint32_t>(insn.disp));
  } else {
    // The address size of the host's instruction makes no difference: the result is truncated.
    hot_.lea(kS0, address_operand(insn), insn.address_size == 8);
  }
}

void Translator::address(const GuestInsn& g) {
  const x86::Instruction& insn = g.insn;
  if (insn.segment < x86::kFs) return offset(g);
  if (!bits32()) {
    offset(g);
    return hot_.add(kS0, segment_base_at(insn.segment));
  }
  hot_.compare32_small(offsetof(Hot, limited) + (insn.segment - x86::kFs) * 4, 0);
  leave_if(kCcNe, g);
  offset(g);
  hot_.add(kS0, segment_base_at(insn.segment), false);
}

void Translator::check(const GuestInsn& g, unsigned size, Direction direction) {
  const bool write = direction == Direction::kWrite;
  miss_call(g, size, write, look_up(size, write, kS0, offsetof(mmu::TlbArrays, host)));
}

// An operand that is a register and a displacement needs no sum of two loads: its address is at hand.
HostMem Translator::checked_at_register(const GuestInsn& g, unsigned size, Direction direction) {
  const HostMem mem = address_operand(g.insn);
  const bool write = direction == Direction::kWrite;
  if (mem.disp == 0)
    hot_.mov(kS0, mem.base);
  else
    hot_.lea(kS0, mem);
  miss_call(g, size, write,
            look_up(size, write, mem.disp == 0 ? mem.base : kS0, offsetof(mmu::TlbArrays, delta)));
  return {.base = mem.base, .index = kS1, .disp = mem.disp};
}

void Translator::miss_call(const GuestInsn& g, unsigned size, bool write, uint32_t miss) {
  land(miss, cold_.offset());
  cold_.call(routines_.miss[static_cast<unsigned>(tlb())][write]);
  miss_info(g, size, write, hot_.offset());
}

void Translator::make_look_ups() {
  for (const TlbKind tlb : {TlbKind::kUser, TlbKind::kSup, TlbKind::kAc}) {
    for (const bool write : {false, true}) {
      for (const bool delta : {false, true}) {
        LookUp& made = look_ups_[static_cast<unsigned>(tlb)][write][delta];
        Assembler a(made.code.data(), 0);
        const size_t base = base_of(tlb);
        if (bmi2_) {
          a.rorx(kS1, kRax, 12);
        } else {
          a.mov(kS1, kRax);
          a.shr(kS1, 12);
        }
        a.and32(kS1, mmu::Tlb::kEntries - 1);
        a.sub_indexed(
            kS0, kS1,
            base + (write ? offsetof(mmu::TlbArrays, write_tag) : offsetof(mmu::TlbArrays, read_tag)));
        a.cmp_imm(kS0, 0);
        made.compared = static_cast<uint8_t>(a.offset() - 4);
        made.miss = static_cast<uint8_t>(a.jcc(kCcA));
        a.load_indexed(kS1, kS1,
                       base + (delta ? offsetof(mmu::TlbArrays, delta) : offsetof(mmu::TlbArrays, host)));
        made.size = static_cast<uint8_t>(a.offset());
      }
    }
  }
}

// kS0: the address; `page_from`: it too, or sooner. kS1 becomes what is at `array` of the TLB. The place of
// the jump that is taken on a miss.
uint32_t Translator::look_up(unsigned size, bool write, Reg page_from, size_t array) {
  forget_held();
  const LookUp& made =
      look_ups_[static_cast<unsigned>(tlb_)][write][array == offsetof(mmu::TlbArrays, delta)];
  uint8_t* const at = hot_.at();
  const Offset start = hot_.offset();
  hot_.bytes(made.code.data(), made.code.size());
  hot_.move_to(at + made.size);
  if (bmi2_) {  // VEX.B, which is inverted, and ModRM.rm
    at[1] = static_cast<uint8_t>(at[1] ^ (page_from & 8) << 2);
    at[4] |= page_from & 7;
  } else {  // REX.R and ModRM.reg
    at[0] |= static_cast<uint8_t>((page_from & 8) >> 1);
    at[2] |= static_cast<uint8_t>((page_from & 7) << 3);
  }
  const auto bound = static_cast<uint32_t>(kPageSize - size);
  std::memcpy(at + made.compared, &bound, sizeof bound);
  return start + made.miss;
}

void Translator::miss_info(const GuestInsn& g, unsigned size, bool write, Offset resume, bool shares) {
  const MissInfo info{
      .block = arena_.blocks.next,
      .resume = static_cast<int32_t>(resume - cold_.offset()),
      .offset = g.at,
      .size = static_cast<uint16_t>(size & 1023),
      .write = write,
      .others_first = g.insn.opcode >= x86::Opcode::kFadd || g.insn.opcode == x86::Opcode::kCmpxchg16b,
      .shares = shares};
  cold_.bytes(&info, sizeof info);
}

void Translator::address_keeping_flags(const GuestInsn& g) {
  offset(g);
  if (g.insn.segment >= x86::kFs) {
    hot_.load(kS1, segment_base_at(g.insn.segment));
    hot_.lea(kS0, {.base = kS0, .index = kS1});
  }
}

// Only PEXT, NOT, LEA and JRCXZ: whether offset + size - 1 is below 4096 is whether its upper bits are all 0.
// That sum would wrap around for an address less than `size` bytes before a tag: no slot has such a tag, see
// Tlb::never().
void Translator::check_keeping_flags(const GuestInsn& g, unsigned size, Direction direction) {
  const bool write = direction == Direction::kWrite;
  const size_t base = tlb_base();
  forget_held();
  hot_.store(offsetof(Hot, scratch) + 16, kRcx);
  hot_.pext(kS1, kS0, offsetof(Hot, slot_mask));
  hot_.load_indexed(
      kRcx, kS1, base + (write ? offsetof(mmu::TlbArrays, write_tag) : offsetof(mmu::TlbArrays, read_tag)));
  hot_.not_(kRcx);
  hot_.lea(kS0, {.base = kS0, .index = kRcx, .disp = 1});
  hot_.lea(kRcx, {.base = kS0, .disp = static_cast<int32_t>(size - 1)});
  hot_.pext(kRcx, kRcx, offsetof(Hot, page_mask));
  hot_.u8(0xe3);  // JRCXZ over the jump
  hot_.u8(5);
  const uint32_t miss = hot_.jmp();
  hot_.load_indexed(kS1, kS1, base + offsetof(mmu::TlbArrays, host));
  const Offset resume = hot_.offset();
  hot_.load(kRcx, offsetof(Hot, scratch) + 16);

  // The slow path wants the flags in memory.
  land(miss, cold_.offset());
  cold_.load(kRcx, offsetof(Hot, scratch) + 16);
  cold_.store(offsetof(Hot, scratch) + 24, kRax);
  cold_.u8(0x9f);  // LAHF
  cold_.u8(0x0f);  // SETO AL
  cold_.u8(0x90);
  cold_.u8(0xc0);
  cold_.store16(kFlagsAt, kRax);
  cold_.load(kRax, offsetof(Hot, scratch) + 24);
  cold_.call(routines_.miss[static_cast<unsigned>(tlb())][write]);
  miss_info(g, size, write, cold_.offset() + sizeof(MissInfo));
  const bool memory = memory_valid_;
  std::swap(hot_, cold_);
  reload_flags();
  std::swap(hot_, cold_);
  memory_valid_ = memory;
  cold_.jmp(resume);
}

// After a miss kS0 is the address and kS1 the distance to the host's: here the offset in the page is wanted.
void Translator::check_in_page(const GuestInsn& g, unsigned size, Direction direction) {
  check(g, size, direction);
  hot_.lea(kS1, {.base = kS0, .index = kS1});
  hot_.and32(kS0, kPageMask);
  hot_.sub_reg(kS1, kS0);
}

void Translator::give_back_budget(const GuestInsn& g) {
  if (!count_) return;
  cold_.load(kS0, offsetof(Hot, budget));
  cold_.lea(kS0, {.base = kS0, .disp = static_cast<int32_t>(code_->count - (&g - code_->insns.data()))});
  cold_.store(offsetof(Hot, budget), kS0);
}

void Translator::check_window(const GuestInsn& g) {
  free_flags(live_before(g));
  forget_held();
  const Offset again = hot_.offset();
  // 32-bit code: what is compared must be what the accesses are relative to, whatever the upper half holds.
  if (bits32()) hot_.mov32(kSp, kSp);
  hot_.lea(kS0, {.base = kSp, .disp = g.window_from}, wide());
  hot_.sub(kS0, offsetof(Hot, window_tag));
  hot_.cmp_imm(kS0, static_cast<uint32_t>(kPageSize - g.window_size));
  const uint32_t miss = hot_.jcc(kCcA);

  land(miss, cold_.offset());
  cold_.lea(kS0, {.base = kSp, .disp = g.window_from}, wide());
  cold_.mov(kS1, kS0);
  cold_.and32(kS1, kPageMask);
  cold_.cmp_imm(kS1, static_cast<uint32_t>(kPageSize - g.window_size));
  const uint32_t crosses = cold_.jcc(kCcA);
  cold_.call(routines_.window[static_cast<unsigned>(tlb())]);
  cold_.jcc(kCcE, again);
  land(crosses, cold_.offset());
  leave_for_unshared(g);
}

HostMem Translator::shared_operand(const GuestInsn& g, bool keep_later) {
  const Share& share = code_->shares[g.share - 1u];
  const auto offset = static_cast<int32_t>(share_position(*code_, g) + g.moved - share.from);
  if (g.share_here) {
    check_shared(g, share);
    if (keep_later) return {.base = kS0, .index = kS1, .disp = offset};
    keep_shared(g);
  } else if (held_share_ != g.share) {
    hot_.load(kS0, shared_at(g));
  }
  held_share_ = g.share;
  return {.base = kS0, .disp = offset};
}

// For the accesses to come: once the first is under way, whose result others may wait for.
void Translator::keep_shared(const GuestInsn& g) {
  hot_.lea(kS0, {.base = kS0, .index = kS1});
  hot_.store(shared_at(g), kS0);
  held_share_ = g.share;
}

void Translator::check_shared(const GuestInsn& g, const Share& share) {
  free_flags(live_before(g));
  if (g.insn.base == x86::kRipBase) {
    rip_to(hot_, kS0, code_->rip + static_cast<uint64_t>(share.from));
  } else {
    HostMem mem = address_operand(g.insn);
    ASSERT(bits32() || share.from == static_cast<int32_t>(share.from), "plan_sharing() sees to it");
    mem.disp = static_cast<int32_t>(share.from);
    hot_.lea(kS0, mem, wide());
  }
  const uint32_t miss = look_up(share.size, share.write, kS0, offsetof(mmu::TlbArrays, host));
  const Offset resume = hot_.offset();

  land(miss, cold_.offset());
  cold_.add_indexed(
      kS0, kS1,
      tlb_base() + (share.write ? offsetof(mmu::TlbArrays, write_tag) : offsetof(mmu::TlbArrays, read_tag)));
  cold_.mov(kS1, kS0);
  cold_.and32(kS1, kPageMask);
  cold_.cmp_imm(kS1, static_cast<uint32_t>(kPageSize - share.size));
  const uint32_t crosses = cold_.jcc(kCcA);
  cold_.call(routines_.share_miss[static_cast<unsigned>(tlb())][share.write]);
  miss_info(g, share.size, share.write, resume, true);
  cold_.u32(arena_.exits.next);
  land(crosses, cold_.offset());
  leave_for_unshared(g);
}

// In cold code: from `g` on, without the window and shared checks.
void Translator::leave_for_unshared(const GuestInsn& g) {
  give_back_budget(g);
  cold_.align_field(1);
  const uint32_t field = cold_.jmp();
  land(field, cold_.offset());
  Exit& exit = new_exit(code_->rip_of(g), field, live_before(g));
  exit.mode |= mode::kNoWindow;
  exit.flags_in_host = live_before(g) == 0;
}

HostMem Translator::in_window(int32_t disp) {
  host_flags_ = host_valid_ && !memory_valid_;
  if (!held_window_) hot_.load(kS1, offsetof(Hot, window_delta));
  held_window_ = true;
  return {.base = kSp, .index = kS1, .disp = disp};
}

HostMem Translator::stack_operand(const GuestInsn& g, int32_t disp, unsigned size, Direction direction) {
  if (g.in_window) return in_window(disp);
  check_at(g, {.base = kSp, .disp = disp}, size, direction);
  return {.base = kS0, .index = kS1};
}

void Translator::check_at(const GuestInsn& g, const HostMem& where, unsigned size, Direction direction) {
  hot_.lea(kS0, where, wide());
  check(g, size, direction);
}

}  // namespace ostler::bt
