// See cases.h.

#include "differential/vector/cases.h"

#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "x86/host_cpu.h"
#include "x86/opcode.h"
#include "x86/opcode_feature.h"
#include "x86/vector_info.h"

namespace ostler::test {

using x86::Instruction;
using x86::Opcode;

namespace {

unsigned below(Random& random, unsigned limit) {
  return static_cast<unsigned>(random() % limit);
}
bool one_in(Random& random, unsigned n) {
  return below(random, n) == 0;
}

// ---- code ----

struct Encoded {
  std::vector<uint8_t> code;
  unsigned base = 0;  // general register the address is formed with
  int32_t disp = 0;
};

struct Numbers {
  uint8_t reg, rm, vvvv, base, index, scale, imm;
  int8_t disp;
};

Encoded encode(const Form& form, const Numbers& n) {
  Encoded out;
  auto& code = out.code;
  const uint8_t reg = static_cast<uint8_t>((form.reg & 7) | (n.reg & 8));
  const uint8_t rm = form.memory ? n.base : n.rm;
  const bool sib = form.memory && ((n.base & 7) == 4 || n.index != 4);
  if (form.map == 0) {
    if ((form.memory ? n.base : 0) >= 8) code.push_back(0x41);
    code.push_back(form.opcode);
  } else if (form.vex) {
    const uint8_t pp = form.prefix == 0x66 ? 1 : form.prefix == 0xf3 ? 2 : form.prefix == 0xf2 ? 3 : 0;
    code.push_back(0xc4);
    code.push_back(static_cast<uint8_t>((reg & 8 ? 0 : 0x80) | (sib && n.index & 8 ? 0 : 0x40) |
                                        (rm & 8 ? 0 : 0x20) | form.map));
    code.push_back(static_cast<uint8_t>(form.w << 7 | (~n.vvvv & 15) << 3 | form.l << 2 | pp));
    code.push_back(form.opcode);
  } else {
    if (form.prefix != 0) code.push_back(form.prefix);
    const uint8_t rex =
        static_cast<uint8_t>(form.w << 3 | (reg >> 3) << 2 | (sib ? n.index >> 3 : 0) << 1 | (rm >> 3));
    if (rex != 0) code.push_back(0x40 | rex);
    code.push_back(0x0f);
    if (form.map == 2) code.push_back(0x38);
    if (form.map == 3) code.push_back(0x3a);
    code.push_back(form.opcode);
  }
  if (!form.memory) {
    code.push_back(static_cast<uint8_t>(0xc0 | (reg & 7) << 3 | (rm & 7)));
  } else {
    code.push_back(static_cast<uint8_t>(0x40 | (reg & 7) << 3 | (sib ? 4 : n.base & 7)));
    if (sib) code.push_back(static_cast<uint8_t>(n.scale << 6 | (n.index & 7) << 3 | (n.base & 7)));
    code.push_back(static_cast<uint8_t>(n.disp));
    out.base = n.base;
    out.disp = n.disp;
  }
  if (form.map == 3) code.push_back(n.imm);
  return out;
}

// Adds an immediate where the decoder asks for one more byte.
bool complete(std::vector<uint8_t>& code, uint8_t imm, Instruction& insn) {
  auto status = x86::decode(code, x86::CodeSize::k64, insn);
  if (status == x86::DecodeStatus::kTruncated) {
    code.push_back(imm);
    status = x86::decode(code, x86::CodeSize::k64, insn);
  }
  return status == x86::DecodeStatus::kOk && insn.length == code.size();
}

// ---- values ----

uint32_t special32(Random& random) {
  static constexpr uint32_t kValues[] = {
      0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000,
      0x7f800001, 0xff812345, 0x00000001, 0x80000001, 0x007fffff, 0x00800000, 0x80800000, 0x7f7fffff,
      0xff7fffff, 0x4f000000, 0xcf000000, 0x5f000000, 0x4effffff, 0x3f000000, 0x3fc00000, 0x40200000,
      0xffffffff, 0x7fffffff, 0x00008000, 0x7fff8000, 0x00ff00ff, 0x33000000, 0x477fe000, 0x38800000,
      0x387fc000, 0x477ff000, 0x20000000, 0x5e800000};
  if (one_in(random, 3)) return static_cast<uint32_t>(random());
  uint32_t value = kValues[below(random, std::size(kValues))];
  if (one_in(random, 4)) value += below(random, 5) - 2;
  return value;
}

uint64_t special64(Random& random) {
  static constexpr uint64_t kValues[] = {0,
                                         0x8000000000000000,
                                         0x3ff0000000000000,
                                         0xbff0000000000000,
                                         0x7ff0000000000000,
                                         0xfff0000000000000,
                                         0x7ff8000000000000,
                                         0xfff8000000000000,
                                         0x7ff0000000000001,
                                         0xfff4000000000000,
                                         0x0000000000000001,
                                         0x8000000000000001,
                                         0x000fffffffffffff,
                                         0x0010000000000000,
                                         0x7fefffffffffffff,
                                         0x41e0000000000000,
                                         0x43e0000000000000,
                                         0xc1e0000000000000,
                                         0xc3e0000000000000,
                                         0x3fe0000000000000,
                                         0x3ff8000000000000,
                                         0x47efffffe0000000,
                                         0x36a0000000000000,
                                         0x380fffffffffffff,
                                         0xffffffffffffffff,
                                         0x7fffffffffffffff,
                                         0x00000000ffffffff,
                                         0x41dfffffffc00000,
                                         0x1ff0000000000000,
                                         0x5ff0000000000000};
  switch (below(random, 4)) {
    case 0:
      return random();
    case 1:
      return uint64_t{special32(random)} << 32 | special32(random);
    default:
      break;
  }
  uint64_t value = kValues[below(random, std::size(kValues))];
  if (one_in(random, 4)) value += below(random, 5) - 2;
  return value;
}

void fill(Random& random, std::span<uint8_t> bytes) {
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t value = special64(random);
    std::memcpy(bytes.data() + i, &value, std::min<size_t>(8, bytes.size() - i));
  }
}

// An 80-bit value with its padding clear: normal, zero, denormal, pseudo-denormal, infinity, NaNs, unnormal.
void fill_st(Random& random, uint8_t* st) {
  static constexpr uint16_t kExponents[] = {0,      1,      0x3fff, 0x4000, 0x3ffe, 0x7ffe,
                                            0x7fff, 0x401e, 0x403e, 0x403d, 0x3c01, 0x3f81};
  uint64_t significand = one_in(random, 3) ? random() : special64(random);
  if (!one_in(random, 8)) significand |= uint64_t{1} << 63;
  if (one_in(random, 6)) significand = uint64_t{1} << 63;
  if (one_in(random, 10)) significand = 0;
  uint16_t exponent = one_in(random, 3) ? static_cast<uint16_t>(0x3fff + below(random, 200) - 100)
                                        : kExponents[below(random, std::size(kExponents))];
  if (one_in(random, 8)) exponent = static_cast<uint16_t>(random() & 0x7fff);
  exponent |= static_cast<uint16_t>(one_in(random, 2) << 15);
  std::memset(st, 0, 16);
  std::memcpy(st, &significand, 8);
  std::memcpy(st + 8, &exponent, 2);
}

void random_x87(Random& random, XsaveImage& image) {
  auto put16 = [&](unsigned offset, unsigned value) {
    const auto narrow = static_cast<uint16_t>(value);
    std::memcpy(image.legacy + offset, &narrow, 2);
  };
  unsigned fcw = 0x37f;
  if (one_in(random, 2)) fcw = 0x40 | 0x3f | below(random, 4) << 8 | below(random, 4) << 10;
  if (one_in(random, 4)) fcw = 0x40 | below(random, 64) | below(random, 4) << 8 | below(random, 4) << 10;
  unsigned fsw = below(random, 8) << 11 | (below(random, 16) & 7) << 8 | below(random, 2) << 14;
  if (one_in(random, 3)) fsw |= below(random, 0x80);
  // Mostly nothing pending, or hardly any instruction would run.
  if (!one_in(random, 8)) fsw &= ~(~fcw & 0x3f);
  if ((fsw & ~fcw & 0x3f) != 0) fsw |= 0x8080;
  put16(0, fcw);
  put16(2, fsw);
  image.legacy[4] = one_in(random, 2) ? 0xff : static_cast<uint8_t>(random());
  for (unsigned i = 0; i < 8; ++i) fill_st(random, image.legacy + 32 + 16 * i);
}

uint32_t random_mxcsr(Random& random) {
  uint32_t value = 0x1f80;
  if (!one_in(random, 3)) value |= below(random, 4) << 13;
  if (one_in(random, 3)) value |= below(random, 2) << 15 | below(random, 2) << 6;
  if (one_in(random, 3)) value |= below(random, 64);
  if (one_in(random, 4)) value ^= below(random, 64) << 7;
  return value;
}

}  // namespace

