#include "interp/system/descriptors.h"

#include "base/assert.h"

namespace ostler::interp {

using mmu::Access;
using mmu::Privilege;
using x86::Check;
using x86::Descriptor;
using x86::Segment;
using x86::Selector;
using x86::Vector;

void require(Check check, uint32_t error) {
  switch (check) {
    case Check::kOk:
      return;
    case Check::kGp:
      x86::raise(Vector::kGp, error);
    case Check::kNp:
      x86::raise(Vector::kNp, error);
    case Check::kSs:
      x86::raise(Vector::kSs, error);
    case Check::kTs:
      x86::raise(Vector::kTs, error);
  }
}

namespace {

// The table `selector` points into, its limit, and whether it exists.
bool table_of(const Cpu& cpu, Selector selector, uint64_t& base, uint32_t& limit) {
  if (selector.local()) {
    base = cpu.s.ldtr.base;
    limit = cpu.s.ldtr.limit;
    return cpu.s.ldtr.usable();
  }
  base = cpu.s.gdtr.base;
  limit = cpu.s.gdtr.limit;
  return true;
}

uint64_t table_linear(const Cpu& cpu, uint64_t address) {
  return cpu.s.long_mode() ? address : static_cast<uint32_t>(address);
}

}  // namespace

bool probe_descriptor(Cpu& cpu, Selector selector, Found& found) {
  uint64_t base = 0;
  uint32_t limit = 0;
  if (!table_of(cpu, selector, base, limit) || selector.offset() + 7 > limit) return false;
  found.address = table_linear(cpu, base + selector.offset());
  found.descriptor = {cpu.mmu.read<uint64_t>(found.address, Privilege::kSupervisor), 0};
  return true;
}

Found find_descriptor(Cpu& cpu, Selector selector, Vector vector) {
  Found found;
  if (!probe_descriptor(cpu, selector, found)) x86::raise(vector, selector.error());
  return found;
}

void find_upper_half(Cpu& cpu, Found& found, Selector selector, Vector vector) {
  uint64_t base = 0;
  uint32_t limit = 0;
  table_of(cpu, selector, base, limit);
  if (selector.offset() + 15 > limit) x86::raise(vector, selector.error());
  found.descriptor.high = cpu.mmu.read<uint64_t>(found.address + 8, Privilege::kSupervisor);
  // SDM 3A §3.5: the type field of the upper half must be 0, so that no one loads it as a descriptor.
  if ((found.descriptor.high >> 40 & 0x1f) != 0) x86::raise(vector, selector.error());
  found.descriptor.high &= 0xffffffff;
}

void mark_accessed(Cpu& cpu, Found& found) {
  if (found.descriptor.accessed()) return;
  found.descriptor.low |= uint64_t{1} << 40;
  cpu.mmu.write<uint8_t>(found.address + 5, found.descriptor.access(), Privilege::kSupervisor);
}

void mark_busy(Cpu& cpu, uint64_t address, bool busy) {
  const uint8_t access = cpu.mmu.read<uint8_t>(address + 5, Privilege::kSupervisor);
  const uint8_t changed = static_cast<uint8_t>(busy ? access | 2 : access & ~2);
  cpu.mmu.write<uint8_t>(address + 5, changed, Privilege::kSupervisor);
}

Segment real_segment(const Segment& old, uint16_t selector, bool code) {
  // Loads in real mode change base and selector only; limits set in protected mode survive ("unreal mode").
  Segment segment = old;
  segment.selector = selector;
  segment.base = uint64_t{selector} << 4;
  if (!old.usable()) segment.limit = 0xffff;
  segment.attributes = (old.usable() ? old.attributes & (Segment::kDefaultBig | Segment::kGranularity) : 0) |
                       (code ? x86::kRealCodeAttributes : x86::kRealDataAttributes);
  return segment;
}

Segment v8086_segment(uint16_t selector) {
  return {uint64_t{selector} << 4, 0xffff, x86::kV8086Attributes, selector};
}

Segment null_segment(uint16_t selector) {
  return {0, 0, Segment::kUnusable, selector};
}

Segment null_stack(unsigned cpl) {
  return {0, 0, Segment::kUnusable | static_cast<uint32_t>(cpl) << 5, static_cast<uint16_t>(cpl)};
}

Segment data_segment(Cpu& cpu, Selector selector) {
  if (selector.null()) return null_segment(selector.value);
  Found found = find_descriptor(cpu, selector);
  require(check_data_segment(selector, found.descriptor, cpu.s.cpl()), selector.error());
  mark_accessed(cpu, found);
  return found.descriptor.segment(selector);
}

Segment stack_segment(Cpu& cpu, Selector selector, unsigned cpl, bool code64) {
  if (selector.null()) {
    if (!code64 || cpl == 3 || selector.rpl() != cpl) x86::raise(Vector::kGp, 0);
    return null_stack(cpl);
  }
  Found found = find_descriptor(cpu, selector);
  require(check_stack_segment(selector, found.descriptor, cpl), selector.error());
  mark_accessed(cpu, found);
  return found.descriptor.segment(selector);
}

void load_segment(Cpu& cpu, x86::SegIndex index, uint16_t selector) {
  x86::CpuState& s = cpu.s;
  if (!s.protected_mode())
    s.seg[index] = real_segment(s.seg[index], selector, false);
  else if (s.v8086())
    s.seg[index] = v8086_segment(selector);
  else if (index == x86::kSs)
    s.seg[index] = stack_segment(cpu, {selector}, s.cpl(), s.code64());
  else
    s.seg[index] = data_segment(cpu, {selector});
}

Stack current_stack(const Cpu& cpu) {
  Stack stack;
  stack.segment = cpu.s.seg[x86::kSs];
  stack.flat = cpu.s.code64();
  stack.sp = cpu.s.gpr[x86::kRsp] & stack.mask();
  return stack;
}

uint64_t stack_linear(const Cpu& cpu, const Stack& stack, uint64_t offset, unsigned size) {
  if (stack.flat) {
    if (!cpu.canonical(offset) || !cpu.canonical(offset + size - 1))
      x86::raise(Vector::kSs, stack.fault_error);
    return offset;
  }
  if (!stack.segment.usable() || !within_limit(stack.segment, offset, size))
    x86::raise(Vector::kSs, stack.fault_error);
  return static_cast<uint32_t>(stack.segment.base + offset);
}

uint64_t peek(Cpu& cpu, const Stack& stack, unsigned index, unsigned width) {
  const uint64_t offset = (stack.sp + uint64_t{index} * width) & stack.mask();
  return read_sized(cpu, stack_linear(cpu, stack, offset, width), width, stack.privilege);
}

uint64_t merged_sp(const Stack& stack, uint64_t old, uint64_t sp) {
  return stack.address_size() == 2 ? (old & ~uint64_t{0xffff}) | (sp & 0xffff) : sp & stack.mask();
}

void Pushes::push(uint64_t value) {
  ASSERT(count_ < kMost, "the longest frame has 31 parameters and five more values");
  value_[count_++] = truncate(value, width_);
}

void Pushes::check() {
  bool contiguous = true;
  for (unsigned i = 0; i < count_; ++i) {
    const uint64_t offset = (stack_.sp - uint64_t{i + 1} * width_) & stack_.mask();
    address_[i] = stack_linear(cpu_, stack_, offset, width_);
    contiguous = contiguous && address_[i] + uint64_t{i} * width_ == address_[0];
  }
  if (count_ == 0) return;
  if (contiguous) {
    cpu_.mmu.probe(address_[count_ - 1], count_ * width_, Access::kWrite, stack_.privilege);
  } else {
    for (unsigned i = 0; i < count_; ++i)
      cpu_.mmu.probe(address_[i], width_, Access::kWrite, stack_.privilege);
  }
}

void Pushes::write() {
  for (unsigned i = 0; i < count_; ++i) write_sized(cpu_, address_[i], value_[i], width_, stack_.privilege);
}

uint64_t read_sized(Cpu& cpu, uint64_t linear, unsigned size, Privilege privilege) {
  switch (size) {
    case 1:
      return cpu.mmu.read<uint8_t>(linear, privilege);
    case 2:
      return cpu.mmu.read<uint16_t>(linear, privilege);
    case 4:
      return cpu.mmu.read<uint32_t>(linear, privilege);
    default:
      return cpu.mmu.read<uint64_t>(linear, privilege);
  }
}

void write_sized(Cpu& cpu, uint64_t linear, uint64_t value, unsigned size, Privilege privilege) {
  switch (size) {
    case 1:
      return cpu.mmu.write<uint8_t>(linear, static_cast<uint8_t>(value), privilege);
    case 2:
      return cpu.mmu.write<uint16_t>(linear, static_cast<uint16_t>(value), privilege);
    case 4:
      return cpu.mmu.write<uint32_t>(linear, static_cast<uint32_t>(value), privilege);
    default:
      return cpu.mmu.write<uint64_t>(linear, value, privilege);
  }
}

}  // namespace ostler::interp
