// Instructions decoded by their shape: prefix, whether there is REX and its W, opcode and, as far as they
// choose what it is, ModRM.mod and ModRM.reg. A few hundred shapes make up nearly all code. What decode(),
// facts_of() and form_of() say of one is kept, and registers, addresses, displacement and immediate are
// filled in for each instruction.
//
// One for each thread that reads guest code. It holds pure functions of bytes and mode, so nothing that
// happens to guest memory makes a shape wrong. See docs/bt/design.md, "Reading guest code".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "bt/assembler.h"
#include "bt/form.h"
#include "bt/insn_facts.h"
#include "bt/mode.h"
#include "bt/options.h"
#include "x86/cpu_model.h"
#include "x86/instruction.h"

namespace ostler::bt {

class InsnShapes {
 public:
  // As many bytes are read at an instruction, whatever they are.
  static constexpr size_t kReads = 24;

  InsnShapes();

  // What follows is about code in this mode. Forgets everything when the other two are not those of the last
  // call.
  void use(const x86::CpuModel& model, const Options& options, Mode mode);

  // Decodes the instruction that begins at `bytes`, of which there are `available`. False: its shape is not
  // known, or it is not all there; what was written then means nothing. Nor does a form that is not simple.
  bool read(const uint8_t* bytes, size_t available, x86::Instruction& insn, InsnFacts& facts,
            Form& form) const;

  // Only what flags it reads and writes, where control goes, and its length; length 0: it is not known.
  struct Glance {
    uint16_t reads = 0, writes = 0;
    bool leads_elsewhere = false;
    uint8_t length = 0;
  };
  Glance glance(const uint8_t* bytes, size_t available) const;

  // Learns the shape of an instruction that decode() takes for valid, if it is one that is kept.
  void learn(const uint8_t* bytes);

  // Shapes that are known in this mode; for tests.
  size_t known() const { return table_->shapes.size(); }

  // A mode's shapes are forgotten when there would be more: a guest cannot make them grow without bound.
  static constexpr size_t kMost = 4096;

 private:
  static constexpr size_t kHead = offsetof(x86::Instruction, disp);

  // How a register's number becomes an operand's index, and the host's register.
  enum Naming : uint8_t { kPlain, kGpr, kByteGpr, kByteGprWithRex, kLowThree, kNamings };
  struct Name {
    uint8_t index;
    uint8_t host;  // with the bits below
  };
  static constexpr uint8_t kOther = 0x40;    // another number than the guest's
  static constexpr uint8_t kNotHere = 0x80;  // in memory, or AH to BH, which some encodings cannot name

  struct alignas(64) Shape {
    std::array<uint8_t, kHead> head{};  // of the Instruction
    InsnFacts facts;
    Form form;
    bool known : 1 = false;
    bool memory : 1 = false;
    bool own_segment : 1 = false;  // a prefix says which
    bool opcode_reg : 1 = false;   // a register's number is in the opcode, whose bit 3 is REX.B
    bool imm_signed : 1 = false;
    bool flags_by_immediate : 1 = false;
    uint8_t reg_written = 0, rm_written = 0;      // 1: yes
    uint8_t reg_at = kNowhere, rm_at = kNowhere;  // of the operand's index, in the Instruction
    Naming reg_naming = kPlain, rm_naming = kPlain;
    uint8_t imm_bytes = 0;
    uint8_t imm_value = 0;  // when the code has none
  };
  static_assert(sizeof(Shape) == 64);
  // Written over by the displacement afterwards.
  static constexpr uint8_t kNowhere = kHead;

  // Where the shapes of an opcode begin, and what chooses among them. 0: not known.
  struct Run {
    uint16_t first : 14 = 0;
    uint16_t has_modrm : 1 = 0;  // ModRM.mod == 3 or not
    uint16_t by_reg : 1 = 0;     // ModRM.reg too
  };
  static constexpr unsigned kPrefixes = 8;
  struct Table {
    Mode mode = 0;
    uint64_t used = 0;
    std::array<Run, kPrefixes * 4 * 2 * 256> runs{};  // by prefix, REX and its W, 0F, opcode
    std::vector<Shape> shapes;                        // the first is never known
  };

