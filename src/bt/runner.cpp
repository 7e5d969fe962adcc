#include "bt/runner.h"

#include <immintrin.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <asm/prctl.h>
#include <fmt/format.h>
#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/assert.h"
#include "base/log.h"
#include "base/symbols.h"
#include "bt/host_fault.h"
#include "memory/guest_access.h"
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
    window.hot().shadow_base[i] = runner->shadow_[i].base();
  }
  return runner;
}

Runner::Runner(Shared& shared, Window& window, interp::Interpreter& interpreter)
    : shared_(shared),
      window_(window),
      hot_(window.hot()),
      cpu_(interpreter.cpu()),
      cache_(*shared.cache),
      generation_(cache_.generation()),
      translator_(cache_, shared.routines, shared.options),
      code_(std::make_unique<GuestCode>()) {
  hot_.runner = this;
  if (shared.options.check != 0) checker_ = std::make_unique<Checker>(interpreter);
}

Runner::~Runner() {
  const Statistics& s = statistics_;
  if (s.entries != 0)
    log::trace(log::Subject::kStats,
               "entered translated code {} times ({} of them 32-bit): {} links, {} look-ups, {} polls, {} "
               "instructions "
               "interpreted, {} host "
               "faults; {} slow memory accesses",
               s.entries, s.entries_32, s.links, s.lookups, s.polls, s.interpreted, s.host_faults, s.misses);
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

namespace {

// A data segment that accesses need not be checked against, wherever they lie. SDM 3A §3.4.5.1.
bool unlimited(const x86::Segment& segment) {
  constexpr uint32_t kLookedAt = x86::Segment::kUnusable | x86::Segment::kPresent | x86::Segment::kSystemBit |
                                 0xe;  // type, but accessed
  constexpr uint32_t kWritableUp = x86::Segment::kPresent | x86::Segment::kSystemBit | 2;
  return (segment.attributes & kLookedAt) == kWritableUp && segment.limit == ~0u;
}

bool flat(const x86::CpuState& s) {
  const auto& cs = s.seg[x86::kCs];
  const auto plain = [&](x86::SegIndex i) { return unlimited(s.seg[i]) && s.seg[i].base == 0; };
  return cs.base == 0 && cs.limit == ~0u && plain(x86::kDs) && plain(x86::kEs) && plain(x86::kSs) &&
         s.seg[x86::kSs].is_big();
}

}  // namespace

bool Runner::takes(const interp::Cpu& cpu) const {
  if (cpu.code_size == x86::CodeSize::k64) return true;
  return cpu.code_size == x86::CodeSize::k32 && shared_.options.bits32 && flat(cpu.s);
}

// For 32-bit code. Segment registers change in the interpreter only.
void Runner::note_limits() {
  for (unsigned i = 0; i < 2; ++i) hot_.limited[i] = !unlimited(cpu_.s.seg[x86::kFs + i]);
}

Mode Runner::mode_of(const interp::Cpu& cpu) const {
  const x86::CpuState& s = cpu.s;
  Mode m = cpu.code_size == x86::CodeSize::k32 ? mode::k32 : Mode{0};
  if (cpu.cpl != 3) m |= mode::kSupervisor;
  if (cpu.cpl == 0) m |= mode::kCpl0;
  if (cpu.cpl != 3 && (s.cr4 & cr4::kSmap) != 0 && s.flag(x86::rflags::kAc)) m |= mode::kAc;
  const bool off = (s.cr0 & (cr0::kEm | cr0::kTs)) != 0;
  if (off) m |= mode::kNoX87;
  if (off || (s.cr4 & cr4::kOsfxsr) == 0) m |= mode::kNoSse;
  if ((s.cr0 & cr0::kTs) != 0 || (s.cr4 & cr4::kOsxsave) == 0 || (s.xcr0 & 6) != 6) m |= mode::kNoAvx;
  return m;
}

// After a flush nothing that this vCPU keeps of host addresses and numbers of pages means anything.
void Runner::follow_generation() {
  if (generation_ == cache_.generation()) return;
  generation_ = cache_.generation();
  window_.clear_hash();
  cpu_.mmu.forget_exec_ids();
  shadow_epoch_ = ~uint64_t{0};
}

// Where the fetch TLB's entry keeps the numbers that translated code compares with.
void Runner::set_page_numbers(uint64_t rip, const CodeCache::PageNumbers& numbers) {
  cpu_.mmu.exec_id(rip) = numbers.own;
  cpu_.mmu.exec_shared(rip) = numbers.shared == kNone ? 0 : (rip & ~kPageMask) - numbers.shared;
}

Block* Runner::find_known(uint64_t rip, uint64_t phys, Mode mode, bool shared_only) {
  const auto find = [&](CodeCache::PageNumbers numbers) {
    if (shared_only) numbers.own = kNone;
    Block* block = numbers.own == kNone ? nullptr : cache_.find(numbers.own, rip, mode);
    return block != nullptr || numbers.shared == kNone ? block : cache_.find(numbers.shared, rip, mode);
  };
  Block* block = find({cpu_.mmu.exec_id(rip), cpu_.mmu.known_exec_shared(rip)});
  if (block != nullptr) return block;
  const CodeCache::PageNumbers numbers = cache_.known_page(rip, phys);
  set_page_numbers(rip, numbers);
  return find(numbers);
}

// Where the other page lies of an instruction that crosses into it, if its block is known: it is asked for
// without the cache's mutex, because the walk may set an accessed bit beside code, which the cache is told
// of.
std::optional<GuestPhys> Runner::second_page_of(uint64_t rip, uint64_t phys, Mode mode, bool shared_only) {
  constexpr uint64_t kMaxLength = 15;
  if ((rip & kPageMask) + kMaxLength <= kPageSize) return std::nullopt;
  {
    const std::lock_guard lock(cache_.mutex());
    const Block* block = find_known(rip, phys, mode, shared_only);
    if (block == nullptr || block->straddle == kNone) return std::nullopt;
  }
  return cpu_.mmu.translate_fetch((rip | kPageMask) + 1, fault_);
}

std::optional<Runner::Place> Runner::find(uint64_t rip, Mode mode, bool shared_only) {
  if (!cpu_.canonical(rip)) x86::raise(Vector::kGp, 0);
  constexpr unsigned kTries = 3;
  for (unsigned tries = 0; tries < kTries; ++tries) {
    const auto found = cpu_.mmu.translate_fetch(rip, fault_);
    if (!found) return std::nullopt;
    const uint64_t phys = found->value;
    follow_generation();
    const auto second_phys = second_page_of(rip, phys, mode, shared_only);
    if (fault_) return std::nullopt;
    {
      const std::lock_guard lock(cache_.mutex());
      Block* block = find_known(rip, phys, mode, shared_only);
      if (block != nullptr && block->straddle != kNone) {
        CodeCache::PageNumbers numbers;
        if (second_phys) {
          const uint64_t second = (rip | kPageMask) + 1;
          numbers = cache_.known_page(second, second_phys->value);
          set_page_numbers(second, numbers);
        }
        if (numbers.own != cache_.straddle(*block).page) block = nullptr;
      }
      if (block != nullptr) return place_of(*block, mode);
    }
    // Reading code may wait for other vCPUs and serve what they ask for, so addresses and numbers may be
    // stale after.
    const uint64_t start = __rdtsc();  // cheaper than a clock, and asked twice for each block
    const uint64_t writes = cache_.writes(), epoch = cpu_.mmu.fetch_epoch();
    read_guest_code(cpu_.mmu, cpu_.model, rip, phys, mode, shared_.options, *code_);
    if (!code_->keep) return std::nullopt;
    if (epoch != cpu_.mmu.fetch_epoch() || generation_ != cache_.generation()) continue;
    if (!provide_arena()) {
      make_room();
      continue;
    }
    const auto place = translate(rip, phys, mode, shared_only, writes);
    if (!place) continue;
    cache_.statistics().ticks.fetch_add(__rdtsc() - start, std::memory_order_relaxed);
    return place;
  }
  return std::nullopt;
}

bool Runner::provide_arena() {
  if (arena_.generation == generation_ && arena_.has_room(code_->count)) return true;
  {
    const std::lock_guard lock(cache_.mutex());
    if (!cache_.take_arena(arena_)) return false;
  }
  cache_.populate(arena_);
  return true;
}

// Writing it takes as long as it takes: what it is made of may be overwritten meanwhile, or another vCPU may
// have made the same.
std::optional<Runner::Place> Runner::translate(uint64_t rip, uint64_t phys, Mode mode, bool shared_only,
                                               uint64_t writes) {
  bool share =
      shared_.options.share && checker_ == nullptr && (mode & ~mode::kNoWindow) == 0 && !code_->straddles;
  uint32_t page = kNone, second_page = kNone;
  CodeCache::PageNumbers numbers, second_numbers;
  const uint64_t second = (rip | kPageMask) + 1;
  {
    const std::lock_guard lock(cache_.mutex());
    if (writes != cache_.writes()) return std::nullopt;
    share = share && (shared_only || shared_.options.share_all || cache_.better_shared(rip, phys));
    page = share ? cache_.shared_page(phys) : cache_.own_page(rip, phys);
    numbers = cache_.known_page(rip, phys);
    set_page_numbers(rip, numbers);
    if (code_->straddles) {
      second_page = cache_.own_page(second, code_->second_phys);
      second_numbers = cache_.known_page(second, code_->second_phys);
      set_page_numbers(second, second_numbers);
    }
    expect_targets(page);
  }
  if (share) code_->share();
  const Draft& draft = translator_.translate(*code_, page, second_page, arena_);
  const std::lock_guard lock(cache_.mutex());
  if (numbers.version != cache_.version_of(phys)) return std::nullopt;
  if (code_->straddles && second_numbers.version != cache_.version_of(code_->second_phys))
    return std::nullopt;
  if (!code_->straddles)
    if (const Block* first = cache_.find(page, rip, mode); first != nullptr && first->straddle == kNone)
      return place_of(*first, mode);
  const Block& block = cache_.add(arena_, draft);
  if (checker_ == nullptr) link_known(block, code_->base);
  shared_.tell(*code_, draft);
  return place_of(block, mode);
}

// What link_known() will look at is in the host's caches by then. With the cache's mutex.
void Runner::expect_targets(uint32_t page) {
  const auto expect = [&](uint64_t target) {
    const bool same_page = (target ^ code_->rip) >> 12 == 0;
    const uint32_t number = same_page ? page : cpu_.mmu.known_exec_id(target);
    if (number != kNone) cache_.expect(number, target, code_->mode & static_cast<Mode>(~mode::kNoWindow));
  };
  for (unsigned i = 0; i < code_->count; ++i) {
    const GuestInsn& g = code_->insns[i];
    if (g.kind == Kind::kCondition || g.kind == Kind::kJump || g.kind == Kind::kCall)
      expect(code_->target(g));
  }
  const GuestInsn& last = code_->insns[code_->count - 1];
  if (!ends_block(last) || last.kind == Kind::kCall) expect(code_->next_rip(last));
}

// Exits of a new block to places that have translations, in pages whose numbers are at hand. `base`: what
// shared code's addresses count from. With the cache's mutex.
void Runner::link_known(const Block& block, uint64_t base) {
  for (uint32_t number = block.first_exit; number < block.first_exit + block.exits; ++number) {
    const Exit& exit = cache_.exit(number);
    Block* target = nullptr;
    if (exit.same_page) {
      target = cache_.find(block.page, exit.target, exit.mode);
    } else {
      const uint64_t rip = base + exit.target;
      const uint32_t own = cpu_.mmu.known_exec_id(rip), shared = cpu_.mmu.known_exec_shared(rip);
      const bool shared_only = block.shared && (exit.mode & mode::kNoWindow) != 0;
      if (own != kNone && !shared_only) target = cache_.find(own, rip, exit.mode);
      if (target == nullptr && shared != kNone) target = cache_.find(shared, rip, exit.mode);
    }
    if (target != nullptr) cache_.link(number, *target, arena_);
  }
}

void Runner::make_room() {
  shared_.pages.group().run_exclusive(cpu_.mmu.participant(), [this] {
    if (cache_.is_full()) shared_.make_room();  // else another vCPU has come first
  });
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
  statistics_.entries_32 += cpu_.code_size == x86::CodeSize::k32;
  if (log::enabled(log::Subject::kExec)) [[unlikely]]
    log::write(fmt::format("enter {:#x}{} cpl {} host {}", cpu_.s.rip, symbols::at(cpu_.s.rip), cpu_.cpl,
                           static_cast<const void*>(host)));
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
                                            Mode block_mode, bool shared_only) {
  const uint64_t rip = cpu_.s.rip;
  const auto place = find(rip, mode | block_mode, shared_only);
  if (!place) return place;
  if (checker_ != nullptr) {  // each block for itself
    shadow_epoch_ = ~uint64_t{0};
    return place;
  }
  if (link == kNone) {
    const uint64_t key = rip ^ mode_key(mode);
    hash_entry(mode, key) = {.key = key, .host = reinterpret_cast<uint64_t>(place->checked)};
  } else if (link_generation == place->generation) {
    const std::lock_guard lock(cache_.mutex());
    Block& target = cache_.block(place->block);
    if (!target.dead) cache_.link(link, target, arena_);
  }
  return place;
}

NativeExit Runner::raise() {
  raised_ = *fault_;
  fault_.reset();
  return NativeExit::kRaise;
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
  if ((mode & mode::k32) != 0) note_limits();
  const Mode special = mode & (mode::k32 | mode::kNoX87 | mode::kNoSse | mode::kNoAvx);
  if (!x87_live_ && (mode & mode::kNoX87) == 0) load_x87();
  uint32_t link = kNone;
  uint64_t link_generation = 0;
  Mode block_mode = 0;  // of the next block alone
  bool shared_only = false;
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
      place = arrive(mode, link, link_generation, block_mode, shared_only);
      if (!place) {
        if (fault_) return raise();
        ++statistics_.interpreted;
        return NativeExit::kInterpret;
      }
      host = place->checked;
    }
    link = kNone;
    block_mode = 0;
    shared_only = false;
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
          const IndirectBranch& branch = cache_.branch(hot_.branch);
          s.rip = cache_.block(branch.block).address(branch.guest, hot_.page_base);
          s.gpr[x86::kRsp] -= static_cast<uint64_t>(static_cast<int64_t>(branch.undo));
          ++statistics_.interpreted;
          return NativeExit::kInterpret;
        }
        break;
      case Reason::kLink: {
        ++statistics_.links;
        link = static_cast<uint32_t>(hot_.exit_value);
        link_generation = generation_;
        // What is read of it never changes.
        const Exit& exit = cache_.exit(link);
        s.rip = cache_.block(exit.block).base(hot_.page_base) + exit.target;
        block_mode = exit.mode & mode::kNoWindow;
        // Only that can be linked, see CodeCache::way_to().
        shared_only = block_mode != 0 && cache_.block(exit.block).shared;
        break;
      }
      case Reason::kPoll:
        // Also when a page is mapped elsewhere, or code was overwritten: then nothing is pending, and what
        // the hash table has is of no use.
        ++statistics_.polls;
        s.rip = hot_.exit_value;
        forget_entry(mode, s.rip ^ mode_key(mode));
        break;
      case Reason::kInterpret:
        ++statistics_.interpreted;
        s.rip = hot_.exit_value;
        return NativeExit::kInterpret;
      case Reason::kFault:
        if (fault_) return raise();
        ++statistics_.interpreted;
        return NativeExit::kInterpret;
      case Reason::kHostFault:
        ++statistics_.host_faults;
        if (take_host_fault()) return NativeExit::kInterpret;
        break;
    }
  }
}

