// A vCPU that moves between engines at any point of a guest goes on as if it had not moved. The interpreter's
// run of the same guest, which stays where it is, tells what is right: the whole state after each instruction
// of a thousand and more, and all of memory at the end.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <set>
#include <thread>

#include "guests.h"
#include "rig.h"
#include "transfer.h"

namespace ostler::accel {
namespace {

constexpr uint64_t kHandler = 0x3000, kFaultHandler = 0x3100, kFarCode = 0x3200, kUserCode = 0x3300;
constexpr uint8_t kSoftware = 0x40;

// ---- guests: endless, a write to kStopPort for each round ----
GUEST(mix16, ".code16",
      "1: imul $25173, %ax, %ax; add $13849, %ax; mov %ax, %bx; and $0xffe, %bx; mov %ax, 0x4000(%bx)\n"
      "mov $0x4000, %si; mov $0x5000, %di; mov $7, %cx; cld; rep movsb; std; lodsw; cld\n"
      "pushf; pop %cx; and $0x8c1, %cx; add %cx, 0x5100; mov %ax, %dx; and $0xfff, %dx; mov %dx, %es\n"
      "mov %es:0x10, %dx; adc %dx, 0x5102; int $0x40; lgdt 0x5120; smsw %dx\n"
      "sti; nop; cli; mov %ss, %dx; mov %dx, %ss; push %ax; pop %dx\n"
      "rolw $3, 0x5102; bt $5, %ax; sbb %di, %di; ud2; inc %ebp; out %al, $0x80; jmp 1b")
GUEST(count16, ".code16", "inc %edi; xor %edi, 0x5104; iret")
GUEST(skip16, ".code16", "push %bp; mov %sp, %bp; addw $2, 2(%bp); pop %bp; iret")

GUEST(mix32, ".code32",
      "1: imul $1103515245, %eax, %eax; add $12345, %eax; mov %eax, %ebx; shr $8, %ebx; and $0xffc, %ebx\n"
      "mov %eax, 0x20000(%ebx); mov $0x20000, %esi; mov $0x21000, %edi; mov $5, %ecx; rep movsl\n"
      "pushf; pop %ecx; and $0x8c1, %ecx; add %ecx, 0x22000; mov $0x10, %dx; mov %dx, %fs\n"
      "adc %fs:0x20000(%ebx), %edx; lcall $8, $0x3200; xor %ecx, %ecx; mov %cx, %gs; lldt %cx\n"
      "mov %eax, %dr0; mov %eax, %dr3; mov %cr0, %edx; mov %edx, %cr0; mov %cr3, %edx; mov %edx, %cr3\n"
      "mov %cr4, %edx; xor $4, %edx; mov %edx, %cr4; lidt 0x22040; mov $0x174, %ecx; xor %edx, %edx; wrmsr\n"
      "mov $0x175, %ecx; xor %edx, %edx; wrmsr; rdmsr; mov %eax, %cr2\n"
      "mov %ss, %edx; mov %edx, %ss; push %eax; pop %edx; sti; nop; cli; inc %ebp; out %al, $0x80; jmp 1b")
GUEST(
    gates32, ".code32",
    "1: imul $1103515245, %eax, %eax; int $0x40; add $12345, %eax; mov %cr3, %edx; ud2; sti; mov %edx, %cr3\n"
    "cli; add %eax, %esi; int $0x40; out %al, $0x80; jmp 1b")
GUEST(count32, ".code32", "inc %edi; xor %edi, 0x22100; iret")
GUEST(skip32, ".code32", "addl $2, (%esp); iret")
GUEST(far32, ".code32", "addl $3, 0x22104; lret")

GUEST(mix64, ".code64",
      "1: imul $1103515245, %rax, %rax; add $12345, %rax; mov %rax, %rbx; shr $8, %rbx; and $0xff8, %ebx\n"
      "mov %rax, 0x20000(%rbx); mov $0x20000, %esi; mov $0x21000, %edi; mov $3, %ecx; rep movsq\n"
      "pushfq; pop %rcx; and $0x8c1, %ecx; add %rcx, 0x22000; mov %rbx, %r8; rol $7, %r8; xor %r8, %r15\n"
      "mov $0xc0000100, %ecx; xor %edx, %edx; push %rax; mov %ebx, %eax; wrmsr; inc %ecx\n"
      "wrmsr; inc %ecx; wrmsr; swapgs; pop %rax; mov %fs:0x20000, %r9; adc %r9, 0x22018\n"
      "mov %rax, %dr1; mov %cr3, %rdx; mov %rdx, %cr3; mov %rax, %cr2; mov $0x10, %dx; mov %dx, %es\n"
      "mov $0x10, %edx; mov %edx, %ss; push %rax; pop %rdx; sti; nop; cli; inc %rbp; out %al, $0x80; jmp 1b")
GUEST(gates64, ".code64",
      "1: imul $1103515245, %rax, %rax; int $0x40; add $12345, %rax; ud2; add %rax, %rsi; xor %ebx, %ebx\n"
      "mov $0x3300, %ecx; mov $0x8c7, %r11d; sysretq; .skip 0x60 - (. - gates64_begin)\n"
      "mov $0x10, %edx; mov %edx, %ss; int $0x40; inc %rbp; out %al, $0x80; jmp 1b")
GUEST(count64, ".code64", "inc %rdi; xor %rdi, 0x22100; iretq")
GUEST(skip64, ".code64", "addq $2, (%rsp); iretq")
GUEST(user64, ".code64", "mov $0x77, %r10d; addq %r10, 0x22110; syscall")
constexpr uint64_t kBehindSysret = 0x60;

// x87 and SSE; many a KVM that emulates knows neither.
GUEST(float32, ".code32",
      "1: imul $1103515245, %eax, %eax; add $12345, %eax; mov %eax, 0x22000; mov %eax, %ebx; and $7, %ebx\n"
      "fildl 0x22000; fldpi; fmulp; fsqrt; fldcw 0x22010(,%ebx,2); fistl 0x22008; movd %eax, %xmm0\n"
      "pshufd $0x1b, %xmm0, %xmm1; paddd %xmm1, %xmm2; cvtdq2ps %xmm2, %xmm3; sqrtps %xmm3, %xmm4\n"
      "movups %xmm4, 0x22020; stmxcsr 0x22030; fnstsw %ax; fnclex; test $3, %bl; jnz 2f; fninit\n"
      "movq 0x22000, %mm3; paddw %mm3, %mm4; emms; 2: mov 0x22000, %eax; inc %ebp; out %al, $0x80; jmp 1b")

// The upper halves too.
GUEST(avx64, ".code64",
      "mov %cr4, %rdx; or $0x40600, %rdx; mov %rdx, %cr4; xor %ecx, %ecx; xor %edx, %edx; mov $7, %eax; "
      "xsetbv\n"
      "1: imul $1103515245, %rax, %rax; add $12345, %rax; vmovq %rax, %xmm0; vinsertf128 $1, %xmm0, %ymm0, "
      "%ymm1\n"
      "vcvtdq2ps %ymm1, %ymm2; vaddps %ymm2, %ymm13, %ymm13; vmovups %ymm13, 0x20000; vsqrtps %ymm2, %ymm3\n"
      "vxorps %ymm3, %ymm14, %ymm14; vmovaps %xmm14, %xmm5; test $15, %al; jnz 2f; vzeroupper\n"
      "2: test $31, %al; jnz 3f; vzeroall; 3: inc %rbp; out %al, $0x80; jmp 1b")

void gate32(Rig& rig, unsigned vector, uint64_t handler) {
  rig.poke<uint64_t>(kIdt + 8 * vector, 0x00008e0000080000 | handler);
}
void gate64(Rig& rig, unsigned vector, uint64_t handler) {
  rig.poke<uint64_t>(kIdt + 16 * vector, 0x00008e0000180000 | handler);
  rig.poke<uint64_t>(kIdt + 16 * vector + 8, 0);
}

enum class Guest { kReal, kProtected, kPaged, kPae, kGates32, kLong, kGates64, kFloat, kAvx };

void prepare(Rig& rig, Engine& engine, Guest guest) {
  x86::CpuState& cpu = engine.cpu_state();
  switch (guest) {
    case Guest::kReal:
      rig.place(mix16());
      rig.place(count16(), kHandler);
      rig.place(skip16(), kFaultHandler);
      rig.poke<uint32_t>(4 * kSoftware, kHandler);
      rig.poke<uint32_t>(4 * 6, kFaultHandler);
      rig.start(engine, Mode::kReal);
      break;
    case Guest::kProtected:
    case Guest::kPaged:
    case Guest::kPae:
    case Guest::kGates32:
      rig.place(guest == Guest::kGates32 ? gates32() : mix32());
      rig.place(count32(), kHandler);
      rig.place(skip32(), kFaultHandler);
      rig.place(far32(), kFarCode);
      rig.poke<uint16_t>(0x22040, 0xfff);
      rig.poke<uint32_t>(0x22042, kIdt);
      gate32(rig, kSoftware, kHandler);
      gate32(rig, 6, kFaultHandler);
      rig.start(engine, Mode::kProtected);
      if (guest != Guest::kPae && guest != Guest::kPaged) break;
      cpu.cr3 = kPageTables;
      cpu.cr0 |= x86::cr0::kPg;
      if (guest == Guest::kPaged) {
        rig.poke<uint32_t>(kPageTables, 0x83);  // 4 MiB one to one
        cpu.cr4 |= x86::cr4::kPse;
        break;
      }
      rig.poke<uint64_t>(kPageTables, (kPageTables + 0x1000) | 1);
      rig.poke<uint64_t>(kPageTables + 0x1000, 0x83);
      cpu.cr4 |= x86::cr4::kPae;
      cpu.pdpte[0] = (kPageTables + 0x1000) | 1;
      break;
    case Guest::kLong:
    case Guest::kGates64:
      rig.place(guest == Guest::kLong ? mix64() : gates64());
      rig.place(count64(), kHandler);
      rig.place(skip64(), kFaultHandler);
      rig.place(user64(), kUserCode);
      gate64(rig, kSoftware, kHandler);
      gate64(rig, 6, kFaultHandler);
      rig.start(engine, Mode::kLong);
      for (const uint64_t level : {0, 0x1000, 0x2000})
        rig.poke<uint64_t>(kPageTables + level, rig.peek<uint64_t>(kPageTables + level) | 4);
      cpu.msr.efer |= x86::efer::kSce;
      cpu.msr.star = uint64_t{0x0023} << 48 | uint64_t{0x0018} << 32;
      cpu.msr.lstar = kCode + kBehindSysret;
      cpu.msr.sfmask = x86::rflags::kDf | x86::rflags::kZf;
      break;
    case Guest::kFloat:
      rig.place(float32());
      for (uint64_t i = 0; i < 8; ++i) rig.poke(0x22010 + 2 * i, static_cast<uint16_t>(0x37f ^ i << 9));
      rig.start(engine, Mode::kProtected);
      cpu.cr4 |= x86::cr4::kOsfxsr | x86::cr4::kOsxmmexcpt;
      break;
    case Guest::kAvx:
      rig.place(avx64());
      rig.start(engine, Mode::kLong);
      break;
  }
  engine.state_loaded();
}

// A KVM that emulates has no x87 state until the guest's first FNINIT.
GUEST(fninit16, ".code16", "fninit; hlt")
void wake_x87(Rig& rig, Engine& engine) {
  rig.place(fninit16());
  rig.start(engine, Mode::kReal);
  EXPECT_EQ(engine.run(), VcpuExit::kHalted);
}

// Such a one knows no x87, no SSE, no 32-bit paging, and interrupts in real mode only.
bool emulates() {
  const auto system = kvm::System::open();
  const auto speed = kvm::measure_speed(**system);
  return !speed || *speed < kvm::kLeastSpeed;
}
bool beyond_emulators(Guest guest) {
  return guest == Guest::kFloat || guest == Guest::kAvx || guest == Guest::kPaged || guest == Guest::kPae ||
         guest == Guest::kGates32 || guest == Guest::kGates64;
}

struct Case {
  Guest guest;
  std::string_view name;
  const char* a;
  const char* b;
};
void PrintTo(const Case& test, std::ostream* out) {
  *out << test.name << " " << test.a << " " << test.b;
}

class Transfer : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& test = GetParam();
    // Without KVM there are more features.
    if (std::string_view(test.a) != "kvm" && std::string_view(test.b) != "kvm")
      rig_.model = other_.model = *x86::CpuModel::parse("max");
    ASSERT_TRUE(test.guest != Guest::kAvx || rig_.model.has(x86::Feature::kAvx)) << "the host has no AVX";
    engines_[0] = rig_.make(test.a);
    engines_[1] = rig_.make(test.b);
    steady_ = other_.make("interp");
    ASSERT_NE(engines_[0], nullptr);
    ASSERT_NE(engines_[1], nullptr);
    for (const auto& engine : engines_) wake_x87(rig_, *engine);
    prepare(other_, *steady_, test.guest);
    prepare(rig_, *engines_[0], test.guest);
    // Whatever the guest does not touch is to stay as well.
    std::mt19937_64 random(9);
    x86::CpuState& cpu = steady_->cpu_state();
    for (auto& vector : cpu.vec)
      for (unsigned i = 0; i < 16; ++i) vector[i] = static_cast<uint8_t>(random());
    for (auto& st : cpu.fx.st)
      for (unsigned i = 0; i < 10; ++i) st[i] = static_cast<uint8_t>(random());
    cpu.fx.fcw = 0x27f;
    cpu.fx.ftw = 0;
    cpu.fx.mxcsr = 0x9fa0;
    cpu.dr[2] = 0x1234;
    cpu.msr.pat = 0x0007010600070106;
    cpu.msr.cstar = 0x5678;
    cpu.msr.mtrr_def_type = 0xc06;
    cpu.msr.mtrr_var[2] = 0x80000006;
    cpu.nmi_blocked = true;
    steady_->state_loaded();
    transfer(*steady_, *engines_[0]);
  }
  VcpuExit run_on(Engine& engine) {
    VcpuExit exit = engine.run();
    for (int i = 0; i < 1000 && exit == VcpuExit::kStopped; ++i) exit = engine.run();
    return exit;
  }
  void step(Rig& rig, Engine& engine) {
    rig.port.on_write = nullptr;
    engine.set_debug({.single_step = true, .breakpoints = {}});
    ASSERT_EQ(run_on(engine), VcpuExit::kDebug) << "at " << std::hex << engine.cpu_state().rip;
  }
  void run_to(Engine& engine, uint64_t rip) {
    rig_.port.on_write = nullptr;
    const uint64_t linear = rip + engine.cpu_state().seg[x86::kCs].base;
    engine.set_debug({.single_step = false, .breakpoints = {{BreakpointKind::kHardware, linear, 1}}});
    ASSERT_EQ(run_on(engine), VcpuExit::kDebug) << "at " << std::hex << engine.cpu_state().rip;
    engine.set_debug({});
  }
  void end_of_round(Rig& rig, Engine& engine) {
    engine.set_debug({});
    rig.log.clear();
    ASSERT_EQ(rig.run(engine), VcpuExit::kStopped);
  }
  void expect_same_memory() {
    EXPECT_EQ(std::memcmp(rig_.ram->host(), other_.ram->host(), kRamSize), 0) << "memory differs";
  }

