// The table-driven decoder (SDM Vol. 2A §2, Vol. 2D App. A). No state, no allocation; any thread.
#include <algorithm>
#include <bit>
#include <cstring>

#include "x86/instruction.h"
#include "x86/opcodes/table.h"

namespace ostler::x86 {
namespace {

using opcodes::Place;
using opcodes::Row;
using opcodes::Selector;
using opcodes::Size;
using opcodes::Space;
namespace key = opcodes::key;
namespace trait = opcodes::trait;

constexpr size_t kMaxLength = 15;

enum class Prefix : uint8_t { kNone, kSegment, kOperandSize, kAddressSize, kLock, kRepne, kRep, kRex };

constexpr auto kPrefixes = [] {
  std::array<Prefix, 256> table{};
  for (unsigned byte : {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65}) table[byte] = Prefix::kSegment;
  table[0x66] = Prefix::kOperandSize;
  table[0x67] = Prefix::kAddressSize;
  table[0xf0] = Prefix::kLock;
  table[0xf2] = Prefix::kRepne;
  table[0xf3] = Prefix::kRep;
  for (unsigned byte = 0x40; byte < 0x50; ++byte) table[byte] = Prefix::kRex;
  return table;
}();

// Operand sizes in bytes by Size and by a column of: operand size 2, 4, 8 (bits 1:0), VEX.L (2), Size::kY is
// 8 (3), 64-bit code (4), the operand is memory (5).
constexpr unsigned kColumns = 64;
constexpr auto kSizes = [] {
  std::array<std::array<uint8_t, kColumns>, static_cast<size_t>(Size::kCount)> table{};
  for (unsigned column = 0; column < kColumns; ++column) {
    const unsigned v = 2u << (column & 3);
    const bool l = (column >> 2 & 1) != 0, y = (column >> 3 & 1) != 0, n = (column >> 4 & 1) != 0;
    const bool memory = (column >> 5 & 1) != 0;
    const auto set = [&](Size size, unsigned bytes) {
      table[static_cast<size_t>(size)][column] = static_cast<uint8_t>(bytes);
    };
    set(Size::k0, 0);
    set(Size::kB, 1);
    set(Size::kW, 2);
    set(Size::kD, 4);
    set(Size::kQ, 8);
    set(Size::kT, 10);
    set(Size::kDq, 16);
    set(Size::kQq, 32);
    set(Size::kV, v);
    set(Size::kZ, std::min(v, 4u));
    set(Size::kY, y ? 8 : 4);
    set(Size::kN, n ? 8 : 4);
    set(Size::kX, l ? 32 : 16);
    set(Size::kHx, l ? 16 : 8);
    set(Size::kQx, l ? 8 : 4);
    set(Size::kEx, l ? 4 : 2);
    set(Size::kDdup, l ? 32 : memory ? 8 : 16);
    set(Size::kRegVMemW, memory ? 2 : v);
    set(Size::kRegDMemB, memory ? 1 : 4);
    set(Size::kRegDMemW, memory ? 2 : 4);
    set(Size::kRegDqMemD, memory ? 4 : 16);
    set(Size::kEnv, v == 2 ? 14 : 28);
    set(Size::kState, v == 2 ? 94 : 108);
  }
  return table;
}();

// Offset in CpuState::gpr of a byte register: without REX, 4 to 7 are AH, CH, DH, BH.
constexpr uint8_t byte_register(unsigned number, bool rex) {
  return static_cast<uint8_t>(!rex && number >= 4 && number < 8 ? (number - 4) * 8 + 1 : number * 8);
}

// 16-bit addressing, SDM Vol. 2A Table 2-1: base and index by ModRM.rm.
constexpr uint8_t kBase16[8] = {kRbx * 8, kRbx * 8, kRbp * 8, kRbp * 8,
                                kRsi * 8, kRdi * 8, kRbp * 8, kRbx * 8};
constexpr uint8_t kIndex16[8] = {kRsi * 8,    kRdi * 8,    kRsi * 8,    kRdi * 8,
                                 kNoRegister, kNoRegister, kNoRegister, kNoRegister};

// Bytes past the end read as 0; the caller compares `position` with what there was in the end, so that
// nothing in between has to.
struct Reader {
  alignas(16) uint8_t bytes[48] = {};
  size_t position = 0;

  explicit Reader(std::span<const uint8_t> code) {
    if (code.size() > kMaxLength) {
      std::memcpy(bytes, code.data(), 16);
      bytes[kMaxLength] = 0;
    } else if (!code.empty()) {
      std::memcpy(bytes, code.data(), code.size());
    }
  }
  uint8_t peek(size_t ahead = 0) const { return bytes[position + ahead]; }
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, bytes + position, sizeof value);
    position += sizeof value;
    return value;
  }
};

