// Descriptor tables in guest memory, and loading segment registers from them (SDM 3A §3.4, §5). All checks
// come before any change; faults are thrown.
#pragma once

#include <cstdint>

#include "interp/cpu.h"
#include "x86/descriptor.h"

namespace ostler::interp {

// A descriptor and where it was read.
struct Found {
  x86::Descriptor descriptor;
  uint64_t address = 0;
};

inline constexpr uint32_t kNoEntry = ~uint32_t{0};

// Raises `check`'s vector with `error`; nothing when kOk.
void require(x86::Check check, uint32_t error);

// The descriptor that `selector` names; outside its table: raises `vector` with the selector as error code.
Found find_descriptor(Cpu& cpu, x86::Selector selector, x86::Vector vector = x86::Vector::kGp);
// The same, answering instead of raising (LAR, LSL, VERR, VERW). Page faults are still raised.
bool probe_descriptor(Cpu& cpu, x86::Selector selector, Found& found);
// Completes a 16-byte system descriptor or gate of long mode: reads its upper half, whose type field must be
// 0.
void find_upper_half(Cpu& cpu, Found& found, x86::Selector selector, x86::Vector vector = x86::Vector::kGp);
// Sets the accessed bit in memory and in `found`.
void mark_accessed(Cpu& cpu, Found& found);
// Sets or clears the busy bit of a task state segment in memory.
void mark_busy(Cpu& cpu, uint64_t address, bool busy);

// What loading `selector` into a segment register gives; no change but the accessed bit. `cpl`: the privilege
// the new value is for. SS may be null in 64-bit mode below ring 3.
x86::Segment data_segment(Cpu& cpu, x86::Selector selector);
x86::Segment stack_segment(Cpu& cpu, x86::Selector selector, unsigned cpl, bool code64);
// MOV and POP to a segment register, LDS…: any mode.
void load_segment(Cpu& cpu, x86::SegIndex index, uint16_t selector);

// The value of a segment register loaded in real or virtual-8086 mode over `old`.
x86::Segment real_segment(const x86::Segment& old, uint16_t selector, bool code);
x86::Segment v8086_segment(uint16_t selector);
x86::Segment null_segment(uint16_t selector);
// The null SS of 64-bit mode: its DPL is the privilege level.
x86::Segment null_stack(unsigned cpl);

// A stack that is or may become the current one.
struct Stack {
  x86::Segment segment;
  uint64_t sp = 0;
  bool flat = false;         // 64-bit mode: no base, no limit
  uint32_t fault_error = 0;  // error code of #SS
  mmu::Privilege privilege = mmu::Privilege::kCurrent;

  unsigned address_size() const { return flat ? 8 : segment.is_big() ? 4 : 2; }
  uint64_t mask() const { return flat ? ~uint64_t{0} : segment.is_big() ? 0xffffffff : 0xffff; }
};
Stack current_stack(const Cpu& cpu);
// Linear address of `size` bytes at `offset` in the stack; #SS outside the limit or not canonical.
uint64_t stack_linear(const Cpu& cpu, const Stack& stack, uint64_t offset, unsigned size);
// The value `index` slots of `width` bytes above the stack pointer.
uint64_t peek(Cpu& cpu, const Stack& stack, unsigned index, unsigned width);
// RSP after the stack pointer of `stack` became `sp`: 16-bit stacks keep the upper bits of `old`.
uint64_t merged_sp(const Stack& stack, uint64_t old, uint64_t sp);

// Values to be pushed: all are checked before the first is written.
class Pushes {
 public:
  Pushes(Cpu& cpu, const Stack& stack, unsigned width) : cpu_(cpu), stack_(stack), width_(width) {}
  void push(uint64_t value);
  // Checks limits and pages; nothing can fail in write() after it.
  void check();
  void write();
  uint64_t sp() const { return (stack_.sp - uint64_t{count_} * width_) & stack_.mask(); }

 private:
  static constexpr unsigned kMost = 48;  // a call gate's 31 parameters, and room
  Cpu& cpu_;
  const Stack& stack_;
  const unsigned width_;
  unsigned count_ = 0;
  uint64_t value_[kMost] = {};
  uint64_t address_[kMost] = {};
};

inline uint64_t truncate(uint64_t value, unsigned size) {
  return size >= 8 ? value : value & ((uint64_t{1} << (size * 8)) - 1);
}
// Reads and writes of 2, 4, 8 bytes chosen at run time.
uint64_t read_sized(Cpu& cpu, uint64_t linear, unsigned size,
                    mmu::Privilege privilege = mmu::Privilege::kCurrent);
void write_sized(Cpu& cpu, uint64_t linear, uint64_t value, unsigned size,
                 mmu::Privilege privilege = mmu::Privilege::kCurrent);

}  // namespace ostler::interp