  Rig rig_, other_;
  std::unique_ptr<Engine> engines_[2], steady_;
};

// Breakpoints stop the vCPU where it is to move; a step of KVM would show in the flags that a guest pushes.
// No processor stops behind MOV SS.
TEST_P(Transfer, AtAnyInstruction) {
  constexpr unsigned kInstructions = 2000, kLeastRound = 8;  // fewer than any guest's round has
  std::mt19937 random(7);
  unsigned now = 0;
  for (unsigned done = 0; done < kInstructions;) {
    std::set<uint64_t> passed;
    uint64_t rip = steady_->cpu_state().rip;
    bool shadow = true;
    for (unsigned wanted = 1 + static_cast<unsigned>(random() % kLeastRound);
         wanted != 0 || passed.contains(rip) || shadow; ++done) {
      passed.insert(rip);
      ASSERT_NO_FATAL_FAILURE(step(other_, *steady_));
      rip = steady_->cpu_state().rip;
      shadow = steady_->cpu_state().interrupt_shadow;
      if (wanted != 0) --wanted;
    }
    Engine& engine = *engines_[now];
    ASSERT_NO_FATAL_FAILURE(run_to(engine, rip));
    ASSERT_EQ(differences(fields_of(engine), fields_of(*steady_)), "")
        << "after " << done << " on " << (now == 0 ? GetParam().a : GetParam().b);
    expect_same_memory();
    transfer(engine, *engines_[1 - now]);
    now = 1 - now;
  }
}