class Decoder {
 public:
  Decoder(std::span<const uint8_t> code, CodeSize code_size, Instruction& out)
      : reader_(code),
        available_(std::min(code.size(), kMaxLength)),
        long_(code_size == CodeSize::k64),
        code_size_(code_size),
        out_(out) {}

  DecodeStatus run();

 private:
  void prefixes();
  void legacy_prefix(Prefix prefix, uint8_t byte);
  bool vex(uint8_t first);
  bool find_row();
  void set_sizes();
  bool memory();
  void memory16(unsigned mod, unsigned rm);
  bool operands();
  bool operand(opcodes::Spec spec, Operand& operand);
  void immediate(Operand& operand, uint64_t value) {
    operand.kind = OperandKind::kImm;
    out_.imm = value;
  }
  DecodeStatus finish(bool valid);

  unsigned reg() const { return (modrm_ >> 3 & 7u) | rex_r_; }
  unsigned rm() const { return (modrm_ & 7u) | rex_b_; }

  Reader reader_;
  size_t available_;
  bool long_;
  CodeSize code_size_;
  Instruction& out_;

  bool operand_prefix_ = false, address_prefix_ = false, lock_ = false;
  uint8_t rep_ = 0;                             // the last of F2 and F3
  int segment_ = -1;                            // override
  uint8_t rex_ = 0;                             // the whole prefix byte
  unsigned rex_r_ = 0, rex_x_ = 0, rex_b_ = 0;  // 0 or 8
  bool w_ = false;
  uint8_t vvvv_ = 0;
  uint8_t modrm_ = 0;
  uint16_t key_ = 0;
  Space space_ = Space::kPrimary;
  const Row* row_ = nullptr;
  unsigned column_ = 0;
};

void Decoder::prefixes() {
  while (true) {
    const uint8_t byte = reader_.peek();
    const Prefix prefix = kPrefixes[byte];
    if (prefix == Prefix::kNone) return;
    if (prefix == Prefix::kRex) {
      if (!long_) return;
      rex_ = byte;
    } else {
      rex_ = 0;  // REX counts only right before the opcode
      legacy_prefix(prefix, byte);
    }
    ++reader_.position;
  }
}

void Decoder::legacy_prefix(Prefix prefix, uint8_t byte) {
  switch (prefix) {
    case Prefix::kNone:
    case Prefix::kRex:
      return;
    case Prefix::kSegment: {
      // In 64-bit code only FS and GS have a base; the others are ignored and do not undo them.
      const int segment = byte < 0x60 ? (byte >> 3 & 3) : byte - 0x60;
      if (!long_ || segment >= kFs) segment_ = segment;
      return;
    }
    case Prefix::kOperandSize:
      operand_prefix_ = true;
      return;
    case Prefix::kAddressSize:
      address_prefix_ = true;
      return;
    case Prefix::kLock:
      lock_ = true;
      return;
    case Prefix::kRepne:
    case Prefix::kRep:
      rep_ = byte;
      return;
  }
}

// C4 or C5, already taken, followed by the rest of a VEX prefix (SDM Vol. 2A §2.3.5).
bool Decoder::vex(uint8_t first) {
  if (lock_ || operand_prefix_ || rep_ != 0 || rex_ != 0) return false;
  const uint8_t second = reader_.take<uint8_t>();
  unsigned map = 1;
  uint8_t last = second;
  if (first == 0xc4) {
    map = second & 0x1f;
    last = reader_.take<uint8_t>();
    w_ = (last & 0x80) != 0;
    if (long_) {
      rex_x_ = (second & 0x40) != 0 ? 0 : 8;
      rex_b_ = (second & 0x20) != 0 ? 0 : 8;
    }
  }
  if (map < 1 || map > 3) return false;
  if (long_) rex_r_ = (second & 0x80) != 0 ? 0 : 8;
  vvvv_ = static_cast<uint8_t>(~last >> 3 & 15);
  const bool l = (last & 4) != 0;
  out_.encoding = Encoding::kVex;
  out_.vex_l = l;
  out_.map = map & 15;
  space_ = static_cast<Space>(static_cast<unsigned>(Space::kVex0f) + map - 1);
  key_ = static_cast<uint16_t>((last & 3u) << key::kPrefixShift | (l ? 1u : 0u) << key::kLShift);
  return true;
}

