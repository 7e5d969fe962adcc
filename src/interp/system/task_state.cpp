#include "interp/system/task_state.h"

#include <array>

#include "base/bytes.h"
#include "interp/delivery.h"

namespace ostler::interp {

using mmu::Access;
using mmu::Privilege;
using x86::Check;
using x86::CpuState;
using x86::Descriptor;
using x86::Segment;
using x86::Selector;
using x86::SystemType;
using x86::Vector;

namespace {

// Offsets in the 16- and 32-bit forms, Figures 8-2 and 8-10.
struct Layout {
  uint32_t size, width, ip, flags, gpr, segments, segment_step, ldt;
  unsigned segment_count;
};
constexpr Layout kTss16 = {44, 2, 0x0e, 0x10, 0x12, 0x22, 2, 0x2a, 4};
constexpr Layout kTss32 = {104, 4, 0x20, 0x24, 0x28, 0x48, 4, 0x60, 6};
constexpr uint32_t kTss32Cr3 = 0x1c, kTss32Trap = 0x64;
constexpr x86::SegIndex kOrder[] = {x86::kEs, x86::kCs, x86::kSs, x86::kDs, x86::kFs, x86::kGs};

bool is_tss32(unsigned type) {
  return (type & 8) != 0;
}

uint64_t tss_read(Cpu& cpu, uint32_t offset, unsigned size) {
  const Segment& tr = cpu.s.tr;
  if (offset + size - 1 > tr.limit) x86::raise(Vector::kTs, Selector{tr.selector}.error());
  return read_sized(cpu, tr.base + offset, size, Privilege::kSupervisor);
}

uint64_t checked_rsp(Cpu& cpu, uint64_t rsp) {
  if (!cpu.canonical(rsp)) x86::raise(Vector::kSs, 0);
  return rsp;
}

uint64_t get(const uint8_t* tss, uint32_t offset, unsigned size) {
  return size == 2 ? load_le<uint16_t>(tss + offset) : load_le<uint32_t>(tss + offset);
}
void put(uint8_t* tss, uint32_t offset, unsigned size, uint64_t value) {
  if (size == 2)
    store_le<uint16_t>(tss + offset, static_cast<uint16_t>(value));
  else
    store_le<uint32_t>(tss + offset, static_cast<uint32_t>(value));
}

// The registers that a TSS keeps for its task, as loaded.
struct Incoming {
  const Layout* layout;
  uint64_t ip, flags, gpr[8];
  uint16_t selector[6] = {};
  uint16_t ldt;
  uint64_t cr3 = 0;
  bool trap = false;
};

Incoming parse(const uint8_t* tss, const Layout& layout) {
  Incoming in{};
  in.layout = &layout;
  in.ip = get(tss, layout.ip, layout.width);
  in.flags = get(tss, layout.flags, layout.width);
  for (unsigned i = 0; i < 8; ++i) in.gpr[i] = get(tss, layout.gpr + i * layout.width, layout.width);
  for (unsigned i = 0; i < layout.segment_count; ++i)
    in.selector[i] = static_cast<uint16_t>(get(tss, layout.segments + i * layout.segment_step, 2));
  in.ldt = static_cast<uint16_t>(get(tss, layout.ldt, 2));
  if (layout.width == 4) {
    in.cr3 = get(tss, kTss32Cr3, 4);
    in.trap = (get(tss, kTss32Trap, 2) & 1) != 0;
  }
  return in;
}

void save_outgoing(const CpuState& s, uint8_t* tss, const Layout& layout, uint64_t return_rip,
                   uint64_t flags) {
  put(tss, layout.ip, layout.width, return_rip);
  put(tss, layout.flags, layout.width, flags);
  for (unsigned i = 0; i < 8; ++i) put(tss, layout.gpr + i * layout.width, layout.width, s.gpr[i]);
  for (unsigned i = 0; i < layout.segment_count; ++i)
    put(tss, layout.segments + i * layout.segment_step, 2, s.seg[kOrder[i]].selector);
}

// The rules of Table 8-1 for CS, SS and data segments in the new task: everything is #TS but absence.
void load_task_segments(Cpu& cpu, const Incoming& in) {
  CpuState& s = cpu.s;
  if (const Selector ldt{in.ldt}; !ldt.null()) {
    if (ldt.local()) x86::raise(Vector::kTs, ldt.error());
    const Found found = find_descriptor(cpu, ldt, Vector::kTs);
    const Descriptor& d = found.descriptor;
    if (!d.system() || d.system_type() != SystemType::kLdt || !d.present())
      x86::raise(Vector::kTs, ldt.error());
    s.ldtr = d.segment(ldt);
  }
  if ((in.flags & x86::rflags::kVm) != 0) {
    for (unsigned i = 0; i < 6; ++i) s.seg[kOrder[i]] = v8086_segment(in.selector[i]);
    return;
  }
  const Selector cs{in.selector[1]}, ss{in.selector[2]};
  const unsigned cpl = cs.rpl();

  if (cs.null()) x86::raise(Vector::kTs, 0);
  Found code = find_descriptor(cpu, cs, Vector::kTs);
  const Descriptor& d = code.descriptor;
  if (!d.code() || (d.conforming() ? d.dpl() > cpl : d.dpl() != cpl)) x86::raise(Vector::kTs, cs.error());
  if (!d.present()) x86::raise(Vector::kNp, cs.error());
  mark_accessed(cpu, code);
  s.seg[x86::kCs] = code.descriptor.segment(cs);

  if (ss.null()) x86::raise(Vector::kTs, 0);
  Found stack = find_descriptor(cpu, ss, Vector::kTs);
  require(check_stack_segment(ss, stack.descriptor, cpl, Check::kTs), ss.error());
  mark_accessed(cpu, stack);
  s.seg[x86::kSs] = stack.descriptor.segment(ss);

  for (unsigned i = 0; i < 6; ++i) {
    const Selector selector{in.selector[i]};
    if (kOrder[i] == x86::kCs || kOrder[i] == x86::kSs || selector.null()) continue;
    Found data = find_descriptor(cpu, selector, Vector::kTs);
    const Check check = check_data_segment(selector, data.descriptor, cpl);
    require(check == Check::kGp ? Check::kTs : check, selector.error());
    mark_accessed(cpu, data);
    s.seg[kOrder[i]] = data.descriptor.segment(selector);
  }
  if (in.ip > s.seg[x86::kCs].limit) x86::raise(Vector::kGp, 0);
}

}  // namespace

Stack inner_stack(Cpu& cpu, unsigned level) {
  uint64_t sp;
  Selector ss;
  if (is_tss32(cpu.s.tr.type())) {
    ss.value = static_cast<uint16_t>(tss_read(cpu, level * 8 + 8, 2));
    sp = tss_read(cpu, level * 8 + 4, 4);
  } else {
    ss.value = static_cast<uint16_t>(tss_read(cpu, level * 4 + 4, 2));
    sp = tss_read(cpu, level * 4 + 2, 2);
  }
  if (ss.null()) x86::raise(Vector::kTs, 0);
  Found found = find_descriptor(cpu, ss, Vector::kTs);
  require(check_stack_segment(ss, found.descriptor, level, Check::kTs), ss.error());
  mark_accessed(cpu, found);
  Stack stack;
  stack.segment = found.descriptor.segment(ss);
  stack.sp = sp & stack.mask();
  stack.fault_error = ss.error();
  stack.privilege = Privilege::kSupervisor;
  return stack;
}

uint64_t inner_rsp(Cpu& cpu, unsigned level) {
  return checked_rsp(cpu, tss_read(cpu, 4 + 8 * level, 8));
}
uint64_t ist_rsp(Cpu& cpu, unsigned ist) {
  return checked_rsp(cpu, tss_read(cpu, 0x24 + 8 * (ist - 1), 8));
}

void check_available_tss(Selector selector, const Descriptor& descriptor, Vector vector) {
  const bool available = descriptor.system() && (descriptor.system_type() == SystemType::kTss16 ||
                                                 descriptor.system_type() == SystemType::kTss32);
  if (selector.local() || !available) x86::raise(vector, selector.error());
  if (!descriptor.present()) x86::raise(Vector::kNp, selector.error());
}

std::optional<x86::Exception> switch_task(Cpu& cpu, TaskSwitch kind, Selector selector, const Found& found,
                                          uint64_t return_rip, uint64_t extra_flags) {
  CpuState& s = cpu.s;
  const Segment incoming_tss = found.descriptor.segment(selector);
  const Layout& to = is_tss32(found.descriptor.type()) ? kTss32 : kTss16;
  const Layout& from = is_tss32(s.tr.type()) ? kTss32 : kTss16;
  if (incoming_tss.limit < to.size - 1) x86::raise(Vector::kTs, selector.error());
  if (s.tr.limit < from.size - 1) x86::raise(Vector::kTs, Selector{s.tr.selector}.error());

  // Everything that can fault in the old task's name comes first.
  std::array<uint8_t, 104> old_tss, new_tss;
  const std::span<uint8_t> old_bytes(old_tss.data(), from.size), new_bytes(new_tss.data(), to.size);
  cpu.mmu.read_bytes(incoming_tss.base, new_bytes, Privilege::kSupervisor);
  cpu.mmu.read_bytes(s.tr.base, old_bytes, Privilege::kSupervisor);
  cpu.mmu.probe(s.tr.base, from.size, Access::kWrite, Privilege::kSupervisor);
  if (kind == TaskSwitch::kCall) cpu.mmu.probe(incoming_tss.base, 2, Access::kWrite, Privilege::kSupervisor);
  const uint64_t old_descriptor = s.gdtr.base + Selector{s.tr.selector}.offset();
  if (kind != TaskSwitch::kCall) cpu.mmu.probe(old_descriptor + 5, 1, Access::kWrite, Privilege::kSupervisor);
  if (kind != TaskSwitch::kReturn)
    cpu.mmu.probe(found.address + 5, 1, Access::kWrite, Privilege::kSupervisor);
  const Incoming in = parse(new_tss.data(), to);

  uint64_t old_flags = s.rflags() | extra_flags;
  if (kind == TaskSwitch::kReturn) old_flags &= ~x86::rflags::kNt;
  save_outgoing(s, old_tss.data(), from, return_rip, old_flags);
  cpu.mmu.write_bytes(s.tr.base, old_bytes, Privilege::kSupervisor);
  if (kind != TaskSwitch::kCall) mark_busy(cpu, old_descriptor, false);
  if (kind != TaskSwitch::kReturn) mark_busy(cpu, found.address, true);
  if (kind == TaskSwitch::kCall)
    cpu.mmu.write<uint16_t>(incoming_tss.base, s.tr.selector, Privilege::kSupervisor);

  // From here on the new task runs.
  s.tr = incoming_tss;
  s.tr.attributes |= 2;  // busy
  s.cr0 |= x86::cr0::kTs;
  s.rip = in.ip;
  uint64_t flags = in.flags & 0x3f7fd5;
  if (to.width == 2) flags &= 0x7fd5;
  if (kind == TaskSwitch::kCall) flags |= x86::rflags::kNt;
  s.set_rflags(flags);
  for (unsigned i = 0; i < 8; ++i) s.gpr[i] = to.width == 2 ? (s.gpr[i] & 0xffff0000) | in.gpr[i] : in.gpr[i];
  for (unsigned i = 0; i < 6; ++i) s.seg[kOrder[i]] = null_segment(in.selector[i]);
  const bool v8086 = (flags & x86::rflags::kVm) != 0;
  s.seg[x86::kSs].attributes |= (v8086 ? 3u : Selector{in.selector[1]}.rpl()) << 5;
  s.ldtr = null_segment(in.ldt);
  s.interrupt_shadow = false;
  s.dr[7] &= ~uint64_t{0x155};  // local breakpoints and LE belong to the old task

  std::optional<x86::Exception> fault;
  try {
    if (to.width == 4 && (s.cr0 & x86::cr0::kPg) != 0) {
      if ((s.cr4 & x86::cr4::kPae) != 0) cpu.mmu.load_pdptes(in.cr3);
      s.cr3 = in.cr3;
      cpu.mmu.cr3_written(in.cr3);
    }
    cpu.mode_changed();
    load_task_segments(cpu, in);
    if (in.trap) cpu.debug_traps |= 1u << 15;  // DR6.BT
  } catch (const x86::Exception& exception) {
    fault = exception;
  }
  cpu.mode_changed();
  return fault;
}

void switch_task_and_deliver(Cpu& cpu, TaskSwitch kind, Selector selector, const Found& found,
                             uint64_t return_rip) {
  if (const auto fault = switch_task(cpu, kind, selector, found, return_rip, 0))
    deliver_exception(cpu, *fault);
}

void check_io_permission(Cpu& cpu, uint16_t port, unsigned size) {
  const CpuState& s = cpu.s;
  if (!s.protected_mode()) return;
  const unsigned iopl = static_cast<unsigned>(s.flags_rest >> 12 & 3);
  if (!s.v8086() && s.cpl() <= iopl) return;
  const bool tss32 = s.tr.usable() && is_tss32(s.tr.type());
  if (!tss32 || s.tr.limit < 0x67) x86::raise(Vector::kGp, 0);
  const uint32_t map = cpu.mmu.read<uint16_t>(s.tr.base + 0x66, Privilege::kSupervisor);
  const uint32_t at = map + port / 8;
  // Two bytes are always read, so that an access of several ports may straddle (SDM Vol. 1 §19.5.2).
  if (at + 1 > s.tr.limit) x86::raise(Vector::kGp, 0);
  const uint32_t bits = cpu.mmu.read<uint16_t>(s.tr.base + at, Privilege::kSupervisor);
  const uint32_t mask = (1u << size) - 1;
  if ((bits >> (port & 7) & mask) != 0) x86::raise(Vector::kGp, 0);
}

}  // namespace ostler::interp
