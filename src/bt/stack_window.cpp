// Which stack accesses of a block one check covers: docs/bt/design.md, "The stack".
#include <algorithm>
#include <optional>

#include "bt/guest_code.h"
#include "bt/operands.h"

namespace ostler::bt {
namespace {

using x86::Instruction;
using x86::Opcode;
using x86::OperandKind;

constexpr int kWidest = 1024;  // bytes; wider ranges would too often cross a page
constexpr uint16_t kRspBit = 1u << x86::kRsp;

bool is_rsp(const x86::Operand& operand) {
  return operand.kind == OperandKind::kGpr && operand.index / 8 == x86::kRsp;
}

bool is_near(const Instruction& insn) {
  return insn.disp > -kWidest && insn.disp < kWidest;
}

std::optional<int> movement_of_system(const Instruction& insn, int word) {
  switch (insn.opcode) {
    case Opcode::kPushf:
      return -word;
    case Opcode::kMov:  // from CR2
    case Opcode::kRdfsbase:
    case Opcode::kRdgsbase:
      return is_rsp(insn.operand[0]) ? std::nullopt : std::optional(0);
    case Opcode::kWrfsbase:
    case Opcode::kWrgsbase:
    case Opcode::kCli:
    case Opcode::kSti:
    case Opcode::kCld:
    case Opcode::kSwapgs:
    case Opcode::kVerw:
    case Opcode::kRdtsc:
    case Opcode::kRdtscp:
      return 0;
    default:
      return std::nullopt;
  }
}

// How RSP moves, of what may write it; nothing when that is not known.
std::optional<int> movement_of(const GuestInsn& g, unsigned word) {
  const Instruction& insn = g.insn;
  switch (g.kind) {
    case Kind::kPush:
      return -static_cast<int>(word);
    case Kind::kPop:
      if (is_rsp(insn.operand[0])) return std::nullopt;
      return static_cast<int>(word);
    case Kind::kLeave:
      return std::nullopt;
    case Kind::kLea:
      if (!is_rsp(insn.operand[0])) return 0;
      if (insn.operand_size != word || !is_at_stack(insn, word) || !is_near(insn)) return std::nullopt;
      return static_cast<int>(insn.disp);
    case Kind::kGeneric: {
      bool named = false;
      for (unsigned i = 0; i < insn.operand_count; ++i) named |= is_rsp(insn.operand[i]);
      if (!named) return 0;
      if (insn.opcode == Opcode::kCmp || insn.opcode == Opcode::kTest) return 0;
      if (!is_rsp(insn.operand[0])) {
        if (insn.opcode == Opcode::kXchg || insn.opcode == Opcode::kXadd || insn.opcode == Opcode::kMulx)
          return std::nullopt;
        return 0;
      }
      const bool adds = insn.opcode == Opcode::kAdd || insn.opcode == Opcode::kSub;
      if (!adds || insn.operand_size != word || insn.operand[1].kind != OperandKind::kImm)
        return std::nullopt;
      const auto amount = static_cast<int64_t>(insn.imm);
      if (amount <= -(1 << 20) || amount >= 1 << 20) return std::nullopt;
      return static_cast<int>(insn.opcode == Opcode::kAdd ? amount : -amount);
    }
    case Kind::kSystem:
      return movement_of_system(insn, static_cast<int>(word));
    case Kind::kBitString:
    case Kind::kString:
    case Kind::kNothing:
    case Kind::kCondition:
      return 0;
    default:
      return std::nullopt;
  }
}

}  // namespace

void plan_window(GuestCode& code) {
  if (!code.uses_stack) return;
  const auto word = static_cast<int>(code.word());
  int rsp = 0, low = 0, high = 0;  // relative to the start of the block
  int at_best = 0;                 // RSP where the check shall stand
  GuestInsn* best = nullptr;       // the last instruction so far before which flags are dead
  GuestInsn* check = nullptr;
  for (unsigned i = 0; i < code.count; ++i) {
    GuestInsn& g = code.insns[i];
    if (check == nullptr && code.live_before(g) == 0) {
      best = &g;
      at_best = rsp;
    }
    if (g.stack != StackUse::kNowhere && (g.stack != StackUse::kOperand || is_near(g.insn))) {
      const bool operand = g.stack == StackUse::kOperand;
      int from = rsp + (operand ? static_cast<int>(g.insn.disp) : g.stack == StackUse::kBelow ? -word : 0);
      int to = from + (operand ? g.memory_size : word);
      // The host adds to ESP with 64 bits, so that ESP itself must not have wrapped when it does.
      if (code.bits32()) {
        from = std::min(from, rsp);
        to = std::max(to, rsp + 1);
      }
      const int new_low = check == nullptr ? from : std::min(low, from);
      const int new_high = check == nullptr ? to : std::max(high, to);
      if (new_high - new_low <= kWidest) {
        if (check == nullptr) {
          if (best == nullptr) {
            best = &g;
            at_best = rsp;
          }
          check = best;
        }
        low = new_low;
        high = new_high;
        g.in_window = true;
        if (g.shareable) --code.shareable;
      }
    }
    if ((g.written & kRspBit) == 0) continue;
    const auto movement = movement_of(g, code.word());
    if (!movement) break;
    rsp += *movement;
    if (rsp < -4096 || rsp > 4096) break;
  }
  if (check == nullptr) return;
  check->window_here = true;
  check->window_from = static_cast<int16_t>(low - at_best);
  check->window_size = static_cast<uint16_t>(high - low);
}

}  // namespace ostler::bt