// Takes escape bytes, opcode and ModRM and finds the row that describes them.
bool Decoder::find_row() {
  uint8_t byte = reader_.take<uint8_t>();
  if ((byte == 0xc4 || byte == 0xc5) && (long_ || reader_.peek() >= 0xc0)) {
    if (!vex(byte)) return false;
    byte = reader_.take<uint8_t>();
  } else {
    if (byte == 0x0f) {
      byte = reader_.take<uint8_t>();
      space_ = Space::k0f;
      if (byte == 0x38 || byte == 0x3a) {
        space_ = byte == 0x38 ? Space::k0f38 : Space::k0f3a;
        byte = reader_.take<uint8_t>();
      }
      out_.map = static_cast<unsigned>(space_) & 15;
    }
    if (rex_ != 0) {
      w_ = (rex_ & 8) != 0;
      rex_r_ = (rex_ & 4u) << 1;
      rex_x_ = (rex_ & 2u) << 2;
      rex_b_ = (rex_ & 1u) << 3;
    }
    key_ = rep_ == 0xf3 ? 2 : rep_ == 0xf2 ? 3 : operand_prefix_ ? 1 : 0;
  }
  out_.opcode_byte = byte;
  out_.vex_w = w_;
  key_ = static_cast<uint16_t>(key_ | (w_ ? 1u : 0u) << key::kWShift | (long_ ? 1u : 0u) << key::kLongShift |
                               rex_b_ >> 3 << key::kRexBShift);

  const Selector& selector = opcodes::kTables.selectors[static_cast<size_t>(space_)][byte];
  if (selector.has_modrm) {
    modrm_ = reader_.take<uint8_t>();
    if (selector.ignores_mod) modrm_ |= 0xc0;
    out_.has_modrm = true;
    out_.modrm = modrm_;
    static_assert(key::kRegShift == 3);
    key_ = static_cast<uint16_t>(key_ | (modrm_ & 0x38u) | (modrm_ & 7u) << key::kRmShift |
                                 (modrm_ >= 0xc0 ? 1u : 0u) << key::kModShift);
  }
  const size_t cell = selector.first_cell + (static_cast<unsigned>(key_) >> selector.shift & selector.mask);
  const uint16_t* candidate = &opcodes::kTables.lists[opcodes::kTables.cells[cell]];
  while (true) {
    row_ = &opcodes::kTables.rows[*candidate];
    if ((key_ & row_->match.mask) == row_->match.value) break;
    ++candidate;
  }
  out_.row = *candidate;
  out_.opcode = row_->opcode;
  if ((row_->match.mask & 3u << key::kPrefixShift) != 0) {
    constexpr uint8_t kPrefixBytes[4] = {0, 0x66, 0xf3, 0xf2};
    out_.prefix = kPrefixBytes[key_ & 3];
  }
  // The size of the lengths in general registers; ignored like other such sizes (SDM Vol. 2B, PCMPESTRI).
  if (!long_ && (row_->opcode == Opcode::kPcmpestri || row_->opcode == Opcode::kPcmpestrm))
    out_.vex_w = false;
  if (row_->opcode == Opcode::kInvalid) return false;
  return !row_->unused_vvvv || vvvv_ == 0;
}

void Decoder::set_sizes() {
  const uint32_t traits = row_->properties.traits;
  const bool small = (code_size_ == CodeSize::k16) != operand_prefix_;
  const bool y8 = long_ && w_;
  unsigned size = y8 ? 8 : small ? 2 : 4;
  if ((traits & (trait::kSizeY | trait::kMmx | trait::kSse | trait::kAvx)) != 0) {
    size = y8 ? 8 : 4;
  } else if (long_ && (traits & (trait::kForce64 | trait::kDefault64)) != 0) {
    if ((traits & trait::kForce64) != 0 || !operand_prefix_) size = 8;
  } else if ((traits & trait::kSizeN) != 0) {
    size = long_ ? 8 : 4;
  } else if ((traits & trait::kSizeZ) != 0) {
    size = std::min(size, 4u);
  }
  column_ = size >> 2 | (out_.vex_l ? 4u : 0u) | (y8 ? 8u : 0u) | (long_ ? 16u : 0u);
  out_.operand_size = static_cast<uint8_t>((traits & trait::kByte) != 0 ? 1 : size);
}

void Decoder::memory16(unsigned mod, unsigned rm) {
  if (mod == 0 && rm == 6) {
    out_.disp = reader_.take<int16_t>();
    return;
  }
  out_.base = kBase16[rm];
  out_.index = kIndex16[rm];
  if (out_.base == kRbp * 8 && segment_ < 0) out_.segment = kSs;
  if (mod == 1) out_.disp = reader_.take<int8_t>();
  if (mod == 2) out_.disp = reader_.take<int16_t>();
}