  // The bytes up to ModRM.
  struct Lead {
    unsigned count = 0;  // ModRM not among them
    unsigned prefix = 0, rex = 0, escape = 0, opcode = 0, modrm = 0;
    size_t run() const { return ((prefix * 4 + (rex >> 3 & 1) + (rex >> 5)) * 2 + escape) * 256 + opcode; }
  };
  Lead lead_of(const uint8_t* bytes) const {
    Lead lead;
    auto rest = load<uint64_t>(bytes);
    lead.prefix = kPrefixNumbers[rest & 0xff];
    if (lead.prefix != 0) {
      rest >>= 8;
      lead.count = 1;
    }
    const unsigned rex = ((rest & 0xf0) == 0x40) & has_rex_;
    lead.rex = static_cast<unsigned>(rest & 0xff) & -rex;
    rest >>= 8 * rex;
    lead.count += rex;
    if ((rest & 0xff) == 0x0f) {
      rest >>= 8;
      ++lead.count;
      lead.escape = 1;
    }
    lead.opcode = rest & 0xff;
    lead.modrm = rest >> 8 & 0xff;
    ++lead.count;
    return lead;
  }
  static unsigned variant(Run run, unsigned modrm) {
    return (run.has_modrm & (modrm >= 0xc0 ? 1u : 0u)) | ((modrm >> 2 & 0xe) & -unsigned{run.by_reg});
  }
  template <class T>
  static T load(const uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  const uint8_t* memory(const Shape& shape, const Lead& lead, const uint8_t* at,
                        x86::Instruction& insn) const;

  static void renamed(const Lead& lead, Name reg, Name rm, bool memory, Form& form);

  static const std::array<uint8_t, 256> kPrefixNumbers;  // 0: none
  static const std::array<std::array<Name, 16>, kNamings> kNames;
  // What chooses among the rows of an opcode, behind 0F or not.
  struct Chosen {
    bool kept = false, has_modrm = false, by_reg = false, by_rm = false;
  };
  std::array<std::array<Chosen, 256>, 2> chosen_{};

  void forget(Table& table);
  Shape* place_for(const Lead& lead);
  Shape shape_of(const Lead& lead) const;

  const x86::CpuModel* model_ = nullptr;
  Options options_;
  unsigned has_rex_ = 1;
  std::array<std::unique_ptr<Table>, 4> tables_;  // of the modes that were used last
  Table* table_ = nullptr;
  uint64_t uses_ = 0;
};

// The memory operand, whose SIB or displacement would be at `at`. Returns where it ends.
inline const uint8_t* InsnShapes::memory(const Shape& shape, const Lead& lead, const uint8_t* at,
                                         x86::Instruction& insn) const {
  const unsigned mod = lead.modrm >> 6, rm = lead.modrm & 7;
  unsigned base = rm;
  if (rm == 4) {
    const unsigned sib = *at++;
    const unsigned index = (sib >> 3 & 7) | (lead.rex & 2) << 2;
    const bool none = index == x86::kRsp;
    insn.index = none ? x86::kNoRegister : static_cast<uint8_t>(index * 8);
    insn.scale = none ? 0 : sib >> 6 & 3;
    base = sib & 7;
  }
  const auto disp = load<int32_t>(at);
  if (base == 5 && mod == 0) {
    insn.base = rm == 5 && has_rex_ != 0 ? x86::kRipBase : x86::kNoRegister;
    insn.disp = disp;
    return at + 4;
  }
  const unsigned number = base | (lead.rex & 1) << 3;
  insn.base = static_cast<uint8_t>(number * 8);
  if (!shape.own_segment) insn.segment = (number & ~1u) == x86::kRsp ? x86::kSs : x86::kDs;
  insn.disp = mod == 2 ? disp : mod == 1 ? static_cast<int8_t>(disp) : 0;
  return at + (mod == 2 ? 4 : mod);
}

inline bool InsnShapes::read(const uint8_t* bytes, size_t available, x86::Instruction& insn, InsnFacts& facts,
                             Form& form) const {
  const Lead lead = lead_of(bytes);
  const Run run = table_->runs[lead.run()];
  const Shape& shape = table_->shapes[run.first + variant(run, lead.modrm)];
  if (!shape.known) return false;
  std::memcpy(static_cast<void*>(&insn), shape.head.data(), kHead);
  facts = shape.facts;
  form = shape.form;
  auto* const raw = reinterpret_cast<uint8_t*>(&insn);
  const uint8_t* at = bytes + lead.count;
  unsigned written = facts.written;
  if (run.has_modrm != 0) {
    insn.modrm = static_cast<uint8_t>(lead.modrm);
    ++at;
    const Name reg = kNames[shape.reg_naming][(lead.modrm >> 3 & 7) | (lead.rex & 4) << 1];
    raw[shape.reg_at] = reg.index;
    written |= unsigned{shape.reg_written} << (reg.index >> 3);
    Name rm{};
    if (shape.memory) {
      at = memory(shape, lead, at, insn);
      if (facts.kind == Kind::kGeneric && facts.memory_size != 0 && insn.segment < x86::kFs &&
          insn.base == x86::kRsp * 8 && insn.index == x86::kNoRegister)
        facts.stack = StackUse::kOperand;
      form.rex = static_cast<uint8_t>(lead.rex & 0x4c);
      form.modrm = static_cast<uint8_t>(lead.modrm & 0x38);
    } else {
      rm = kNames[shape.rm_naming][(lead.modrm & 7) | (lead.rex & 1) << 3];
      raw[shape.rm_at] = rm.index;
      insn.disp = 0;
      written |= unsigned{shape.rm_written} << (rm.index >> 3);
      form.rex = static_cast<uint8_t>(lead.rex & 0x4d);
      form.modrm = static_cast<uint8_t>(lead.modrm);
    }
    // REX.X counts for memory only.
    const unsigned no_index = shape.memory ? 0 : lead.rex & 2;
    if ((((reg.host | rm.host) & (kOther | kNotHere)) | no_index) != 0)
      renamed(lead, reg, rm, shape.memory, form);
  } else {
    insn.disp = 0;
    if (has_rex_ != 0) form.rex = static_cast<uint8_t>(lead.rex & 0x4d);
    if ((lead.rex & 2) != 0) form.verbatim = false;
    if (shape.opcode_reg) {
      const Name rm = kNames[shape.rm_naming][(lead.opcode & 7) | (lead.rex & 1) << 3];
      raw[shape.rm_at] = rm.index;
      written |= unsigned{shape.rm_written} << (rm.index >> 3);
      form.opcode = static_cast<uint8_t>(lead.opcode);
      if ((rm.host & (kOther | kNotHere)) != 0) {  // RSP or one in memory
        form.simple = form.simple && (rm.host & kNotHere) == 0;
        form.verbatim = false;
        form.rex = static_cast<uint8_t>((lead.rex & 0x4c) | ((rm.host & 8) != 0 ? 0x41 : 0));
        form.opcode = static_cast<uint8_t>((lead.opcode & 0xf8) | (rm.host & 7u));
      }
    }
  }
  facts.written = static_cast<uint16_t>(written);
  const auto length = static_cast<size_t>(at - bytes) + shape.imm_bytes;
  if (length > available) return false;
  insn.length = static_cast<uint8_t>(length);
  insn.imm = shape.imm_value;
  if (shape.imm_bytes != 0) {
    const unsigned unused = 64u - 8u * shape.imm_bytes;
    const auto imm = load<uint64_t>(at) << unused;
    insn.imm = shape.imm_signed ? static_cast<uint64_t>(static_cast<int64_t>(imm) >> unused) : imm >> unused;
    if (shape.flags_by_immediate) set_flag_facts(facts, insn);
  }
  return true;
}

inline InsnShapes::Glance InsnShapes::glance(const uint8_t* bytes, size_t available) const {
  const Lead lead = lead_of(bytes);
  const Run run = table_->runs[lead.run()];
  const Shape& shape = table_->shapes[run.first + variant(run, lead.modrm)];
  if (!shape.known) return {};
  unsigned length = lead.count + run.has_modrm + shape.imm_bytes;
  if (shape.memory) {
    const unsigned mod = lead.modrm >> 6, rm = lead.modrm & 7;
    unsigned base = rm;
    if (rm == 4) {
      base = bytes[lead.count + 1] & 7u;
      ++length;
    }
    length += mod == 1 ? 1 : mod == 2 || base == 5 ? 4 : 0;
  }
  if (length > available) return {};
  if (shape.flags_by_immediate) {
    x86::Instruction insn;
    InsnFacts facts;
    Form form;
    read(bytes, available, insn, facts, form);
    return {facts.reads, facts.writes, facts.leads_elsewhere, insn.length};
  }
  return {shape.facts.reads, shape.facts.writes, shape.facts.leads_elsewhere, static_cast<uint8_t>(length)};
}

// The form of an instruction with registers that the host names otherwise.
inline void InsnShapes::renamed(const Lead& lead, Name reg, Name rm, bool memory, Form& form) {
  form.simple = form.simple && ((reg.host | rm.host) & kNotHere) == 0;
  form.verbatim = false;
  const unsigned rex = (lead.rex & 8u) | (reg.host & 8u) >> 1 | (memory ? 0u : (rm.host & 8u) >> 3);
  form.rex = (rex | lead.rex) != 0 ? static_cast<uint8_t>(0x40 | rex) : uint8_t{0};
  form.modrm = static_cast<uint8_t>((reg.host & 7u) << 3 | (memory ? 0u : 0xc0 | (rm.host & 7u)));
}

}  // namespace ostler::bt
