#include "streams/stream.h"

#include <cstring>

#include "base/bytes.h"
#include "differential/vector/cases.h"
#include "integer_cases.h"
#include "processors.h"
#include "support/host_vendor.h"
#include "x86/cpu_model.h"
#include "x86/opcode_feature.h"
#include "x86/vector_info.h"

namespace ostler::differential {
namespace {

using Bytes = std::vector<uint8_t>;
using x86::Opcode;

constexpr unsigned kAttempts = 12;
constexpr size_t kMostBytes = 600;

bool transfers(Opcode opcode) {
  return opcode >= Opcode::kJmp && opcode <= Opcode::kBound;
}

// Instructions whose result no manual gives, and those that store where they were executed.
bool unsuitable(const x86::Instruction& insn) {
  if ((insn.opcode == Opcode::kRol || insn.opcode == Opcode::kRor) && insn.has_memory() && insn.imm != 1)
    return true;
  if (insn.opcode == Opcode::kFxsave || insn.opcode == Opcode::kFxrstor) return true;
  const x86::VectorInfo info = x86::vector_info(insn);
  return info.x87_control && info.memory_size >= 14;
}

// By the guest's CPU model; the host has more.
bool offered(const x86::Instruction& insn) {
  static const auto model = x86::CpuModel::parse("max");
  const x86::Feature feature = x86::opcode_feature(insn);
  return feature == x86::kNoFeature || (model.has_value() && model->has(feature));
}

// Offset of ModRM in an encoding that has one.
size_t modrm_offset(const Bytes& code, bool wide) {
  size_t at = 0;
  const auto is_prefix = [](uint8_t byte) {
    return byte == 0x66 || byte == 0x67 || byte == 0xf0 || byte == 0xf2 || byte == 0xf3 || byte == 0x2e ||
           byte == 0x65;
  };
  while (is_prefix(code[at])) ++at;
  if (code[at] == 0xc4) return at + 4;
  if (wide && (code[at] & 0xf0) == 0x40) ++at;
  if (code[at] != 0x0f) return at + 1;
  return at + (code[at + 1] == 0x38 || code[at + 1] == 0x3a ? 3 : 2);
}

class Builder {
 public:
  Builder(Random& random, HostRunner& host, bool vectors, x86::CodeSize code_size)
      : random_(random), host_(host), vectors_(vectors), wide_(code_size == x86::CodeSize::k64) {
    TestCase& test = stream_.test;
    randomize(test, random_);
    test.state.rflags &= ~uint64_t{1 << 18};
    test.state.gpr[x86::kRsp] = kData + kDataBytes / 2 + random_() % 256 * 8;
    test.code_size = code_size;
    if (!wide_) {
      for (auto& value : test.state.gpr) value &= 0xffff'ffff;
      if (one_in(4))
        test.state.gs_base = one_in(2) ? random_() & 0xffff'ffff : 0xffff'f000 | random_() % 4096;
    }
    if (vectors_) randomize_vectors(test.state.vector);
    most_ = 4 + random_() % 37;
    fault_from_ = random_() % 2 == 0 ? 2 + random_() % most_ : SIZE_MAX;
    run();
  }

  Stream build() {
    while (!full()) element(0);
    return std::move(stream_);
  }

 private:
  bool one_in(unsigned n) { return random_() % n == 0; }
  Bytes& code() { return stream_.test.code; }
  uint64_t end() { return stream_.test.address + code().size(); }
  bool full() { return stream_.lengths.size() >= most_ || code().size() > kMostBytes; }
  bool risky() { return stream_.lengths.size() >= fault_from_; }