// ModRM with mod != 3, SIB and displacement (SDM Vol. 2A §2.1.5).
bool Decoder::memory() {
  const unsigned mod = modrm_ >> 6, rm = modrm_ & 7;
  const bool gather = (row_->properties.traits & (trait::kIndexD | trait::kIndexQ)) != 0;
  if (gather && (rm != 4 || out_.address_size == 2)) return false;
  if (out_.address_size == 2) {
    memory16(mod, rm);
    return true;
  }
  unsigned base = rm;
  if (rm == 4) {
    const unsigned sib = reader_.take<uint8_t>();
    base = sib & 7;
    const unsigned index = (sib >> 3 & 7u) | rex_x_;
    out_.scale = sib >> 6 & 3;
    if (gather)
      out_.vector_index = static_cast<uint8_t>(index);
    else if (index != kRsp)
      out_.index = static_cast<uint8_t>(index * 8);
    else
      out_.scale = 0;
  }
  if (base == 5 && mod == 0) {
    out_.disp = reader_.take<int32_t>();
    if (rm == 5 && long_) out_.base = kRipBase;
    return true;
  }
  base |= rex_b_;
  out_.base = static_cast<uint8_t>(base * 8);
  if ((base == kRsp || base == kRbp) && segment_ < 0) out_.segment = kSs;
  if (mod == 1) out_.disp = reader_.take<int8_t>();
  if (mod == 2) out_.disp = reader_.take<int32_t>();
  return true;
}

bool Decoder::operand(opcodes::Spec spec, Operand& operand) {
  const bool is_memory = modrm_ < 0xc0;
  operand.size = kSizes[static_cast<size_t>(spec.size)][column_];
  const auto gpr = [&](unsigned number) {
    operand.kind = OperandKind::kGpr;
    operand.index = operand.size == 1 ? byte_register(number, rex_ != 0) : static_cast<uint8_t>(number * 8);
  };
  const auto numbered = [&](OperandKind kind, unsigned number) {
    operand.kind = kind;
    operand.index = static_cast<uint8_t>(number);
  };
  const auto mem = [&] {
    operand.kind = OperandKind::kMem;
    operand.size = kSizes[static_cast<size_t>(spec.size)][column_ | 32];
    out_.memory_operand = true;
  };
  switch (spec.place) {
    case Place::kNone:
      return true;
    case Place::kRm:
      if (is_memory)
        mem();
      else
        gpr(rm());
      return true;
    case Place::kReg:
      gpr(reg());
      return true;
    case Place::kRmRegister:
      gpr(rm());
      return true;
    case Place::kMemory:
    case Place::kGather:
      mem();
      return true;
    case Place::kVvvv:
      gpr(long_ ? vvvv_ : vvvv_ & 7u);
      return true;
    case Place::kOpcodeReg:
      gpr((out_.opcode_byte & 7u) | rex_b_);
      return true;
    case Place::kRax:
      gpr(kRax);
      return true;
    case Place::kRcx:
      gpr(kRcx);
      return true;
    case Place::kRdx:
      gpr(kRdx);
      return true;
    case Place::kSegment:
      numbered(OperandKind::kSegment, modrm_ >> 3 & 7);
      return operand.index <= kGs;
    case Place::kOpcodeSegment:
      numbered(OperandKind::kSegment, out_.opcode_byte >> 3 & 7);
      return true;
    case Place::kControl:
      numbered(OperandKind::kControl, reg());
      return (1u << operand.index & 0x11d) != 0;  // CR0, 2, 3, 4, 8
    case Place::kDebug:
      numbered(OperandKind::kDebug, reg());
      return operand.index < 8;
    case Place::kImm8:
      immediate(operand, reader_.take<uint8_t>());
      return true;
    case Place::kImm8s:
      immediate(operand, static_cast<uint64_t>(int64_t{reader_.take<int8_t>()}));
      return true;
    case Place::kImm16:
      immediate(operand, reader_.take<uint16_t>());
      return true;
    case Place::kImmZ:
      immediate(operand, static_cast<uint64_t>(operand.size == 2 ? int64_t{reader_.take<int16_t>()}
                                                                 : int64_t{reader_.take<int32_t>()}));
      return true;
    case Place::kImmV:
      immediate(operand, operand.size == 8   ? reader_.take<uint64_t>()
                         : operand.size == 4 ? static_cast<uint64_t>(int64_t{reader_.take<int32_t>()})
                                             : static_cast<uint64_t>(int64_t{reader_.take<int16_t>()}));
      return true;
    case Place::kOne:
      immediate(operand, 1);
      return true;
    case Place::kEnter:
      immediate(operand, reader_.take<uint16_t>());
      out_.imm2 = reader_.take<uint8_t>();
      return true;
    case Place::kRel8:
      immediate(operand, static_cast<uint64_t>(int64_t{reader_.take<int8_t>()}));
      operand.kind = OperandKind::kRel;
      return true;
    case Place::kRelZ:
      immediate(operand, static_cast<uint64_t>(out_.operand_size == 2 ? int64_t{reader_.take<int16_t>()}
                                                                      : int64_t{reader_.take<int32_t>()}));
      operand.kind = OperandKind::kRel;
      return true;
    case Place::kFar:
      immediate(operand, out_.operand_size == 2 ? reader_.take<uint16_t>() : reader_.take<uint32_t>());
      out_.imm2 = reader_.take<uint16_t>();
      operand.kind = OperandKind::kFar;
      return true;
    case Place::kMoffs:
      mem();
      out_.disp = out_.address_size == 8   ? reader_.take<int64_t>()
                  : out_.address_size == 4 ? int64_t{reader_.take<uint32_t>()}
                                           : int64_t{reader_.take<uint16_t>()};
      return true;
    case Place::kXmmReg:
      numbered(OperandKind::kVector, reg());
      return true;
    case Place::kXmmRm:
      if (is_memory)
        mem();
      else
        numbered(OperandKind::kVector, rm());
      return true;
    case Place::kXmmVvvv:
      numbered(OperandKind::kVector, long_ ? vvvv_ : vvvv_ & 7u);
      return true;
    case Place::kXmmIs4: {
      const uint8_t byte = reader_.take<uint8_t>();
      out_.imm = byte;
      numbered(OperandKind::kVector, long_ ? byte >> 4 : byte >> 4 & 7);
      return true;
    }
    case Place::kMmxReg:
      numbered(OperandKind::kMmx, modrm_ >> 3 & 7);
      return true;
    case Place::kMmxRm:
      if (is_memory)
        mem();
      else
        numbered(OperandKind::kMmx, modrm_ & 7);
      return true;
    case Place::kSt0:
      numbered(OperandKind::kSt, 0);
      return true;
    case Place::kStRm:
      numbered(OperandKind::kSt, modrm_ & 7);
      return true;
  }
  return false;
}

