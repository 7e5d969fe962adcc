#include "support/engine.h"

#include <cstdio>
#include <cstdlib>

namespace ostler::test {
namespace {

[[noreturn]] void refuse(std::string_view text, const char* why) {
  std::fprintf(stderr, "OSTLER_TEST_ENGINE=%.*s: %s; it is interp or bt[,OPTION=off…]\n",
               static_cast<int>(text.size()), text.data(), why);
  std::exit(2);
}

EngineChoice parse(std::string_view text) {
  EngineChoice choice;
  std::string_view rest = text;
  const auto take = [&rest] {
    const std::string_view word = rest.substr(0, rest.find(','));
    rest.remove_prefix(word.size() < rest.size() ? word.size() + 1 : rest.size());
    return word;
  };
  const std::string_view name = take();
  if (name != "interp" && name != "bt") refuse(text, "no such engine");
  choice.translate = name == "bt";
  while (!rest.empty()) {
    const std::string_view word = take();
    if (!choice.translate || !word.ends_with("=off")) refuse(text, "not understood");
    choice.off.emplace_back(word.substr(0, word.size() - 4));
  }
  return choice;
}

}  // namespace

const EngineChoice& engine_choice() {
  static const EngineChoice choice = [] {
    const char* text = std::getenv("OSTLER_TEST_ENGINE");
    EngineChoice parsed = parse(text != nullptr ? text : "interp");
    if (parsed.translate) refuse(text, "this build has no translator");
    return parsed;
  }();
  return choice;
}

struct EngineMachine::Parts {
  memory::AddressSpace& space;
  mmu::CodePages& code;
};

EngineMachine::EngineMachine(memory::AddressSpace& space, mmu::CodePages& code)
    : parts_(new Parts{space, code}) {
  engine_choice();
}
EngineMachine::~EngineMachine() = default;

struct EngineVcpu::Parts {
  Parts(EngineMachine::Parts& machine, interp::Environment& environment, const x86::CpuModel& model,
        size_t cache_bytes)
      : mmu(state, machine.space, machine.code, {}),
        interpreter(state, mmu, environment, model, cache_bytes) {}

  x86::CpuState state;
  mmu::SoftMmu mmu;
  interp::Interpreter interpreter;
};

EngineVcpu::EngineVcpu(EngineMachine& machine, interp::Environment& environment, const x86::CpuModel& model,
                       size_t cache_bytes)
    : parts_(std::make_unique<Parts>(*machine.parts_, environment, model, cache_bytes)) {}
EngineVcpu::~EngineVcpu() = default;

x86::CpuState& EngineVcpu::state() {
  return parts_->state;
}
mmu::SoftMmu& EngineVcpu::mmu() {
  return parts_->mmu;
}
interp::Interpreter& EngineVcpu::interpreter() {
  return parts_->interpreter;
}

}  // namespace ostler::test