  void randomize_vectors(XsaveImage& image) {
    for (size_t i = 160; i < 416; i += 8)
      store_le<uint64_t>(image.legacy + i, one_in(2) ? floating() : interesting_value(random_));
    for (auto& half : image.ymm_high)
      for (unsigned i = 0; i < 16; i += 8)
        store_le<uint64_t>(half + i, one_in(2) ? floating() : interesting_value(random_));
    for (unsigned i = 0; i < 8; ++i) {
      const auto value = static_cast<long double>(static_cast<int64_t>(random_())) / 65536;
      std::memcpy(image.legacy + 32 + 16 * i, &value, 10);
    }
    image.legacy[4] = one_in(3) ? static_cast<uint8_t>(random_()) : one_in(2) ? 0x0f : 0;
    uint32_t mxcsr = 0x1f80;
    if (one_in(4)) mxcsr |= static_cast<uint32_t>(random_() & 0xe07f);
    if (one_in(16)) mxcsr ^= static_cast<uint32_t>(random_() & 0x3f) << 7;
    store_le(image.legacy + 24, mxcsr);
  }
  uint64_t floating() {
    if (one_in(2)) {
      const auto pair = [&] {
        const float value = static_cast<float>(static_cast<int32_t>(random_())) / 1024;
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        return uint64_t{bits};
      };
      return pair() << 32 | pair();
    }
    const double value = static_cast<double>(static_cast<int64_t>(random_())) / 4096;
    uint64_t bits;
    std::memcpy(&bits, &value, 8);
    return bits;
  }

  // Runs what there is; whether it came to its end.
  bool run() {
    Outcome outcome = host_.run(stream_.test);
    const bool good = outcome.vector == 3 && outcome.state.rip == end();
    timeout_ = outcome.vector == kTimeout;
    if (good) now_ = outcome;
    return good;
  }

  // Adds an instruction and runs it. One that faults stays only now and then, or when it is time for it.
  bool append(const Bytes& bytes) {
    code().insert(code().end(), bytes.begin(), bytes.end());
    if (!ended_ && !run()) {
      if (timeout_ || (!risky() && !one_in(256))) {
        code().resize(code().size() - bytes.size());
        return false;
      }
      ended_ = true;
      // A few that are never reached, for an engine that looks ahead.
      most_ = std::min(most_, stream_.lengths.size() + 1 + random_() % 6);
    }
    stream_.lengths.push_back(static_cast<uint8_t>(bytes.size()));
    return true;
  }

  void patch(size_t at, unsigned size, size_t target) {
    const auto distance = static_cast<int64_t>(target) - static_cast<int64_t>(at + size);
    if (size == 1)
      code()[at] = static_cast<uint8_t>(distance);
    else
      store_le(&code()[at], static_cast<uint32_t>(distance));
  }

  // ---- single instructions ----

  Bytes move_immediate(unsigned reg, uint64_t value) const {
    if (!wide_) {
      Bytes bytes = {static_cast<uint8_t>(0xb8 | reg), 0, 0, 0, 0};
      store_le(&bytes[1], static_cast<uint32_t>(value));
      return bytes;
    }
    Bytes bytes = {static_cast<uint8_t>(0x48 | (reg >> 3)), static_cast<uint8_t>(0xb8 | (reg & 7))};
    bytes.resize(10);
    store_le(&bytes[2], value);
    return bytes;
  }
  bool set_register(unsigned reg, uint64_t value) { return append(move_immediate(reg, value)); }

  // Around the edges of what is mapped, or far from it.
  uint64_t bad_address(unsigned size) {
    switch (random_() % 8) {
      case 0:
        return kData - 1 - random_() % size;
      case 1:
      case 2:
      case 3:
        return kData + kDataBytes - random_() % size;
      case 4:
      case 5:
        return kReadOnly + random_() % (kPageBytes + 8);
      default:
        return interesting_address(random_);
    }
  }