bool Decoder::operands() {
  bool valid = true;
  const unsigned count = row_->operand_count;
  for (unsigned i = 0; i < count; ++i) valid = operand(row_->operands[i], out_.operand[i]) && valid;
  out_.operand_count = count & 15;
  if (lock_) {
    out_.lock = true;
    valid =
        valid && (row_->properties.traits & trait::kLock) != 0 && out_.operand[0].kind == OperandKind::kMem;
  }
  if ((row_->properties.traits & trait::kString) != 0) {
    out_.rep = rep_ == 0xf3;
    out_.repne = rep_ == 0xf2;
  }
  if ((row_->properties.traits & trait::kCondition) != 0) out_.condition = out_.opcode_byte & 15;
  if ((row_->properties.traits & (trait::kIndexD | trait::kIndexQ)) != 0) {
    // Destination, indexes and mask must be three registers (SDM Vol. 2C, VGATHERDPS).
    const uint8_t destination = out_.operand[0].index, mask = out_.operand[2].index;
    valid = valid && destination != mask && destination != out_.vector_index && mask != out_.vector_index;
  }
  return valid;
}

DecodeStatus Decoder::finish(bool valid) {
  if (reader_.position > available_) {
    out_.length = static_cast<uint8_t>(available_);
    return available_ == kMaxLength ? DecodeStatus::kTooLong : DecodeStatus::kTruncated;
  }
  out_.length = static_cast<uint8_t>(reader_.position);
  if (valid) return DecodeStatus::kOk;
  out_.opcode = Opcode::kInvalid;
  return DecodeStatus::kInvalid;
}

DecodeStatus Decoder::run() {
  prefixes();
  if (segment_ >= 0) out_.segment = static_cast<SegIndex>(segment_);
  if (!find_row()) return finish(false);
  out_.address_size = static_cast<uint8_t>(long_ ? (address_prefix_ ? 4 : 8)
                                           : (code_size_ == CodeSize::k32) != address_prefix_ ? 4
                                                                                              : 2);
  set_sizes();
  if (out_.has_modrm && modrm_ < 0xc0 && !memory()) return finish(false);
  return finish(operands());
}

}  // namespace

DecodeStatus decode(std::span<const uint8_t> code, CodeSize code_size, Instruction& out) {
  out = Instruction{};
  return Decoder(code, code_size, out).run();
}

}  // namespace ostler::x86
