// What of KVM can be tested without running a guest, on any host.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "accel/kvm/cpuid.h"
#include "accel/kvm/refusal.h"
#include "accel/kvm/registers.h"
#include "accel/kvm/system.h"

namespace ostler::accel::kvm {
namespace {

using ::testing::HasSubstr;

TEST(KvmSystem, TellsWhatIsMissing) {
  const auto none = System::open("/nonexistent/kvm");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().kind(), ErrorKind::kNotFound);
  EXPECT_THAT(none.error().message(), HasSubstr("/nonexistent/kvm"));
  const auto other = System::open("/dev/null");
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().message(), HasSubstr("/dev/null"));
  EXPECT_NE(other.error().kind(), ErrorKind::kNotFound);
}

// By the mode of the file: joining root's group would help nobody.
TEST(KvmSystem, ARefusalNamesWhatLetsTheUserIn) {
  const std::string path = ::testing::TempDir() + "kvm_of_nobody" + std::to_string(getpid());
  close(open(path.c_str(), O_CREAT | O_RDWR, 0600));
  EXPECT_THAT(cannot_open(path, EACCES).message(), HasSubstr("setfacl -m u:$USER:rw " + path));
  EXPECT_THAT(cannot_open(path, EPERM).message(), HasSubstr("container"));
  EXPECT_THAT(cannot_open(path, ENOENT).message(), HasSubstr("--device /dev/kvm"));
  unlink(path.c_str());
}

// The kernel's list has no hints: they are the user's to give.
TEST(KvmCpuid, AHintIsNoFeatureOfTheKernels) {
  auto model = x86::CpuModel::parse("max,kvm-hint-dedicated=on");
  ASSERT_TRUE(model->restrict_to(features_of({}), "KVM"));
  EXPECT_TRUE(model->has(x86::Feature::kKvmHintDedicated));
}

TEST(KvmCpuid, EveryLeafIsTheModels) {
  auto model = x86::CpuModel::parse("max");
  ASSERT_TRUE(model) << model.error().message();
  x86::VcpuInfo info;
  info.apic_id = 3;
  const auto entries = cpuid_entries(*model, info);
  x86::CpuState state;
  state.msr.efer = x86::efer::kLma | x86::efer::kLme;
  state.seg[x86::kCs].attributes = x86::Segment::kLong;
  state.xcr0 = 1;
  for (const uint32_t leaf : {0u, 1u, 7u, 0xbu, 0xdu, 0x80000001u, 0x80000008u}) {
    const auto found = std::ranges::find_if(
        entries, [&](const kvm_cpuid_entry2& entry) { return entry.function == leaf && entry.index == 0; });
    ASSERT_NE(found, entries.end()) << std::hex << leaf;
    const x86::CpuidResult wanted = model->cpuid(leaf, 0, state, info);
    EXPECT_EQ(found->eax, wanted.eax) << std::hex << leaf;
    EXPECT_EQ(found->ebx, wanted.ebx) << std::hex << leaf;
    EXPECT_EQ(found->ecx, wanted.ecx) << std::hex << leaf;
    EXPECT_EQ(found->edx, wanted.edx) << std::hex << leaf;
  }
}

// There and back: nothing of what both know is lost.
TEST(KvmRegisters, RoundTrip) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 100; ++round) {
    x86::CpuState in;
    for (unsigned i = 0; i < 16; ++i) in.gpr[i] = random();
    in.rip = random();
    in.set_rflags((random() & 0x3f7fd5) | 2);
    in.cr0 = random() & 0xe005003f;
    in.cr2 = random();
    in.cr3 = random() & ~uint64_t{0xfff};
    in.cr4 = random() & 0x7ff;
    in.msr.efer = random() & 0xd01;
    for (x86::Segment& segment : in.seg) {
      segment.base = random();
      segment.limit = static_cast<uint32_t>(random());
      segment.selector = static_cast<uint16_t>(random());
      segment.attributes = random() & 0xf0ff;
    }
    in.gdtr = {random(), static_cast<uint16_t>(random())};
    in.idtr = {random(), static_cast<uint16_t>(random())};
    for (auto& dr : in.dr) dr = random();
    in.interrupt_shadow = (random() & 1) != 0;
    in.nmi_blocked = (random() & 1) != 0;

    kvm_regs regs{};
    kvm_sregs2 special{};
    kvm_debugregs debug{};
    kvm_vcpu_events events{};
    from_cpu(in, regs);
    from_cpu(in, special);
    from_cpu(in, debug);
    from_cpu(in, events);
    x86::CpuState out;
    to_cpu(regs, out);
    to_cpu(special, out);
    to_cpu(debug, out);
    to_cpu(events, out);
    for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(out.gpr[i], in.gpr[i]) << i;
    EXPECT_EQ(out.rip, in.rip);
    EXPECT_EQ(out.rflags(), in.rflags());
    EXPECT_EQ(out.cr0, in.cr0);
    EXPECT_EQ(out.cr2, in.cr2);
    EXPECT_EQ(out.cr3, in.cr3);
    EXPECT_EQ(out.cr4, in.cr4);
    EXPECT_EQ(out.msr.efer, in.msr.efer);
    for (unsigned i = 0; i < 6; ++i) {
      EXPECT_EQ(out.seg[i].base, in.seg[i].base);
      EXPECT_EQ(out.seg[i].limit, in.seg[i].limit);
      EXPECT_EQ(out.seg[i].selector, in.seg[i].selector);
      EXPECT_EQ(out.seg[i].attributes, in.seg[i].attributes);
    }
    EXPECT_EQ(out.gdtr.base, in.gdtr.base);
    EXPECT_EQ(out.idtr.limit, in.idtr.limit);
    for (const unsigned i : {0u, 1u, 2u, 3u, 6u, 7u}) EXPECT_EQ(out.dr[i], in.dr[i]) << i;
    EXPECT_EQ(out.interrupt_shadow, in.interrupt_shadow);
    EXPECT_EQ(out.nmi_blocked, in.nmi_blocked);
  }
}

// The same by an XSAVE area, with the upper halves.
TEST(KvmRegisters, XsaveRoundTrip) {
  x86::CpuState in;
  std::mt19937_64 random(6);
  for (auto& vector : in.vec)
    for (uint8_t& byte : vector) byte = static_cast<uint8_t>(random());
  std::array<std::byte, kXsaveSize> area{};
  xsave_from_cpu(in, 7, area);
  x86::CpuState out;
  xsave_to_cpu(area, out);
  for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(std::memcmp(out.vec[i], in.vec[i], 32), 0) << i;
  EXPECT_EQ(out.fx.fcw, in.fx.fcw);
  EXPECT_EQ(out.fx.mxcsr, in.fx.mxcsr);
}

}  // namespace
}  // namespace ostler::accel::kvm
