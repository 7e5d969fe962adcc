// -accel and its properties, as they reach the machine.
#include "machine/accelerator.h"

#include <gtest/gtest.h>

namespace ostler::machine {
namespace {

config::Machine with_kvm(config::Properties properties) {
  config::Machine config;
  config.accelerators = {{.name = "kvm", .properties = std::move(properties)}};
  return config;
}

// Where the host has KVM.
std::vector<std::string> kvm_here() {
  if (!accel::kvm::System::open("/dev/kvm")) return {};
  return {"kvm"};
}

class KvmProperties : public ::testing::TestWithParam<std::string> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KvmProperties);

TEST_P(KvmProperties, say_whose_the_interrupt_controllers_are) {
  std::vector<std::string> warnings;
  EXPECT_EQ(choose_accelerator(with_kvm({}), warnings)->irqchip, std::nullopt) << "as -machine says";
  EXPECT_EQ(choose_accelerator(with_kvm({{"kernel-irqchip", "off"}}), warnings)->irqchip,
            KernelIrqchip::kOff);
  EXPECT_EQ(choose_accelerator(with_kvm({{"kernel-irqchip", "split"}}), warnings)->irqchip,
            KernelIrqchip::kSplit);
  EXPECT_EQ(choose_accelerator(with_kvm({{"kernel-irqchip", "on"}}), warnings)->irqchip, KernelIrqchip::kOn);
}

INSTANTIATE_TEST_SUITE_P(Host, KvmProperties, ::testing::ValuesIn(kvm_here()));

TEST(KvmProperty, that_is_wrong_is_told_without_kvm) {
  std::vector<std::string> warnings;
  const auto chosen = choose_accelerator(with_kvm({{"kernel-irqchip", "maybe"}}), warnings);
  ASSERT_FALSE(chosen);
  EXPECT_NE(chosen.error().message().find("off|split|on"), std::string::npos) << chosen.error().message();
}

}  // namespace
}  // namespace ostler::machine
