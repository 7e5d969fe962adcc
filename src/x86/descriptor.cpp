#include "x86/descriptor.h"

namespace ostler::x86 {

uint64_t Descriptor::base() const {
  const uint64_t low32 = (low >> 16 & 0xffffff) | (low >> 32 & 0xff000000);
  return low32 | high << 32;
}

uint32_t Descriptor::limit() const {
  const uint32_t raw = static_cast<uint32_t>((low & 0xffff) | (low >> 32 & 0xf0000));
  return (low >> 55 & 1) != 0 ? raw << 12 | 0xfff : raw;
}

uint32_t Descriptor::attributes() const {
  return static_cast<uint32_t>(low >> 40) & 0xf0ff;
}

Check check_stack_segment(Selector selector, const Descriptor& descriptor, unsigned cpl, Check fault) {
  if (selector.rpl() != cpl || !descriptor.writable() || descriptor.dpl() != cpl) return fault;
  return descriptor.present() ? Check::kOk : Check::kSs;
}

Check check_data_segment(Selector selector, const Descriptor& descriptor, unsigned cpl) {
  if (!descriptor.readable()) return Check::kGp;
  if (!descriptor.conforming() && (selector.rpl() > descriptor.dpl() || cpl > descriptor.dpl()))
    return Check::kGp;
  return descriptor.present() ? Check::kOk : Check::kNp;
}

Check check_direct_code(Selector selector, const Descriptor& descriptor, unsigned cpl, bool long_mode) {
  if (!descriptor.code()) return Check::kGp;
  if (long_mode && descriptor.is_long() && descriptor.big()) return Check::kGp;
  if (descriptor.conforming()) {
    if (descriptor.dpl() > cpl) return Check::kGp;
  } else if (selector.rpl() > cpl || descriptor.dpl() != cpl) {
    return Check::kGp;
  }
  return descriptor.present() ? Check::kOk : Check::kNp;
}

Check check_gate_code(const Descriptor& descriptor, unsigned cpl, bool jump, bool long_gate) {
  if (!descriptor.code() || descriptor.dpl() > cpl) return Check::kGp;
  if (jump && !descriptor.conforming() && descriptor.dpl() != cpl) return Check::kGp;
  if (long_gate && (!descriptor.is_long() || descriptor.big())) return Check::kGp;
  return descriptor.present() ? Check::kOk : Check::kNp;
}

Check check_return_code(Selector selector, const Descriptor& descriptor, unsigned cpl, bool long_mode) {
  if (selector.rpl() < cpl || !descriptor.code()) return Check::kGp;
  if (long_mode && descriptor.is_long() && descriptor.big()) return Check::kGp;
  if (descriptor.conforming() ? descriptor.dpl() > selector.rpl() : descriptor.dpl() != selector.rpl())
    return Check::kGp;
  return descriptor.present() ? Check::kOk : Check::kNp;
}

bool survives_return(const Segment& segment, unsigned cpl) {
  if (!segment.usable()) return true;  // null already
  const bool conforming_code = (segment.type() & 0xc) == 0xc;
  return conforming_code || segment.dpl() >= cpl;
}

bool within_limit(const Segment& segment, uint64_t offset, uint64_t size) {
  const uint64_t last = offset + size - 1;
  const bool expand_down = (segment.attributes & (Segment::kSystemBit | 0xc)) == (Segment::kSystemBit | 4);
  if (!expand_down) return last <= segment.limit;
  return offset > segment.limit && last <= (segment.is_big() ? 0xffffffffu : 0xffffu);
}

namespace {

bool privileged_enough(Selector selector, const Descriptor& descriptor, unsigned cpl) {
  return descriptor.conforming() || (selector.rpl() <= descriptor.dpl() && cpl <= descriptor.dpl());
}

}  // namespace

bool lar_answers(Selector selector, const Descriptor& descriptor, unsigned cpl, bool long_mode) {
  if (descriptor.system()) {
    switch (descriptor.system_type()) {
      case SystemType::kLdt:
      case SystemType::kTss32:
      case SystemType::kTss32Busy:
      case SystemType::kCallGate32:
        break;
      case SystemType::kTss16:
      case SystemType::kTss16Busy:
      case SystemType::kCallGate16:
      case SystemType::kTaskGate:
        if (long_mode) return false;
        break;
      default:
        return false;
    }
  }
  return privileged_enough(selector, descriptor, cpl);
}

bool lsl_answers(Selector selector, const Descriptor& descriptor, unsigned cpl, bool long_mode) {
  if (descriptor.system()) {
    switch (descriptor.system_type()) {
      case SystemType::kLdt:
      case SystemType::kTss32:
      case SystemType::kTss32Busy:
        break;
      case SystemType::kTss16:
      case SystemType::kTss16Busy:
        if (long_mode) return false;
        break;
      default:
        return false;
    }
  }
  return privileged_enough(selector, descriptor, cpl);
}

}  // namespace ostler::x86
