// System instructions that need not leave translated code, and string instructions.
#include "bt/translator.h"
#include "bt/window.h"

namespace ostler::bt {

using x86::Opcode;
namespace rflags = x86::rflags;

namespace {

constexpr HostMem kHere{.base = kS0, .index = kS1};
constexpr size_t kCr4At = offsetof(Hot, cpu) + offsetof(x86::CpuState, cr4);
constexpr size_t kMsrAt = offsetof(Hot, cpu) + offsetof(x86::CpuState, msr);
constexpr size_t kGsBaseAt = segment_base_at(x86::kGs);

}  // namespace

// The interpreter does it when the last comparison says so. Nothing has changed yet.
void Translator::leave_if(uint8_t cc, const GuestInsn& g) {
  const uint32_t field = hot_.jcc(cc);
  land(field, cold_.offset());
  give_back_budget(g);
  rip_to(cold_, kS0, code_->rip_of(g));
  cold_.jmp(routines_.exit_interpret);
}

void Translator::system(const GuestInsn& g) {
  switch (g.insn.opcode) {
    case Opcode::kCli:
      free_flags(g.live_after);
      return hot_.and32_mem(kFlagsRestAt, ~static_cast<uint32_t>(rflags::kIf));
    case Opcode::kSti:
      free_flags(g.live_after);
      hot_.compare32_small(offsetof(Hot, waiting), 0);
      leave_if(kCcNe, g);
      return hot_.or32_mem(kFlagsRestAt, static_cast<uint32_t>(rflags::kIf));
    case Opcode::kCld:
      free_flags(g.live_after);
      return hot_.and32_mem(kFlagsRestAt, ~static_cast<uint32_t>(rflags::kDf));
    case Opcode::kMov:
      return load_to_register(g, offsetof(Hot, cpu) + offsetof(x86::CpuState, cr2));
    case Opcode::kRdfsbase:
    case Opcode::kRdgsbase:
    case Opcode::kWrfsbase:
    case Opcode::kWrgsbase:
      return segment_base(g);
    case Opcode::kSwapgs:
      hot_.load(kS0, kGsBaseAt);
      hot_.load(kS1, kMsrAt + offsetof(x86::Msrs, kernel_gs_base));
      hot_.store(kGsBaseAt, kS1);
      return hot_.store(kMsrAt + offsetof(x86::Msrs, kernel_gs_base), kS0);
    case Opcode::kStac:
    case Opcode::kClac:
      return smap(g);
    case Opcode::kPushf:
      return pushf(g);
    case Opcode::kPopf:
      return popf(g);
    case Opcode::kVerw:
      return verw(g);
    case Opcode::kRdtsc:
    case Opcode::kRdtscp:
      return rdtsc(g);
    default:  // SYSCALL, SYSRET
      free_flags(rflags::kArithmetic);
      rip_to(hot_, kS0, code_->rip_of(g));
      rip_to(hot_, kS1, code_->next_rip(g));
      hot_.jmp(g.insn.opcode == Opcode::kSyscall ? routines_.syscall : routines_.sysret);
      return;
  }
}

void Translator::load_to_register(const GuestInsn& g, size_t at) {
  const unsigned guest = g.insn.operand[0].index / 8;
  const Reg to = host_reg(guest) == kNoReg ? kS0 : host_reg(guest);
  if (g.insn.operand[0].size == 4)
    hot_.load32(to, at);
  else
    hot_.load(to, at);
  if (to == kS0) hot_.store(gpr_at(guest), to);
}

// RDFSBASE and its like (SDM Vol. 2).
void Translator::segment_base(const GuestInsn& g) {
  const Opcode opcode = g.insn.opcode;
  const bool fs = opcode == Opcode::kRdfsbase || opcode == Opcode::kWrfsbase;
  const size_t at = fs ? segment_base_at(x86::kFs) : kGsBaseAt;
  free_flags(g.live_after);
  hot_.test32_mem(kCr4At, static_cast<uint32_t>(x86::cr4::kFsgsbase));
  leave_if(kCcE, g);
  if (opcode == Opcode::kRdfsbase || opcode == Opcode::kRdgsbase) return load_to_register(g, at);
  const unsigned guest = g.insn.operand[0].index / 8;
  if (host_reg(guest) == kNoReg)
    hot_.load(kS0, gpr_at(guest));
  else
    hot_.mov(kS0, host_reg(guest));
  if (g.insn.operand[0].size == 4) {
    hot_.and32(kS0, ~0u);
  } else {
    // The upper 17 bits must be equal, whatever paging allows: what else is canonical is for the interpreter.
    hot_.mov(kS1, kS0);
    hot_.sar(kS1, 47);
    hot_.lea(kS1, {.base = kS1, .disp = 1});
    hot_.test32(kS1, ~1u);
    leave_if(kCcNe, g);
  }
  hot_.store(at, kS0);
}

// Another mode, and TLB, when SMAP is on.
void Translator::smap(const GuestInsn& g) {
  const bool set = g.insn.opcode == Opcode::kStac;
  free_flags(rflags::kArithmetic);
  hot_.test32_mem(kCr4At, static_cast<uint32_t>(x86::cr4::kSmap));
  leave_if(kCcE, g);
  if (set)
    hot_.or32_mem(kFlagsRestAt, static_cast<uint32_t>(rflags::kAc));
  else
    hot_.and32_mem(kFlagsRestAt, ~static_cast<uint32_t>(rflags::kAc));
  hot_.mov_imm(kS0, Hot::kNoWindow);
  hot_.store(offsetof(Hot, window_tag), kS0);
  hot_.mov_imm(kS0, 0);
  hot_.store(offsetof(Hot, window_delta), kS0);
  hot_.store32(offsetof(Hot, mode_changed), 1);
  const uint64_t next = code_->next_rip(g);
  hot_.align_field(1);
  const uint32_t field = hot_.jmp();
  land(field, cold_.offset());
  Exit& exit = new_exit(next, field, rflags::kArithmetic);
  exit.mode = static_cast<Mode>(set ? exit.mode | mode::kAc : exit.mode & ~mode::kAc);
  exit.same_page = (next ^ code_->rip) >> 12 == 0 && !code_->straddles;
  exit.flags_in_host = false;
}

// kS0 becomes RFLAGS without RF.
void Translator::flags_to_s0() {
  hot_.load_byte(kS0, kFlagsAt + 1);
  hot_.and32(kS0, 0xd5);
  hot_.load_byte(kS1, kFlagsAt);
  hot_.shl32(kS1, 11);
  hot_.or32(kS0, kS1);
  hot_.or_(kS0, kFlagsRestAt);
}

void Translator::pushf(const GuestInsn& g) {
  free_flags(rflags::kArithmetic);
  check_at(g, {.base = kSp, .disp = -word()}, code_->word(), Direction::kWrite);
  hot_.lea(kS0, kHere);
  hot_.store(offsetof(Hot, scratch) + 8, kS0);
  flags_to_s0();
  hot_.load(kS1, offsetof(Hot, scratch) + 8);
  hot_.store_mem({.base = kS1}, kS0, wide());
  move_sp(-word());
}

// Where nothing changes but IF and the arithmetic flags.
void Translator::popf(const GuestInsn& g) {
  free_flags(0);
  check_at(g, {.base = kSp}, code_->word(), Direction::kRead);
  hot_.load_mem(kS0, kHere, wide());
  hot_.load(kS1, kFlagsRestAt);
  hot_.xor32(kS1, kS0);
  hot_.test32(kS1, static_cast<uint32_t>(~(rflags::kArithmetic | rflags::kIf | rflags::kFixed1) & 0x3fffff));
  leave_if(kCcNe, g);
  hot_.test32(kS0, static_cast<uint32_t>(rflags::kIf));
  const uint32_t off = hot_.jcc(kCcE);
  hot_.compare32_small(offsetof(Hot, waiting), 0);
  leave_if(kCcNe, g);
  hot_.or32_mem(kFlagsRestAt, static_cast<uint32_t>(rflags::kIf));
  const uint32_t done = hot_.jmp();
  land(off, hot_.offset());
  hot_.and32_mem(kFlagsRestAt, ~static_cast<uint32_t>(rflags::kIf));
  land(done, hot_.offset());
  hot_.mov(kS1, kS0);
  hot_.and32(kS1, 0xd5);
  hot_.or32_imm(kS1, 2);
  hot_.store_byte(kFlagsAt + 1, kS1);
  hot_.shr(kS0, 11);
  hot_.and32(kS0, 1);
  hot_.store_byte(kFlagsAt, kS0);
  move_sp(word());
  host_valid_ = false;
  memory_valid_ = true;
  exit_to(code_->next_rip(g), rflags::kArithmetic, Branch::kJump);
}

// Linux executes it on each way to user mode, to clear the processor's buffers. A writable data segment of
// the GDT by a selector with RPL 0, as there; others are for the interpreter.
void Translator::verw(const GuestInsn& g) {
  constexpr size_t kGdtrAt = offsetof(Hot, cpu) + offsetof(x86::CpuState, gdtr);
  constexpr uint32_t kWritableData = 0x1200, kMask = kWritableData | 0x800;  // S and W, not executable
  const x86::Operand& operand = g.insn.operand[0];
  free_flags(live_before(g));
  if (operand.kind == x86::OperandKind::kMem) {
    address(g);
    check(g, 2, Direction::kRead);
    hot_.load_zero_extended(kS0, kHere, 2);
  } else {
    const Reg reg = host_reg(operand.index / 8);
    if (reg == kNoReg)
      hot_.load(kS0, gpr_at(operand.index / 8));
    else
      hot_.mov(kS0, reg);
    hot_.and32(kS0, 0xffff);
  }
  hot_.test32(kS0, 7);
  leave_if(kCcNe, g);
  hot_.cmp_imm(kS0, 8);
  leave_if(kCcB, g);
  hot_.load32(kS1, kGdtrAt + offsetof(x86::TableRegister, limit));
  hot_.and32(kS1, 0xffff);
  hot_.lea(kS0, {.base = kS0, .disp = 7});
  hot_.cmp(kS0, kS1);
  leave_if(kCcA, g);
  hot_.add(kS0, kGdtrAt + offsetof(x86::TableRegister, base));
  hot_.lea(kS0, {.base = kS0, .disp = -7});
  check(g, 8, Direction::kRead);
  hot_.load_mem(kS0, {.base = kS0, .index = kS1, .disp = 4}, false);
  hot_.and32(kS0, kMask);
  hot_.cmp_imm(kS0, kWritableData);
  leave_if(kCcNe, g);
  hot_.or32_mem(kFlagsAt, static_cast<uint32_t>(rflags::kZf) << 8);
  host_valid_ = false;
  memory_valid_ = true;
}

void Translator::rdtsc(const GuestInsn& g) {
  constexpr Reg kRdx = 2;
  free_flags(g.live_after);
  if (!supervisor()) {
    hot_.test32_mem(kCr4At, static_cast<uint32_t>(x86::cr4::kTsd));
    leave_if(kCcNe, g);
  }
  if (g.insn.opcode == Opcode::kRdtscp) {
    hot_.u8(0x0f);  // RDTSCP
    hot_.u8(0x01);
    hot_.u8(0xf9);
    hot_.load32(kRcx, kMsrAt + offsetof(x86::Msrs, tsc_aux));
  } else {
    hot_.u8(0x0f);  // RDTSC
    hot_.u8(0x31);
  }
  hot_.u8(0x48);  // SHL RDX, 32
  hot_.u8(0xc1);
  hot_.u8(0xe2);
  hot_.u8(32);
  hot_.u8(0x48);  // OR RAX, RDX
  hot_.u8(0x09);
  hot_.u8(0xd0);
  hot_.add(kRax, kMsrAt + offsetof(x86::Msrs, tsc_offset));
  hot_.mov(kRdx, kRax);
  hot_.shr(kRdx, 32);
  hot_.u8(0x89);  // MOV EAX, EAX
  hot_.u8(0xc0);
}

// REP MOVS and REP STOS within one page each: the host's instruction does it. Others are for the interpreter.
void Translator::repeated_string(const GuestInsn& g) {
  constexpr Reg kRsi = 6, kRdi = 7;
  constexpr size_t kCount = offsetof(Hot, scratch) + 8, kFrom = offsetof(Hot, scratch) + 16,
                   kOld = offsetof(Hot, scratch) + 24;
  const unsigned size = g.insn.operand_size;
  const uint8_t shift = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
  const bool moves = g.insn.opcode == Opcode::kMovs;
  free_flags(g.live_after);
  if (bits32())
    for (const Reg reg : {kRcx, kRsi, kRdi}) hot_.mov32(reg, reg);
  hot_.u8(0x48);  // TEST RCX, RCX
  hot_.u8(0x85);
  hot_.u8(0xc9);
  const uint32_t nothing = hot_.jcc(kCcE);
  hot_.test32_mem(kFlagsRestAt, static_cast<uint32_t>(rflags::kDf));
  leave_if(kCcNe, g);
  hot_.cmp_imm(kRcx, static_cast<uint32_t>(kPageSize));
  leave_if(kCcA, g);
  // Whether all of it lies in the page: kS0 is the offset there.
  const auto fits = [&] {
    hot_.store(kCount, kRcx);
    hot_.lea(kRcx, {.base = kS0, .index = kRcx, .scale = shift});
    hot_.cmp_imm(kRcx, static_cast<uint32_t>(kPageSize));
    hot_.load(kRcx, kCount);
    leave_if(kCcA, g);
  };
  if (moves) {
    hot_.lea(kS0, {.base = kRsi});
    check_in_page(g, size, Direction::kRead);
    fits();
    hot_.lea(kS0, kHere);
    hot_.store(kFrom, kS0);
  }
  hot_.lea(kS0, {.base = kRdi});
  check_in_page(g, size, Direction::kWrite);
  fits();
  hot_.lea(kS0, kHere);
  hot_.store(kOld, kRdi);
  hot_.mov(kRdi, kS0);
  if (moves) {
    hot_.mov(kS1, kRsi);
    hot_.load(kRsi, kFrom);
  }
  hot_.u8(0xf3);
  if (size == 2) hot_.u8(0x66);
  if (size == 8) hot_.u8(0x48);
  hot_.u8(moves ? (size == 1 ? 0xa4 : 0xa5) : (size == 1 ? 0xaa : 0xab));
  // How far it went is how far the guest's registers go.
  hot_.sub_reg(kRdi, kS0);
  if (moves) hot_.lea(kRsi, {.base = kS1, .index = kRdi}, wide());
  hot_.add(kRdi, kOld, wide());
  land(nothing, hot_.offset());
}

// MOVS, STOS, LODS, SCAS, CMPS without a prefix.
void Translator::single_string(const GuestInsn& g) {
  constexpr Reg kRsi = 6, kRdi = 7;
  constexpr size_t kValue = offsetof(Hot, scratch) + 8;
  const unsigned size = g.insn.operand_size;
  const auto step = static_cast<int32_t>(size);
  const auto here = [&](Reg reg, Direction direction) {
    hot_.lea(kS0, {.base = reg}, wide());
    check(g, size, direction);
  };
  const auto advance = [&](Reg reg) { hot_.lea(reg, {.base = reg, .disp = step}, wide()); };
  // The value at `reg` goes to kS1 once the place at `other` is known to be there, which is at kS0 then.
  const auto both = [&](Reg reg, Reg other, Direction direction) {
    here(reg, Direction::kRead);
    hot_.load_zero_extended(kS0, kHere, size);
    hot_.store(kValue, kS0);
    here(other, direction);
    hot_.lea(kS0, kHere);
    hot_.load(kS1, kValue);
  };
  free_flags(live_before(g));
  hot_.test32_mem(kFlagsRestAt, static_cast<uint32_t>(rflags::kDf));
  leave_if(kCcNe, g);
  switch (g.insn.opcode) {
    case Opcode::kMovs:
      both(kRsi, kRdi, Direction::kWrite);
      hot_.store_sized({.base = kS0}, kS1, size);
      advance(kRsi);
      return advance(kRdi);
    case Opcode::kStos:
      here(kRdi, Direction::kWrite);
      hot_.store_sized(kHere, kRax, size);
      return advance(kRdi);
    case Opcode::kLods:
      here(kRsi, Direction::kRead);
      hot_.load_sized(kRax, kHere, size);
      return advance(kRsi);
    case Opcode::kScas:
      here(kRdi, Direction::kRead);
      hot_.cmp_reg_mem(kRax, kHere, size);
      advance(kRdi);
      return flags_set();
    default:  // CMPS: the operand at RDI is read first
      both(kRdi, kRsi, Direction::kRead);
      hot_.cmp_mem_reg({.base = kS0}, kS1, size);
      advance(kRsi);
      advance(kRdi);
      return flags_set();
  }
}

// BT, BTS, BTR, BTC of the bit that a register's whole value chooses (SDM Vol. 2, BT).
void Translator::bit_string(const GuestInsn& g) {
  const x86::Instruction& insn = g.insn;
  const bool wide = insn.operand_size == 8;
  const unsigned guest = insn.operand[1].index / 8;
  const auto bit_to_s1 = [&] {
    const Reg reg = host_reg(guest);
    if (reg == kNoReg)
      hot_.load(kS1, gpr_at(guest));
    else
      hot_.mov(kS1, reg);
    if (!wide) hot_.sign_extend32(kS1);
  };
  const bool write = insn.opcode != Opcode::kBt;
  free_flags(live_before(g));
  address(g);
  bit_to_s1();
  hot_.sar(kS1, wide ? 6 : 5);
  hot_.lea(kS0, {.base = kS0, .index = kS1, .scale = static_cast<uint8_t>(wide ? 3 : 2)},
           insn.address_size == 8);
  check(g, insn.operand_size, write ? Direction::kWrite : Direction::kRead);
  hot_.lea(kS0, kHere);
  bit_to_s1();
  hot_.and32(kS1, wide ? 63 : 31);
  want_flags();
  if (insn.lock) hot_.u8(0xf0);
  hot_.u8((wide ? 0x48 : 0x40) | 4 | 1);  // REX.R, REX.B
  hot_.u8(0x0f);
  hot_.u8(insn.opcode == Opcode::kBt    ? 0xa3
          : insn.opcode == Opcode::kBts ? 0xab
          : insn.opcode == Opcode::kBtr ? 0xb3
                                        : 0xbb);
  hot_.modrm(kS1, {.base = kS0});
  flags_set();
}

}  // namespace ostler::bt
