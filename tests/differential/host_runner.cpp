#include "host_runner.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

// What host_enter loads and where it comes back to; static, so that no register is needed to reach it.
extern "C" {
alignas(64) ostler::differential::XsaveImage host_enter_vector;
alignas(64) uint64_t host_enter_gpr[16];
uint64_t host_enter_flags, host_enter_target, host_exit_rsp;
struct [[gnu::packed]] {
  uint32_t offset;
  uint16_t selector;
} host_enter_far;
void host_enter();
void host_enter_32();
void host_exit();
}

asm(R"(
.text
.globl host_enter, host_enter_32, host_exit
.type host_enter, @function
host_enter:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, host_exit_rsp(%rip)
  mov $7, %eax
  xor %edx, %edx
  xrstor64 host_enter_vector(%rip)
  push host_enter_flags(%rip)
  popfq
  mov host_enter_gpr+0(%rip), %rax
  mov host_enter_gpr+8(%rip), %rcx
  mov host_enter_gpr+16(%rip), %rdx
  mov host_enter_gpr+24(%rip), %rbx
  mov host_enter_gpr+40(%rip), %rbp
  mov host_enter_gpr+48(%rip), %rsi
  mov host_enter_gpr+56(%rip), %rdi
  mov host_enter_gpr+64(%rip), %r8
  mov host_enter_gpr+72(%rip), %r9
  mov host_enter_gpr+80(%rip), %r10
  mov host_enter_gpr+88(%rip), %r11
  mov host_enter_gpr+96(%rip), %r12
  mov host_enter_gpr+104(%rip), %r13
  mov host_enter_gpr+112(%rip), %r14
  mov host_enter_gpr+120(%rip), %r15
  mov host_enter_gpr+32(%rip), %rsp
  jmp *host_enter_target(%rip)
.type host_enter_32, @function
host_enter_32:
  ljmp *host_enter_far(%rip)
.type host_exit, @function
host_exit:
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.section .note.GNU-stack,"",@progbits
.text
)");