// Of the block, from the instruction `guest` bytes on, with Options::count.
int64_t Runner::instructions_left(const Block& block, unsigned guest) {
  if (!shared_.options.count) return 0;
  const std::lock_guard lock(cache_.mutex());
  return block.count - cache_.insn_at(block, guest).index;
}

uint64_t Runner::miss(Runner* runner, const MissInfo* info, uint64_t address) {
  ++runner->statistics_.misses;
  Hot& hot = runner->hot_;
  hot.reason = Reason::kFault;
  // Other vCPUs add blocks meanwhile, but this one stays as and where it is.
  const Block& block = runner->cache_.block(info->block);
  hot.cpu.rip = block.address(info->offset, hot.page_base);
  struct TakeBack {
    Hot& hot;
    int64_t left;
    ~TakeBack() { hot.budget += left; }
  } take_back{hot, runner->instructions_left(block, info->offset)};
  interp::Cpu& cpu = runner->cpu_;
  runner->follow_mode();
  if (info->shares != 0) {
    const uint64_t distance = runner->share(*reinterpret_cast<const ShareMissInfo*>(info), address);
    if (distance != 0) take_back.left = 0;
    return distance;
  }
  // What the interpreter knows better: addresses that are not canonical, page crossings, devices, code pages.
  if (!runner->whole(address, info->size)) return 0;
  const auto access = info->write != 0 ? mmu::Access::kWrite : mmu::Access::kRead;
  if ((address & kPageMask) + info->size > kPageSize) {
    const uint64_t copy = info->write != 0 ? 0 : runner->copy_crossing(address, info->size);
    if (copy != 0) take_back.left = 0;
    return copy;
  }
  std::optional<x86::Exception> fault;
  void* host = cpu.mmu.pointer(address, info->size, access, fault);
  if (host == nullptr) {
    if (info->others_first == 0) runner->fault_ = fault;
    return 0;
  }
  take_back.left = 0;
  return reinterpret_cast<uint64_t>(host) - address;
}

