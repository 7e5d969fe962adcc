// Host faults in the middle of what translated code does: the guest's registers are its own all the same.
#include <sys/mman.h>
#include <ucontext.h>

#include <csignal>

#include "rig.h"

namespace ostler::bt {
namespace {

constexpr uint64_t kSource = 0x30000, kTarget = 0x40000;

// A page of guest memory that the host does not have, until the interpreter asks for it.
class MissingPage {
 public:
  MissingPage(Rig& rig, uint64_t phys) {
    cache_ = rig.shared->cache.get();
    page_ = rig.at(phys);
    mprotect(page_, kPageSize, PROT_NONE);
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_);
  }
  ~MissingPage() {
    sigaction(SIGSEGV, &before_, nullptr);
    mprotect(page_, kPageSize, PROT_READ | PROT_WRITE);
  }
  MissingPage(const MissingPage&) = delete;
  MissingPage& operator=(const MissingPage&) = delete;

 private:
  static void on_fault(int signal, siginfo_t* info, void* context) {
    const auto rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
    if (cache_->contains(reinterpret_cast<const void*>(rip)))
      before_.sa_sigaction(signal, info, context);
    else
      mprotect(page_, kPageSize, PROT_READ | PROT_WRITE);
  }
  static inline CodeCache* cache_;
  static inline std::byte* page_;
  static inline struct sigaction before_;
};

class HostFault : public ::testing::Test {
 protected:
  HostFault() : rig_({.cache_bytes = size_t{4} << 20}) {
    rig_.map();
    for (const unsigned reg : {x86::kRsi, x86::kRdi, x86::kRbx}) rig_.state().gpr[reg] = kSource;
    run({0x48, 0x8b, 0x06, 0x48, 0x89, 0x06, 0xf4});  // mov rax, [rsi]; mov [rsi], rax; hlt
    for (const unsigned reg : {x86::kRsi, x86::kRdi, x86::kRbx}) rig_.state().gpr[reg] = kTarget;
    run({0x48, 0x8b, 0x06, 0x48, 0x89, 0x06, 0xf4});
  }
  uint64_t& reg(unsigned number) { return rig_.state().gpr[number]; }
  void run(std::initializer_list<uint8_t> bytes) {
    rig_.code_at(kText, bytes);
    rig_.start(0);
    ASSERT_EQ(rig_.interpreter->run(100000), interp::Exit::kHalted) << std::hex << rig_.state().cr2;
  }
  void run_without(uint64_t page, std::initializer_list<uint8_t> bytes) {
    const MissingPage missing(rig_, page);
    run(bytes);
    EXPECT_EQ(rig_.runner->statistics().host_faults, 1u);
  }
  Rig rig_;
};

TEST_F(HostFault, InARepeatedStore) {
  reg(x86::kRax) = 0x1122'3344'5566'7788;
  reg(x86::kRcx) = 100;
  reg(x86::kRdi) = kTarget + 16;
  run_without(kTarget, {0xf3, 0x48, 0xab, 0xf4});  // rep stosq; hlt
  EXPECT_EQ(reg(x86::kRcx), 0u);
  EXPECT_EQ(reg(x86::kRdi), kTarget + 16 + 800);
  EXPECT_EQ(load_le<uint64_t>(rig_.at(kTarget + 16)), 0x1122'3344'5566'7788u);
  EXPECT_EQ(load_le<uint64_t>(rig_.at(kTarget + 16 + 792)), 0x1122'3344'5566'7788u);
}

TEST_F(HostFault, InARepeatedMove) {
  for (unsigned i = 0; i < 64; ++i) *rig_.at(kSource + 8 + i) = static_cast<std::byte>(i);
  for (const uint64_t missing : {kSource, kTarget}) {
    reg(x86::kRcx) = 64;
    reg(x86::kRsi) = kSource + 8;
    reg(x86::kRdi) = kTarget + 24;
    const uint64_t before = rig_.runner->statistics().host_faults;
    {
      const MissingPage page(rig_, missing);
      run({0xf3, 0xa4, 0xf4});  // rep movsb; hlt
    }
    EXPECT_EQ(rig_.runner->statistics().host_faults, before + 1);
    EXPECT_EQ(reg(x86::kRcx), 0u);
    EXPECT_EQ(reg(x86::kRsi), kSource + 8 + 64);
    EXPECT_EQ(reg(x86::kRdi), kTarget + 24 + 64);
    for (unsigned i = 0; i < 64; ++i) EXPECT_EQ(*rig_.at(kTarget + 24 + i), static_cast<std::byte>(i));
  }
}

TEST_F(HostFault, InALeave) {
  store_le<uint64_t>(rig_.at(kTarget + 8), 0x77);
  reg(x86::kRbp) = kTarget + 8;
  run_without(kTarget, {0xc9, 0xf4});
  EXPECT_EQ(reg(x86::kRbp), 0x77u);
  EXPECT_EQ(reg(x86::kRsp), kTarget + 16);
}

}  // namespace
}  // namespace ostler::bt
