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

std::string error_of(const std::string& name, config::Properties properties) {
  config::Machine config;
  config.accelerators = {{.name = name, .properties = std::move(properties)}};
  std::vector<std::string> warnings;
  const auto chosen = choose_accelerator(config, warnings);
  return chosen ? "" : chosen.error().message();
}

TEST(AcceleratorProperty, that_another_has_says_which) {
  EXPECT_EQ(error_of("bt", {{"dirty-ring-size", "1024"}}),
            "-accel bt has no property 'dirty-ring-size'; leave it out, or say -accel kvm");
  EXPECT_EQ(error_of("kvm", {{"tb-size", "64"}}),
            "-accel kvm has no property 'tb-size'; leave it out, or say -accel bt");
}

TEST(AcceleratorProperty, of_qemus_that_is_not_here_says_why) {
  EXPECT_NE(error_of("kvm", {{"kvm-shadow-mem", "4096"}}).find("the kernel decides"), std::string::npos);
  EXPECT_NE(error_of("kvm", {{"notify-vmexit", "maybe"}}).find("run|internal-error|disable"),
            std::string::npos);
  EXPECT_NE(error_of("bt", {{"split-wx", "off"}}).find("say split-wx=on"), std::string::npos);
  EXPECT_EQ(error_of("bt", {{"split-wx", "on"}}), "");
  EXPECT_EQ(error_of("bt", {{"cahe", "64M"}}),
            "-accel bt has no property 'cahe'; did you mean 'cache'? (-accel bt,help lists all)");
}

}  // namespace
}  // namespace ostler::machine
