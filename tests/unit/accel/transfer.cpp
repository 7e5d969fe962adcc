#include "transfer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "state/archive.h"
#include "x86/state.h"

namespace ostler::accel {
namespace {

class Lister final : public state::Archive {
 public:
  Lister() : Archive(false) {}
  std::vector<std::string> lines;
  bool ignore_rf = false;

 private:
  void begin(std::string_view, uint32_t&) override {}
  void number(std::string_view name, uint64_t& value, unsigned) override {
    if (name == "tsc_offset") return;
    // KVM leaves RF set at the first instruction of a handler in real mode.
    if (name == "rflags" && ignore_rf) value &= ~x86::rflags::kRf;
    lines.push_back(fmt::format("{}={:x}", name, value));
  }
  void raw(std::string_view name, std::span<std::byte> value) override {
    std::string line = fmt::format("{}=", name);
    for (const std::byte byte : value) line += fmt::format("{:02x}", static_cast<unsigned>(byte));
    lines.push_back(std::move(line));
  }
};

}  // namespace

void transfer(Engine& from, Engine& to) {
  state::Saver saver;
  from.state(saver);
  const auto saved = saver.take();
  state::Loader loader(saved);
  to.state(loader);
  const auto done = loader.finish();
  EXPECT_TRUE(done) << done.error().message();
}

std::vector<std::string> fields_of(Engine& engine) {
  Lister lister;
  lister.ignore_rf = !engine.cpu_state().protected_mode();
  engine.state(lister);
  return lister.lines;
}

std::string differences(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  if (a.size() != b.size()) return "different fields";
  std::string out;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i]) out += fmt::format("field {}: {}, not {}\n", i, a[i], b[i]);
  return out;
}

}  // namespace ostler::accel
