#include "bt/translator.h"

#include <algorithm>

#include "bt/window.h"
#include "x86/host_cpu.h"

namespace ostler::bt {

using x86::Opcode;

namespace {

// Whether what is known of the scratch registers is kept up by the translation itself.
bool keeps_scratch(Kind kind) {
  switch (kind) {
    case Kind::kGeneric:
    case Kind::kLea:
    case Kind::kPush:
    case Kind::kPop:
    case Kind::kCondition:
    case Kind::kNothing:
      return true;
    default:
      return false;
  }
}

// AMD processors before Zen 3 take tens of cycles for PEXT.
bool has_fast_pext() {
  const x86::HostCpu& host = x86::HostCpu::current();
  return host.vendor != "AuthenticAMD" || host.family >= 0x19;
}

}  // namespace

Translator::Translator(CodeCache& cache, const Routines& routines, const Options& options)
    : cache_(cache),
      routines_(routines),
      memory_(cache.writable(0)),
      bmi2_(x86::HostCpu::current().features.has(x86::Feature::kBmi2)),
      count_(options.count),
      direct_(options.direct),
      keep_flags_(options.keep_flags && bmi2_ && has_fast_pext()) {
  make_look_ups();
}

TlbKind Translator::tlb_of(Mode mode) {
  return (mode & mode::kSupervisor) == 0 ? TlbKind::kUser
         : (mode & mode::kAc) != 0       ? TlbKind::kAc
                                         : TlbKind::kSup;
}

size_t Translator::base_of(TlbKind tlb) {
  switch (tlb) {
    case TlbKind::kUser:
      return Window::kUser;
    case TlbKind::kSup:
      return Window::kSup;
    case TlbKind::kAc:
      return Window::kAc;
  }
  return 0;
}

const Draft& Translator::translate(const GuestCode& code, uint32_t page, uint32_t second_page,
                                   const Arena& arena) {
  code_ = &code;
  tlb_ = tlb_of(code.mode);
  arena_ = arena;
  draft_ = {};
  poll_exit_ = 0;
  block_.rip = code.rip;
  block_.shared = code.shared;
  block_.phys = code.phys;
  block_.page = page;
  block_.mode = code.mode;
  block_.entry_flags = code.entry_flags;
  block_.first_exit = arena.exits.next;
  draft_.straddles = second_page != kNone;
  draft_.straddle = {.phys = code.second_phys, .page = second_page};
  draft_.guest_bytes = code.bytes;
  draft_.guest_instructions = code.count / code.copies;
  hot_ = Assembler(memory_ + arena.hot.next, arena.hot.next);
  cold_ = Assembler(memory_ + arena.cold.next, arena.cold.next);
  const bool memory_entry = code.straddles || code.insns[0].kind == Kind::kInterpret || code.flags_wait;
  entries(page, second_page, memory_entry);
  body();
  block_.exits = static_cast<uint8_t>(arena_.exits.next - arena.exits.next);
  draft_.hot = {arena.hot.next, hot_.offset()};
  draft_.cold = {arena.cold.next, cold_.offset()};
  draft_.exits_end = arena_.exits.next;
  draft_.branches_end = arena_.branches.next;
  return draft_;
}

void Translator::entries(uint32_t page, uint32_t second_page, bool memory_entry) {
  const bool live = block_.entry_flags != 0;
  block_.start = hot_.offset();
  if (memory_entry) {
    block_.entry = hot_.offset();
    host_valid_ = live;
    memory_valid_ = false;
    free_flags(block_.entry_flags);
    if (code_->shared) rip_to(hot_, kS0, code_->rip);
  }
  block_.checked = hot_.offset();
  if (code_->shared)
    check_shared_page(page);
  else
    check_own_page(code_->rip, page, block_.id_field);
  if (second_page != kNone)
    check_own_page((code_->rip | kPageMask) + 1, second_page, draft_.straddle.id_field);
  if (memory_entry) {
    host_valid_ = false;
    memory_valid_ = live;
    poll();
    count_down();
    return;
  }
  if (live) {
    poll();
    host_valid_ = false;
    memory_valid_ = true;
    reload_flags();
    block_.entry = hot_.offset();
    host_valid_ = true;
    memory_valid_ = false;
  } else {
    block_.entry = hot_.offset();
    host_valid_ = memory_valid_ = false;
    poll();
  }
  count_down();
}

void Translator::check_own_page(uint64_t rip, uint32_t number, Offset& id_field) {
  const size_t exec = (supervisor() ? Window::kSup : Window::kUser) + offsetof(mmu::TlbArrays, exec_id);
  hot_.align_field(8);
  hot_.compare32(exec + mmu::Tlb::slot_of(rip) * 4, number);
  id_field = hot_.offset() - 4;
  cold_jump(hot_.jcc(kCcNe), code_->rip, routines_.exit_poll);
}

// kS0 is where the block is to run.
void Translator::check_shared_page(uint32_t number) {
  hot_.mov(kS1, kS0);
  hot_.and64(kS1, ~static_cast<uint32_t>(kPageMask));
  hot_.store(offsetof(Hot, page_base), kS1);
  hot_.shr(kS0, 12);
  hot_.and32(kS0, mmu::Tlb::kEntries - 1);
  hot_.sub_indexed(kS1, kS0, Window::kUser + offsetof(mmu::TlbArrays, exec_shared));
  hot_.align_field(3);
  hot_.cmp_imm(kS1, number);
  block_.id_field = hot_.offset() - 4;
  cold_jump(hot_.jcc(kCcNe), code_->rip, routines_.exit_poll);
}

void Translator::rip_to(Assembler& a, Reg reg, uint64_t rip, bool wide) {
  if (!code_->shared) return a.mov_imm(reg, wide ? rip : rip & 0xffff'ffff);
  a.load(reg, offsetof(Hot, page_base));
  // What is 2 GiB away from the end of a page may be a little further from its start.
  const auto all = static_cast<int64_t>(rip), most = int64_t{INT32_MAX};
  const auto first = static_cast<int32_t>(std::clamp(all, -most, most));
  if (all != first) a.lea(reg, {.base = reg, .disp = static_cast<int32_t>(all - first)});
  a.lea(reg, {.base = reg, .disp = first}, wide);
}

// Blocks end at every branch then, so all of their instructions run unless one faults.
void Translator::count_down() {
  if (!count_ || code_->insns[0].kind == Kind::kInterpret) return;
  // Flags stay: a budget that has run out is seen at the next poll.
  hot_.load(kS0, offsetof(Hot, budget));
  hot_.lea(kS0, {.base = kS0, .disp = -static_cast<int32_t>(code_->count)});
  hot_.store(offsetof(Hot, budget), kS0);
}

void Translator::poll() {
  if (count_) {
    hot_.load(kS0, offsetof(Hot, budget));
    hot_.u8(0x4d);  // TEST r14, r14
    hot_.u8(0x85);
    hot_.u8(0xf6);
    cold_jump(hot_.jcc(kCcLe), code_->rip, routines_.exit_poll);
  }
  hot_.compare32_small(offsetof(Hot, pending), 0);
  cold_jump(hot_.jcc(kCcNe), code_->rip, routines_.exit_poll);
}

void Translator::cold_jump(uint32_t field, uint64_t rip, Offset routine) {
  if (rip == code_->rip && routine == routines_.exit_poll) {
    if (poll_exit_ == 0) poll_exit_ = cold_.offset();
    land(field, poll_exit_);
    if (poll_exit_ != cold_.offset()) return;
  }
  land(field, cold_.offset());
  rip_to(cold_, kS0, rip);
  cold_.jmp(routine);
}

void Translator::body() {
  forget_held();
  uint8_t* map = cache_.map_at(arena_);
  Offset before = block_.start;
  for (unsigned i = 0; i < code_->count; ++i) {
    const GuestInsn& g = code_->insns[i];
    const Offset start = hot_.offset();
    guest_at_ = g.at;
    host_flags_ = false;
    if (g.window_here) check_window(g);
    instruction(g);
    if (!keeps_scratch(g.kind)) forget_held();
    const bool again = i + 1 < code_->count && code_->insns[i + 1].at == 0;
    map = CodeCache::add_to_map(map, g.insn.length, start - before, host_flags_, again);
    before = start;
  }
  block_.first_insn = arena_.insns.next;
  block_.count = static_cast<uint8_t>(code_->count);
  draft_.insns_end = cache_.map_end(map);
  const GuestInsn& last = code_->insns[code_->count - 1];
  if (!ends_block(last)) exit_to(code_->next_rip(last), last.live_after, Branch::kJump);
}

void Translator::instruction(const GuestInsn& g) {
  switch (g.kind) {
    case Kind::kInterpret:
      return interpret(g);
    case Kind::kGeneric:
      return generic(g);
    case Kind::kLea:
      return lea(g);
    case Kind::kPush:
      return push(g);
    case Kind::kPop:
      return pop(g);
    case Kind::kLeave:
      return leave(g);
    case Kind::kJump:
      return exit_to(code_->target(g), g.live_after, Branch::kJump);
    case Kind::kCondition:
      return conditional_jump(g);
    case Kind::kCountJump:
      return count_jump(g);
    case Kind::kCall:
      return call(g);
    case Kind::kJumpIndirect:
    case Kind::kCallIndirect:
      return indirect(g);
    case Kind::kReturn:
      return ret(g);
    case Kind::kBitString:
      return bit_string(g);
    case Kind::kSystem:
      return system(g);
    case Kind::kString:
      return g.insn.rep ? repeated_string(g) : single_string(g);
    case Kind::kNothing:
      return;
  }
}

void Translator::interpret(const GuestInsn& g) {
  free_flags(x86::rflags::kArithmetic);
  rip_to(hot_, kS0, code_->rip_of(g));
  hot_.jmp(routines_.exit_interpret);
}

// ---- flags ----

// LAHF and SETO leave in AX what CpuState::flags_ax is.
void Translator::spill_flags() {
  forget_held(kS0);
  hot_.mov(kS0, kRax);
  hot_.u8(0x9f);  // LAHF
  hot_.u8(0x0f);  // SETO AL
  hot_.u8(0x90);
  hot_.u8(0xc0);
  hot_.store16(kFlagsAt, kRax);
  hot_.mov(kRax, kS0);
  memory_valid_ = true;
}

// Both scratch registers may be in use.
void Translator::reload_flags() {
  hot_.store(offsetof(Hot, scratch), kRax);
  hot_.u8(0x65);  // MOVZX EAX, word GS:[flags]
  hot_.u8(0x0f);
  hot_.u8(0xb7);
  hot_.u8(0x04);
  hot_.u8(0x25);
  hot_.u32(static_cast<uint32_t>(kFlagsAt));
  hot_.u8(0x04);  // ADD AL, 127: OF
  hot_.u8(0x7f);
  hot_.u8(0x9e);  // SAHF
  hot_.load(kRax, offsetof(Hot, scratch));
  host_valid_ = true;
}

void Translator::free_flags(uint16_t live) {
  if (live != 0 && host_valid_ && !memory_valid_) spill_flags();
  host_valid_ = false;
}

void Translator::want_flags() {
  if (!host_valid_ && memory_valid_) reload_flags();
}

void Translator::flags_set() {
  host_valid_ = true;
  memory_valid_ = false;
}

}  // namespace ostler::bt
