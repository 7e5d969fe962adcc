#include "support/engine.h"

#include <cstdio>
#include <cstdlib>

#include "bt/runner.h"

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
    if (!choice.translate) refuse(text, "not understood");
    choice.settings.emplace_back(word);
  }
  return choice;
}

template <class T>
T value_of(Result<T> result) {
  if (result) return *std::move(result);
  std::fprintf(stderr, "%s\n", result.error().message().c_str());
  std::exit(2);
}

}  // namespace

const EngineChoice& engine_choice() {
  static const EngineChoice choice = [] {
    const char* text = std::getenv("OSTLER_TEST_ENGINE");
    return parse(text != nullptr ? text : "interp");
  }();
  return choice;
}

struct EngineMachine::Parts {
  memory::AddressSpace& space;
  mmu::CodePages& code;
  std::unique_ptr<bt::Shared> translator;
};

namespace {

// Exact budgets, and a cache that the longer tests fill.
bt::Options options() {
  bt::Options options;
  options.cache_bytes = size_t{4} << 20;
  options.count = true;
  for (const std::string& setting : engine_choice().settings) {
    if (setting == "count=off")
      options.count = false;
    else if (setting == "superblocks=off")
      options.block_instructions = 1;
    else if (setting == "window=off")
      options.window = false;
    else if (setting == "keep_flags=off")
      options.keep_flags = false;
    else if (setting == "direct=off")
      options.direct = false;
    else if (setting == "flags_wait=off")
      options.flags_wait = false;
    else if (setting == "shared_checks=off")
      options.shared_checks = false;
    else if (setting == "unroll=off")
      options.unroll = false;
    else if (setting == "system=off")
      options.system = false;
    else if (setting == "share=all")
      options.share_all = true;
    else
      refuse("bt," + setting, "no such setting");
  }
  return options;
}

}  // namespace

EngineMachine::EngineMachine(memory::AddressSpace& space, mmu::CodePages& code)
    : parts_(new Parts{space, code, nullptr}) {
  if (engine_choice().translate) parts_->translator = value_of(bt::Shared::create(code, options()));
}
EngineMachine::~EngineMachine() = default;

struct EngineVcpu::Parts {
  Parts(EngineMachine::Parts& machine, interp::Environment& environment, const x86::CpuModel& model,
        size_t cache_bytes)
      : window(machine.translator != nullptr ? value_of(bt::Window::create()) : nullptr),
        state(window != nullptr ? window->hot().cpu : own_state),
        mmu(state, machine.space, machine.code, {}, window.get()),
        interpreter(state, mmu, environment, model, cache_bytes,
                    window != nullptr ? &window->hot().pending : nullptr) {
    if (window == nullptr) return;
    runner = value_of(bt::Runner::create(*machine.translator, *window, interpreter));
    interpreter.set_native(runner.get());
  }

  std::unique_ptr<bt::Window> window;
  x86::CpuState own_state;
  x86::CpuState& state;
  mmu::SoftMmu mmu;
  interp::Interpreter interpreter;
  std::unique_ptr<bt::Runner> runner;
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