  uint64_t address(unsigned size) {
    if (risky() && !one_in(4)) return bad_address(size);
    uint64_t at;
    switch (random_() % 10) {
      case 0:
        at = kData + kPageBytes - random_() % (size + 1);
        break;
      case 1:
        at = kData + kDataBytes - size;
        break;
      case 2:
        at = kData;
        break;
      case 3:
      case 4:
        at = now_.state.gpr[x86::kRsp] + random_() % 128 - 32;
        if (at < kData || at > kData + kDataBytes - size) at = kData + 512;
        break;
      case 5:
        return kReadOnly + random_() % (kPageBytes - 64);
      default:
        at = kData + random_() % (kDataBytes - 64);
        break;
    }
    return one_in(2) ? at & ~uint64_t{31} : at;
  }

  uint64_t effective_address(const x86::Instruction& insn) {
    const auto& gpr = now_.state.gpr;
    uint64_t at = static_cast<uint64_t>(insn.disp);
    if (insn.base == x86::kRipBase)
      at += end() + insn.length;
    else if (insn.base != x86::kNoRegister)
      at += gpr[insn.base / 8];
    if (insn.index != x86::kNoRegister) at += gpr[insn.index / 8] << insn.scale;
    if (insn.address_size == 4) at = static_cast<uint32_t>(at);
    if (insn.segment == x86::kGs) at += stream_.test.state.gs_base;
    return wide_ ? at : static_cast<uint32_t>(at);
  }

  // Makes the memory operand of `bytes` lie somewhere useful: by its displacement if it has 32 bits, or by
  // loading its base register first.
  void place(Bytes& bytes, x86::Instruction& insn) {
    if (!insn.has_memory()) return;
    const size_t at = modrm_offset(bytes, wide_);
    if (at >= bytes.size() || bytes[at] != insn.modrm) return;
    const uint64_t wanted = address(32);
    const bool sib = (insn.modrm & 7) == 4;
    const size_t disp = at + (sib ? 2 : 1);
    const unsigned mod = insn.modrm >> 6;
    const bool wide = mod == 2 || (mod == 0 && ((insn.modrm & 7) == 5 || (sib && (bytes[at + 1] & 7) == 5)));
    if (wide && disp + 4 <= bytes.size()) {
      const uint64_t without = effective_address(insn) - static_cast<uint64_t>(insn.disp);
      const auto needed = static_cast<int64_t>(wanted - without);
      if (!wide_ || needed == static_cast<int32_t>(needed)) {
        store_le(&bytes[disp], static_cast<uint32_t>(needed));
        x86::decode(bytes, stream_.test.code_size, insn);
        return;
      }
    }
    const uint64_t present = effective_address(insn);
    if (present - kData < kDataBytes - 32 && !one_in(4)) return;
    if (insn.base >= x86::kNoRegister || insn.base == insn.index) return;
    set_register(insn.base / 8, now_.state.gpr[insn.base / 8] + wanted - present);
  }

  Bytes random_code() {
    if (!vectors_ || one_in(3)) return random_integer_code(random_, stream_.test.code_size);
    const auto opcode = static_cast<uint8_t>(random_());
    const auto map = static_cast<unsigned>(1 + random_() % 3);
    Bytes bytes;
    if (one_in(8))
      bytes = random_encoding(random_, 0, static_cast<uint8_t>(0xd8 | (opcode & 7)), false,
                              stream_.test.code_size);
    else
      bytes = random_encoding(random_, map, opcode, one_in(2), stream_.test.code_size);
    x86::Instruction insn;
    if (!test::testable(bytes, insn, stream_.test.code_size) || !offered(insn)) return {};
    bytes.resize(insn.length);
    return bytes;
  }

