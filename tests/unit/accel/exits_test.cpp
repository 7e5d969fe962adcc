// What a guest makes an engine do outside guest code, in 16-, 32- and 64-bit code: the same on each engine.
#include <cpuid.h>
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "guests.h"
#include "rig.h"

namespace ostler::accel {
namespace {

using ::testing::Values;
using ::testing::ValuesIn;
using Log = std::vector<std::string>;

class Exits : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    engine_ = rig_.make(GetParam());
    ASSERT_NE(engine_, nullptr);
  }
  x86::CpuState& cpu() { return engine_->cpu_state(); }
  VcpuExit run(std::span<const uint8_t> code, Mode mode) {
    rig_.place(code);
    rig_.start(*engine_, mode);
    return rig_.run(*engine_);
  }

  Rig rig_;
  std::unique_ptr<Engine> engine_;
};

GUEST(
    ports16, ".code16",
    "mov $0x1234, %ax; out %ax, $0x90; in $0x91, %al; mov %al, %bl\n"
    "mov $0x90, %dx; mov $0x89abcdef, %eax; out %eax, %dx; in %dx, %eax; mov %eax, %ecx; out %al, $0x80; hlt")
TEST_P(Exits, PortsInRealMode) {
  EXPECT_EQ(run(ports16(), Mode::kReal), VcpuExit::kStopped);
  EXPECT_EQ(rig_.log, (Log{"port write 90.2 1234", "port read 91.1", "port write 90.4 89abcdef",
                           "port read 90.4", "port write 80.1 11"}));
  EXPECT_EQ(cpu().gpr[x86::kRbx], 0x11u);
  EXPECT_EQ(cpu().gpr[x86::kRcx], 0x44332211u);
  EXPECT_EQ(cpu().rip, kCode + ports16().size() - 1) << "behind the OUT that stopped it";
}

GUEST(strings32, ".code32",
      "cld; mov $0x20000, %edi; mov $0x90, %edx; mov $3, %ecx; rep insw\n"
      "mov $0x20000, %esi; mov $2, %ecx; rep outsl; out %al, $0x80; hlt")
TEST_P(Exits, StringsOfPortsInProtectedMode) {
  EXPECT_EQ(run(strings32(), Mode::kProtected), VcpuExit::kStopped);
  EXPECT_EQ(rig_.log, (Log{"port read 90.2", "port read 90.2", "port read 90.2", "port write 90.4 22112211",
                           "port write 90.4 2211", "port write 80.1 0"}));
  EXPECT_EQ(rig_.peek<uint64_t>(kData), 0x221122112211u);
  EXPECT_EQ(cpu().gpr[x86::kRcx], 0u);
  EXPECT_EQ(cpu().gpr[x86::kRsi], kData + 8);
}

GUEST(device64, ".code64",
      "mov $0xd0000, %rbx; mov $0x1122334455667788, %rax; mov %rax, 8(%rbx); mov %ax, 3(%rbx); mov 16(%rbx), "
      "%rcx\n"
      "movzbl 5(%rbx), %edx; out %al, $0x80; hlt")
TEST_P(Exits, DeviceMemoryInLongMode) {
  EXPECT_EQ(run(device64(), Mode::kLong), VcpuExit::kStopped);
  EXPECT_EQ(rig_.log, (Log{"mem write 8.8 1122334455667788", "mem write 3.2 7788", "mem read 10.8",
                           "mem read 5.1", "port write 80.1 88"}));
  EXPECT_EQ(cpu().gpr[x86::kRcx], 0x8877665544332211u);
  EXPECT_EQ(cpu().gpr[x86::kRdx], 0x11u);
}

GUEST(memory64, ".code64",
      "movl $0x11, 0x10000; mov 0xf0000, %eax; movl $0x22, 0xf0004; mov 0x10004, %ebx\n"  // alias
      "mov 0xc0000, %ecx; movl $0x33, 0xc0000; mov 0xc0000, %edx\n"                       // ROM
      "mov 0xe0000, %esi; movl $0x44, 0xe0000\n"                                          // hole
      "out %al, $0x80; hlt")
TEST_P(Exits, AliasesReadOnlyMemoryAndHoles) {
  const uint32_t in_rom = 0x600d;
  std::memcpy(rig_.rom->host(), &in_rom, 4);
  EXPECT_EQ(run(memory64(), Mode::kLong), VcpuExit::kStopped);
  EXPECT_EQ(cpu().gpr[x86::kRax], 0x11u);
  EXPECT_EQ(cpu().gpr[x86::kRbx], 0x22u);
  EXPECT_EQ(cpu().gpr[x86::kRcx], 0x600du);
  EXPECT_EQ(cpu().gpr[x86::kRdx], 0x600du) << "a write to ROM";
  EXPECT_EQ(cpu().gpr[x86::kRsi], 0xffffffffu) << "nothing there";
}

