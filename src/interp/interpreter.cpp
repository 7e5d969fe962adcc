#include "interp/interpreter.h"

#include "base/assert.h"
#include "base/log.h"
#include "interp/block.h"
#include "interp/delivery.h"
#include "interp/outside.h"
#include "state/archive.h"

namespace ostler::interp {

using x86::Activity;
using x86::Opcode;
using x86::Vector;

namespace {
constexpr uint64_t kDr6Bs = 1u << 14;
constexpr uint32_t kEvents = pending::kInit | pending::kSipi | pending::kSmi;
}  // namespace

Interpreter::Interpreter(x86::CpuState& state, mmu::SoftMmu& mmu, Environment& environment,
                         const x86::CpuModel& model, size_t cache_bytes, std::atomic<uint32_t>* pending)
    : cpu_(state, mmu, environment, model, pending), cache_(cpu_, cache_bytes) {
  cpu_.cache = &cache_;
  mmu.set_code_observer(&cache_);
  mmu.participant().set_kick([this] { cpu_.post(pending::kGroup); });
  cpu_.mode_changed();
}

Interpreter::~Interpreter() {
  const BlockCache::Statistics& stats = cache_.statistics();
  log::trace(log::Subject::kStats,
             "decoded {} instructions in {} blocks; {} half evictions, {} flushes, {} blocks overwritten",
             stats.instructions, stats.blocks, stats.turns, stats.flushes, stats.killed);
  cpu_.mmu.set_code_observer(nullptr);
}

void Interpreter::state_changed() {
  if (native_ != nullptr) native_->state_changed();
  cpu_.mmu.flush_all();
  cache_.flush();
  cpu_.mode_changed();
}

void Interpreter::reset() {
  cpu_.pending_.fetch_and(~pending::kNmi);
  nmi_waiting_ = false;
  state_changed();
}

void Interpreter::set_debug(DebugRequest request) {
  // Blocks are made of the breakpoints.
  if (request.breakpoints != cpu_.debug.breakpoints) cache_.flush();
  cpu_.debug = std::move(request);
  debugged_ = cpu_.debug.step || !cpu_.debug.breakpoints.empty() || !cpu_.debug.watches.empty();
  forget_watched_access();
  cpu_.mmu.set_watches(cpu_.debug.watches, [this] {
    cache_.leave_running_block();
    cpu_.post(pending::kSlow);  // also for instructions that leave their block, or repeat
  });
}

Exit Interpreter::stop_for_debugger(DebugStop stop) {
  debug_stop_ = stop;
  forget_watched_access();
  return Exit::kDebug;
}

std::optional<Exit> Interpreter::watched_access() {
  const mmu::WatchHit& hit = cpu_.mmu.watch_hit();
  if (!hit.present) return std::nullopt;
  return stop_for_debugger({DebugStop::Reason::kWatch, hit.address, hit.access});
}

void Interpreter::forget_watched_access() {
  if (!cpu_.mmu.watch_hit().present) return;
  cpu_.mmu.forget_watch_hit();
  cpu_.pending_.fetch_and(~pending::kSlow, std::memory_order_relaxed);
}

uint64_t Interpreter::linear_rip() const {
  const x86::CpuState& s = cpu_.s;
  return cpu_.code_size == x86::CodeSize::k64 ? s.rip : static_cast<uint32_t>(s.rip + s.seg[x86::kCs].base);
}

bool Interpreter::wants_wakeup() const {
  const uint32_t bits = cpu_.pending_.load(std::memory_order_acquire);
  const bool nmi = nmi_waiting_ || (bits & pending::kNmi) != 0;
  const bool interrupt = interrupt_waiting_ || (bits & pending::kInterrupt) != 0;
  return (nmi && !cpu_.s.nmi_blocked) || (interrupt && cpu_.s.flag(x86::rflags::kIf));
}

void Interpreter::state(state::Archive& archive) {
  archive.section("interpreter", 1);
  nmi_waiting_ = nmi_waiting_ || (cpu_.pending_.fetch_and(~pending::kNmi) & pending::kNmi) != 0;
  archive.field("nmi_waiting", nmi_waiting_);
  // Whether an interrupt is due is asked again.
  if (archive.loading()) interrupt_waiting_ = true;
}

uint32_t Interpreter::take_events() {
  return cpu_.pending_.fetch_and(~kEvents, std::memory_order_acq_rel) & kEvents;
}

Exit Interpreter::run(int64_t max_instructions) {
  retired_before_ = retired();
  cpu_.budget = budget_given_ = max_instructions;
  cpu_.mmu.participant().enter_running();
  std::optional<Exit> exit;
  while (!exit) {
    try {
      exit = run_blocks();
    } catch (const x86::Exception& exception) {
      forget_watched_access();  // the instruction has not happened
      handle(exception);
    }
    if (stopped_) [[unlikely]] {
      stopped_ = false;
      exit = Exit::kException;
    }
  }
  if (native_ != nullptr) native_->settle();
  publish();
  cpu_.mmu.participant().leave_running();
  return *exit;
}

bool Interpreter::needs_attention() const {
  const x86::CpuState& s = cpu_.s;
  return cpu_.pending_.load(std::memory_order_relaxed) != 0 || cpu_.budget <= 0 ||
         s.activity != Activity::kRunning || s.interrupt_shadow || s.flag(x86::rflags::kTf) ||
         cpu_.instruction_breakpoints || cpu_.data_breakpoints || interrupt_waiting_ || nmi_waiting_ ||
         debugged_;
}

std::optional<Exit> Interpreter::run_blocks() {
  for (;;) {
    if (needs_attention()) [[unlikely]] {
      const auto exit = attend();
      if (exit) return exit;
    }
    cpu_.current_op = nullptr;
    if (native_ != nullptr && !cpu_.alignment_check && !debugged_ && native_->takes(cpu_)) {
      cpu_.s.flags_rest &= ~x86::rflags::kRf;
      cpu_.link = nullptr;
      switch (native_->run(cpu_, interrupt_waiting_ || nmi_waiting_)) {
        case NativeExit::kLook:
          break;
        case NativeExit::kInterpret:
          interpret_one();
          break;
        case NativeExit::kRaise:
          forget_watched_access();  // the instruction has not happened
          handle(native_->raised());
          // run() leaves in its own time when exceptions stop it.
          if (stopped_) {
            stopped_ = false;
            return Exit::kException;
          }
          break;
      }
      publish();
      continue;
    }
    Block* block = cache_.find(cpu_.s.rip, cpu_.context);
    cpu_.s.flags_rest &= ~x86::rflags::kRf;  // only instruction breakpoints ask for it, see step()
    if (cpu_.link != nullptr) {
      *cpu_.link = block;
      cpu_.link = nullptr;
    }
    if (native_ != nullptr) native_->settle();
    run_block(block);
    if (cpu_.at_breakpoint) [[unlikely]] {
      cpu_.at_breakpoint = false;
      count_unfinished(true);
      return stop_for_debugger({.reason = DebugStop::Reason::kBreakpoint, .address = linear_rip()});
    }
    count_unfinished(false);
    publish();
  }
}

void Interpreter::run_block(Block* block) {
  cpu_.budget -= block->count;
  cpu_.block = block;
  cpu_.block_rip = block->rip;
  const Op* op = block->ops();
  do {
    cpu_.current_op = op;
    op = op->run(cpu_, op);
  } while (op != nullptr);
}

void Interpreter::execute_one() {
  const uint64_t rip = cpu_.s.rip;
  try {
    interpret_one();
  } catch (...) {
    cpu_.s.rip = rip;
    cpu_.current_op = nullptr;
    cpu_.debug_traps = 0;
    throw;
  }
}

// The instruction at RIP, for the translator: it is checked in full, and no other follows it.
void Interpreter::interpret_one() {
  Block* block = cache_.find(cpu_.s.rip, cache_.intern_slow());
  native_->before(block->ops()->insn);
  const int64_t budget = cpu_.budget;
  cpu_.budget = 0;  // keeps the block from going on to another one
  struct Restore {
    Cpu& cpu;
    const int64_t budget;
    ~Restore() {
      cpu.budget = budget;
      cpu.link = nullptr;
    }
  } const restore{cpu_, budget - 1};
  run_block(block);
  cpu_.current_op = nullptr;
}

// Instructions are counted when their block starts: takes back those it did not come to.
void Interpreter::count_unfinished(bool faulted) {
  if (cpu_.block == nullptr || cpu_.current_op == nullptr) return;
  const auto done = cpu_.current_op - cpu_.block->ops() + (faulted ? 0 : 1);
  if (done < cpu_.block->count) cpu_.budget += cpu_.block->count - done;
}

void Interpreter::handle(const x86::Exception& exception) {
  if (cpu_.current_op != nullptr) {
    cpu_.s.rip = cpu_.current_rip(*cpu_.current_op);
    count_unfinished(true);
  }
  cpu_.current_op = nullptr;
  cpu_.link = nullptr;
  cpu_.debug_traps = 0;
  if (stop_on_exceptions_) {
    exception_ = exception;
    stopped_ = true;
    return;
  }
  deliver_exception(cpu_, exception);
}

// Takes what is pending. Returns a reason to leave run(), or nothing when the next block may run.
std::optional<Exit> Interpreter::attend() {
  cpu_.link = nullptr;
  x86::CpuState& s = cpu_.s;
  for (;;) {
    if (const auto exit = watched_access()) return exit;
    // Taken before they are acted on, so that what is posted meanwhile is seen the next time around.
    constexpr uint32_t kTaken = pending::kStop | pending::kInterrupt | pending::kNmi | pending::kGroup;
    uint32_t bits = cpu_.pending_.load(std::memory_order_acquire);
    if ((bits & kTaken) != 0) bits = cpu_.pending_.fetch_and(~kTaken, std::memory_order_acq_rel);
    if ((bits & pending::kGroup) != 0) cpu_.mmu.serve_group();
    if ((bits & pending::kInterrupt) != 0) interrupt_waiting_ = true;
    if ((bits & pending::kNmi) != 0) nmi_waiting_ = true;
    if ((bits & pending::kStop) != 0) return Exit::kStop;
    if ((bits & kEvents) != 0) return Exit::kEvent;
    if (s.activity == Activity::kShutdown) return Exit::kShutdown;
    if (s.activity == Activity::kWaitForSipi) return Exit::kWaitForSipi;
    if (deliver_pending()) {
      if (cpu_.debug.step) return stop_for_debugger({.reason = DebugStop::Reason::kStep});
      continue;
    }
    if (s.activity == Activity::kHalted) return Exit::kHalted;
    if (cpu_.budget <= 0) return Exit::kBudget;

    if (cpu_.debug.breaks_at(linear_rip()))
      return stop_for_debugger({.reason = DebugStop::Reason::kBreakpoint, .address = linear_rip()});
    if (cpu_.debug.step) {
      step();
      if (stopped_) [[unlikely]]
        return Exit::kException;
      if (const auto exit = watched_access()) return exit;
      return stop_for_debugger({.reason = DebugStop::Reason::kStep});
    }
    const bool masked_by_shadow =
        s.interrupt_shadow && ((interrupt_waiting_ && s.flag(x86::rflags::kIf)) || nmi_waiting_);
    if (masked_by_shadow || s.flag(x86::rflags::kTf) || cpu_.instruction_breakpoints ||
        cpu_.data_breakpoints) {
      step();
      if (stopped_) [[unlikely]]
        return Exit::kException;
      continue;
    }
    s.interrupt_shadow = false;
    return std::nullopt;
  }
}

// Delivers one NMI or external interrupt if one is due (SDM 3A §6.9). An interrupt ends HLT.
bool Interpreter::deliver_pending() {
  x86::CpuState& s = cpu_.s;
  if (s.interrupt_shadow) return false;
  // A debugger's step is one of the code that it looks at, unless that code waits for an interrupt.
  if (cpu_.debug.step && s.activity == Activity::kRunning) return false;
  if (nmi_waiting_ && !s.nmi_blocked) {
    nmi_waiting_ = false;
    s.activity = Activity::kRunning;
    deliver_nmi(cpu_);
    return true;
  }
  if (interrupt_waiting_ && s.flag(x86::rflags::kIf)) {
    const auto vector = outside_guest(cpu_, [this] { return cpu_.env.acknowledge_interrupt(); });
    if (!vector) {
      interrupt_waiting_ = false;
      return false;
    }
    s.activity = Activity::kRunning;
    deliver_interrupt(cpu_, *vector);
    return true;
  }
  return false;
}

// Executes one instruction with everything that debugging and interrupt shadows want to know (SDM 3B §17.3).
void Interpreter::step() {
  x86::CpuState& s = cpu_.s;
  if (cpu_.instruction_breakpoints && !s.flag(x86::rflags::kRf)) {
    uint64_t hits = 0;
    const uint64_t linear = linear_rip();
    for (unsigned i = 0; i < 4; ++i)
      if (((s.dr[7] >> (2 * i)) & 3) != 0 && ((s.dr[7] >> (16 + 4 * i)) & 3) == 0 && s.dr[i] == linear)
        hits |= uint64_t{1} << i;
    if (hits != 0) {
      cpu_.current_op = nullptr;
      handle(x86::Exception{.vector = Vector::kDb, .dr6_bits = hits});
      return;
    }
  }
  const bool trap_flag = s.flag(x86::rflags::kTf);
  s.interrupt_shadow = false;
  cpu_.debug_traps = 0;
  cpu_.single_step = true;
  cpu_.pending_.fetch_or(pending::kSlow, std::memory_order_relaxed);
  const auto end_step = [this] {
    cpu_.single_step = false;
    cpu_.pending_.fetch_and(~pending::kSlow, std::memory_order_relaxed);
  };
  Opcode opcode = Opcode::kInvalid;
  try {
    cpu_.current_op = nullptr;
    Block* block = cache_.find(s.rip, cache_.intern_slow());
    opcode = block->ops()->insn.opcode;
    if (native_ != nullptr) native_->settle();
    run_block(block);
  } catch (const x86::Exception& exception) {
    end_step();
    forget_watched_access();
    handle(exception);
    return;
  }
  end_step();
  cpu_.link = nullptr;
  cpu_.current_op = nullptr;
  // IRET and task switches load RF; software interrupts clear TF before the trap would come.
  if (opcode != Opcode::kIret) s.flags_rest &= ~x86::rflags::kRf;
  uint64_t traps = cpu_.debug_traps;
  cpu_.debug_traps = 0;
  const bool software_interrupt =
      opcode == Opcode::kInt || opcode == Opcode::kInt3 || opcode == Opcode::kInto || opcode == Opcode::kInt1;
  if (trap_flag && !software_interrupt && !s.interrupt_shadow) traps |= kDr6Bs;
  if (traps != 0) handle(x86::Exception{.vector = Vector::kDb, .dr6_bits = traps});
}

}  // namespace ostler::interp