  void instruction() {
    for (unsigned attempt = 0; attempt < kAttempts && !full(); ++attempt) {
      Bytes bytes = random_code();
      x86::Instruction insn;
      const auto decoded = [&] {
        return x86::decode(bytes, stream_.test.code_size, insn) == x86::DecodeStatus::kOk;
      };
      if (bytes.empty() || !decoded() || transfers(insn.opcode) || unsuitable(insn) ||
          host_differs(bytes, insn, stream_.test.code_size) || insn.segment == x86::kFs)
        continue;
      if (insn.has_memory() && insn.modrm < 0x80 && !one_in(3)) {
        // Room for a displacement that reaches.
        const size_t at = modrm_offset(bytes, wide_);
        if (at < bytes.size() && bytes[at] == insn.modrm) {
          bytes[at] = static_cast<uint8_t>((bytes[at] & 0x3f) | 0x80);
          bytes.resize(15);
          if (!decoded()) continue;
          bytes.resize(insn.length);
        }
      }
      place(bytes, insn);
      if (!append(bytes)) continue;
      // It leaves the flags undefined: as they were, on some processors, for those who still know them.
      if (host_keeps_flags(insn)) append({0x3c, static_cast<uint8_t>(random_())});  // cmp al, imm8
      return;
    }
  }

  // Fields of one thing, between instructions that may change where it lies.
  void fields() {
    static constexpr uint8_t kOpcodes[] = {0x8b, 0x8b, 0x89, 0x89, 0x01, 0x03, 0x39, 0x3b, 0x88, 0x8a};
    const auto base = static_cast<unsigned>(random_() % 16);
    if (!one_in(3)) set_register(base, address(64));
    for (uint64_t n = 2 + random_() % 6; n > 0 && !full(); --n) {
      if (one_in(4)) {
        instruction();
        continue;
      }
      const auto reg = static_cast<unsigned>(one_in(8) ? base : random_() % 16);
      Bytes bytes = {static_cast<uint8_t>(0x40 | (random_() & 8) | (reg >> 3) << 2 | base >> 3),
                     kOpcodes[random_() % std::size(kOpcodes)],
                     static_cast<uint8_t>(0x40 | (reg & 7) << 3 | (base & 7))};
      if ((base & 7) == 4) bytes.push_back(0x24);
      bytes.push_back(static_cast<uint8_t>(random_() % 72 - 8));
      append(bytes);
    }
  }

