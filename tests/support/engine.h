// The engine under test: a vCPU that is run by the interpreter alone or with a translator attached, as the
// environment variable OSTLER_TEST_ENGINE says, so that every test of guest code runs on all of them.
//
//   OSTLER_TEST_ENGINE=interp            the default
//   OSTLER_TEST_ENGINE=bt[,OPTION=off…]  the translator. Options: count (budgets of run() are exact),
//                                        superblocks (several instructions in a translation), window,
//                                        keep_flags, system (bt/options.h); also share=all
//
// The variants that ctest runs are listed in cmake/OstlerLibrary.cmake.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "interp/environment.h"
#include "interp/interpreter.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "mmu/soft_mmu.h"
#include "x86/cpu_model.h"
#include "x86/state.h"

namespace ostler::test {

struct EngineChoice {
  bool translate = false;
  std::vector<std::string> settings;  // as above
};
// From the environment; ends the test program with a message when that cannot be understood.
const EngineChoice& engine_choice();

// What the vCPUs of one machine share. Outlives them.
class EngineMachine {
 public:
  EngineMachine(memory::AddressSpace& space, mmu::CodePages& code);
  ~EngineMachine();
  EngineMachine(const EngineMachine&) = delete;
  EngineMachine& operator=(const EngineMachine&) = delete;

  struct Parts;

 private:
  friend class EngineVcpu;
  std::unique_ptr<Parts> parts_;
};

// One vCPU. The state and the TLBs lie where the engine wants them; the state is as CpuState's constructor
// leaves it: set it up, then interpreter().state_changed().
class EngineVcpu {
 public:
  EngineVcpu(EngineMachine& machine, interp::Environment& environment, const x86::CpuModel& model,
             size_t cache_bytes = size_t{1} << 20);
  ~EngineVcpu();
  EngineVcpu(const EngineVcpu&) = delete;
  EngineVcpu& operator=(const EngineVcpu&) = delete;

  x86::CpuState& state();
  mmu::SoftMmu& mmu();
  interp::Interpreter& interpreter();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace ostler::test
