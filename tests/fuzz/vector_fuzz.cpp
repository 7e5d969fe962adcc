// Arbitrary code bytes and register contents through the vector, MMX, x87 and extended state handlers, in
// every CPU mode: whatever the guest runs, the host's own floating-point state stays as it was and the
// guest's stays valid.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "base/assert.h"
#include "differential/vector/cases.h"
#include "differential/vector/guest.h"

namespace {

using namespace ostler;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  void take(void* out, size_t size) {
    const size_t step = std::min(size, size_);
    std::memset(out, 0, size);
    if (step != 0) std::memcpy(out, data_, step);
    data_ += step;
    size_ -= step;
  }
  template <class T>
  T take() {
    T value;
    take(&value, sizeof value);
    return value;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

void check_host_state() {
  uint32_t mxcsr;
  uint16_t control, status;
  __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
  __asm__ volatile("fnstcw %0" : "=m"(control));
  __asm__ volatile("fnstsw %0" : "=m"(status));
  ASSERT((mxcsr & ~0x3fu) == 0x1f80, "stubs restore MXCSR");
  ASSERT(control == 0x37f, "stubs restore the x87 control word");
  ASSERT((status & 0x80) == 0, "no x87 exception is left pending");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static test::VectorGuest guest;
  Input input(data, size);
  const auto choices = input.take<uint32_t>();
  guest.set_mode(static_cast<test::Mode>(choices % 3));
  x86::CpuState& s = guest.state();
  uint8_t code[15];
  input.take(code, sizeof code);

  constexpr uint64_t kCr0[] = {x86::cr0::kTs, x86::cr0::kEm, x86::cr0::kMp, x86::cr0::kNe};
  if ((choices & 0x10) != 0) s.cr0 ^= kCr0[(choices >> 8) & 3];
  constexpr uint64_t kCr4[] = {x86::cr4::kOsfxsr, x86::cr4::kOsxmmexcpt, x86::cr4::kOsxsave, 0};
  if ((choices & 0x20) != 0) s.cr4 ^= kCr4[(choices >> 10) & 3];
  if ((choices & 0x40) != 0) s.xcr0 = (choices & 0x1000) != 0 ? 1 : 3;
  s.fx.mxcsr = input.take<uint16_t>();
  s.fx.fcw = static_cast<uint16_t>((input.take<uint16_t>() & 0x1f3f) | 0x40);
  s.fx.fsw = input.take<uint16_t>() & 0x7f7f;
  s.fx.ftw = input.take<uint8_t>();
  for (unsigned i = 0; i < 16; ++i)
    s.gpr[i] = test::kDataBase + input.take<uint16_t>() % (test::kDataSize + 64);
  if ((choices & 0x80) != 0) s.gpr[choices >> 16 & 15] = input.take<uint64_t>();
  for (auto& st : s.fx.st) {
    input.take(st, 10);
    std::memset(st + 10, 0, 6);
  }
  input.take(s.vec, sizeof s.vec);
  input.take(guest.data().data(), 1024);

  static_cast<void>(guest.run(code));

  check_host_state();
  ASSERT(s.gpr[x86::kZeroGpr] == 0, "the zero register");
  ASSERT((s.fx.mxcsr & ~0xffffu) == 0, "reserved MXCSR bits stay clear");
  ASSERT((s.fx.fcw & ~0x1f3f) == 0x40, "reserved control bits");
  return 0;
}