bool testable(std::span<const uint8_t> code, Instruction& insn, x86::CodeSize code_size) {
  if (x86::decode(code, code_size, insn) != x86::DecodeStatus::kOk) return false;
  switch (insn.opcode) {
    case Opcode::kFxsave:
    case Opcode::kFxrstor:
    case Opcode::kLdmxcsr:
    case Opcode::kStmxcsr:
      break;
    default:
      if (x86::vector_info(insn).vector_class == x86::VectorClass::kNone) return false;
  }
  const x86::Feature feature = x86::opcode_feature(insn);
  return feature == x86::kNoFeature || x86::HostCpu::current().features.has(feature);
}

std::vector<uint8_t> plain_code(const Form& form, uint8_t immediate, Instruction& insn) {
  // With one of the register choices that instructions insist on.
  for (const uint8_t vvvv : std::initializer_list<uint8_t>{3, 0})
    for (const uint8_t index : std::initializer_list<uint8_t>{4, 5}) {
      const Numbers n = {.reg = 1,
                         .rm = 2,
                         .vvvv = vvvv,
                         .base = 0,
                         .index = index,
                         .scale = 0,
                         .imm = immediate,
                         .disp = 0};
      std::vector<uint8_t> code = encode(form, n).code;
      if (complete(code, immediate, insn) && testable(code, insn)) return code;
    }
  return {};
}

