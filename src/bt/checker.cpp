#include "bt/checker.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "base/log.h"
#include "x86/flag_effect.h"
#include "x86/format.h"

namespace ostler::bt {

using x86::Opcode;

bool Checker::before(const GuestCode& code) {
  for (unsigned i = 0; i < code.count; ++i) {
    const Opcode opcode = code.insns[i].insn.opcode;
    if (opcode == Opcode::kRdrand || opcode == Opcode::kRdseed) return false;
  }
  interp::Cpu& cpu = interpreter_.cpu();
  x86::CpuState& s = cpu.s;
  start_ = s;
  recorder_.clear();
  fault_.reset();
  undefined_ = 0;
  cpu.mmu.set_recorder(&recorder_);
  for (unsigned i = 0; i < code.count; ++i) {
    const GuestInsn& g = code.insns[i];
    // What the translation leaves to the interpreter it stops in front of.
    if (g.kind == Kind::kInterpret) break;
    try {
      interpreter_.execute_one();
      undefined_ = static_cast<uint16_t>((undefined_ & ~x86::flag_effect(g.insn).written) |
                                         x86::undefined_flags(g.insn));
    } catch (const x86::Exception& exception) {
      fault_ = exception;
      break;
    } catch (const mmu::WriteRecorder::NotMemory&) {
      break;
    }
    if (i + 1 == code.count || s.rip != code.rip_of(code.insns[i + 1])) break;
  }
  cpu.mmu.set_recorder(nullptr);
  recorder_.take_back();
  expected_ = s;
  s = start_;
  ++checked_;
  return true;
}

void Checker::after(const GuestCode& code, const std::optional<x86::Exception>& fault, uint16_t flags) {
  const x86::CpuState& s = interpreter_.cpu().s;
  if (!exact_) flags &= static_cast<uint16_t>(~undefined_);
  // The translation may also stop early and leave an instruction to the interpreter: page crossings, code
  // pages.
  std::string report;
  const auto differ = [&](std::string_view what, uint64_t is, uint64_t expected) {
    if (is != expected) report += fmt::format("  {}: {:#x}, interpreter {:#x}\n", what, is, expected);
  };
  if (s.rip != expected_.rip && !fault && s.rip - code.rip < code.bytes && s.rip != code.rip + code.bytes) {
    // Not to the end: what there is was run before in an earlier check, so nothing can be said about it.
    return;
  }
  differ("fault", fault ? static_cast<uint64_t>(fault->vector) + 1 : 0,
         fault_ ? static_cast<uint64_t>(fault_->vector) + 1 : 0);
  if (fault && fault_) {
    differ("error code", fault->error, fault_->error);
    differ("CR2", fault->cr2, fault_->cr2);
  }
  static constexpr const char* kNames[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  for (unsigned i = 0; i < 16; ++i) differ(kNames[i], s.gpr[i], expected_.gpr[i]);
  differ("rip", s.rip, expected_.rip);
  differ("rflags", s.rflags() & (flags | ~x86::rflags::kArithmetic),
         expected_.rflags() & (flags | ~x86::rflags::kArithmetic));
  for (unsigned i = 0; i < 16; ++i)
    if (std::memcmp(s.vec[i], expected_.vec[i], sizeof s.vec[i]) != 0) report += fmt::format("  ymm{}\n", i);
  differ("mxcsr", s.fx.mxcsr, expected_.fx.mxcsr);
  differ("fsw", s.fx.fsw, expected_.fx.fsw);
  if (std::memcmp(s.fx.st, expected_.fx.st, sizeof s.fx.st) != 0) report += "  x87 registers\n";
  for (const mmu::WriteRecorder::Write& write : recorder_.writes())
    if (std::memcmp(write.host, write.after, write.size) != 0 && report.size() < 4000) {
      // Later writes may overlap.
      report += fmt::format("  {} bytes of memory at {}\n", write.size, static_cast<const void*>(write.host));
    }
  if (report.empty()) return;
  std::string text = fmt::format("translation differs, block {} at {:#x}:\n{}", checked_, code.rip, report);
  for (unsigned i = 0; i < code.count; ++i)
    text += fmt::format("  {:#x}  {}\n", code.rip_of(code.insns[i]),
                        x86::format(code.insns[i].insn, code.rip_of(code.insns[i])));
  text += "from:";
  for (unsigned i = 0; i < 16; ++i) text += fmt::format(" {} {:#x}", kNames[i], start_.gpr[i]);
  log::write(text + fmt::format(" rflags {:#x}\n", start_.rflags()));
  std::abort();
}

}  // namespace ostler::bt