GUEST(remap64, ".code64", "mov 0xd0000, %eax; out %al, $0x80; mov 0xd0000, %ebx; out %al, $0x80; hlt")
TEST_P(Exits, MemoryThatIsPutInPlaceOfADevice) {
  EXPECT_EQ(run(remap64(), Mode::kLong), VcpuExit::kStopped);
  {
    memory::Transaction change(rig_.memory);
    change.move(rig_.alias, kDevice);
    change.remove(rig_.device_region);
  }
  rig_.poke<uint32_t>(kAliased, 0xa11a5);
  rig_.log.clear();
  EXPECT_EQ(rig_.run(*engine_), VcpuExit::kStopped);
  EXPECT_EQ(cpu().gpr[x86::kRax], 0x44332211u);
  EXPECT_EQ(cpu().gpr[x86::kRbx], 0xa11a5u);
}

GUEST(halt16, ".code16", "cli; hlt")
TEST_P(Exits, HaltsBehindTheInstruction) {
  EXPECT_EQ(run(halt16(), Mode::kReal), VcpuExit::kHalted);
  EXPECT_EQ(cpu().activity, x86::Activity::kHalted);
  EXPECT_EQ(cpu().rip, kCode + 2);
  EXPECT_FALSE(engine_->wants_wakeup());
  rig_.interrupts.vector = 0x40;
  engine_->interrupt_changed();
  EXPECT_FALSE(engine_->wants_wakeup()) << "IF is clear";
}

GUEST(triple32, ".code32", "ud2")
TEST_P(Exits, TripleFaultsShutDown) {
  rig_.place(triple32());
  rig_.start(*engine_, Mode::kProtected);
  cpu().idtr = {0, 0};
  engine_->state_loaded();
  EXPECT_EQ(engine_->run(), VcpuExit::kShutdown);
  EXPECT_EQ(cpu().activity, x86::Activity::kShutdown);
}

// A real-mode handler at 0x600 for `vector`, which counts in %bp.
GUEST(handler16, ".code16", "inc %bp; iret")
GUEST(interrupt16, ".code16", "sti; hlt; out %al, $0x80; hlt")
TEST_P(Exits, AnInterruptWakesAHaltedProcessor) {
  rig_.place(handler16(), 0x600);
  rig_.poke<uint32_t>(0x40 * 4, 0x600);
  EXPECT_EQ(run(interrupt16(), Mode::kReal), VcpuExit::kHalted);
  rig_.interrupts.vector = 0x40;
  engine_->interrupt_changed();
  EXPECT_TRUE(engine_->wants_wakeup());
  EXPECT_EQ(rig_.run(*engine_), VcpuExit::kStopped);
  EXPECT_EQ(cpu().gpr[x86::kRbp] & 0xffff, 1u);
  EXPECT_EQ(cpu().rip, kCode + 4);
}

GUEST(window16, ".code16",
      "cli; in $0x91, %al; in $0x91, %al; mov %bp, %ax; out %ax, $0x92; sti\n"
      "1: test %bp, %bp; jz 1b; out %al, $0x80; hlt")
TEST_P(Exits, AnInterruptWaitsUntilTheGuestAllowsIt) {
  rig_.place(handler16(), 0x600);
  rig_.poke<uint32_t>(0x40 * 4, 0x600);
  rig_.place(window16());
  rig_.start(*engine_, Mode::kReal);
  rig_.interrupts.vector = 0x40;
  engine_->interrupt_changed();
  EXPECT_EQ(rig_.run(*engine_), VcpuExit::kStopped);
  EXPECT_EQ(rig_.log, (Log{"port read 91.1", "port read 91.1", "port write 92.2 0", "port write 80.1 0"}));
  EXPECT_EQ(cpu().gpr[x86::kRbp] & 0xffff, 1u);
}

TEST_P(Exits, AnNmiIsTakenWithInterruptsOff) {
  rig_.place(handler16(), 0x600);
  rig_.poke<uint32_t>(2 * 4, 0x600);
  EXPECT_EQ(run(halt16(), Mode::kReal), VcpuExit::kHalted);
  engine_->nmi();
  EXPECT_TRUE(engine_->wants_wakeup());
  rig_.poke<uint8_t>(kCode + 2, 0xf4);
  EXPECT_EQ(engine_->run(), VcpuExit::kHalted);
  EXPECT_EQ(cpu().gpr[x86::kRbp] & 0xffff, 1u);
  EXPECT_FALSE(cpu().nmi_blocked) << "IRET ends it";
}