std::vector<Form> enumerate_forms() {
  std::vector<Form> forms;
  auto valid = [](const Form& form, Instruction& insn) { return !plain_code(form, 0, insn).empty(); };
  // ModRM.reg is a register when all its values give the same row of the opcode table.
  auto consider = [&](Form form) {
    Instruction insn;
    std::vector<Form> values;
    bool same = true;
    uint16_t row = 0;
    for (uint8_t reg = 0; reg < 8; ++reg) {
      form.reg = reg;
      if (!valid(form, insn)) continue;
      same = same && (values.empty() || insn.row == row);
      row = insn.row;
      values.push_back(form);
    }
    if (values.size() == 8 && same && form.map != 0) {
      values.resize(1);
      values[0].any_reg = true;
    }
    forms.insert(forms.end(), values.begin(), values.end());
  };
  for (unsigned opcode = 0; opcode < 256; ++opcode)
    for (const bool memory : {false, true})
      for (const uint8_t prefix : std::initializer_list<uint8_t>{0, 0x66, 0xf3, 0xf2})
        for (const bool w : {false, true})
          for (uint8_t map = 1; map <= 3; ++map) {
            Form form = {.vex = false,
                         .w = w,
                         .l = false,
                         .map = map,
                         .prefix = prefix,
                         .opcode = static_cast<uint8_t>(opcode),
                         .reg = 0,
                         .memory = memory,
                         .any_reg = false};
            if (map > 1 || (opcode != 0x38 && opcode != 0x3a)) consider(form);
            form.vex = true;
            consider(form);
            form.l = true;
            consider(form);
          }
  for (unsigned opcode = 0xd8; opcode <= 0xdf; ++opcode)
    for (const bool memory : {false, true})
      consider({.vex = false,
                .w = false,
                .l = false,
                .map = 0,
                .prefix = 0,
                .opcode = static_cast<uint8_t>(opcode),
                .reg = 0,
                .memory = memory,
                .any_reg = false});
  return forms;
}

