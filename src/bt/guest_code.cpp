#include "bt/guest_code.h"

#include <algorithm>
#include <array>

namespace ostler::bt {
namespace {

using x86::CodeSize;
using x86::DecodeStatus;
using x86::Opcode;

constexpr unsigned kMaxLength = 15;
constexpr unsigned kPeek = 5;  // instructions looked at behind a jump to find out which flags it needs

CodeSize code_size(Mode mode) {
  return (mode & mode::k32) != 0 ? CodeSize::k32 : CodeSize::k64;
}
struct Source {
  mmu::SoftMmu& mmu;
  const x86::CpuModel& model;
  const Options& options;
};

// Copies code until `upto` bytes are there, as far as the page goes. What CodePages watches with them comes
// along.
void read_more(mmu::SoftMmu& mmu, GuestCode& code, unsigned upto) {
  const auto in_page = static_cast<unsigned>(kPageSize - (code.phys & kPageMask));
  if (std::min(in_page, upto) <= code.code_read) return;
  const auto start = static_cast<unsigned>(code.phys & kPageMask);
  upto = std::min(in_page, ((start + upto - 1) | (mmu::CodePages::kGranule - 1)) + 1 - start);
  code.keep &= mmu.read_code(GuestPhys{code.phys + code.code_read},
                             {code.code + code.code_read, upto - code.code_read}, true);
  code.code_read = upto;
}

// The flags that code at `offset` from the block's start needs, as far as a few instructions tell.
uint16_t peek(const Source& from, GuestCode& code, uint64_t rip) {
  const uint16_t all = x86::rflags::kArithmetic;
  const uint64_t offset = rip - code.rip;
  const uint64_t in_page = kPageSize - (code.phys & kPageMask);
  if (offset >= in_page) return all;  // also what lies before the block: it was not read
  uint16_t unknown = all, needed = 0;
  auto at = static_cast<unsigned>(offset);
  for (unsigned i = 0; i < kPeek && at < in_page; ++i) {
    if (at + kMaxLength > code.code_read) read_more(from.mmu, code, at + 32);
    const uint8_t* const bytes = code.code + at;
    const size_t available = code.code_read - at;
    InsnShapes::Glance seen = code.shapes.glance(bytes, available);
    if (seen.length == 0) {
      x86::Instruction insn;
      if (x86::decode({bytes, available}, code_size(code.mode), insn) != DecodeStatus::kOk) break;
      const InsnFacts facts = facts_of(insn, from.model, code.mode, from.options);
      seen = {facts.reads, facts.writes, facts.leads_elsewhere, insn.length};
      code.shapes.learn(bytes);
    }
    needed |= seen.reads & unknown;
    unknown &= static_cast<uint16_t>(~seen.writes);
    if (unknown == 0) return needed;
    if (seen.leads_elsewhere) break;
    at += seen.length;
  }
  return needed | unknown;
}

void analyse_flags(const Source& from, GuestCode& code) {
  const uint16_t all = x86::rflags::kArithmetic;
  const GuestInsn& last = code.insns[code.count - 1];
  const auto target = [&](const GuestInsn& g) { return code.next_rip(g) + g.insn.imm; };
  uint16_t live = all;
  switch (last.kind) {
    case Kind::kJump:
      live = peek(from, code, target(last));
      break;
    case Kind::kCondition:
      live = peek(from, code, code.next_rip(last));
      break;
    case Kind::kCountJump:
      live = peek(from, code, target(last)) | peek(from, code, code.next_rip(last));
      break;
    case Kind::kCall:
    case Kind::kCallIndirect:
    case Kind::kJumpIndirect:
    case Kind::kReturn:
    case Kind::kInterpret:
    case Kind::kSystem:
      break;
    default:
      live = peek(from, code, code.next_rip(last));
      break;
  }
  for (unsigned i = code.count; i-- > 0;) {
    GuestInsn& g = code.insns[i];
    if (g.kind == Kind::kCondition) {
      g.live_taken = peek(from, code, target(g));
      live |= g.live_taken;
    }
    g.live_after = live;
    live = static_cast<uint16_t>((live & ~g.writes) | g.reads);
    if (g.kind == Kind::kInterpret) live = all;
  }
  code.entry_flags = live;
}

// Whether the flags at the entry would go to memory before anything wants them in the host's: then they had
// better stay there.
bool spills_first(const GuestCode& code) {
  if (code.entry_flags == 0) return false;
  for (unsigned i = 0; i < code.count; ++i) {
    const GuestInsn& g = code.insns[i];
    if (g.window_here) return true;
    if (g.touches_flags || g.reads != 0) return false;
    switch (g.kind) {
      case Kind::kGeneric:
        if (g.insn.has_memory() && !g.in_window) return true;
        break;
      case Kind::kPush:
      case Kind::kPop:
        if (!g.in_window) return true;
        break;
      case Kind::kLea:
      case Kind::kNothing:
        break;
      case Kind::kJump:
        return false;
      default:
        return true;
    }
  }
  return false;
}

// Decodes the instruction at `at` from the start of the block.
void look_at(const Source& from, uint64_t rip, unsigned at, GuestCode& code, GuestInsn& g) {
  DecodeStatus status = x86::decode({g.bytes, code.code_read - at}, code_size(code.mode), g.insn);
  if (status == DecodeStatus::kTruncated && code.count == 0) {
    const uint64_t second = (rip | kPageMask) + 1;
    // Beyond 4 GiB is beyond CS's limit.
    if (code.wrap(second) == second) {
      const auto in_page = static_cast<unsigned>(kPageSize - (code.phys & kPageMask));
      code.second_phys = from.mmu.translate_fetch(second).value;
      code.keep &=
          from.mmu.read_code(GuestPhys{code.second_phys}, {code.code + in_page, kMaxLength - in_page}, true);
      code.straddles = true;
      status = x86::decode({g.bytes, kMaxLength}, code_size(code.mode), g.insn);
    }
  }
  if (status == DecodeStatus::kOk) {
    static_cast<InsnFacts&>(g) = facts_of(g.insn, from.model, code.mode, from.options);
    g.form = form_of(g.insn, g.bytes, code.mode, g.kind);
    code.shapes.learn(g.bytes);
    return;
  }
  static_cast<InsnFacts&>(g) = {.reads = x86::rflags::kArithmetic, .touches_flags = true, .ends_block = true};
  g.insn.length = std::max<uint8_t>(g.insn.length, 1);
}

}  // namespace

void read_guest_code(mmu::SoftMmu& mmu, const x86::CpuModel& model, uint64_t rip, uint64_t phys, Mode mode,
                     const Options& options, GuestCode& out) {
  out.rip = rip;
  out.base = 0;
  out.shared = false;
  out.phys = phys;
  out.mode = mode;
  out.count = out.bytes = out.code_read = 0;
  out.copies = 1;
  out.uses_stack = false;
  out.shareable = 0;
  out.shapes.use(model, options, mode);
  out.straddles = false;
  out.keep = true;
  const Source from{mmu, model, options};
  const auto in_page = static_cast<unsigned>(kPageSize - (phys & kPageMask));
  unsigned at = 0;
  while (out.count < options.block_instructions && at < in_page) {
    if (at + kMaxLength > out.code_read) read_more(mmu, out, at + 96);
    GuestInsn& g = out.insns[out.count];
    g.in_window = g.window_here = g.share_here = false;
    g.share = 0;
    g.bytes = out.code + at;
    g.at = static_cast<uint16_t>(at);
    if (!out.shapes.read(g.bytes, out.code_read - at, g.insn, g, g.form)) look_at(from, rip, at, out, g);
    out.uses_stack |= g.stack != StackUse::kNowhere;
    if (g.shareable) ++out.shareable;
    // What the interpreter does gets a block of its own when it comes first; otherwise the block ends before
    // it.
    if (g.kind == Kind::kInterpret && out.count != 0) break;
    at += g.insn.length;
    ++out.count;
    if (g.ends_block || out.straddles || (options.count && g.kind == Kind::kCondition)) break;
  }
  // Nothing may come between STI and the next instruction: they stay together, or STI is for the interpreter.
  GuestInsn& last = out.insns[out.count - 1];
  if (last.kind == Kind::kSystem && last.insn.opcode == Opcode::kSti) {
    if (out.count == 1) {
      last.kind = Kind::kInterpret;
      last.ends_block = true;
    } else {
      at = last.at;
      --out.count;
    }
  }
  out.bytes = at;
  const bool shares = options.shared_checks && (mode & mode::kNoWindow) == 0;
  if (shares && options.unroll && !options.count && !out.straddles) unroll_loop(out);
  analyse_flags(from, out);
  if (options.window && (mode & mode::kNoWindow) == 0) plan_window(out);
  out.flags_wait = options.flags_wait && spills_first(out);
  if (shares) plan_sharing(out);
}

}  // namespace ostler::bt