// Without a debugger: at the end of each round, and at the last all is the same.
TEST_P(Transfer, AtFullSpeed) {
  constexpr int kRounds = 40;
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_NO_FATAL_FAILURE(end_of_round(rig_, *engines_[i % 2]));
    ASSERT_NO_FATAL_FAILURE(end_of_round(other_, *steady_));
    ASSERT_EQ(differences(fields_of(*engines_[i % 2]), fields_of(*steady_)), "") << "round " << i;
    transfer(*engines_[i % 2], *engines_[1 - i % 2]);
  }
  expect_same_memory();
}

// Wherever a kick finds it: between instructions, in a port access, on the way into a handler.
TEST_P(Transfer, AtAnyMoment) {
  constexpr int kRounds = 60;
  std::atomic<Engine*> running{engines_[0].get()};
  std::atomic<bool> over{false};
  std::thread kicker([&] {
    while (!over.load()) {
      running.load()->kick();
      std::this_thread::yield();
    }
  });
  int rounds = 0;
  bool end_of_round = false;
  rig_.port.on_write = [&](uint64_t number, uint64_t) {
    if (number != kStopPort || ++rounds != kRounds) return;
    end_of_round = true;
    running.load()->kick();
  };
  for (unsigned now = 0; !end_of_round && !HasFailure(); now = 1 - now) {
    EXPECT_EQ(engines_[now]->run(), VcpuExit::kStopped);
    if (end_of_round) break;
    transfer(*engines_[now], *engines_[1 - now]);
    running.store(engines_[1 - now].get());
  }
  over.store(true);
  kicker.join();
  for (int i = 0; i < kRounds; ++i) ASSERT_NO_FATAL_FAILURE(this->end_of_round(other_, *steady_));
  EXPECT_EQ(differences(fields_of(*running.load()), fields_of(*steady_)), "");
  expect_same_memory();
}