Case random_case(const Form& form, Random& random) {
  Case test;
  Instruction insn;
  Encoded encoded;
  for (;;) {
    Numbers n;
    n.reg = static_cast<uint8_t>(below(random, 16));
    n.rm = static_cast<uint8_t>(below(random, 16));
    n.vvvv = static_cast<uint8_t>(one_in(random, 3) ? 0 : below(random, 16));
    n.base = static_cast<uint8_t>(below(random, 16));
    n.index = 4;
    n.scale = static_cast<uint8_t>(below(random, 4));
    n.imm = static_cast<uint8_t>(random());
    n.disp = static_cast<int8_t>(random());
    if (form.vex && form.map == 2 && form.opcode >= 0x90 && form.opcode <= 0x93)
      n.index = static_cast<uint8_t>(below(random, 16));
    Form varied = form;
    if (form.any_reg) varied.reg = n.reg & 7;
    encoded = encode(varied, n);
    if (complete(encoded.code, n.imm, insn) && testable(encoded.code, insn)) break;
  }
  test.code = encoded.code;

  // Memory is a window of a larger pool of special values.
  static const std::vector<uint8_t> pool = [&] {
    std::vector<uint8_t> bytes(16 * kDataSize);
    fill(random, bytes);
    return bytes;
  }();
  const auto window = pool.begin() + below(random, 15 * kDataSize / 8) * 8;
  test.memory.assign(window, window + kDataSize);
  HostState& s = test.state;
  for (auto& gpr : s.gpr) gpr = one_in(random, 3) ? below(random, 40) - 20 : special64(random);
  s.flags = 0x202 | (random() & 0x8d5);
  fill(random, {s.vector.legacy + 160, 256});
  fill(random, {&s.vector.high[0][0], 256});
  random_x87(random, s.vector);
  const uint32_t mxcsr = random_mxcsr(random);
  std::memcpy(s.vector.legacy + 24, &mxcsr, 4);

  const x86::VectorInfo info = x86::vector_info(insn);
  const bool area = insn.opcode == Opcode::kFxsave || insn.opcode == Opcode::kFxrstor;
  const unsigned size = area ? 512 : info.memory_size == 0 ? 4 : info.memory_size;
  uint64_t target = kDataBase + (kDataSize / 2 + below(random, 2048)) / 64 * 64;
  if (one_in(random, 3)) target += below(random, 64);
  if (one_in(random, 8)) target = kDataBase + kDataSize / 2 - below(random, size + 1);  // page-crossing
  if (one_in(random, 8)) target = kDataBase + kDataSize - below(random, size + 1);      // over the end
  if (one_in(random, 16)) target = kDataBase - below(random, size + 1);                 // over the start
  if (area && !one_in(random, 8)) target = kDataBase + below(random, kDataSize - 512) / 16 * 16;
  if (form.memory) {
    s.gpr[encoded.base] = target - static_cast<uint64_t>(static_cast<int64_t>(encoded.disp));
    if (insn.opcode == Opcode::kFxrstor && target >= kDataBase && target + 512 <= kDataBase + kDataSize) {
      const uint32_t value = one_in(random, 8) ? static_cast<uint32_t>(random()) : random_mxcsr(random);
      std::memcpy(test.memory.data() + (target - kDataBase) + 24, &value, 4);
    }
    if (insn.opcode == Opcode::kLdmxcsr && target >= kDataBase && target + 4 <= kDataBase + kDataSize) {
      const uint32_t value = one_in(random, 8) ? static_cast<uint32_t>(random()) : random_mxcsr(random);
      std::memcpy(test.memory.data() + (target - kDataBase), &value, 4);
    }
  } else if (info.implicit_rdi) {
    s.gpr[7] = target;
  }
  if (info.gather) {
    uint8_t* low = s.vector.legacy + 160 + 16 * insn.vector_index;
    uint8_t* high = s.vector.high[insn.vector_index];
    for (unsigned i = 0; i < 32; i += info.gather_index_size) {
      const int64_t index = static_cast<int64_t>(below(random, 600)) - (one_in(random, 6) ? 300 : 0);
      std::memcpy(i < 16 ? low + i : high + i - 16, &index, info.gather_index_size);
    }
    s.gpr[encoded.base] =
        kDataBase + below(random, 4096) - static_cast<uint64_t>(static_cast<int64_t>(encoded.disp));
  }
  return test;
}

