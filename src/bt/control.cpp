// The stack and control transfers.
#include "bt/translator.h"
#include "bt/window.h"

namespace ostler::bt {

using x86::OperandKind;

namespace {
constexpr HostMem kHere{.base = kS0, .index = kS1};

unsigned number(const x86::Operand& operand) {
  return operand.index / 8;
}
}  // namespace

// ---- the stack ----

// Stores `value` below the stack pointer. What may fault is done before anything changes.
void Translator::push_value(const GuestInsn& g, uint64_t value) {
  const HostMem where = stack_operand(g, -word(), code_->word(), Direction::kWrite);
  forget_held(kS0);
  if (bits32() || static_cast<int64_t>(value) == static_cast<int32_t>(value)) {
    hot_.store_mem_imm(where, static_cast<uint32_t>(value), wide());
  } else if (g.in_window) {
    hot_.mov_imm(kS0, value);
    hot_.store_mem(where, kS0);
  } else {
    hot_.lea(kS0, where);
    hot_.mov_imm(kS1, value);
    hot_.store_mem({.base = kS0}, kS1);
  }
  move_sp(-word());
}

void Translator::push_return(const GuestInsn& g) {
  if (!code_->shared) return push_value(g, code_->next_rip(g));
  const HostMem where = stack_operand(g, -8, 8, Direction::kWrite);
  if (g.in_window) {
    rip_to(hot_, kS0, code_->next_rip(g));
    hot_.store_mem(where, kS0);
  } else {
    hot_.lea(kS0, where);
    rip_to(hot_, kS1, code_->next_rip(g));
    hot_.store_mem({.base = kS0}, kS1);
  }
  hot_.lea(kSp, {.base = kSp, .disp = -8});
}

void Translator::push(const GuestInsn& g) {
  const x86::Operand& operand = g.insn.operand[0];
  const bool memory = operand.kind == OperandKind::kMem;
  if (!g.in_window || memory) free_flags(g.live_after);
  if (operand.kind == OperandKind::kImm) return push_value(g, g.insn.imm);
  if (memory) {
    address(g);
    check(g, code_->word(), Direction::kRead);
    hot_.load_mem(kS0, kHere, wide());
    if (!g.in_window) hot_.store(offsetof(Hot, scratch) + 8, kS0);
  }
  const HostMem where = stack_operand(g, -word(), code_->word(), Direction::kWrite);
  forget_held(kS0);
  Reg value = operand.kind == OperandKind::kGpr ? host_reg(number(operand)) : kNoReg;
  if (value != kNoReg) {
    hot_.store_mem(where, value, wide());
  } else if (g.in_window) {
    if (!memory) hot_.load(kS0, gpr_at(number(operand)));
    hot_.store_mem(where, kS0, wide());
  } else {
    hot_.lea(kS0, where);
    hot_.load(kS1, memory ? offsetof(Hot, scratch) + 8 : gpr_at(number(operand)));
    hot_.store_mem({.base = kS0}, kS1, wide());
  }
  move_sp(-word());
}

void Translator::pop(const GuestInsn& g) {
  if (!g.in_window) free_flags(g.live_after);
  const HostMem where = stack_operand(g, 0, code_->word(), Direction::kRead);
  const unsigned guest = number(g.insn.operand[0]);
  const Reg to = host_reg(guest);
  if (to == kSp) return hot_.load_mem(kSp, where, wide());
  forget_held(kS0);
  hot_.load_mem(to == kNoReg ? kS0 : to, where, wide());
  if (to == kNoReg) hot_.store(gpr_at(guest), kS0);
  move_sp(word());
}

void Translator::leave(const GuestInsn& g) {
  constexpr Reg kBp = 5;
  free_flags(g.live_after);
  check_at(g, {.base = kBp}, code_->word(), Direction::kRead);
  hot_.lea(kSp, {.base = kBp, .disp = word()}, wide());
  hot_.load_mem(kBp, kHere, wide());
}

// ---- leaving the block ----

// A loop must come by a poll: at an entry where the flags are free, or else in the entry that checks, which
// wants them in memory.
void Translator::exit_to(uint64_t target, uint16_t live, Branch branch, uint8_t cc) {
  const bool same_page = (target ^ code_->rip) >> 12 == 0 && !code_->straddles;
  const bool backward = target <= code_->rip + code_->bytes;
  const bool must_spill = live != 0 && host_valid_ && !memory_valid_ && (!same_page || backward);
  Assembler* at = &hot_;
  if (must_spill && branch == Branch::kCondition) {
    // In the cold code, so that the path not taken keeps its flags.
    land(hot_.jcc(cc), cold_.offset());
    std::swap(hot_, cold_);
    spill_flags();
    std::swap(hot_, cold_);
    memory_valid_ = false;  // on the other path
    at = &cold_;
    branch = Branch::kJump;
  } else if (must_spill) {
    spill_flags();
  }
  at->align_field(branch == Branch::kCondition ? 2 : 1);
  uint32_t field = 0;
  switch (branch) {
    case Branch::kJump:
      field = at->jmp();
      break;
    case Branch::kCall:
      field = at->call();
      break;
    case Branch::kCondition:
      field = at->jcc(cc);
      break;
  }
  land(field, cold_.offset());
  const bool spill_when_unlinked = live != 0 && host_valid_ && !memory_valid_ && !must_spill;
  if (spill_when_unlinked) {
    std::swap(hot_, cold_);
    spill_flags();
    memory_valid_ = false;  // not on the other paths
    std::swap(hot_, cold_);
  }
  Exit& exit = new_exit(target, field, live);
  exit.same_page = same_page;
  exit.backward = backward;
  exit.flags_in_host = live == 0 || (host_valid_ && !must_spill);
}

Exit& Translator::new_exit(uint64_t target, uint32_t field, uint16_t live) {
  const uint32_t number = arena_.exits.next++;
  cold_.mov32_imm(kS0, number);
  cold_.jmp(routines_.exit_link);
  uint32_t distance;
  std::memcpy(&distance, memory_ + field, sizeof distance);
  Exit& exit = cache_.exit(number);
  exit = {.target = target,
          .field = field,
          .unlinked = field + 4 + distance,
          .block = arena_.blocks.next,
          .live = live,
          .mode = static_cast<Mode>(code_->mode & ~mode::kNoWindow)};
  return exit;
}

void Translator::conditional_jump(const GuestInsn& g) {
  want_flags();
  exit_to(code_->target(g), g.live_taken, Branch::kCondition, g.insn.condition);
}

void Translator::count_jump(const GuestInsn& g) {
  if (host_valid_ && g.live_after != 0 && !memory_valid_) spill_flags();
  host_valid_ = false;
  if (g.insn.opcode == x86::Opcode::kLoop) hot_.lea(kRcx, {.base = kRcx, .disp = -1}, wide());
  const bool zero_jumps = g.insn.opcode == x86::Opcode::kJcxz;
  const uint64_t taken = code_->target(g), next = code_->next_rip(g);
  if (bits32()) hot_.u8(0x67);
  hot_.u8(0xe3);  // JRCXZ, JECXZ
  uint8_t* distance = hot_.at();
  hot_.u8(0);
  const uint8_t* start = hot_.at();
  exit_to(zero_jumps ? next : taken, g.live_after, Branch::kJump);
  *distance = static_cast<uint8_t>(hot_.at() - start);
  exit_to(zero_jumps ? taken : next, g.live_after, Branch::kJump);
}

// ---- calls and returns ----

// Whether an indirect branch's target is canonical is only found out where it leads.
void Translator::note_branch(int32_t undo) {
  const uint32_t number = arena_.branches.next++;
  cache_.branch(number) = {.block = arena_.blocks.next, .guest = guest_at_, .undo = undo};
  hot_.store32(offsetof(Hot, branch), number);
}

// An address that is not canonical could become the key of another one.
void Translator::mix_mode() {
  const uint64_t key = mode_key(code_->mode);
  if (key == 0) return;
  const auto mix = [key](Assembler& a) {
    a.mov_imm64(kS1, key);
    a.u8(0x4d);  // XOR r14, r15
    a.u8(0x31);
    a.u8(0xfe);
  };
  if (!bits32()) {
    hot_.mov(kS1, kS0);
    hot_.sar(kS1, 47);
    hot_.lea(kS1, {.base = kS1, .disp = 1});
    hot_.test32(kS1, ~1u);
    land(hot_.jcc(kCcNe), cold_.offset());
    mix(cold_);
    cold_.jmp(routines_.exit_lookup);
  }
  mix(hot_);
}

// Whether what follows a call is not meant to run: the callee drops the return address and returns to its
// caller's caller, as Linux's safe RET does.
bool Translator::never_returns(const GuestInsn& g) const {
  const uint8_t* next = g.bytes + g.insn.length;
  const bool known = g.at + g.insn.length + 2u <= code_->code_read;
  return known && next[0] == 0x0f && next[1] == 0x0b;  // UD2
}

// Where the host's return leads: kS0 is where the guest wanted to return to.
void Translator::landing(const GuestInsn& g) {
  const uint64_t next = code_->next_rip(g);
  if (supervisor() && !code_->shared && never_returns(g)) {
    // The return address below is the one that is wanted; whichever it is, kS0 says where to go.
    hot_.u8(0xc3);
    return;
  }
  if (code_->shared) {
    // The page that the call was made in lies behind its return address.
    const auto distance = static_cast<int32_t>(next);
    hot_.pop(kS1);
    hot_.lea(kS1, {.base = kS1, .disp = distance});
    hot_.cmp(kS0, kS1);
    hot_.jcc(kCcNe, lookup());
    hot_.lea(kS1, {.base = kS1, .disp = -distance});
    hot_.store(offsetof(Hot, page_base), kS1);
  } else {
    hot_.mov_imm(kS1, next ^ mode_key(code_->mode));
    hot_.cmp(kS0, kS1);
    hot_.jcc(kCcNe, lookup());
  }
  host_valid_ = false;
  memory_valid_ = true;
  exit_to(next, x86::rflags::kArithmetic, Branch::kJump);
}

void Translator::call(const GuestInsn& g) {
  free_flags(x86::rflags::kArithmetic);
  push_return(g);
  if (code_->shared) hot_.push_mem(offsetof(Hot, page_base));
  exit_to(code_->target(g), x86::rflags::kArithmetic, Branch::kCall);
  landing(g);
}

void Translator::target_to_s0(const GuestInsn& g) {
  const x86::Operand& operand = g.insn.operand[0];
  if (operand.kind == OperandKind::kMem) {
    address(g);
    check(g, code_->word(), Direction::kRead);
    hot_.load_mem(kS0, kHere, wide());
    return;
  }
  const Reg reg = host_reg(number(operand));
  if (reg == kNoReg)
    hot_.load(kS0, gpr_at(number(operand)));
  else if (bits32())
    hot_.mov32(kS0, reg);
  else
    hot_.mov(kS0, reg);
}

// Finds the place of kS0's target in the user's hash table, as the routine does, but in code of its own: so
// the host's branch predictor knows one jump from the other. The place of the jump that is taken when it is
// not there.
uint32_t Translator::look_up_user_target() {
  static_assert(Window::kHashEntries == 1u << 16 && sizeof(HashEntry) == 16);
  hot_.put(0x45 | 0x0f << 8 | 0xb7 << 16 | uint64_t{0xfe} << 24, 4);  // MOVZX r15d, r14w
  hot_.shl32(kS1, 4);
  hot_.compare_user_hash();
  return hot_.jcc(kCcNe);
}

void Translator::indirect(const GuestInsn& g) {
  free_flags(x86::rflags::kArithmetic);
  target_to_s0(g);
  if (g.kind == Kind::kJumpIndirect) {
    note_branch(0);
    mix_mode();
    // A supervisor's targets are in another table.
    if (supervisor() || mode_key(code_->mode) != 0) return void(hot_.jmp(lookup()));
    land(look_up_user_target(), lookup());
    hot_.jmp_user_hash();
    return;
  }
  hot_.store(offsetof(Hot, scratch) + 8, kS0);
  push_return(g);
  hot_.load(kS0, offsetof(Hot, scratch) + 8);
  note_branch(-word());
  mix_mode();
  if (code_->shared) hot_.push_mem(offsetof(Hot, page_base));
  hot_.call(lookup());
  landing(g);
}

void Translator::ret(const GuestInsn& g) {
  free_flags(x86::rflags::kArithmetic);
  hot_.load_mem(kS0, stack_operand(g, 0, code_->word(), Direction::kRead), wide());
  const auto popped =
      static_cast<int32_t>(code_->word() + (g.insn.operand_count != 0 ? g.insn.imm & 0xffff : 0));
  move_sp(popped);
  note_branch(popped);
  mix_mode();
  hot_.u8(0xc3);
}

}  // namespace ostler::bt
