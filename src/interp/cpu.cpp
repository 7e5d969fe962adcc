#include "interp/cpu.h"

#include "base/bytes.h"
#include "interp/block_cache.h"

namespace ostler::interp {

using mmu::Access;
using x86::CodeSize;
using x86::SegIndex;
using x86::Segment;
using x86::Vector;

namespace {

[[noreturn, gnu::cold, gnu::noinline]] void segment_fault(SegIndex segment) {
  x86::raise(segment == x86::kSs ? Vector::kSs : Vector::kGp, 0);
}

// Limit and type of a data, stack or code segment (SDM 3A §5.3, §5.4, §6.8).
bool segment_allows(const Segment& segment, uint64_t offset, unsigned size, Access access,
                    bool protected_segments) {
  const uint64_t last = offset + size - 1;
  if (!segment.usable() || (segment.attributes & Segment::kPresent) == 0) return false;
  const unsigned type = segment.type();
  const bool code = (type & 8) != 0;
  if (protected_segments) {
    if (access == Access::kWrite && (code || (type & 2) == 0)) return false;
    if (access == Access::kRead && code && (type & 2) == 0) return false;
  }
  if (!code && (type & 4) != 0) {  // expand-down
    const uint64_t top = segment.is_big() ? 0xffff'ffff : 0xffff;
    return offset > segment.limit && last <= top;
  }
  return last <= segment.limit;
}

}  // namespace

uint64_t Cpu::effective_offset(const Op& op) const {
  const x86::Instruction& insn = op.insn;
  const uint64_t base = insn.base == x86::kRipBase ? next_rip(op) : reg<uint64_t>(insn.base);
  const uint64_t offset = base + (reg<uint64_t>(insn.index) << insn.scale) + static_cast<uint64_t>(insn.disp);
  return offset & size_mask(insn.address_size);
}

uint64_t Cpu::linear(SegIndex segment, uint64_t offset, unsigned size, Access access) const {
  uint64_t address = offset;
  const Segment& seg = s.seg[segment];
  if (code_size == CodeSize::k64) {
    if (segment >= x86::kFs) address += seg.base;
    if (!canonical(address)) segment_fault(segment);
  } else {
    if (!segment_allows(seg, offset, size, access, s.protected_mode() && !s.v8086())) segment_fault(segment);
    address = static_cast<uint32_t>(address + seg.base);
  }
  if (alignment_check && (address & (size - 1)) != 0 && (size == 2 || size == 4 || size == 8))
    x86::raise(Vector::kAc, 0);
  if (code_size == CodeSize::k64 && !canonical(address + size - 1)) segment_fault(segment);
  if (data_breakpoints) check_data_breakpoints(address, size, access);
  return address;
}

bool Cpu::range_allowed(SegIndex segment, uint64_t offset, unsigned size, Access access) const {
  const Segment& seg = s.seg[segment];
  if (data_breakpoints || alignment_check) return false;
  if (code_size == CodeSize::k64) {
    const uint64_t address = offset + (segment >= x86::kFs ? seg.base : 0);
    return canonical(address) && canonical(address + size - 1);
  }
  return segment_allows(seg, offset, size, access, s.protected_mode() && !s.v8086());
}

// DR7: enable bits 2i, 2i+1; type 16+4i (1 write, 2 I/O, 3 read or write); length 18+4i (0: 1, 1: 2, 2: 8, 3:
// 4).
void Cpu::check_data_breakpoints(uint64_t address, unsigned size, Access access) const {
  const uint64_t dr7 = s.dr[7];
  for (unsigned i = 0; i < 4; ++i) {
    if (((dr7 >> (2 * i)) & 3) == 0) continue;
    const unsigned type = (dr7 >> (16 + 4 * i)) & 3;
    if (!(type == 3 || (type == 1 && access == Access::kWrite))) continue;
    static constexpr uint64_t kLengths[] = {1, 2, 8, 4};
    const uint64_t length = kLengths[(dr7 >> (18 + 4 * i)) & 3];
    const uint64_t start = s.dr[i] & ~(length - 1);
    if (address < start + length && start < address + size) debug_traps |= uint64_t{1} << i;
  }
}

void Cpu::check_io_breakpoints(uint16_t port, unsigned size) const {
  if (!data_breakpoints || (s.cr4 & x86::cr4::kDe) == 0) return;
  const uint64_t dr7 = s.dr[7];
  for (unsigned i = 0; i < 4; ++i) {
    if (((dr7 >> (2 * i)) & 3) == 0 || ((dr7 >> (16 + 4 * i)) & 3) != 2) continue;
    static constexpr uint64_t kLengths[] = {1, 2, 8, 4};
    const uint64_t length = kLengths[(dr7 >> (18 + 4 * i)) & 3];
    const uint64_t start = s.dr[i] & ~(length - 1) & 0xffff;
    if (port < start + length && start < uint64_t{port} + size) debug_traps |= uint64_t{1} << i;
  }
}

unsigned Cpu::stack_size() const {
  if (code_size == CodeSize::k64) return 8;
  return s.seg[x86::kSs].is_big() ? 4 : 2;
}

uint64_t Cpu::stack_mask() const {
  return size_mask(stack_size());
}

void Cpu::set_sp(uint64_t value) {
  uint64_t& rsp = s.gpr[x86::kRsp];
  switch (stack_size()) {
    case 8:
      rsp = value;
      break;
    case 4:
      rsp = static_cast<uint32_t>(value);
      break;
    default:
      rsp = (rsp & ~uint64_t{0xffff}) | (value & 0xffff);
      break;
  }
}

void Cpu::check_near(uint64_t target) const {
  if (code_size == CodeSize::k64 ? !canonical(target) : target > s.seg[x86::kCs].limit)
    x86::raise(Vector::kGp, 0);
}

void Cpu::jump_near(uint64_t target) {
  check_near(target);
  s.rip = target;
}

void Cpu::mode_changed() {
  code_size = s.code64()                                       ? CodeSize::k64
              : s.seg[x86::kCs].is_big() && s.protected_mode() ? CodeSize::k32
                                                               : CodeSize::k16;
  if (s.v8086()) code_size = CodeSize::k16;
  cpl = static_cast<uint8_t>(s.cpl());
  alignment_check = cpl == 3 && (s.cr0 & x86::cr0::kAm) != 0 && s.flag(x86::rflags::kAc);
  const uint64_t dr7 = s.dr[7];
  data_breakpoints = false;
  instruction_breakpoints = false;
  for (unsigned i = 0; i < 4; ++i) {
    if (((dr7 >> (2 * i)) & 3) == 0) continue;
    if (((dr7 >> (16 + 4 * i)) & 3) == 0)
      instruction_breakpoints = true;
    else
      data_breakpoints = true;
  }
  BlockContext now{.code_size = code_size,
                   .cpl = cpl,
                   .alignment_check = alignment_check,
                   .vex = s.protected_mode() && !s.v8086()};
  if (code_size != CodeSize::k64) {
    now.cs_base = s.seg[x86::kCs].base;
    now.cs_limit = s.seg[x86::kCs].limit;
  }
  if (cache != nullptr) {
    context = cache->intern(now);
  }
  mmu.mode_changed();
}

}  // namespace ostler::interp
