#include "gdb/registers.h"

#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "gdb/target.h"
#include "x86/state.h"

namespace ostler::gdb {
namespace {

using x86::CpuState;
namespace rflags = x86::rflags;

constexpr std::string_view kCore = "org.gnu.gdb.i386.core", kSse = "org.gnu.gdb.i386.sse",
                           kSegments = "org.gnu.gdb.i386.segments", kAvx = "org.gnu.gdb.i386.avx",
                           kControl = "org.ostler.x86.control";

// What a debugger may change without leaving the mode that the segment registers are loaded for.
constexpr uint64_t kWritableFlags = rflags::kArithmetic | rflags::kTf | rflags::kIf | rflags::kDf |
                                    rflags::kIopl | rflags::kNt | rflags::kRf | rflags::kAc | rflags::kVif |
                                    rflags::kVip | rflags::kId;

void put(RegisterBytes& out, uint64_t value) {
  store_le(out.data(), value);
}
uint64_t get(const RegisterBytes& in) {
  return load_le<uint64_t>(in.data());
}

// A register that is one integer of the CPU state: `place(state, index)` refers to it.
template <auto place>
void read_place(Target& target, size_t cpu, uint8_t index, RegisterBytes& out) {
  put(out, place(target.cpu_state(cpu), index));
}
template <auto place>
bool write_place(Target& target, size_t cpu, uint8_t index, const RegisterBytes& value) {
  auto& at = place(target.cpu_state(cpu), index);
  at = static_cast<std::remove_reference_t<decltype(at)>>(get(value));
  return true;
}

// GDB's order of the general registers, as indices of ours.
constexpr uint8_t kGprOrder[] = {x86::kRax, x86::kRbx, x86::kRcx, x86::kRdx, x86::kRsi, x86::kRdi,
                                 x86::kRbp, x86::kRsp, 8,         9,         10,        11,
                                 12,        13,        14,        15};
constexpr uint8_t kSegmentOrder[] = {x86::kCs, x86::kSs, x86::kDs, x86::kEs, x86::kFs, x86::kGs};

uint64_t& gpr(CpuState& s, uint8_t index) {
  return s.gpr[kGprOrder[index]];
}
uint16_t& selector(CpuState& s, uint8_t index) {
  return s.seg[kSegmentOrder[index]].selector;
}

void read_rip(Target& target, size_t cpu, uint8_t, RegisterBytes& out) {
  put(out, target.cpu_state(cpu).rip);
}
bool write_rip(Target& target, size_t cpu, uint8_t, const RegisterBytes& value) {
  CpuState& s = target.cpu_state(cpu);
  s.rip = s.code64() ? get(value) : static_cast<uint32_t>(get(value));
  return true;
}

void read_eflags(Target& target, size_t cpu, uint8_t, RegisterBytes& out) {
  put(out, target.cpu_state(cpu).rflags());
}
bool write_eflags(Target& target, size_t cpu, uint8_t, const RegisterBytes& value) {
  CpuState& s = target.cpu_state(cpu);
  s.set_rflags((s.rflags() & ~kWritableFlags) | (get(value) & kWritableFlags));
  return true;
}

// ---- x87 ----
unsigned top_of_stack(const CpuState& s) {
  return (s.fx.fsw >> 11) & 7;
}
void read_st(Target& target, size_t cpu, uint8_t index, RegisterBytes& out) {
  std::memcpy(out.data(), target.cpu_state(cpu).fx.st[index], 10);
}
bool write_st(Target& target, size_t cpu, uint8_t index, const RegisterBytes& value) {
  std::memcpy(target.cpu_state(cpu).fx.st[index], value.data(), 10);
  return true;
}

enum class Tag : unsigned { kValid, kZero, kSpecial, kEmpty };  // SDM Vol. 1 §8.1.7

Tag tag_of(const uint8_t (&st)[16]) {
  const auto significand = load_le<uint64_t>(st);
  const unsigned exponent = load_le<uint16_t>(st + 8) & 0x7fff;
  if (exponent == 0 && significand == 0) return Tag::kZero;
  return exponent == 0x7fff || !bit(significand, 63) ? Tag::kSpecial : Tag::kValid;
}
// The full tag word; FXSAVE's form only tells which registers are empty.
void read_ftag(Target& target, size_t cpu, uint8_t, RegisterBytes& out) {
  const CpuState& s = target.cpu_state(cpu);
  unsigned word = 0;
  for (unsigned physical = 0; physical < 8; ++physical) {
    const unsigned stack = (physical - top_of_stack(s)) & 7;
    const Tag tag = bit(s.fx.ftw, physical) ? tag_of(s.fx.st[stack]) : Tag::kEmpty;
    word |= static_cast<unsigned>(tag) << (2 * physical);
  }
  put(out, word);
}
bool write_ftag(Target& target, size_t cpu, uint8_t, const RegisterBytes& value) {
  uint8_t abridged = 0;
  for (unsigned physical = 0; physical < 8; ++physical)
    if (static_cast<Tag>(bits(get(value), 2 * physical, 2)) != Tag::kEmpty)
      abridged = static_cast<uint8_t>(abridged | 1u << physical);
  target.cpu_state(cpu).fx.ftw = abridged;
  return true;
}

uint16_t& fctrl(CpuState& s, uint8_t) {
  return s.fx.fcw;
}
uint16_t& fstat(CpuState& s, uint8_t) {
  return s.fx.fsw;
}
uint16_t& fop(CpuState& s, uint8_t) {
  return s.fx.fop;
}
// Instruction (0) and operand (1) pointers as the 64-bit values that FXSAVE64 stores, in two parts.
uint64_t& x87_pointer(CpuState& s, uint8_t index) {
  return index == 0 ? s.fx.fip : s.fx.fdp;
}
void read_x87_high(Target& target, size_t cpu, uint8_t index, RegisterBytes& out) {
  put(out, bits(x87_pointer(target.cpu_state(cpu), index), 32, 16));
}
bool write_x87_high(Target& target, size_t cpu, uint8_t index, const RegisterBytes& value) {
  uint64_t& pointer = x87_pointer(target.cpu_state(cpu), index);
  pointer = (pointer & 0xffff'ffff) | (get(value) & 0xffff) << 32;
  return true;
}
void read_x87_low(Target& target, size_t cpu, uint8_t index, RegisterBytes& out) {
  put(out, bits(x87_pointer(target.cpu_state(cpu), index), 0, 32));
}
bool write_x87_low(Target& target, size_t cpu, uint8_t index, const RegisterBytes& value) {
  uint64_t& pointer = x87_pointer(target.cpu_state(cpu), index);
  pointer = (pointer & ~uint64_t{0xffff'ffff}) | (get(value) & 0xffff'ffff);
  return true;
}

// ---- vectors: halves of a YMM register, 16 bytes each ----
template <unsigned half>
void read_vector(Target& target, size_t cpu, uint8_t index, RegisterBytes& out) {
  std::memcpy(out.data(), target.cpu_state(cpu).vec[index] + half * 16, 16);
}
template <unsigned half>
bool write_vector(Target& target, size_t cpu, uint8_t index, const RegisterBytes& value) {
  std::memcpy(target.cpu_state(cpu).vec[index] + half * 16, value.data(), 16);
  return true;
}
uint32_t& mxcsr(CpuState& s, uint8_t) {
  return s.fx.mxcsr;
}
bool write_mxcsr(Target& target, size_t cpu, uint8_t, const RegisterBytes& value) {
  if (get(value) >> 16 != 0) return false;  // reserved: LDMXCSR would raise #GP
  target.cpu_state(cpu).fx.mxcsr = static_cast<uint32_t>(get(value));
  return true;
}

// ---- bases and control registers ----
uint64_t& base(CpuState& s, uint8_t index) {
  return index == 0 ? s.seg[x86::kFs].base : index == 1 ? s.seg[x86::kGs].base : s.msr.kernel_gs_base;
}
bool write_base(Target& target, size_t cpu, uint8_t index, const RegisterBytes& value) {
  CpuState& s = target.cpu_state(cpu);
  const unsigned unused = (s.cr4 & x86::cr4::kLa57) != 0 ? 7 : 16;
  const uint64_t address = get(value);
  if (static_cast<uint64_t>(static_cast<int64_t>(address << unused) >> unused) != address) return false;
  base(s, index) = address;
  return true;
}
uint64_t& control(CpuState& s, uint8_t index) {
  switch (index) {
    case 0:
      return s.cr0;
    case 2:
      return s.cr2;
    case 3:
      return s.cr3;
    default:
      return s.cr4;
  }
}
uint64_t& efer(CpuState& s, uint8_t) {
  return s.msr.efer;
}
void read_cr8(Target& target, size_t cpu, uint8_t, RegisterBytes& out) {
  put(out, target.cr8(cpu));
}
bool write_cr8(Target& target, size_t cpu, uint8_t, const RegisterBytes& value) {
  if (get(value) > 15) return false;
  target.set_cr8(cpu, static_cast<uint8_t>(get(value)));
  return true;
}

constexpr std::string_view kNumbered[][16] = {
    {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
     "r15"},
    {"cs", "ss", "ds", "es", "fs", "gs"},
    {"st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7"},
    {"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
     "xmm12", "xmm13", "xmm14", "xmm15"},
    {"ymm0h", "ymm1h", "ymm2h", "ymm3h", "ymm4h", "ymm5h", "ymm6h", "ymm7h", "ymm8h", "ymm9h", "ymm10h",
     "ymm11h", "ymm12h", "ymm13h", "ymm14h", "ymm15h"},
};

std::vector<Register> make_registers() {
  std::vector<Register> out;
  const auto several = [&](unsigned names, unsigned count, Register shape) {
    for (unsigned i = 0; i < count; ++i) {
      shape.name = kNumbered[names][i];
      shape.index = static_cast<uint8_t>(i);
      if (names == 0) shape.type = i == 6 || i == 7 ? "data_ptr" : "int64";
      out.push_back(shape);
    }
  };
  several(0, 16, {kCore, "", "", "general", 64, 0, read_place<gpr>, write_place<gpr>});
  out.push_back({kCore, "rip", "code_ptr", "general", 64, 0, read_rip, write_rip});
  out.push_back({kCore, "eflags", "eflags", "general", 32, 0, read_eflags, write_eflags});
  several(1, 6, {kCore, "", "int32", "general", 32, 0, read_place<selector>, nullptr});
  several(2, 8, {kCore, "", "i387_ext", "float", 80, 0, read_st, write_st});
  out.push_back({kCore, "fctrl", "int", "float", 32, 0, read_place<fctrl>, write_place<fctrl>});
  out.push_back({kCore, "fstat", "int", "float", 32, 0, read_place<fstat>, write_place<fstat>});
  out.push_back({kCore, "ftag", "int", "float", 32, 0, read_ftag, write_ftag});
  out.push_back({kCore, "fiseg", "int", "float", 32, 0, read_x87_high, write_x87_high});
  out.push_back({kCore, "fioff", "int", "float", 32, 0, read_x87_low, write_x87_low});
  out.push_back({kCore, "foseg", "int", "float", 32, 1, read_x87_high, write_x87_high});
  out.push_back({kCore, "fooff", "int", "float", 32, 1, read_x87_low, write_x87_low});
  out.push_back({kCore, "fop", "int", "float", 32, 0, read_place<fop>, write_place<fop>});
  several(3, 16, {kSse, "", "vec128", "vector", 128, 0, read_vector<0>, write_vector<0>});
  out.push_back({kSse, "mxcsr", "mxcsr", "vector", 32, 0, read_place<mxcsr>, write_mxcsr});
  out.push_back({kSegments, "fs_base", "int", "general", 64, 0, read_place<base>, write_base});
  out.push_back({kSegments, "gs_base", "int", "general", 64, 1, read_place<base>, write_base});
  out.push_back({kControl, "k_gs_base", "int", "system", 64, 2, read_place<base>, write_base});
  // What selects the mode is for the guest alone to change.
  out.push_back({kControl, "cr0", "int", "system", 64, 0, read_place<control>, nullptr});
  out.push_back({kControl, "cr2", "int", "system", 64, 2, read_place<control>, write_place<control>});
  out.push_back({kControl, "cr3", "int", "system", 64, 3, read_place<control>, nullptr});
  out.push_back({kControl, "cr4", "int", "system", 64, 4, read_place<control>, nullptr});
  out.push_back({kControl, "cr8", "int", "system", 64, 0, read_cr8, write_cr8});
  out.push_back({kControl, "efer", "int", "system", 64, 0, read_place<efer>, nullptr});
  several(4, 16, {kAvx, "", "uint128", "vector", 128, 0, read_vector<1>, write_vector<1>});
  return out;
}

}  // namespace

std::span<const Register> registers() {
  static const std::vector<Register> kRegisters = make_registers();
  return kRegisters;
}

std::vector<std::byte> read_register(Target& target, size_t cpu, const Register& which) {
  RegisterBytes bytes{};
  which.read(target, cpu, which.index, bytes);
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(which.bytes())};
}

bool write_register(Target& target, size_t cpu, const Register& which, std::span<const std::byte> value) {
  if (which.write == nullptr || value.size() != which.bytes()) return false;
  RegisterBytes bytes{};
  std::copy(value.begin(), value.end(), bytes.begin());
  return which.write(target, cpu, which.index, bytes);
}

}  // namespace ostler::gdb
