#include "fixture.h"

#include "interp/families.h"

namespace ostler::interp {

using x86::Segment;

namespace {

std::shared_ptr<memory::RamBlock> two_megabytes() {
  auto created = memory::RamBlock::create({.name = "test", .size = 2 << 20});
  EXPECT_TRUE(created.has_value());
  return std::move(*created);
}

// The end of a one-instruction block.
const Op* stop(Cpu& cpu, const Op* op) {
  cpu.s.rip = cpu.next_rip(op[-1]);
  return nullptr;
}

constexpr uint64_t kPml4 = 0x100000, kPdpt = 0x101000, kPd = 0x102000;

}  // namespace

Guest::Guest(std::string_view model_name)
    : block(two_megabytes()), ram("ram", block), model(test_model(model_name)), vcpu(engine, env, model) {
  memory::Transaction change(space);
  change.add(space.root(), 0, ram);
  s.reset(false);
  fill_tables();
  mmu.participant().enter_running();
}

void Guest::fill_tables() {
  constexpr uint32_t kFlat = 0xfffff;
  set_gdt(kCode0, descriptor(0, kFlat, kA_Code, 0xc));
  set_gdt(kData0, descriptor(0, kFlat, kA_Data, 0xc));
  set_gdt(kCode3, descriptor(0, kFlat, kA_Code | 0x60, 0xc));
  set_gdt(kData3, descriptor(0, kFlat, kA_Data | 0x60, 0xc));
  set_gdt(kTssSel, descriptor(kTss, 0x67, kA_Tss32, 0));
  set_gdt(kLdtSel, descriptor(kLdt, 0x1f, kA_Ldt, 0));
  set_gdt(kCode64, descriptor(0, kFlat, kA_Code, 0xa));
  set_gdt(kCode64User, descriptor(0, kFlat, kA_Code | 0x60, 0xa));
  set_gdt(kConforming, descriptor(0, kFlat, kA_Code | 4, 0xc));
  set_gdt(kAbsentCode, descriptor(0, kFlat, kA_Code & 0x7f, 0xc));
  set_gdt(kAbsentData, descriptor(0, kFlat, kA_Data & 0x7f, 0xc));
  set_gdt(kReadOnly, descriptor(0, kFlat, 0x90, 0xc));
  set_gdt(kExecOnly, descriptor(0, kFlat, 0x98, 0xc));
  set_gdt(kTss2Sel, descriptor(kTss2, 0x67, kA_Tss32, 0));
  set_gdt(kTss16Sel, descriptor(kTss16, 0x2b, kA_Tss16, 0));
  set_gdt(kCode1, descriptor(0, kFlat, kA_Code | 0x20, 0xc));
  set_gdt(kData1, descriptor(0, kFlat, kA_Data | 0x20, 0xc));
  set_gdt(kCallGate, gate(kCode0, kHandler, 0xec));
  set_gdt(kTaskGate, gate(kTss2Sel, 0, 0xe5));
  set_gdt(kCode16, descriptor(0, 0xffff, kA_Code, 0));
  set_gdt(kData16, descriptor(0, 0xffff, kA_Data, 0));
  set_gdt(kTss64Sel, descriptor(kTss, 0x67, kA_Tss32, 0));
  set_gdt(kSmallData, descriptor(0x40000, 0xff, kA_Data, 0x4));
  // TSS: inner stacks for rings 0 and 1 (32-bit form).
  poke<uint32_t>(kTss + 4, kStack0);
  poke<uint16_t>(kTss + 8, kData0);
  poke<uint32_t>(kTss + 12, kStack1);
  poke<uint16_t>(kTss + 16, kData1 | 1);
  poke<uint16_t>(kTss + 0x66, 0x68);  // no I/O bitmap
}

void Guest::real_mode() {
  s.reset(false);
  cs() = {kCode, 0xffff, x86::kRealCodeAttributes, kCode >> 4};
  s.rip = 0;
  ss() = {kStack3, 0xffff, x86::kRealDataAttributes, kStack3 >> 4};
  rsp() = 0x100;
  s.idtr = {0, 0x3ff};
  cpu.mode_changed();
}

void Guest::protected_mode(unsigned cpl) {
  s.reset(false);
  s.cr0 = x86::cr0::kPe | x86::cr0::kEt;
  s.gdtr = {kGdt, kGdtEnd - 1};
  s.idtr = {kIdt, 0x7ff};
  const auto load = [&](uint16_t selector) {
    return x86::Descriptor{peek<uint64_t>(kGdt + (selector & 0xfff8)), 0}.segment({selector});
  };
  cs() = load(cpl == 3 ? kCode3 | 3 : cpl == 1 ? kCode1 | 1 : kCode0);
  const Segment data = load(cpl == 3 ? kData3 | 3 : cpl == 1 ? kData1 | 1 : kData0);
  for (x86::SegIndex index : {x86::kSs, x86::kDs, x86::kEs, x86::kFs, x86::kGs}) s.seg[index] = data;
  s.tr = load(kTssSel);
  s.tr.attributes |= 2;
  set_gdt(kTssSel, peek<uint64_t>(kGdt + kTssSel) | uint64_t{2} << 40);
  s.ldtr = {0, 0, Segment::kUnusable, 0};
  s.rip = kCode;
  rsp() = cpl == 3 ? kStack3 : cpl == 1 ? kStack1 : kStack0;
  cpu.mode_changed();
}

void Guest::v8086_mode(unsigned iopl) {
  protected_mode(3);
  s.flags_rest |= x86::rflags::kVm | uint64_t{iopl} << 12;
  for (unsigned i = 0; i < 6; ++i) s.seg[i] = {0x10000, 0xffff, x86::kV8086Attributes, 0x1000};
  cs() = {kCode, 0xffff, x86::kV8086Attributes, kCode >> 4};
  ss() = {kStack3, 0xffff, x86::kV8086Attributes, kStack3 >> 4};
  s.rip = 0;
  rsp() = 0x100;
  cpu.mode_changed();
}

void Guest::long_mode(unsigned cpl) {
  protected_mode(cpl);
  poke<uint64_t>(kPml4, kPdpt | 7);
  poke<uint64_t>(kPdpt, kPd | 7);
  poke<uint64_t>(kPd, 0x87);  // the first 2 MiB, user, writable
  s.cr3 = kPml4;
  s.cr4 = x86::cr4::kPae;
  s.cr0 |= x86::cr0::kPg;
  s.msr.efer = x86::efer::kLme | x86::efer::kLma;
  const uint16_t selector = cpl == 3 ? kCode64User | 3 : kCode64;
  cs() = x86::Descriptor{peek<uint64_t>(kGdt + (selector & 0xfff8)), 0}.segment({selector});
  s.idtr.limit = 0xfff;
  poke<uint64_t>(kTss + 4, kStack0);
  poke<uint64_t>(kTss + 12, kStack1);
  poke<uint64_t>(kTss + 0x24, kIst1);
  cpu.mode_changed();
  mmu.flush_all();
}

bool Guest::decodes(const std::vector<uint8_t>& bytes) const {
  x86::Instruction insn;
  return x86::decode(bytes, cpu.code_size, insn) == x86::DecodeStatus::kOk && insn.length == bytes.size() &&
         bind_system(insn, {cpu.code_size, cpu.code_size == x86::CodeSize::k64, false}) != nullptr;
}

std::optional<x86::Exception> Guest::execute(const std::vector<uint8_t>& bytes) {
  alignas(64) Op ops[2];
  EXPECT_EQ(x86::decode(bytes, cpu.code_size, ops[0].insn), x86::DecodeStatus::kOk);
  ops[0].next_offset = ops[0].insn.length;
  ops[0].run =
      bind_system(ops[0].insn, {cpu.code_size, cpu.code_size == x86::CodeSize::k64, cpu.alignment_check});
  EXPECT_NE(ops[0].run, nullptr);
  ops[1].run = stop;
  cpu.block_rip = s.rip;
  cpu.current_op = &ops[0];
  try {
    const Op* op = ops;
    do {
      op = op->run(cpu, op);
    } while (op != nullptr);
  } catch (const x86::Exception& exception) {
    return exception;
  }
  return std::nullopt;
}

}  // namespace ostler::interp
