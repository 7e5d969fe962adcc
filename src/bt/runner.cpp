#include "bt/runner.h"

#include <immintrin.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <asm/prctl.h>
#include <fmt/format.h>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "base/assert.h"
#include "base/log.h"
#include "bt/host_fault.h"
#include "x86/vector_info.h"

namespace ostler::bt {

using interp::NativeExit;
using x86::Vector;
namespace cr0 = x86::cr0;
namespace cr4 = x86::cr4;

namespace {

// x87 state of the thread and MXCSR, as FXSAVE stores them.
struct alignas(16) FxImage {
  uint8_t bytes[512];
};

constexpr uint64_t kTrapFlags = 1u << 8 | 1u << 10 | 1u << 18;  // TF, DF, AC

bool write_gs_base(std::byte* base) {
  static const bool direct = (getauxval(AT_HWCAP2) & 2) != 0;  // HWCAP2_FSGSBASE
  if (!direct) return syscall(SYS_arch_prctl, ARCH_SET_GS, base) == 0;
  asm volatile("wrgsbase %0" : : "r"(base) : "memory");
  return true;
}

}  // namespace

Result<std::unique_ptr<Runner>> Runner::create(Shared& shared, Window& window,
                                               interp::Interpreter& interpreter) {
  std::unique_ptr<Runner> runner(new Runner(shared, window, interpreter));
  for (unsigned i = 0; i < 2; ++i) {
    auto stack = ShadowStack::create(
        reinterpret_cast<uint64_t>(shared.cache->executable(shared.routines.underflow[i])));
    if (!stack) return std::move(stack).error();
    runner->shadow_[i] = *std::move(stack);
  }
  return runner;
}

Runner::Runner(Shared& shared, Window& window, interp::Interpreter& interpreter)
    : shared_(shared),
      window_(window),
      hot_(window.hot()),
      cpu_(interpreter.cpu()),
      cache_(*shared.cache),
      code_(std::make_unique<GuestCode>()) {
  hot_.runner = this;
  if (shared.options.check != 0) checker_ = std::make_unique<Checker>(interpreter);
}

Runner::~Runner() {
  const Statistics& s = statistics_;
  if (s.entries != 0)
    log::trace(log::Subject::kStats,
               "entered translated code {} times: {} links, {} look-ups, {} polls, {} instructions "
               "interpreted, {} host "
               "faults; {} slow memory accesses",
               s.entries, s.links, s.lookups, s.polls, s.interpreted, s.host_faults, s.misses);
  if (s.interpreted != 0) log::trace(log::Subject::kStats, "interpreted most: {}", interpreted_most());
}

std::string Runner::interpreted_most() const {
  std::vector<unsigned> order(interpreted_.size());
  std::iota(order.begin(), order.end(), 0u);
  constexpr size_t kShown = 12;
  std::partial_sort(order.begin(), order.begin() + kShown, order.end(),
                    [this](unsigned a, unsigned b) { return interpreted_[a] > interpreted_[b]; });
  std::string text;
  for (size_t i = 0; i < kShown && interpreted_[order[i]] != 0; ++i)
    text += fmt::format("{}{} {}", i == 0 ? "" : ", ", x86::mnemonic(static_cast<x86::Opcode>(order[i])),
                        interpreted_[order[i]]);
  return text;
}

// ---- x87 ----

void Runner::settle() {
  if (!x87_live_) return;
  FxImage image;
  asm volatile("fxsave64 %0" : "=m"(image));
  x86::FxState now;
  std::memcpy(&now, image.bytes, sizeof now);
  x86::FxState& fx = cpu_.s.fx;
  // The pointers of the host's registers lead into translated code: the guest's last ones stay.
  now.mxcsr = fx.mxcsr;
  now.mxcsr_mask = fx.mxcsr_mask;
  now.fop = fx.fop;
  now.fip = fx.fip;
  now.fdp = fx.fdp;
  fx = now;
  asm volatile("fninit");
  x87_live_ = false;
}

void Runner::load_x87() {
  FxImage image{};
  x86::FxState fx = cpu_.s.fx;
  fx.mxcsr = 0x1f80;
  fx.mxcsr_mask = 0;
  std::memcpy(image.bytes, &fx, sizeof fx);
  // The XMM registers it loads are loaded again on the way into translated code.
  asm volatile("fxrstor64 %0"
               :
               : "m"(image)
               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                 "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  x87_live_ = true;
}

void Runner::before(const x86::Instruction& insn) {
  using x86::Opcode;
  ++interpreted_[static_cast<size_t>(insn.opcode)];
  if (!x87_live_) return;
  switch (insn.opcode) {
    case Opcode::kFxsave:
    case Opcode::kFxrstor:
    case Opcode::kXsave:
    case Opcode::kXsaveopt:
    case Opcode::kXsavec:
    case Opcode::kXsaves:
    case Opcode::kXrstor:
    case Opcode::kXrstors:
    case Opcode::kXgetbv:
    case Opcode::kWait:
    case Opcode::kEmms:
      return settle();
    default:
      break;
  }
  const x86::VectorInfo info = x86::vector_info(insn);
  if (info.vector_class != x86::VectorClass::kNone) settle();
}

void Runner::state_changed() {
  if (x87_live_) asm volatile("fninit");
  x87_live_ = false;
  shadow_epoch_ = ~uint64_t{0};
}

// ---- finding code ----

Mode Runner::mode_of(const interp::Cpu& cpu) const {
  const x86::CpuState& s = cpu.s;
  Mode m = 0;
  if (cpu.cpl != 3) m |= mode::kSupervisor;
  if (cpu.cpl == 0) m |= mode::kCpl0;
  if (cpu.cpl != 3 && (s.cr4 & cr4::kSmap) != 0 && s.flag(x86::rflags::kAc)) m |= mode::kAc;
  const bool off = (s.cr0 & (cr0::kEm | cr0::kTs)) != 0;
  if (off) m |= mode::kNoX87;
  if (off || (s.cr4 & cr4::kOsfxsr) == 0) m |= mode::kNoSse;
  if ((s.cr0 & cr0::kTs) != 0 || (s.cr4 & cr4::kOsxsave) == 0 || (s.xcr0 & 6) != 6) m |= mode::kNoAvx;
  return m;
}

std::optional<Runner::Place> Runner::find(uint64_t rip, Mode mode) {
  if (!cpu_.canonical(rip)) x86::raise(Vector::kGp, 0);
  constexpr unsigned kTries = 3;
  for (unsigned tries = 0; tries < kTries; ++tries) {
    const uint64_t phys = cpu_.mmu.translate_fetch(rip).value;
    uint32_t& id = cpu_.mmu.exec_id(rip);
    {
      const std::lock_guard lock(cache_.mutex());
      if (cache_.is_stale(id)) id = cache_.known_page_number(rip, phys);
      Block* block = cache_.find(id, rip, mode);
      if (block != nullptr) {
        if (block->second_page != kNone) {
          const uint64_t second = (rip | kPageMask) + 1;
          const uint64_t second_phys = cpu_.mmu.translate_fetch(second).value;
          uint32_t& second_id = cpu_.mmu.exec_id(second);
          if (cache_.is_stale(second_id)) second_id = cache_.known_page_number(second, second_phys);
          if (second_id != block->second_page) block = nullptr;
        }
        if (block != nullptr)
          return Place{cache_.number_of(*block), cache_.executable(block->checked), cache_.generation(),
                       mode};
      }
    }
    // Reading code may wait for other vCPUs and serve what they ask for, so addresses and numbers may be
    // stale after.
    const auto start = std::chrono::steady_clock::now();
    const uint64_t writes = cache_.writes(), epoch = cpu_.mmu.fetch_epoch(), generation = cache_.generation();
    read_guest_code(cpu_.mmu, cpu_.model, rip, phys, mode, shared_.options, *code_);
    if (!code_->keep) return std::nullopt;
    if (epoch != cpu_.mmu.fetch_epoch() || generation != cache_.generation()) continue;
    uint32_t second_page = kNone;
    bool full = false;
    {
      const std::lock_guard lock(cache_.mutex());
      if (writes != cache_.writes()) continue;
      full = !cache_.has_room();
      if (!full) {
        const uint32_t page = cache_.page_number(rip, phys);
        cpu_.mmu.exec_id(rip) = page;
        if (code_->straddles) {
          const uint64_t second = (rip | kPageMask) + 1;
          second_page = cache_.page_number(second, code_->second_phys);
          cpu_.mmu.exec_id(second) = second_page;
        }
        const Offset cold = cache_.cold();
        Block& block = shared_.translator->translate(*code_, page, second_page);
        if (checker_ == nullptr) link_known(block);
        shared_.tell(*code_, block, cold);
        cache_.statistics().nanoseconds += static_cast<uint64_t>(
            std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start)
                .count());
        return Place{cache_.number_of(block), cache_.executable(block.checked), cache_.generation(), mode};
      }
    }
    flush_cache();
  }
  return std::nullopt;
}

// Exits of a new block to places that have translations, in pages whose numbers are at hand. With the cache's
// mutex.
void Runner::link_known(Block& block) {
  for (uint32_t number = block.first_exit; number < block.first_exit + block.exits; ++number) {
    const Exit& exit = cache_.exit(number);
    const uint32_t page = exit.same_page ? block.page : cpu_.mmu.known_exec_id(exit.target);
    if (page == kNone) continue;
    Block* target = cache_.find(page, exit.target, exit.mode);
    if (target != nullptr) cache_.link(number, *target);
  }
}

void Runner::flush_cache() {
  shared_.pages.group().run_exclusive(cpu_.mmu.participant(), [this] { shared_.flush(); });
}

// ---- running ----

// Runs one block on both engines.
void Runner::run_checked(const Place& place, bool supervisor) {
  if (++checks_ % shared_.options.check != 0) return enter(place.checked, supervisor);
  const uint64_t rip = cpu_.s.rip;
  settle();
  const uint64_t phys = cpu_.mmu.translate_fetch(rip).value;
  read_guest_code(cpu_.mmu, cpu_.model, rip, phys, place.mode, shared_.options, *code_);
  bool check = checker_->before(*code_);
  const bool x87 = (mode_of(cpu_) & mode::kNoX87) == 0;
  if (x87) load_x87();
  enter(place.checked, supervisor);
  settle();
  // A fault that only the interpreter will raise is not compared either.
  const bool raised = hot_.reason != Reason::kHostFault && (hot_.reason != Reason::kFault || fault_);
  if (check && hot_.reason != Reason::kPoll && raised) {
    x86::CpuState& s = cpu_.s;
    const uint64_t rip_now = s.rip;
    uint16_t flags = x86::rflags::kArithmetic;
    if (hot_.reason == Reason::kLookup) s.rip = hot_.exit_value ^ mode_key(mode_of(cpu_));
    if (hot_.reason == Reason::kInterpret) s.rip = hot_.exit_value;
    if (hot_.reason == Reason::kFault) flags = 0;
    if (hot_.reason == Reason::kLink) {
      const std::lock_guard lock(cache_.mutex());
      const Exit& exit = cache_.exit(static_cast<uint32_t>(hot_.exit_value));
      s.rip = exit.target;
      flags = exit.live;
      // The stack window did not fit: only what stands before its check was run.
      check = (exit.mode & mode::kNoWindow) == 0;
    }
    if (check && cpu_.canonical(s.rip)) checker_->after(*code_, fault_, flags);
    s.rip = rip_now;
  }
  if (x87) load_x87();
}

void Runner::enter(const uint8_t* host, bool supervisor) {
  ++statistics_.entries;
  log::trace(log::Subject::kExec, "enter {:#x} cpl {} host {}", cpu_.s.rip, cpu_.cpl,
             static_cast<const void*>(host));
  write_gs_base(Window::base_of(cpu_.mmu.user_tlb()));
  hot_.budget = cpu_.budget;
  hot_.shadow_rsp = shadow_rsp_[supervisor];
  hot_.other_rsp[0] = shadow_rsp_[0];
  hot_.other_rsp[1] = shadow_rsp_[1];
  hot_.no_window();  // the TLB may have changed
  const auto routine = reinterpret_cast<void (*)(const uint8_t*)>(
      reinterpret_cast<uintptr_t>(cache_.executable(shared_.routines.enter)));
  routine(host);
  shadow_rsp_[0] = hot_.other_rsp[0];
  shadow_rsp_[1] = hot_.other_rsp[1];
  // By now it may run at the other privilege.
  shadow_rsp_[cpu_.s.cpl() != 3] = hot_.shadow_rsp;
}

// Translated code has changed the mode that Cpu and the MMU know.
void Runner::follow_mode() {
  if (hot_.mode_changed == 0) return;
  hot_.mode_changed = 0;
  cpu_.mode_changed();
}

// Makes the code at RIP, and the way there, known to translated code. Nothing: it is for the interpreter.
std::optional<Runner::Place> Runner::arrive(Mode mode, uint32_t link, uint64_t link_generation,
                                            Mode block_mode) {
  const uint64_t rip = cpu_.s.rip;
  const auto place = find(rip, mode | block_mode);
  if (!place) return place;
  if (generation_ != place->generation) {
    window_.clear_hash();
    generation_ = place->generation;
    shadow_epoch_ = ~uint64_t{0};
  }
  if (checker_ != nullptr) {  // each block for itself
    shadow_epoch_ = ~uint64_t{0};
    return place;
  }
  if (link == kNone) {
    const uint64_t key = rip ^ mode_key(mode);
    hash_entry(mode, key) = {.key = key, .host = reinterpret_cast<uint64_t>(place->checked)};
  } else if (link_generation == place->generation) {
    const std::lock_guard lock(cache_.mutex());
    const Exit& exit = cache_.exit(link);
    Block& target = cache_.block(place->block);
    if (!target.dead && (!exit.same_page || cache_.block(exit.block).page == target.page))
      cache_.link(link, target);
  }
  return place;
}

NativeExit Runner::run(interp::Cpu& cpu, bool interrupt_waits) {
  ASSERT(&cpu == &cpu_ && &cpu.s == &hot_.cpu, "the interpreter works on the window's state");
  set_current_runner(this);
  struct Done {
    ~Done() { set_current_runner(nullptr); }
  } const done;
  x86::CpuState& s = cpu.s;
  hot_.waiting = interrupt_waits;
  Mode mode = mode_of(cpu);
  const Mode special = mode & (mode::kNoX87 | mode::kNoSse | mode::kNoAvx);
  if (!x87_live_ && (mode & mode::kNoX87) == 0) load_x87();
  uint32_t link = kNone;
  uint64_t link_generation = 0;
  Mode block_mode = 0;  // of the next block alone
  for (;;) {
    if (cpu.pending_.load(std::memory_order_relaxed) != 0 || cpu.budget <= 0) return NativeExit::kLook;
    const uint64_t key = s.rip ^ mode_key(mode);
    const HashEntry& known = hash_entry(mode, key);
    const uint8_t* host = nullptr;
    std::optional<Place> place;
    if (link == kNone && block_mode == 0 && checker_ == nullptr && known.key == key &&
        generation_ == cache_.generation()) {
      host = reinterpret_cast<const uint8_t*>(known.host);
    } else {
      place = arrive(mode, link, link_generation, block_mode);
      if (!place) {
        ++statistics_.interpreted;
        return NativeExit::kInterpret;
      }
      host = place->checked;
    }
    link = kNone;
    block_mode = 0;
    const uint64_t epoch = cpu.mmu.fetch_epoch() << 8 ^ special;
    if (shadow_epoch_ != epoch) {
      shadow_epoch_ = epoch;
      for (unsigned i = 0; i < 2; ++i) shadow_rsp_[i] = shadow_[i].base();
    }
    if (checker_ != nullptr)
      run_checked(*place, (mode & mode::kSupervisor) != 0);
    else
      enter(host, (mode & mode::kSupervisor) != 0);
    follow_mode();
    mode = mode_of(cpu);  // the slow path of a memory access may have followed already
    if (shared_.options.count) cpu.budget = hot_.budget;
    switch (hot_.reason) {
      case Reason::kLookup:
        ++statistics_.lookups;
        s.rip = hot_.exit_value ^ mode_key(mode);
        if (!cpu.canonical(s.rip)) [[unlikely]] {
          // The branch itself faults.
          const std::lock_guard lock(cache_.mutex());
          const InsnMap& branch = cache_.insns()[hot_.branch];
          s.rip = cache_.block_of_insn(hot_.branch).rip + branch.guest;
          s.gpr[x86::kRsp] -= static_cast<uint64_t>(static_cast<int64_t>(branch.undo));
          ++statistics_.interpreted;
          return NativeExit::kInterpret;
        }
        break;
      case Reason::kLink: {
        ++statistics_.links;
        link = static_cast<uint32_t>(hot_.exit_value);
        link_generation = generation_;
        const std::lock_guard lock(cache_.mutex());
        s.rip = cache_.exit(link).target;
        block_mode = cache_.exit(link).mode & mode::kNoWindow;
        break;
      }
      case Reason::kPoll:
        // Also when a page is mapped elsewhere, or code was overwritten: then nothing is pending, and what
        // the hash table has is of no use.
        ++statistics_.polls;
        s.rip = hot_.exit_value;
        hash_entry(mode, s.rip ^ mode_key(mode)).key = ~uint64_t{0};
        break;
      case Reason::kInterpret:
        ++statistics_.interpreted;
        s.rip = hot_.exit_value;
        return NativeExit::kInterpret;
      case Reason::kFault:
        if (fault_) {
          const x86::Exception fault = *fault_;
          fault_.reset();
          throw fault;
        }
        ++statistics_.interpreted;
        return NativeExit::kInterpret;
      case Reason::kHostFault:
        ++statistics_.host_faults;
        if (take_host_fault()) return NativeExit::kInterpret;
        break;
    }
  }
}

uint64_t Runner::miss(Runner* runner, const MissInfo* info, uint64_t address) {
  ++runner->statistics_.misses;
  Hot& hot = runner->hot_;
  hot.reason = Reason::kFault;
  hot.cpu.rip = info->rip;
  struct TakeBack {
    Hot& hot;
    int64_t left;
    ~TakeBack() { hot.budget += left; }
  } take_back{hot, info->left};
  interp::Cpu& cpu = runner->cpu_;
  runner->follow_mode();
  // What the interpreter knows better: addresses that are not canonical, page crossings, devices, code pages.
  if (!cpu.canonical(address) || !cpu.canonical(address + info->size - 1)) return 0;
  try {
    const auto access = info->write != 0 ? mmu::Access::kWrite : mmu::Access::kRead;
    if ((address & kPageMask) + info->size > kPageSize) return 0;
    void* host = cpu.mmu.pointer(address, info->size, access);
    if (host != nullptr) take_back.left = 0;
    return host == nullptr ? 0 : reinterpret_cast<uint64_t>(host) - address;
  } catch (const x86::Exception& exception) {
    if (info->others_first == 0) runner->fault_ = exception;
    return 0;
  }
}

// ---- host faults ----

bool Runner::host_fault(int, void* context, uint64_t address) {
  auto* uc = static_cast<ucontext_t*>(context);
  greg_t* regs = uc->uc_mcontext.gregs;
  const auto* host = reinterpret_cast<const uint8_t*>(regs[REG_RIP]);
  if (!cache_.contains(host)) return false;
  for (const ShadowStack& stack : shadow_) {
    if (!stack.in_guard(address)) continue;
    regs[REG_RSP] = static_cast<greg_t>(stack.base());
    return true;
  }
  hot_.exit_value = static_cast<uint64_t>(regs[REG_RIP]);
  fault_flags_ = static_cast<uint64_t>(regs[REG_EFL]);
  regs[REG_EFL] &= static_cast<greg_t>(~kTrapFlags);
  regs[REG_RIP] =
      static_cast<greg_t>(reinterpret_cast<uintptr_t>(cache_.executable(shared_.routines.host_fault)));
  return true;
}

bool Runner::take_host_fault() {
  const std::lock_guard lock(cache_.mutex());
  InsnMap insn;
  const Block* block = cache_.find_host(reinterpret_cast<const uint8_t*>(hot_.exit_value), insn);
  ASSERT(block != nullptr, "translated code faults only inside blocks");
  cpu_.s.rip = block->rip + insn.guest;
  if (shared_.options.count) cpu_.budget += block->count - insn.index;
  if (insn.host_flags)
    cpu_.s.flags_ax = static_cast<uint16_t>(((fault_flags_ & 0xd5) | 2) << 8 | ((fault_flags_ >> 11) & 1));
  return true;
}

}  // namespace ostler::bt
