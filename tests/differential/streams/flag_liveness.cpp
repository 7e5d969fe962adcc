#include "streams/flag_liveness.h"

#include <map>
#include <span>
#include <vector>

#include "x86/flag_effect.h"

namespace ostler::differential {
namespace {

constexpr uint64_t kAll = x86::rflags::kArithmetic;

struct Node {
  x86::FlagEffect effect;
  std::vector<uint64_t> next;
  bool leaves = false;
  uint64_t live = 0;
};

Node examine(const TestCase& test, uint64_t rip) {
  using x86::Opcode;
  Node node;
  node.leaves = true;
  const uint64_t offset = rip - test.address;
  if (offset >= test.code.size()) return node;
  const std::span<const uint8_t> code(test.code);
  x86::Instruction insn;
  if (x86::decode(code.subspan(offset), test.code_size, insn) != x86::DecodeStatus::kOk) return node;
  node.effect = x86::flag_effect(insn);
  const uint64_t next = rip + insn.length;
  const bool direct = insn.operand[0].kind == x86::OperandKind::kRel;
  if (direct) node.next.push_back(next + insn.imm);
  switch (insn.opcode) {
    case Opcode::kJmp:
    case Opcode::kCall:
      break;
    case Opcode::kJmpInd:
    case Opcode::kCallInd:
    case Opcode::kRet:
      return node;
    default:
      node.next.push_back(next);
      break;
  }
  node.leaves = false;
  return node;
}

}  // namespace

uint64_t live_flags(const TestCase& test, uint64_t rip) {
  std::map<uint64_t, Node> nodes;
  std::vector<uint64_t> open = {rip};
  while (!open.empty()) {
    const uint64_t at = open.back();
    open.pop_back();
    if (nodes.contains(at)) continue;
    const Node& node = nodes[at] = examine(test, at);
    open.insert(open.end(), node.next.begin(), node.next.end());
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (auto& [at, node] : nodes) {
      uint64_t after = node.leaves ? kAll : 0;
      for (const uint64_t next : node.next) after |= nodes[next].live;
      const uint64_t live = node.effect.read | (after & ~uint64_t{node.effect.written});
      changed = changed || live != node.live;
      node.live = live;
    }
  }
  return nodes[rip].live;
}

}  // namespace ostler::differential
