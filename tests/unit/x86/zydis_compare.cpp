#include "zydis_compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "x86/format.h"
#include "x86/vector_info.h"
#include "zydis_subject.h"

namespace ostler::x86 {
namespace {

struct Decoders {
  ZydisDecoder decoder[3];
  Decoders() {
    ZydisDecoderInit(&decoder[0], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderInit(&decoder[1], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&decoder[2], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (ZydisDecoder& each : decoder) {
      // Not offered: these encodings are the no-operations of older processors.
      ZydisDecoderEnableMode(&each, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
      ZydisDecoderEnableMode(&each, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    }
  }
};

std::string describe(const Subject& s) {
  std::string theirs = fmt::format("error {:#x}", s.their_status);
  if (ZYAN_SUCCESS(s.their_status)) {
    ZydisFormatter formatter;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_FORCE_SIZE, ZYAN_TRUE);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_FORCE_SEGMENT, ZYAN_TRUE);
    char text[256];
    ZydisFormatterFormatInstruction(&formatter, &s.theirs, s.operands, s.theirs.operand_count_visible, text,
                                    sizeof text, 0x1000, nullptr);
    theirs = fmt::format("{} (length {}, operand {}, address {})", text, s.theirs.length,
                         s.theirs.operand_width / 8, s.theirs.address_width / 8);
  }
  std::string ours = s.status == DecodeStatus::kOk ? format(s.ours, 0x1000) : "invalid";
  return fmt::format(
      "{}-bit {:02x}\n  ours:  {} (status {}, length {}, operand {}, address {})\n  zydis: {}",
      16 << static_cast<int>(s.code_size), fmt::join(s.code.first(std::min<size_t>(15, s.code.size())), " "),
      ours, static_cast<int>(s.status), s.ours.length, s.ours.operand_size, s.ours.address_size, theirs);
}

// Would the instruction with a LOCK prefix decode?
bool accepts_lock(const Subject& s) {
  if (s.ours.lock || s.ours.operand[0].kind != OperandKind::kMem || s.ours.length == 15) return true;
  std::array<uint8_t, 16> code{0xf0};
  std::copy_n(s.code.begin(), s.ours.length, code.begin() + 1);
  Instruction locked;
  return decode(code, s.code_size, locked) == DecodeStatus::kOk;
}

// Byte offset in CpuState::gpr of a register as Zydis names it.
int gpr_offset(ZydisRegister reg) {
  if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) return (reg - ZYDIS_REGISTER_AH) * 8 + 1;
  const ZydisRegister wide = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  if (wide >= ZYDIS_REGISTER_RAX && wide <= ZYDIS_REGISTER_R15) return (wide - ZYDIS_REGISTER_RAX) * 8;
  return -1;
}

std::string compare_memory(const Subject& s, const ZydisDecodedOperand& theirs) {
  const Instruction& i = s.ours;
  int base = theirs.mem.base == ZYDIS_REGISTER_NONE ? kNoRegister : gpr_offset(theirs.mem.base);
  if (theirs.mem.base == ZYDIS_REGISTER_RIP || theirs.mem.base == ZYDIS_REGISTER_EIP) base = kRipBase;
  if (base != i.base && !wrong_base(s, theirs)) return "base";
  if (theirs.mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
    if (ZydisRegisterGetId(theirs.mem.index) != i.vector_index || i.index != kNoRegister)
      return "vector index";
    if (!vector_info(i).gather) return "gather";
  } else {
    const int index = theirs.mem.index == ZYDIS_REGISTER_NONE ? kNoRegister : gpr_offset(theirs.mem.index);
    if (index != i.index) return "index";
  }
  if (theirs.mem.index != ZYDIS_REGISTER_NONE && theirs.mem.scale != 1u << i.scale) return "scale";
  const uint64_t mask = i.address_size == 8 ? ~uint64_t{0} : (uint64_t{1} << i.address_size * 8) - 1;
  const uint64_t disp = theirs.mem.disp.has_displacement ? static_cast<uint64_t>(theirs.mem.disp.value) : 0;
  if (((disp ^ static_cast<uint64_t>(i.disp)) & mask) != 0 && !wrong_base(s, theirs)) return "displacement";
  if (theirs.mem.type != ZYDIS_MEMOP_TYPE_AGEN) {
    const int segment = ZydisRegisterGetId(theirs.mem.segment);
    if (segment != i.segment) return "segment";
  }
  return {};
}

std::string compare_operand(const Subject& s, unsigned n, const ZydisDecodedOperand& theirs) {
  const Operand& ours = s.ours.operand[n];
  const auto what = [n](std::string_view text) { return fmt::format("operand {} {}", n, text); };
  switch (theirs.type) {
    case ZYDIS_OPERAND_TYPE_MEMORY: {
      if (ours.kind != OperandKind::kMem) return what("kind");
      if (ours.size != 0 && ours.size * 8 != theirs.size && !ignore_size(s)) return what("size");
      const std::string text = compare_memory(s, theirs);
      return text.empty() ? text : what(text);
    }
    case ZYDIS_OPERAND_TYPE_POINTER:
      if (ours.kind != OperandKind::kFar) return what("kind");
      if (s.ours.imm != theirs.ptr.offset || s.ours.imm2 != theirs.ptr.segment) return what("pointer");
      return {};
    case ZYDIS_OPERAND_TYPE_IMMEDIATE: {
      if (ours.kind != (theirs.imm.is_relative ? OperandKind::kRel : OperandKind::kImm)) return what("kind");
      const unsigned size = ours.size == 0 ? 8 : ours.size;
      const uint64_t mask = size >= 8 ? ~uint64_t{0} : (uint64_t{1} << size * 8) - 1;
      if (((s.ours.imm ^ theirs.imm.value.u) & mask) != 0) return what("immediate");
      return {};
    }
    case ZYDIS_OPERAND_TYPE_REGISTER: {
      const ZydisRegister reg = theirs.reg.value;
      const ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
      switch (kind) {
        case ZYDIS_REGCLASS_GPR8:
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
          if (ours.kind != OperandKind::kGpr) return what("kind");
          if (ours.index != gpr_offset(reg)) return what("register");
          if (ours.size * 8 != ZydisRegisterGetWidth(s.theirs.machine_mode, reg) && !ignore_size(s))
            return what("size");
          return {};
        case ZYDIS_REGCLASS_SEGMENT:
          if (ours.kind != OperandKind::kSegment) return what("kind");
          break;
        case ZYDIS_REGCLASS_CONTROL:
          if (ours.kind != OperandKind::kControl) return what("kind");
          break;
        case ZYDIS_REGCLASS_DEBUG:
          if (ours.kind != OperandKind::kDebug) return what("kind");
          break;
        case ZYDIS_REGCLASS_MMX:
          if (ours.kind != OperandKind::kMmx) return what("kind");
          break;
        case ZYDIS_REGCLASS_X87:
          if (ours.kind != OperandKind::kSt) return what("kind");
          break;
        case ZYDIS_REGCLASS_XMM:
        case ZYDIS_REGCLASS_YMM:
          if (ours.kind != OperandKind::kVector) return what("kind");
          if ((ours.size == 32) != (kind == ZYDIS_REGCLASS_YMM)) return what("vector size");
          break;
        default:
          return what("class");
      }
      if (ours.index != ZydisRegisterGetId(reg)) return what("register");
      return {};
    }
    default:
      return what("type");
  }
}

// The facts of vector_info() against Zydis's description of the instruction.
std::string compare_vector_info(const Subject& s) {
  const VectorInfo info = vector_info(s.ours);
  const ZydisDecodedInstruction& z = s.theirs;
  bool their_x87 = false, their_mmx = false, their_xmm = false, their_xmm0 = false;
  for (unsigned i = 0; i < z.operand_count; ++i) {
    const ZydisDecodedOperand& op = s.operands[i];
    if (op.type == ZYDIS_OPERAND_TYPE_REGISTER) {
      const ZydisRegisterClass kind = ZydisRegisterGetClass(op.reg.value);
      their_x87 |= kind == ZYDIS_REGCLASS_X87;
      their_mmx |= kind == ZYDIS_REGCLASS_MMX;
      their_xmm |= kind == ZYDIS_REGCLASS_XMM || kind == ZYDIS_REGCLASS_YMM;
      if (op.reg.value == ZYDIS_REGISTER_XMM0 &&
          (op.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN || op.encoding == ZYDIS_OPERAND_ENCODING_NONE))
        their_xmm0 |= (op.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    }
  }
  if (info.vector_class == VectorClass::kNone)
    return their_x87 || their_mmx || their_xmm ? "vector class" : "";
  if (their_mmx && !info.mmx) return "mmx";
  if (s.ours.encoding == Encoding::kVex && info.vector_class != VectorClass::kAvx) return "vector class";
  if (their_xmm0 != info.implicit_xmm0) return "implicit xmm0";

  // Memory access
  for (unsigned i = 0; i < z.operand_count; ++i) {
    const ZydisDecodedOperand& op = s.operands[i];
    if (op.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
    const bool write = (op.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    if (op.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && !info.implicit_rdi) continue;
    if (info.access != (write ? MemoryAccess::kWrite : MemoryAccess::kRead)) return "memory access";
  }
  // General registers
  for (unsigned i = 0; i < s.ours.operand_count; ++i) {
    const ZydisDecodedOperand& op = s.operands[i];
    if (s.ours.operand[i].kind != OperandKind::kGpr) continue;
    if (((op.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0) != ((info.gpr_read >> i & 1) != 0))
      return "gpr read";
    if (((op.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0) != ((info.gpr_write >> i & 1) != 0))
      return "gpr write";
  }
  // Flags
  constexpr uint32_t kArithmetic = ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_OF;
  if (z.cpu_flags != nullptr) {
    const uint32_t written =
        (z.cpu_flags->modified | z.cpu_flags->set_0 | z.cpu_flags->set_1 | z.cpu_flags->undefined) &
        kArithmetic;
    if ((written != 0) != info.writes_flags) return "writes flags";
    if (((z.cpu_flags->tested & (kArithmetic | ZYDIS_CPUFLAG_PF)) != 0) != info.reads_flags)
      return "reads flags";
  }
  // Alignment and floating-point exceptions, by the manual's exception classes
  switch (z.meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE1:
    case ZYDIS_EXCEPTION_CLASS_AVX1:
      if (info.access != MemoryAccess::kNone && info.alignment != info.memory_size)
        return "alignment class 1";
      break;
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE4:
      if (info.access != MemoryAccess::kNone && info.memory_size == 16 && info.alignment != 16 &&
          !alignment_exempt(s))
        return "alignment class 2, 4";
      break;
    case ZYDIS_EXCEPTION_CLASS_NONE:
      break;
    default:
      if (info.alignment != 1) return "alignment";
      break;
  }
  switch (z.meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
      if (!info.simd_exceptions) return "simd exceptions missing";
      break;
    case ZYDIS_EXCEPTION_CLASS_NONE:
      break;
    default:
      if (info.simd_exceptions) return "simd exceptions";
      break;
  }
  return {};
}

std::string difference(const Subject& s) {
  const bool theirs = ZYAN_SUCCESS(s.their_status);
  const bool ours = s.status == DecodeStatus::kOk;
  if (ours != theirs) {
    if (theirs && not_offered(s)) return {};
    return theirs ? "we reject" : "they reject";
  }
  if (!ours) return {};
  if (not_offered(s)) return "offered";
  if (s.ours.length != s.theirs.length) return "length";
  if (s.ours.address_size * 8 != s.theirs.address_width) return "address size";
  const std::string text = format(s.ours, 0);
  std::string_view name = text;
  for (std::string_view prefix : {"lock ", "repne ", "repe ", "rep "})
    if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
  const bool far = name.starts_with("jmp far") || name.starts_with("call far");
  name = name.substr(0, name.find(' '));
  if (name != s.their_name() && !far && !same_instruction(s, name)) return "name";
  if (ignore_operands(s)) return {};
  if (s.ours.operand_size * 8 != s.theirs.operand_width &&
      vector_info(s.ours).vector_class == VectorClass::kNone && !ignore_operand_width(s))
    return "operand size";
  unsigned count = s.theirs.operand_count_visible;
  if (s.ours.opcode == Opcode::kEnter) count = 1;
  if (count != s.ours.operand_count) return "operand count";
  for (unsigned i = 0; i < count; ++i) {
    std::string found = compare_operand(s, i, s.operands[i]);
    if (!found.empty()) return found;
  }
  const bool lock = (s.theirs.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
  if (lock != s.ours.lock) return "lock";
  if ((s.theirs.attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK) != 0 && !accepts_lock(s)) return "accepts lock";
  const bool rep = (s.theirs.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE)) != 0;
  const bool repne = (s.theirs.attributes & ZYDIS_ATTRIB_HAS_REPNE) != 0;
  if (rep != s.ours.rep || repne != s.ours.repne) return "rep";
  std::string found = compare_vector_info(s);
  if (!found.empty()) return found;
  return compare_feature(s);
}

}  // namespace

Comparison compare_with_zydis(std::span<const uint8_t> code, CodeSize code_size) {
  static const Decoders decoders;
  Subject s;
  s.code = code;
  s.code_size = code_size;
  s.status = decode(code, code_size, s.ours);
  s.their_status = ZydisDecoderDecodeFull(&decoders.decoder[static_cast<size_t>(code_size)], code.data(),
                                          std::min<size_t>(code.size(), 15), &s.theirs, s.operands);
  Comparison result;
  result.both_valid = s.status == DecodeStatus::kOk && ZYAN_SUCCESS(s.their_status);
  const std::string what = difference(s);
  if (what.empty()) return result;
  result.equal = false;
  const std::string_view name = s.their_name().empty() ? mnemonic(s.ours.opcode) : s.their_name();
  result.kind = fmt::format("{}: {}", name, what);
  result.detail = describe(s);
  return result;
}

}  // namespace ostler::x86