// All of it is canonical, or below 4 GiB.
bool Runner::whole(uint64_t address, unsigned size) const {
  const uint64_t last = address + size - 1;
  return cpu_.code_size == x86::CodeSize::k64 ? cpu_.canonical(address) && cpu_.canonical(last)
                                              : last <= 0xffff'ffff;
}

// A shared check is a guess: it must not have effects that its accesses have not, nor raise anything.
uint64_t Runner::share(const ShareMissInfo& share, uint64_t address) {
  const MissInfo& info = share.miss;
  hot_.reason = Reason::kLink;
  hot_.exit_value = share.unshared;
  if (!whole(address, info.size)) return 0;
  if (cpu_.mmu.watching() || (address & kPageMask) + info.size > kPageSize) return 0;
  std::optional<x86::Exception> fault;
  const void* host = cpu_.mmu.pointer(address, info.size, mmu::Access::kRead, fault);
  const auto access = info.write != 0 ? mmu::Access::kWrite : mmu::Access::kRead;
  if (host == nullptr || !cpu_.mmu.hits(address, info.size, access)) return 0;
  return reinterpret_cast<uint64_t>(host) - address;
}

// Gathers what is read across a page boundary: the access goes on in the copy. 0: not all of it is plain RAM,
// or there, and the interpreter looks closer.
uint64_t Runner::copy_crossing(uint64_t address, unsigned size) {
  std::byte* copy = hot_.crossing + address % 64;
  const auto first = static_cast<unsigned>(kPageSize - (address & kPageMask));
  std::optional<x86::Exception> fault;
  const void* host = cpu_.mmu.pointer(address, first, mmu::Access::kRead, fault);
  if (host == nullptr) return 0;
  memory::guest_copy(copy, host, first);
  host = cpu_.mmu.pointer(address + first, size - first, mmu::Access::kRead, fault);
  if (host == nullptr) return 0;
  memory::guest_copy(copy + first, host, size - first);
  return reinterpret_cast<uint64_t>(copy) - address;
}

