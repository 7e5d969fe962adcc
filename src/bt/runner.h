// Runs one vCPU's translated code. On the vCPU's thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "bt/checker.h"
#include "bt/guest_code.h"
#include "bt/shadow_stack.h"
#include "bt/shared.h"
#include "bt/translator.h"
#include "bt/window.h"
#include "interp/cpu.h"
#include "interp/native.h"
#include "x86/exception.h"

namespace ostler::bt {

class Runner final : public interp::Native {
 public:
  // `window`: where the vCPU's CpuState, pending bits and TLBs lie. All outlive the runner.
  static Result<std::unique_ptr<Runner>> create(Shared& shared, Window& window,
                                                interp::Interpreter& interpreter);
  ~Runner() override;

  // 64-bit code, and 32-bit code whose CS, DS, ES and SS are flat: base 0, limit 4 GiB, the last three
  // expand-up data that may be written.
  bool takes(const interp::Cpu& cpu) const override;
  interp::NativeExit run(interp::Cpu& cpu, bool interrupt_waits) override;
  const x86::Exception& raised() const override { return raised_; }
  void before(const x86::Instruction& insn) override;
  void settle() override;
  void state_changed() override;

  struct Statistics {
    uint64_t entries = 0, lookups = 0, links = 0, polls = 0, interpreted = 0, entries_32 = 0, misses = 0,
             host_faults = 0;
  };
  const Statistics& statistics() const { return statistics_; }
  std::string interpreted_most() const;  // which instructions, for -d stats

  // The slow path of a memory access, from translated code.
  static uint64_t miss(Runner* runner, const MissInfo* info, uint64_t address);
  // From the signal handler: `context` is a ucontext_t. False: not ours.
  bool host_fault(int signal, void* context, uint64_t address);

 private:
  Runner(Shared& shared, Window& window, interp::Interpreter& interpreter);

  struct Place {
    uint32_t block;
    const uint8_t* checked;
    uint64_t generation;
    Mode mode;
  };
  Mode mode_of(const interp::Cpu& cpu) const;
  void note_limits();
  // The translation at `rip`, made if there is none. Nothing: what lies there is not to be kept, or somebody
  // writes it.
  // `shared_only`: code that is shared between linear pages, if there can be some.
  std::optional<Place> find(uint64_t rip, Mode mode, bool shared_only);
  std::optional<GuestPhys> second_page_of(uint64_t rip, uint64_t phys, Mode mode, bool shared_only);
  interp::NativeExit raise();
  void follow_generation();
  void set_page_numbers(uint64_t rip, const CodeCache::PageNumbers& numbers);
  Block* find_known(uint64_t rip, uint64_t phys, Mode mode, bool shared_only);
  // What read_guest_code() has read, when CodeCache::writes() was `writes`. Nothing: it is stale.
  std::optional<Place> translate(uint64_t rip, uint64_t phys, Mode mode, bool shared_only, uint64_t writes);
  bool provide_arena();  // false: the cache is full
  Place place_of(const Block& block, Mode mode) const {
    return {cache_.number_of(block), cache_.executable(block.checked), generation_, mode};
  }
  void expect_targets(uint32_t page);
  void link_known(const Block& block, uint64_t base);
  int64_t instructions_left(const Block& block, unsigned guest);
  void make_room();
  void enter(const uint8_t* host, bool supervisor);
  std::optional<Place> arrive(Mode mode, uint32_t link, uint64_t link_generation, Mode block_mode,
                              bool shared_only);
  HashEntry& hash_entry(Mode mode, uint64_t key) {
    const unsigned place = mode_key(mode) != 0 ? Window::kMixedSlot : 0;
    return window_.hash((mode & mode::kSupervisor) != 0)[(key & (Window::kHashEntries - 1)) ^ place];
  }
  // Nobody looks for the complement there.
  void forget_entry(Mode mode, uint64_t key) { hash_entry(mode, key).key = ~key; }
  void follow_mode();
  void load_x87();
  bool whole(uint64_t address, unsigned size) const;
  uint64_t share(const ShareMissInfo& share, uint64_t address);
  uint64_t copy_crossing(uint64_t address, unsigned size);
  bool take_host_fault();
  void take_back_host_addresses(const uint8_t* host, Mode mode);
  void run_checked(const Place& place, bool supervisor);

  Shared& shared_;
  Window& window_;
  Hot& hot_;
  interp::Cpu& cpu_;
  CodeCache& cache_;
  std::array<ShadowStack, 2> shadow_;  // user, supervisor
  std::array<uint64_t, 2> shadow_rsp_{};
  uint64_t shadow_epoch_ = ~uint64_t{0};
  uint64_t generation_ = 0;  // of the hash tables and shadow stacks
  bool x87_live_ = false;    // x87 state is in the host's registers, not in CpuState
  std::optional<x86::Exception> fault_;
  x86::Exception raised_{};
  uint64_t checks_ = 0;
  uint64_t fault_flags_ = 0;                 // RFLAGS at a host fault
  std::array<uint64_t, 2> fault_scratch_{};  // kS0 and kS1
  Translator translator_;
  Arena arena_;  // what translator_ writes to
  std::unique_ptr<GuestCode> code_;
  std::unique_ptr<Checker> checker_;
  Statistics statistics_;
  std::array<uint32_t, static_cast<size_t>(x86::Opcode::kCount)> interpreted_{};  // by opcode
};

}  // namespace ostler::bt
