// Runs mode_tour.S in the whole interpreter: decoder, block cache, software MMU and system family together.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "interp/interpreter.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "support/engine.h"
#include "x86/cpu_model.h"

namespace ostler::interp {
namespace {

constexpr uint64_t kRamSize = 2 << 20;
constexpr uint16_t kBase = 0x8000;

class PortLog final : public Environment {
 public:
  uint32_t port_read(uint16_t, unsigned) override { return 0xffffffff; }
  void port_write(uint16_t port, unsigned, uint32_t value) override {
    if (port == 0xe9) text += static_cast<char>(value);
  }
  uint64_t tsc() override { return 0; }
  const x86::VcpuInfo& vcpu_info() const override { return info_; }
  uint8_t cr8() override { return 0; }
  void set_cr8(uint8_t) override {}
  std::optional<uint64_t> read_msr(uint32_t) override { return std::nullopt; }
  bool write_msr(uint32_t, uint64_t) override { return false; }
  uint64_t hypercall(const x86::Hypercall&) override { return 0; }
  std::optional<uint8_t> acknowledge_interrupt() override { return std::nullopt; }

  std::string text;

 private:
  x86::VcpuInfo info_;
};

TEST(ModeTour, every_stop_is_reached_and_it_ends_in_shutdown) {
  std::ifstream file(OSTLER_MODE_TOUR, std::ios::binary);
  const std::vector<char> image{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(image.empty());

  auto block = memory::RamBlock::create({.name = "ram", .size = kRamSize});
  ASSERT_TRUE(block.has_value());
  memory::AddressSpace space("memory", memory::AddressSpace::kMemorySize);
  memory::RamRegion ram("ram", *block);
  {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
  }
  std::memcpy((*block)->host() + kBase, image.data(), image.size());

  auto model = x86::CpuModel::parse("Haswell");
  ASSERT_TRUE(model.has_value());
  PortLog environment;
  mmu::VcpuGroup group;
  mmu::CodePages code(space, group);
  test::EngineMachine engine(space, code);
  test::EngineVcpu vcpu(engine, environment, *model);
  x86::CpuState& state = vcpu.state();
  state.reset(false);
  state.seg[x86::kCs].selector = 0;
  state.seg[x86::kCs].base = 0;
  state.rip = kBase;
  vcpu.interpreter().state_changed();

  constexpr int64_t kPlenty = 100'000;
  const Exit exit = vcpu.interpreter().run(kPlenty);
  EXPECT_EQ(environment.text, "RPiuvgtALXscfd.");
  EXPECT_EQ(exit, Exit::kShutdown);
}

}  // namespace
}  // namespace ostler::interp