// ---- host faults ----

bool Runner::host_fault(int, void* context, uint64_t address) {
  auto* uc = static_cast<ucontext_t*>(context);
  greg_t* regs = uc->uc_mcontext.gregs;
  const auto* host = reinterpret_cast<const uint8_t*>(regs[REG_RIP]);
  if (!cache_.contains(host)) return false;
  for (const ShadowStack& stack : shadow_) {
    if (!stack.is_end(address)) continue;
    regs[REG_RSP] = static_cast<greg_t>(stack.base());
    return true;
  }
  hot_.exit_value = static_cast<uint64_t>(regs[REG_RIP]);
  fault_flags_ = static_cast<uint64_t>(regs[REG_EFL]);
  fault_scratch_ = {static_cast<uint64_t>(regs[REG_R14]), static_cast<uint64_t>(regs[REG_R15])};
  regs[REG_EFL] &= static_cast<greg_t>(~kTrapFlags);
  regs[REG_RIP] =
      static_cast<greg_t>(reinterpret_cast<uintptr_t>(cache_.executable(shared_.routines.host_fault)));
  return true;
}

// REP MOVS and REP STOS run on the host's addresses (Translator::repeated_string()), which the guest must not
// see: its own are as far on.
void Runner::take_back_host_addresses(const uint8_t* host, Mode mode) {
  if (host[0] != 0xf3) return;
  const uint8_t opcode = host[host[1] == 0x66 || host[1] == 0x48 ? 2 : 1];
  const bool moves = (opcode & 0xfe) == 0xa4;
  if (!moves && (opcode & 0xfe) != 0xaa) return;
  const uint64_t mask = (mode & mode::k32) != 0 ? 0xffff'ffff : ~uint64_t{0};
  auto& gpr = cpu_.s.gpr;
  const uint64_t distance = gpr[x86::kRdi] - fault_scratch_[0];
  gpr[x86::kRdi] = (hot_.scratch[3] + distance) & mask;
  if (moves) gpr[x86::kRsi] = (fault_scratch_[1] + distance) & mask;
}

bool Runner::take_host_fault() {
  const std::lock_guard lock(cache_.mutex());
  InsnMap insn;
  const auto* host = reinterpret_cast<const uint8_t*>(hot_.exit_value);
  const Block* block = cache_.find_host(host, insn);
  ASSERT(block != nullptr, "translated code faults only inside blocks");
  take_back_host_addresses(host, block->mode);
  cpu_.s.rip = block->address(insn.guest, hot_.page_base);
  if (shared_.options.count) cpu_.budget += block->count - insn.index;
  if (insn.host_flags)
    cpu_.s.flags_ax = static_cast<uint16_t>(((fault_flags_ & 0xd5) | 2) << 8 | ((fault_flags_ >> 11) & 1));
  return true;
}

}  // namespace ostler::bt
