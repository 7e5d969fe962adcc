// See host_runner.h. The register switch is assembly; faults come back through signal handlers on a separate
// stack.

#include "differential/vector/host_runner.h"

#include <csignal>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>
#include <ucontext.h>

namespace {

// Offsets are used by the assembly below.
struct Switch {
  uint64_t gpr[16];         // 0
  uint64_t flags;           // 128
  uint64_t host_rsp;        // 136
  uint64_t entry;           // 144
  uint32_t mxcsr = 0x1f80;  // 152
  uint32_t padding = 0;
};
static_assert(offsetof(Switch, mxcsr) == 152);

}  // namespace

extern "C" {
Switch ostler_host_switch __attribute__((used, visibility("hidden")));
ostler::test::XsaveImage ostler_host_image __attribute__((used, visibility("hidden")));
void ostler_host_run();
void ostler_host_return();
void ostler_host_exit();
}

__asm__(R"(
  .text
  .p2align 4
  .global ostler_host_run
ostler_host_run:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, ostler_host_switch+136(%rip)
  mov $7, %eax
  xor %edx, %edx
  xrstor64 ostler_host_image(%rip)
  pushq ostler_host_switch+128(%rip)
  popfq
  mov ostler_host_switch+0(%rip), %rax
  mov ostler_host_switch+8(%rip), %rcx
  mov ostler_host_switch+16(%rip), %rdx
  mov ostler_host_switch+24(%rip), %rbx
  mov ostler_host_switch+32(%rip), %rsp
  mov ostler_host_switch+40(%rip), %rbp
  mov ostler_host_switch+48(%rip), %rsi
  mov ostler_host_switch+56(%rip), %rdi
  mov ostler_host_switch+64(%rip), %r8
  mov ostler_host_switch+72(%rip), %r9
  mov ostler_host_switch+80(%rip), %r10
  mov ostler_host_switch+88(%rip), %r11
  mov ostler_host_switch+96(%rip), %r12
  mov ostler_host_switch+104(%rip), %r13
  mov ostler_host_switch+112(%rip), %r14
  mov ostler_host_switch+120(%rip), %r15
  jmp *ostler_host_switch+144(%rip)
  .global ostler_host_return
ostler_host_return:
  mov %rax, ostler_host_switch+0(%rip)
  mov %rcx, ostler_host_switch+8(%rip)
  mov %rdx, ostler_host_switch+16(%rip)
  mov %rbx, ostler_host_switch+24(%rip)
  mov %rsp, ostler_host_switch+32(%rip)
  mov %rbp, ostler_host_switch+40(%rip)
  mov %rsi, ostler_host_switch+48(%rip)
  mov %rdi, ostler_host_switch+56(%rip)
  mov %r8, ostler_host_switch+64(%rip)
  mov %r9, ostler_host_switch+72(%rip)
  mov %r10, ostler_host_switch+80(%rip)
  mov %r11, ostler_host_switch+88(%rip)
  mov %r12, ostler_host_switch+96(%rip)
  mov %r13, ostler_host_switch+104(%rip)
  mov %r14, ostler_host_switch+112(%rip)
  mov %r15, ostler_host_switch+120(%rip)
  mov ostler_host_switch+136(%rip), %rsp
  pushfq
  popq ostler_host_switch+128(%rip)
  mov $7, %eax
  xor %edx, %edx
  xsave64 ostler_host_image(%rip)
  .global ostler_host_exit
ostler_host_exit:
  mov ostler_host_switch+136(%rip), %rsp
  pushq $0x202
  popfq
  fninit
  ldmxcsr ostler_host_switch+152(%rip)
  vzeroupper
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
)");

namespace ostler::test {
namespace {

constexpr size_t kPageSize = 4096;
uint64_t g_page = 0;
bool g_faulted = false;
HostFault g_fault;
struct sigaction g_previous[NSIG];

constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// The vector state in a signal frame: the FXSAVE image, then the XSAVE header and components.
void take_vector_state(const void* frame) {
  const auto* bytes = static_cast<const uint8_t*>(frame);
  XsaveImage& out = ostler_host_image;
  std::memcpy(&out, bytes, sizeof out);
  const uint64_t present = out.header[0];
  if ((present & 1) == 0) {
    std::memset(out.legacy, 0, 24);
    out.legacy[0] = 0x7f;
    out.legacy[1] = 0x03;
    std::memset(out.legacy + 32, 0, 128);
  }
  if ((present & 2) == 0) std::memset(out.legacy + 160, 0, 256);
  if ((present & 4) == 0) std::memset(out.high, 0, sizeof out.high);
}

void on_fault(int signal, siginfo_t* info, void* context) {
  auto* uc = static_cast<ucontext_t*>(context);
  greg_t* regs = uc->uc_mcontext.gregs;
  const auto rip = static_cast<uint64_t>(regs[REG_RIP]);
  if (rip - g_page >= kPageSize) {
    const struct sigaction& previous = g_previous[signal];
    if ((previous.sa_flags & SA_SIGINFO) != 0) return previous.sa_sigaction(signal, info, context);
    std::abort();
  }
  g_faulted = true;
  g_fault = {static_cast<uint8_t>(regs[REG_TRAPNO]), static_cast<uint64_t>(regs[REG_ERR]),
             static_cast<uint64_t>(regs[REG_CR2])};
  for (unsigned i = 0; i < 16; ++i) ostler_host_switch.gpr[i] = static_cast<uint64_t>(regs[kOrder[i]]);
  ostler_host_switch.flags = static_cast<uint64_t>(regs[REG_EFL]);
  take_vector_state(uc->uc_mcontext.fpregs);
  regs[REG_RIP] = static_cast<greg_t>(reinterpret_cast<uintptr_t>(&ostler_host_exit));
  regs[REG_EFL] = 0x202;
}

}  // namespace

HostRunner::HostRunner() {
  page_ = static_cast<uint8_t*>(
      mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (page_ == MAP_FAILED) std::abort();
  g_page = reinterpret_cast<uint64_t>(page_);
  static uint8_t stack[256 << 10];
  stack_t alternate = {};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, nullptr);
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, &g_previous[signal]);
  }
}

std::optional<HostFault> HostRunner::run(std::span<const uint8_t> code, HostState& state) {
  uint8_t* at = page_ + 64;
  std::memcpy(at, code.data(), code.size());
  at += code.size();
  const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0};  // JMP [RIP+0]
  std::memcpy(at, jump, sizeof jump);
  const auto target = reinterpret_cast<uint64_t>(&ostler_host_return);
  std::memcpy(at + sizeof jump, &target, sizeof target);

  std::memcpy(ostler_host_switch.gpr, state.gpr, sizeof state.gpr);
  ostler_host_switch.flags = state.flags;
  ostler_host_switch.entry = reinterpret_cast<uint64_t>(page_ + 64);
  ostler_host_image = state.vector;
  std::memset(ostler_host_image.header, 0, sizeof ostler_host_image.header);
  ostler_host_image.header[0] = 7;
  g_faulted = false;
  ostler_host_run();
  std::memcpy(state.gpr, ostler_host_switch.gpr, sizeof state.gpr);
  state.flags = ostler_host_switch.flags;
  state.vector = ostler_host_image;
  if (!g_faulted) return std::nullopt;
  return g_fault;
}

}  // namespace ostler::test