namespace ostler::differential {
namespace {

Outcome* running_outcome = nullptr;
uint8_t* writable_code = nullptr;

// Register order of x86::GprIndex in a signal context.
constexpr int kContextRegister[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// Linux's selectors of user code and data.
constexpr uint16_t kCode32 = 0x23, kCode64 = 0x33, kData32 = 0x2b;

// GS gets a segment of its own, without a limit; 32-bit code has no use for a base behind a null selector.
void set_gs_32(uint64_t base) {
  user_desc descriptor{};  // number 0 of the process's own table
  descriptor.base_addr = static_cast<unsigned>(base);
  descriptor.limit = 0xfffff;
  descriptor.seg_32bit = 1;
  descriptor.limit_in_pages = 1;
  descriptor.useable = 1;
  constexpr int kWrite = 0x11;
  static uint64_t present = ~uint64_t{0};
  if (present != base && syscall(SYS_modify_ldt, kWrite, &descriptor, sizeof descriptor) != 0) {
    std::perror("a segment for GS");
    std::abort();
  }
  present = base;
  constexpr uint16_t kLocal0 = 7;
  asm volatile("mov %0, %%gs" : : "r"(kLocal0));
}

// Code that jumps to itself never faults: a timer that finds the same case twice ends it.
uint64_t case_number = 0;
uint64_t case_at_last_tick = 0;
constexpr int kTickMicroseconds = 50'000;

void on_signal(int number, siginfo_t*, void* raw) {
  auto* context = static_cast<ucontext_t*>(raw);
  auto& registers = context->uc_mcontext.gregs;
  if (number == SIGALRM) {
    const bool seen_before = case_at_last_tick == case_number;
    case_at_last_tick = case_number;
    const auto rip = static_cast<uint64_t>(registers[REG_RIP]);
    if (running_outcome == nullptr || !seen_before || rip - kCode >= kCodePages * kPageBytes) return;
  }
  if (running_outcome == nullptr) {
    // A bug of the test program itself.
    signal(number, SIG_DFL);
    return;
  }
  Outcome& out = *running_outcome;
  running_outcome = nullptr;
  for (unsigned i = 0; i < 16; ++i) out.state.gpr[i] = static_cast<uint64_t>(registers[kContextRegister[i]]);
  out.state.rip = static_cast<uint64_t>(registers[REG_RIP]);
  out.state.rflags = static_cast<uint64_t>(registers[REG_EFL]);
  out.vector = number == SIGALRM ? kTimeout : static_cast<uint8_t>(registers[REG_TRAPNO]);
  const bool has_error = out.vector == 8 || (out.vector >= 10 && out.vector <= 14) || out.vector == 17;
  out.error = has_error ? static_cast<uint32_t>(registers[REG_ERR]) : 0;
  if (out.vector == 3) --out.state.rip;  // reported as a fault
  out.cr2 = out.vector == 14 ? static_cast<uint64_t>(registers[REG_CR2]) : 0;
  // The frame's FP state is an XSAVE area in standard form; parts in their initial state are left out of it.
  const auto* image = reinterpret_cast<const uint8_t*>(context->uc_mcontext.fpregs);
  XsaveImage& vector = out.state.vector;
  std::memcpy(vector.legacy, image, sizeof vector.legacy);
  uint64_t present = 0;
  std::memcpy(&present, image + 512, sizeof present);
  vector.xstate_bv = present;
  if ((present & 4) != 0)
    std::memcpy(vector.ymm_high, image + 576, sizeof vector.ymm_high);
  else
    std::memset(vector.ymm_high, 0, sizeof vector.ymm_high);
  registers[REG_RIP] = reinterpret_cast<greg_t>(&host_exit);
  registers[REG_RSP] = static_cast<greg_t>(host_exit_rsp);
  registers[REG_EFL] = 0x202;
  registers[REG_CSGSFS] = (registers[REG_CSGSFS] & ~greg_t{0xffff}) | kCode64;
  // The host program's own control words.
  auto* legacy = reinterpret_cast<uint8_t*>(context->uc_mcontext.fpregs);
  const XsaveImage fresh;
  std::memcpy(legacy, fresh.legacy, 32);
}

void map(uint64_t address, size_t bytes, int protection, int file = -1) {
  void* at = mmap(reinterpret_cast<void*>(address), bytes, protection,
                  (file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | MAP_FIXED_NOREPLACE | MAP_POPULATE,
                  file, 0);
  if (at != reinterpret_cast<void*>(address)) {
    std::perror("differential tests need their fixed addresses");
    std::abort();
  }
}

}  // namespace

HostRunner::HostRunner() {
  // Code is not writable where it runs; it is written through a second mapping.
  const size_t code_bytes = kCodePages * kPageBytes;
  const int code = memfd_create("differential code", MFD_CLOEXEC);
  if (code < 0 || ftruncate(code, static_cast<off_t>(code_bytes)) != 0) std::abort();
  map(kCode, code_bytes, PROT_READ | PROT_EXEC, code);
  void* alias = mmap(nullptr, code_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, code, 0);
  if (alias == MAP_FAILED) std::abort();
  close(code);
  writable_code = static_cast<uint8_t*>(alias);
  map(kData, kDataBytes, PROT_READ | PROT_WRITE);
  map(kReadOnly, kPageBytes, PROT_READ);
  std::memset(writable_code, kFiller, code_bytes);
  static uint8_t signal_stack[256 * 1024];
  stack_t stack{};
  stack.ss_sp = signal_stack;
  stack.ss_size = sizeof signal_stack;
  sigaltstack(&stack, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigfillset(&action.sa_mask);
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGALRM})
    sigaction(number, &action, nullptr);
  const itimerval every{.it_interval = {.tv_sec = 0, .tv_usec = kTickMicroseconds},
                        .it_value = {.tv_sec = 0, .tv_usec = kTickMicroseconds}};
  setitimer(ITIMER_REAL, &every, nullptr);
}

HostRunner::~HostRunner() {
  munmap(reinterpret_cast<void*>(kCode), kCodePages * kPageBytes);
  munmap(writable_code, kCodePages * kPageBytes);
  munmap(reinterpret_cast<void*>(kData), kDataBytes);
  munmap(reinterpret_cast<void*>(kReadOnly), kPageBytes);
  const itimerval never{};
  setitimer(ITIMER_REAL, &never, nullptr);
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGALRM}) signal(number, SIG_DFL);
}

Outcome HostRunner::run(const TestCase& test) {
  static std::array<uint8_t, kPageBytes> read_only_now{};
  if (read_only_now != test.read_only) {
    auto* page = reinterpret_cast<void*>(kReadOnly);
    mprotect(page, kPageBytes, PROT_READ | PROT_WRITE);
    std::memcpy(page, test.read_only.data(), kPageBytes);
    mprotect(page, kPageBytes, PROT_READ);
    read_only_now = test.read_only;
    // The page is present and may fault only for writing.
    static volatile uint8_t touched;
    touched = *static_cast<volatile uint8_t*>(page);
    (void)touched;
  }
  std::memcpy(reinterpret_cast<void*>(kData), test.data.data(), kDataBytes);
  uint8_t* code = writable_code + (test.address - kCode);
  std::memcpy(code, test.code.data(), test.code.size());

  Outcome out;
  host_enter_vector = test.state.vector;
  std::memcpy(host_enter_gpr, test.state.gpr.data(), sizeof host_enter_gpr);
  host_enter_flags = test.state.rflags;
  if (test.code_size == x86::CodeSize::k64) {
    host_enter_target = test.address;
    syscall(SYS_arch_prctl, ARCH_SET_GS, test.state.gs_base);
  } else {
    host_enter_far = {static_cast<uint32_t>(test.address), kCode32};
    host_enter_target = reinterpret_cast<uint64_t>(&host_enter_32);
    asm volatile("mov %0, %%ds; mov %0, %%es" : : "r"(kData32));
    set_gs_32(test.state.gs_base);
  }
  ++case_number;
  running_outcome = &out;
  host_enter();
  std::memcpy(out.data.data(), reinterpret_cast<void*>(kData), kDataBytes);
  std::memset(code, kFiller, test.code.size());
  out.state.gs_base = test.state.gs_base;
  return out;
}

}  // namespace ostler::differential