  void string_instruction() {
    static constexpr uint8_t kOpcodes[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
    if (!one_in(3)) set_register(x86::kRsi, address(8));
    if (!one_in(3)) set_register(x86::kRdi, address(8));
    const bool repeated = !one_in(3);
    if (repeated) set_register(x86::kRcx, random_() % (one_in(4) ? 600 : 12));
    const bool down = one_in(6);
    if (down) append({0xfd});
    Bytes bytes;
    if (repeated) bytes.push_back(one_in(2) ? 0xf3 : 0xf2);
    const bool short_addresses = one_in(16);
    // See host_differs().
    if (short_addresses && (!wide_ || test::host_is_intel())) bytes.push_back(0x67);
    if (wide_ && one_in(2)) bytes.push_back(static_cast<uint8_t>(0x40 | (random_() & 15)));
    bytes.push_back(kOpcodes[random_() % std::size(kOpcodes)]);
    append(bytes);
    if (down) append({0xfc});
  }

  static Bytes joined(Bytes prefix, const Bytes& rest) {
    prefix.insert(prefix.end(), rest.begin(), rest.end());
    return prefix;
  }
  void stack_instruction() {
    const auto low = static_cast<uint8_t>(random_() % 8);
    const Bytes rex = wide_ ? Bytes{static_cast<uint8_t>(0x40 | random_() % 2)} : Bytes{};
    switch (random_() % 8) {
      case 0:
      case 1:
        append(joined(rex, {static_cast<uint8_t>(0x50 | low)}));
        break;
      case 2:
      case 3:
        append(joined(rex, {static_cast<uint8_t>(0x58 | low)}));
        break;
      case 4:
        append({0x6a, static_cast<uint8_t>(random_())});
        break;
      case 5:
        append({0x9c});
        break;
      case 6:
        append(joined(wide_ ? Bytes{0x48} : Bytes{}, {0x83, 0xec, static_cast<uint8_t>(random_() % 16 * 8)}));
        break;
      default:
        append(one_in(2) ? Bytes{0xc9} : Bytes{0xc8, static_cast<uint8_t>(random_() % 64), 0, 0});
        break;
    }
    const uint64_t rsp = now_.state.gpr[x86::kRsp];
    if (risky() && one_in(2)) set_register(x86::kRsp, bad_address(16));
    if (rsp - kData > kDataBytes && !risky()) set_register(x86::kRsp, kData + kDataBytes / 2);
  }

  // ---- structures ----

  void elements(unsigned most, unsigned depth) {
    for (uint64_t n = 1 + random_() % most; n > 0 && !full(); --n) element(depth + 1);
  }

  // Jumps over a few elements, or not, as the flags are.
  void branch_forward(unsigned depth) {
    const auto condition = static_cast<uint8_t>(random_() % 16);
    unsigned size = 1;
    Bytes bytes;
    switch (random_() % 8) {
      case 0:
        bytes = {static_cast<uint8_t>(0xe0 | random_() % 4), 0};  // LOOPcc, JRCXZ
        break;
      case 1:
        bytes = {0xeb, 0};
        break;
      case 2:
      case 3:
      case 4:
        size = 4;
        bytes = {0x0f, static_cast<uint8_t>(0x80 | condition), 0, 0, 0, 0};
        break;
      default:
        bytes = {static_cast<uint8_t>(0x70 | condition), 0};
        break;
    }
    if (!append(bytes)) return;
    const size_t at = code().size() - size;
    elements(3, depth);
    const size_t reach = code().size() - (at + size);
    if (size == 1 && reach > 127) return;
    patch(at, size, code().size());
    if (!ended_ && !run()) patch(at, size, at + size);
  }

  void loop(unsigned depth) {
    const auto counter = static_cast<unsigned>(random_() % (wide_ ? 16 : 8));
    if (counter == x86::kRsp) return;
    const uint64_t rounds = one_in(8) ? 2 + random_() % 80 : 2 + random_() % 6;
    if (!set_register(counter, rounds) || ended_) return;
    const size_t top = code().size();
    elements(4, depth);
    if (ended_ || now_.state.gpr[counter] != rounds) return;
    if (counter == x86::kRcx && code().size() - top < 120 && one_in(2)) {
      if (append({0xe2, 0})) close_loop(1, top);
      return;
    }
    const Bytes rex = wide_ ? Bytes{static_cast<uint8_t>(0x48 | (counter >> 3))} : Bytes{};
    const auto low = static_cast<uint8_t>(counter & 7);
    const Bytes dec = wide_ || one_in(2) ? joined(rex, {0xff, static_cast<uint8_t>(0xc8 | low)})
                                         : Bytes{static_cast<uint8_t>(0x48 | low)};
    const Bytes sub = joined(rex, {0x83, static_cast<uint8_t>(0xe8 | low), 1});
    if (append(one_in(2) ? dec : sub) && append({0x0f, 0x85, 0, 0, 0, 0})) close_loop(4, top);
  }
  void close_loop(unsigned size, size_t top) {
    const size_t at = code().size() - size;
    patch(at, size, top);
    if (!ended_ && !run()) {
      patch(at, size, at + size);
      run();
    }
  }

  // Of what is `distance` behind the instruction.
  Bytes load_address(unsigned reg, uint32_t distance) {
    if (!wide_) return move_immediate(reg, end() + 5 + distance);
    Bytes bytes = {static_cast<uint8_t>(0x48 | (reg >> 3) << 2), 0x8d,
                   static_cast<uint8_t>(0x05 | (reg & 7) << 3)};
    bytes.resize(7);
    store_le(&bytes[3], distance);
    return bytes;
  }
  unsigned some_register() {
    for (;;) {
      const auto reg = static_cast<unsigned>(random_() % (wide_ ? 16 : 8));
      if (reg != x86::kRsp) return reg;
    }
  }
  static Bytes through_register(uint8_t extension, unsigned reg) {
    const auto modrm = static_cast<uint8_t>(0xc0 | extension << 3 | (reg & 7));
    return reg >= 8 ? Bytes{0x41, 0xff, modrm} : Bytes{0xff, modrm};
  }

  // call f; jmp over; f: …; ret; over:
  void call(unsigned depth) {
    constexpr uint8_t kJump = 5;
    if (one_in(3)) {
      const unsigned reg = some_register();
      const Bytes indirect = through_register(2, reg);
      if (!append(load_address(reg, static_cast<uint32_t>(indirect.size()) + kJump)) || ended_) return;
      code().insert(code().end(), indirect.begin(), indirect.end());
      stream_.lengths.push_back(static_cast<uint8_t>(indirect.size()));
    } else {
      const Bytes direct = {0xe8, kJump, 0, 0, 0};
      code().insert(code().end(), direct.begin(), direct.end());
      stream_.lengths.push_back(static_cast<uint8_t>(direct.size()));
    }
    if (!append({0xe9, 0, 0, 0, 0})) {
      // The stack is no place to return from: the call is left as a step forward.
      const uint8_t length = stream_.lengths.back();
      stream_.lengths.pop_back();
      code().resize(code().size() - length);
      run();
      return;
    }
    const size_t jump = code().size() - 4;
    elements(4, depth);
    // While the RET is not there the jump leads to where it will be.
    for (const Bytes& ret : {Bytes{0xc3}, Bytes{0xc2, 8, 0}}) {
      const size_t before = code().size();
      patch(jump, 4, before + ret.size());
      if (ended_ || !append(ret)) continue;
      return;
    }
    patch(jump, 4, code().size());
  }

  // Control that goes to the next instruction in a roundabout way.
  void step() {
    const unsigned reg = some_register();
    const auto push = reg >= 8 ? Bytes{0x41, static_cast<uint8_t>(0x50 | (reg & 7))}
                               : Bytes{static_cast<uint8_t>(0x50 | reg)};
    switch (random_() % 3) {
      case 0: {
        const Bytes jump = through_register(4, reg);
        if (append(load_address(reg, static_cast<uint32_t>(jump.size())))) append(jump);
        break;
      }
      case 1:
        if (!append(load_address(reg, static_cast<uint32_t>(push.size()) + 1))) break;
        if (!append(push)) break;
        append({0xc3});
        break;
      default:
        // Where am I: a call that is never returned from.
        if (append({0xe8, 0, 0, 0, 0}))
          append(reg >= 8 ? Bytes{0x41, static_cast<uint8_t>(0x58 | (reg & 7))}
                          : Bytes{static_cast<uint8_t>(0x58 | reg)});
        break;
    }
  }

  void element(unsigned depth) {
    const uint64_t kind = random_() % 64;
    if (kind < 4 && depth < 3) return branch_forward(depth);
    if (kind < 7 && depth < 2) return loop(depth);
    if (kind < 9 && depth < 3) return call(depth);
    if (kind < 11) return step();
    if (kind < 13) return string_instruction();
    if (kind < 18) return stack_instruction();
    if (kind < 23) return fields();
    if (kind < 25) {
      set_register(some_register(), interesting_value(random_));
      return;
    }
    instruction();
    // Something that looks at the flags, rather often.
    if (one_in(12)) branch_forward(depth < 3 ? depth : 3);
  }

  Random& random_;
  HostRunner& host_;
  bool vectors_;
  const bool wide_;  // 64-bit code
  Stream stream_;
  Outcome now_;
  size_t most_ = 0;
  size_t fault_from_ = 0;
  bool ended_ = false;
  bool timeout_ = false;
};

}  // namespace

Stream random_stream(Random& random, HostRunner& host, bool vectors, x86::CodeSize code_size) {
  return Builder(random, host, vectors, code_size).build();
}

}  // namespace ostler::differential
