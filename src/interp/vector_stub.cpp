// The stub arena and the signals that end a stub early. See vector_stub.h.

#include "interp/vector_stub.h"

#include <csignal>
#include <cstring>
#include <new>

#include <cpuid.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/assert.h"

namespace ostler::interp {
namespace {

// Room for every form there is (14 MB, see the test ArenaHoldsEveryForm). Pages are allocated as they are
// used; a normal guest needs some tens of KiB.
constexpr size_t kArenaSize = StubArena::kSize;

// Where a stub's code continues after a signal: kept at the start of the arena. frame is in R8.
//   stmxcsr [r8]; ldmxcsr [r8+4]; fninit; (vzeroupper); ret          EAX = StubFault
constexpr uint8_t kLanding[] = {0x41, 0x0f, 0xae, 0x18, 0x41, 0x0f, 0xae, 0x50, 0x04, 0xdb, 0xe3};
constexpr uint8_t kVzeroupper[] = {0xc5, 0xf8, 0x77};

const uint8_t* g_begin = nullptr;  // the executable mapping, for the signal handler
struct sigaction g_previous[NSIG];

void chain(int signal, siginfo_t* info, void* context) {
  const struct sigaction& previous = g_previous[signal];
  if ((previous.sa_flags & SA_SIGINFO) != 0) return previous.sa_sigaction(signal, info, context);
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) return previous.sa_handler(signal);
  // Not ours and nobody else's: take the default action when the instruction is run again.
  struct sigaction dfl = {};
  dfl.sa_handler = SIG_DFL;
  sigaction(signal, &dfl, nullptr);
}

void handle(int signal, siginfo_t* info, void* context) {
  auto* uc = static_cast<ucontext_t*>(context);
  greg_t* regs = uc->uc_mcontext.gregs;
  const auto rip = static_cast<uintptr_t>(regs[REG_RIP]);
  const auto begin = reinterpret_cast<uintptr_t>(g_begin);
  // info->si_code <= 0: sent by kill(), not by the instruction.
  if (rip - begin >= kArenaSize || info->si_code <= 0) return chain(signal, info, context);
  const StubFault fault = signal == SIGFPE   ? StubFault::kSimd
                          : signal == SIGILL ? StubFault::kUndefined
                                             : StubFault::kMemory;
  regs[REG_RAX] = static_cast<greg_t>(fault);
  regs[REG_RIP] = static_cast<greg_t>(begin);
}

bool host_has_avx() {
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & (1u << 28)) == 0 || (c & (1u << 27)) == 0) return false;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & 6) == 6;
}

}  // namespace

StubArena& StubArena::instance() {
  static StubArena* arena =
      new StubArena;  // never destroyed: the signal handler and vCPU threads may outlive main
  return *arena;
}

StubArena::StubArena() {
  const int fd = memfd_create("ostler-stubs", MFD_CLOEXEC);
  ASSERT(fd >= 0 && ftruncate(fd, kArenaSize) == 0, "the host gives memory for code");
  void* writable = mmap(nullptr, kArenaSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  void* executable = mmap(nullptr, kArenaSize, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
  ASSERT(writable != MAP_FAILED && executable != MAP_FAILED, "the host maps memory for code");
  close(fd);
  writable_ = static_cast<uint8_t*>(writable);
  executable_ = static_cast<const uint8_t*>(executable);

  std::memcpy(writable_, kLanding, sizeof kLanding);
  used_ = sizeof kLanding;
  if (host_has_avx()) {
    std::memcpy(writable_ + used_, kVzeroupper, sizeof kVzeroupper);
    used_ += sizeof kVzeroupper;
  }
  writable_[used_++] = 0xc3;

  g_begin = executable_;
  for (int signal : {SIGFPE, SIGILL, SIGSEGV, SIGBUS}) {
    struct sigaction action = {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, &g_previous[signal]);
  }
}

uint32_t StubArena::find(uint64_t key) const {
  std::lock_guard lock(mutex_);
  const auto it = stubs_.find(key);
  return it == stubs_.end() ? 0 : it->second;
}

uint32_t StubArena::add(uint64_t key, const StubHeader& header, std::span<const uint8_t> code) {
  std::lock_guard lock(mutex_);
  if (const auto it = stubs_.find(key); it != stubs_.end()) return it->second;
  const size_t offset = (used_ + 63) & ~size_t{63};
  ASSERT(offset + sizeof header + code.size() <= kArenaSize, "the arena holds every form there is");
  StubHeader placed = header;
  placed.code = reinterpret_cast<StubCode>(reinterpret_cast<uintptr_t>(executable_) + offset + sizeof header);
  new (writable_ + offset) StubHeader(placed);
  std::memcpy(writable_ + offset + sizeof header, code.data(), code.size());
  used_ = offset + sizeof header + code.size();
  const auto result = static_cast<uint32_t>(offset);
  stubs_.emplace(key, result);
  return result;
}

}  // namespace ostler::interp