GUEST(priority64, ".code64",
      "mov $5, %eax; mov %rax, %cr8; out %al, $0x80; mov %cr8, %rbx; out %al, $0x80; hlt")
TEST_P(Exits, TaskPriorityReachesTheInterruptController) {
  EXPECT_EQ(run(priority64(), Mode::kLong), VcpuExit::kStopped);
  EXPECT_EQ(rig_.interrupts.cr8(), 5u);
  rig_.interrupts.priority = 3;
  rig_.log.clear();
  EXPECT_EQ(rig_.run(*engine_), VcpuExit::kStopped);
  EXPECT_EQ(cpu().gpr[x86::kRbx], 3u);
}

GUEST(msrs64, ".code64",
      "mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr\n"          // x2APIC EOI
      "mov $0x802, %ecx; rdmsr; mov %eax, %esi\n"                          // x2APIC id
      "mov $0x1b, %ecx; rdmsr; mov %eax, %edi\n"                           // APIC base
      "mov $0x4b564d01, %ecx; mov $0x5001, %eax; xor %edx, %edx; wrmsr\n"  // kvmclock
      "xor %eax, %eax; rdmsr; mov %eax, %ebp\n"
      "mov $0xc0000102, %ecx; mov $0x77, %eax; mov $1, %edx; wrmsr\n"  // KERNEL_GS_BASE
      "out %al, $0x80; hlt")
TEST_P(Exits, RegistersOfDevicesAndOfTheProcessor) {
  EXPECT_EQ(run(msrs64(), Mode::kLong), VcpuExit::kStopped);
  EXPECT_EQ(rig_.interrupts.eois, 1u);
  EXPECT_EQ(cpu().gpr[x86::kRsi], 7u);
  EXPECT_EQ(cpu().gpr[x86::kRdi], 0xfee00900u);
  EXPECT_EQ(rig_.paravirt.system_time, 0x5001u);
  EXPECT_EQ(cpu().gpr[x86::kRbp], 0x5001u);
  EXPECT_EQ(cpu().msr.kernel_gs_base, 0x100000077u);
}

GUEST(bad_msr32, ".code32", "mov $0x12345678, %ecx; rdmsr; hlt")
GUEST(fault32, ".code32", "mov $0xbad, %eax; out %al, $0x80; hlt")
TEST_P(Exits, AnUnknownRegisterIsAFault) {
  rig_.place(fault32(), 0x3000);
  rig_.poke<uint64_t>(kIdt + 13 * 8, 0x00008e0000083000);
  EXPECT_EQ(run(bad_msr32(), Mode::kProtected), VcpuExit::kStopped);
  EXPECT_EQ(cpu().gpr[x86::kRax], 0xbadu);
}

GUEST(forever32, ".code32", "inc %eax; jmp .-1")
TEST_P(Exits, AKickEndsALoop) {
  rig_.place(forever32());
  rig_.start(*engine_, Mode::kProtected);
  engine_->kick();
  EXPECT_EQ(engine_->run(), VcpuExit::kStopped) << "kicked before";
  std::thread kicker([this] { engine_->kick(); });
  EXPECT_EQ(engine_->run(), VcpuExit::kStopped);
  kicker.join();
  EXPECT_EQ(cpu().activity, x86::Activity::kRunning);
}

// KVM may leave CPUID to the host's processor: what it is asked for is in kvm_test.cpp.
class SoftwareExits : public Exits {};

GUEST(cpuid32, ".code32", "mov $1, %eax; cpuid; out %al, $0x80; hlt")
TEST_P(SoftwareExits, CpuidIsTheModels) {
  EXPECT_EQ(run(cpuid32(), Mode::kProtected), VcpuExit::kStopped);
  const x86::CpuidResult wanted = rig_.model.cpuid(1, 0, cpu(), {});
  EXPECT_EQ(cpu().gpr[x86::kRax], wanted.eax);
  EXPECT_EQ(cpu().gpr[x86::kRbx], wanted.ebx);
  EXPECT_EQ(cpu().gpr[x86::kRcx], wanted.ecx);
  EXPECT_EQ(cpu().gpr[x86::kRdx], wanted.edx);
}

std::string name_of(const ::testing::TestParamInfo<const char*>& test) {
  return test.param;
}

// All that this host can run.
std::vector<const char*> engines() {
  std::vector<const char*> out = {"interp", "bt"};
  if (Rig::why_no_kvm().empty()) out.push_back("kvm");
  return out;
}

INSTANTIATE_TEST_SUITE_P(Engine, Exits, ValuesIn(engines()), name_of);
INSTANTIATE_TEST_SUITE_P(Engine, SoftwareExits, Values("interp", "bt"), name_of);

}  // namespace
}  // namespace ostler::accel