std::vector<Case> cases() {
  constexpr std::pair<Guest, std::string_view> kGuests[] = {
      {Guest::kReal, "real"},       {Guest::kProtected, "protected"}, {Guest::kPaged, "paged"},
      {Guest::kPae, "pae"},         {Guest::kGates32, "gates32"},     {Guest::kLong, "long"},
      {Guest::kGates64, "gates64"}, {Guest::kFloat, "float"},         {Guest::kAvx, "avx"}};
  std::vector<Case> out;
  const bool kvm = Rig::why_no_kvm().empty(), slow = kvm && emulates();
  for (const auto& [guest, name] : kGuests) {
    out.push_back({guest, name, "interp", "bt"});
    if (!kvm || (slow && beyond_emulators(guest))) continue;
    out.push_back({guest, name, "kvm", "interp"});
    out.push_back({guest, name, "bt", "kvm"});
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Guest, Transfer, ::testing::ValuesIn(cases()), [](const auto& test) {
  return fmt::format("{}_{}_{}", test.param.name, test.param.a, test.param.b);
});

// What waits for a vCPU moves with it. In real mode: a handler at kHandler counts in BP.
class Waiting : public ::testing::TestWithParam<std::pair<const char*, const char*>> {
 protected:
  void SetUp() override {
    from_ = rig_.make(GetParam().first);
    to_ = rig_.make(GetParam().second);
    ASSERT_NE(from_, nullptr);
    ASSERT_NE(to_, nullptr);
  }
  void begin(std::span<const uint8_t> code, unsigned vector);
  Rig rig_;
  std::unique_ptr<Engine> from_, to_;
};

GUEST(count_bp, ".code16", "inc %bp; iret")
void Waiting::begin(std::span<const uint8_t> code, unsigned vector) {
  rig_.place(code);
  rig_.place(count_bp(), kHandler);
  rig_.poke<uint32_t>(4 * vector, kHandler);
  rig_.start(*from_, Mode::kReal);
}

GUEST(sti_shadow, ".code16", "mov %bp, %ax; 1: test %bp, %bp; jz 1b; out %al, $0x80; hlt")
TEST_P(Waiting, AnInterruptShadowLastsForOneInstruction) {
  begin(sti_shadow(), kSoftware);
  x86::CpuState& cpu = from_->cpu_state();
  cpu.set_rflags(x86::rflags::kIf | 2);
  cpu.interrupt_shadow = true;
  from_->state_loaded();
  transfer(*from_, *to_);
  EXPECT_TRUE(to_->cpu_state().interrupt_shadow);
  rig_.interrupts.vector = kSoftware;
  to_->interrupt_changed();
  EXPECT_EQ(rig_.run(*to_), VcpuExit::kStopped);
  EXPECT_EQ(to_->cpu_state().gpr[x86::kRax] & 0xffff, 0u) << "under the shadow";
  EXPECT_EQ(to_->cpu_state().gpr[x86::kRbp] & 0xffff, 1u) << "behind it";
}

GUEST(unblock_nmi, ".code16",
      "mov %bp, %bx; push %ax; push %cs; push $0x1008; iret; 1: test %bp, %bp; jz 1b; out %al, $0x80; hlt")
TEST_P(Waiting, AnNmiThatIsBlockedComesWithTheNextIret) {
  begin(unblock_nmi(), 2);
  // The stack as IRET finds it: flags, CS.
  x86::CpuState& cpu = from_->cpu_state();
  cpu.gpr[x86::kRax] = 2;
  cpu.nmi_blocked = true;
  from_->state_loaded();
  from_->kick();
  from_->nmi();
  EXPECT_EQ(from_->run(), VcpuExit::kStopped);
  transfer(*from_, *to_);
  EXPECT_TRUE(to_->cpu_state().nmi_blocked);
  EXPECT_EQ(rig_.run(*to_), VcpuExit::kStopped);
  EXPECT_EQ(to_->cpu_state().gpr[x86::kRbx] & 0xffff, 0u);
  EXPECT_EQ(to_->cpu_state().gpr[x86::kRbp] & 0xffff, 1u);
}

GUEST(halted, ".code16", "sti; hlt; out %al, $0x80; hlt")
TEST_P(Waiting, AHaltedProcessorStaysHaltedUntilAnInterrupt) {
  begin(halted(), kSoftware);
  EXPECT_EQ(from_->run(), VcpuExit::kHalted);
  transfer(*from_, *to_);
  EXPECT_EQ(to_->cpu_state().activity, x86::Activity::kHalted);
  EXPECT_EQ(to_->run(), VcpuExit::kHalted);
  rig_.interrupts.vector = kSoftware;
  to_->interrupt_changed();
  EXPECT_EQ(rig_.run(*to_), VcpuExit::kStopped);
  EXPECT_EQ(to_->cpu_state().gpr[x86::kRbp] & 0xffff, 1u);
}

std::vector<std::pair<const char*, const char*>> pairs() {
  std::vector<std::pair<const char*, const char*>> out = {{"interp", "bt"}, {"bt", "interp"}};
  if (Rig::why_no_kvm().empty())
    for (const char* other : {"interp", "bt", "kvm"}) {
      out.emplace_back("kvm", other);
      if (std::string_view(other) != "kvm") out.emplace_back(other, "kvm");
    }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Engines, Waiting, ::testing::ValuesIn(pairs()), [](const auto& test) {
  return fmt::format("{}_{}", test.param.first, test.param.second);
});

}  // namespace
}  // namespace ostler::accel