Case random_extended_state_case(Random& random) {
  Case test;
  struct Choice {
    uint8_t opcode, reg;
  };
  static constexpr Choice kChoices[] = {{0xae, 4}, {0xae, 6}, {0xc7, 4}, {0xae, 5}, {0xae, 5}};
  const Choice choice = kChoices[below(random, std::size(kChoices))];
  const uint8_t modrm = static_cast<uint8_t>(choice.reg << 3 | 3);  // [RBX]
  test.code = {0x48, 0x0f, choice.opcode, modrm};
  if (one_in(random, 2)) test.code.erase(test.code.begin());

  test.memory.resize(kDataSize);
  fill(random, test.memory);
  HostState& s = test.state;
  for (auto& gpr : s.gpr) gpr = random();
  uint64_t offset = below(random, 96) * 64;
  if (one_in(random, 16)) offset += below(random, 64);
  s.gpr[3] = kDataBase + offset;
  s.gpr[0] &= 7;  // components the guest does not have are not asked for
  s.gpr[2] = 0;
  fill(random, {s.vector.legacy + 160, 256});
  fill(random, {&s.vector.high[0][0], 256});
  random_x87(random, s.vector);
  const uint64_t pointers[2] = {random() >> 17, random() >> 17};
  const uint16_t fop = static_cast<uint16_t>(1 + below(random, 0x7ff));
  std::memcpy(s.vector.legacy + 6, &fop, 2);
  std::memcpy(s.vector.legacy + 8, pointers, 16);
  const uint32_t mxcsr = random_mxcsr(random) | 0x20;
  std::memcpy(s.vector.legacy + 24, &mxcsr, 4);
  // Not initial.
  s.vector.legacy[160] |= 1;
  s.vector.high[0][0] |= 1;

  uint8_t* area = test.memory.data() + offset;
  const uint32_t image_mxcsr = one_in(random, 8) ? static_cast<uint32_t>(random()) : random_mxcsr(random);
  std::memcpy(area + 24, &image_mxcsr, 4);
  uint64_t header[8] = {};
  header[0] = below(random, 8);
  if (one_in(random, 2)) header[1] = uint64_t{1} << 63 | header[0] | below(random, 8);
  if (one_in(random, 8)) header[below(random, 8)] ^= uint64_t{1} << below(random, 64);
  if (one_in(random, 8)) header[0] |= below(random, 32);
  if (one_in(random, 8)) header[1] ^= below(random, 8);
  // Components that this host may have but the guest has not.
  header[0] &= 0xc00000000000001f;
  header[1] &= 0xc00000000000001f;
  std::memcpy(area + 512, header, sizeof header);
  return test;
}

std::string describe(const Case& test) {
  std::string out = "code";
  for (uint8_t byte : test.code) out += fmt::format(" {:02x}", byte);
  Instruction insn;
  if (testable(test.code, insn)) out += fmt::format("  ({})", x86::mnemonic(insn.opcode));
  out += "\n";
  const HostState& s = test.state;
  for (unsigned i = 0; i < 16; ++i)
    if (s.gpr[i] != 0) out += fmt::format("  gpr[{}] = {:#x}\n", i, s.gpr[i]);
  uint16_t control[2];
  uint32_t mxcsr;
  std::memcpy(control, s.vector.legacy, 4);
  std::memcpy(&mxcsr, s.vector.legacy + 24, 4);
  out += fmt::format("  flags {:#x} mxcsr {:#x} fcw {:#x} fsw {:#x} ftw {:#x}\n", s.flags, mxcsr, control[0],
                     control[1], s.vector.legacy[4]);
  auto dump = [&](const char* name, unsigned i, const uint8_t* bytes, unsigned size) {
    bool zero = true;
    for (unsigned k = 0; k < size; ++k) zero &= bytes[k] == 0;
    if (zero) return;
    out += fmt::format("  {}[{}] =", name, i);
    for (unsigned k = size; k-- > 0;) out += fmt::format("{}{:02x}", k % 8 == 7 ? " " : "", bytes[k]);
    out += "\n";
  };
  for (unsigned i = 0; i < 8; ++i) dump("st", i, s.vector.legacy + 32 + 16 * i, 10);
  for (unsigned i = 0; i < 16; ++i) dump("xmm", i, s.vector.legacy + 160 + 16 * i, 16);
  for (unsigned i = 0; i < 16; ++i) dump("ymmh", i, s.vector.high[i], 16);
  for (unsigned i = 0; i < kDataSize; i += 32) dump("mem", i, test.memory.data() + i, 32);
  return out;
}

}  // namespace ostler::test
