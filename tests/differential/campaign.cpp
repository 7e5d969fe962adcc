#include "campaign.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/bytes.h"
#include "guest_runner.h"
#include "host_runner.h"
#include "x86/format.h"

namespace ostler::differential {
namespace {

constexpr uint64_t kResumeFlag = 1u << 16;  // set in the frame of every fault, not by the instruction
constexpr uint64_t kUserSpaceEnd = 0x7fff'ffff'f000;
constexpr unsigned kMostFailures = 10;
constexpr const char* kRegisterNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                            "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

x86::Instruction decode(const TestCase& test) {
  x86::Instruction insn;
  const auto status = x86::decode(test.code, x86::CodeSize::k64, insn);
  if (status != x86::DecodeStatus::kOk) insn.opcode = x86::Opcode::kInvalid;
  return insn;
}

class Campaign {
 public:
  Campaign(const Family& family, const Options& options) : family_(family), options_(options) {}

  std::string differences(const TestCase& test, const x86::Instruction& insn) {
    Outcome host = host_.run(test);
    Outcome guest = guest_.run(test);
    if (host.vector == kTimeout && guest.vector == kTimeout) return {};
    host.state.rflags &= ~kResumeFlag;
    guest.state.rflags &= ~kResumeFlag;
    // The kernel reports addresses that are not user space as present whatever is there.
    if (host.vector == 14 && host.cr2 >= kUserSpaceEnd) host.error = guest.error = 0;
    if (family_.forgive) family_.forgive(insn, test, host, guest);
    return compare(host, guest, options_.compare_vectors);
  }

  // Makes the case simpler as long as it still fails.
  TestCase minimise(TestCase test, const x86::Instruction& insn) {
    const auto try_change = [&](auto&& change) {
      TestCase simpler = test;
      change(simpler);
      if (!differences(simpler, insn).empty()) test = simpler;
    };
    for (unsigned pass = 0; pass < 2; ++pass) {
      for (unsigned i = 0; i < 16; ++i) {
        try_change([i](TestCase& t) { t.state.gpr[i] = 0; });
        for (const uint64_t mask : {0xffull, 0xffffull, 0xffff'ffffull})
          try_change([i, mask](TestCase& t) { t.state.gpr[i] &= mask; });
      }
      for (unsigned bit = 0; bit < 22; ++bit)
        if (bit != 1 && bit != 9) try_change([bit](TestCase& t) { t.state.rflags &= ~(uint64_t{1} << bit); });
      try_change([](TestCase& t) { t.data.fill(0); });
      try_change([](TestCase& t) { t.address = kCode; });
      if (options_.compare_vectors) try_change([](TestCase& t) { t.state.vector = XsaveImage(); });
    }
    return test;
  }

  void report(const TestCase& test, const x86::Instruction& insn, uint64_t number) {
    const TestCase small = minimise(test, insn);
    std::string text = fmt::format("{}: seed {} case {}: {}\n    bytes", family_.name, options_.seed, number,
                                   x86::format(insn, small.address));
    for (const uint8_t byte : small.code) text += fmt::format(" {:02x}", byte);
    text += fmt::format(" at {:#x}\n    rflags {:#x}", small.address, small.state.rflags);
    for (unsigned i = 0; i < 16; ++i)
      if (small.state.gpr[i] != 0) text += fmt::format(" {} {:#x}", kRegisterNames[i], small.state.gpr[i]);
    text += "\n" + differences(small, insn);
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  }

 private:
  const Family& family_;
  const Options& options_;
  HostRunner host_;
  GuestRunner guest_;
};

}  // namespace

std::string compare(const Outcome& host, const Outcome& guest, bool vectors) {
  std::string text;
  const auto field = [&](const std::string& name, uint64_t a, uint64_t b) {
    if (a != b) text += fmt::format("    {:<8} host {:#018x}  guest {:#018x}\n", name, a, b);
  };
  field("vector", host.vector, guest.vector);
  field("error", host.error, guest.error);
  field("cr2", host.cr2, guest.cr2);
  field("rip", host.state.rip, guest.state.rip);
  field("rflags", host.state.rflags, guest.state.rflags);
  for (unsigned i = 0; i < 16; ++i) field(kRegisterNames[i], host.state.gpr[i], guest.state.gpr[i]);
  if (host.data != guest.data) {
    for (size_t i = 0; i < kDataBytes; i += 8)
      field(fmt::format("[{:#x}]", kData + i), load_le<uint64_t>(&host.data[i]),
            load_le<uint64_t>(&guest.data[i]));
  }
  if (vectors) {
    const auto& a = host.state.vector;
    const auto& b = guest.state.vector;
    for (size_t i = 0; i < 160; i += 8)
      field(fmt::format("fx+{}", i), load_le<uint64_t>(a.legacy + i), load_le<uint64_t>(b.legacy + i));
    for (unsigned i = 0; i < 16; ++i) {
      uint8_t left[32], right[32];
      a.get_ymm(i, left);
      b.get_ymm(i, right);
      for (unsigned j = 0; j < 4; ++j)
        field(fmt::format("ymm{}.{}", i, j), load_le<uint64_t>(left + 8 * j),
              load_le<uint64_t>(right + 8 * j));
    }
  }
  return text;
}

Options parse_options(int argc, char** argv, Options options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--bits" && i + 1 < argc) {
      options.code_size = std::string_view(argv[++i]) == "32" ? x86::CodeSize::k32 : x86::CodeSize::k64;
    } else if ((name == "--seed" || name == "--cases") && i + 1 < argc) {
      (name == "--seed" ? options.seed : options.cases) = std::strtoull(argv[++i], nullptr, 0);
    } else {
      std::fprintf(stderr, "usage: %s [--seed N] [--cases N] [--bits 32]\n", argv[0]);
      std::exit(2);
    }
  }
  return options;
}

unsigned run_campaign(const Family& family, const Options& options) {
  Campaign campaign(family, options);
  unsigned failures = 0;
  for (uint64_t number = 0; number < options.cases && failures < kMostFailures; ++number) {
    // Each case has its own generator, so that one can be repeated without those before it.
    Random random((options.seed << 32) ^ (number * 0xd1342543de82ef95));
    std::optional<TestCase> test;
    while (!test) test = family.generate(random);
    const x86::Instruction insn = decode(*test);
    if (campaign.differences(*test, insn).empty()) continue;
    ++failures;
    campaign.report(*test, insn, number);
  }
  fmt::print("{}: seed {}: {} cases, {} failures\n", family.name, options.seed, options.cases, failures);
  return failures;
}

uint64_t interesting_value(Random& random) {
  switch (random() % 8) {
    case 0:
      return random() % 8;
    case 1:
      return ~uint64_t{0} - random() % 4;
    case 2:
      return uint64_t{1} << (random() % 64);
    case 3:
      return (uint64_t{1} << (random() % 64)) - 1;
    case 4: {
      static constexpr uint64_t kEdges[] = {0x7f,
                                            0x80,
                                            0xff,
                                            0x7fff,
                                            0x8000,
                                            0xffff,
                                            0x7fff'ffff,
                                            0x8000'0000,
                                            0xffff'ffff,
                                            0x7fff'ffff'ffff'ffff,
                                            0x8000'0000'0000'0000};
      return kEdges[random() % std::size(kEdges)] + random() % 3 - 1;
    }
    case 5:
      return random() & 0xff;
    case 6:
      return random() & 0xffff'ffff;
    default:
      return random();
  }
}

uint64_t interesting_address(Random& random) {
  switch (random() % 32) {
    case 0:
      return kData - 1 - random() % 32;
    case 1:
    case 2:
      return kData + kDataBytes - random() % 64;
    case 3:
    case 4:
      return kData + kPageBytes - random() % 64;
    case 5:
      return kReadOnly + random() % (kPageBytes + 16);
    case 6:
      return 0x1'0000 + random() % 0x10000;  // nothing there
    case 7:
      return random() << 16;  // mostly not canonical
    case 8:
      return (kData + random() % kDataBytes) & ~uint64_t{63};
    default:
      return kData + 64 + random() % (kDataBytes - 128);
  }
}

void randomize(TestCase& test, Random& random) {
  for (auto& value : test.state.gpr)
    value = random() % 4 == 0 ? interesting_address(random) : interesting_value(random);
  test.state.gpr[4] = interesting_address(random);
  if (random() % 8 != 0) test.state.gpr[4] &= ~uint64_t{7};
  test.state.rflags = 0x202 | (random() & 0x8d5);
  if (random() % 8 == 0) test.state.rflags |= 1u << 10;   // DF
  if (random() % 32 == 0) test.state.rflags |= 1u << 18;  // AC
  // Most of memory does not matter; what lies around the edges and under the stack pointer does.
  for (size_t i = 0; i < kDataBytes; i += 8) store_le<uint64_t>(&test.data[i], random());
  for (unsigned i = 0; i < 8; ++i)
    store_le<uint64_t>(&test.data[(random() % (kDataBytes - 8))], interesting_value(random));
  const uint64_t top = test.state.gpr[4] - kData;
  if (top <= kDataBytes - 8 && random() % 2 == 0)
    store_le<uint64_t>(&test.data[top], kCode + random() % (kCodePages * kPageBytes));
  test.state.gs_base = random() % 2 == 0 ? 0 : random() % 4096;
  const uint64_t page = kCode + (random() % (kCodePages - 1)) * kPageBytes;
  test.address = page + (random() % 8 == 0 ? kPageBytes - 1 - random() % 15 : random() % (kPageBytes - 15));
}

std::vector<uint8_t> random_encoding(Random& random, unsigned map, uint8_t opcode, bool vex,
                                     x86::CodeSize code_size) {
  const bool wide = code_size == x86::CodeSize::k64;
  std::vector<uint8_t> code;
  const auto maybe = [&](unsigned one_in, uint8_t byte) {
    if (random() % one_in == 0) code.push_back(byte);
  };
  maybe(24, 0x67);
  maybe(48, 0x65);
  maybe(64, 0x2e);
  if (vex) {
    const uint8_t vvvv_lpp =
        static_cast<uint8_t>((random() & 0xf8) | (random() % 8 == 0 ? 4 : 0) | (random() & 3));
    code.push_back(0xc4);
    // Without 64 bits it would be LES.
    code.push_back(static_cast<uint8_t>((random() & 0xe0) | (wide ? 0 : 0xc0) | map));
    code.push_back(vvvv_lpp);
  } else {
    maybe(5, 0x66);
    maybe(12, 0xf0);
    switch (random() % 8) {
      case 0:
        code.push_back(0xf2);
        break;
      case 1:
        code.push_back(0xf3);
        break;
      default:
        break;
    }
    if (wide && random() % 2 == 0) code.push_back(static_cast<uint8_t>(0x40 | (random() & 15)));
    if (map != 0) code.push_back(0x0f);
    if (map == 2) code.push_back(0x38);
    if (map == 3) code.push_back(0x3a);
  }
  code.push_back(opcode);
  // ModRM, SIB, displacement and immediate are random bytes; the decoder says how many belong to the
  // instruction.
  auto modrm = static_cast<uint8_t>(random());
  if (random() % 3 == 0) modrm |= 0xc0;
  code.push_back(modrm);
  while (code.size() < 15)
    code.push_back(static_cast<uint8_t>(random() % 3 == 0 ? interesting_value(random) : random()));
  return code;
}

void aim(TestCase& test, const x86::Instruction& insn, uint64_t address) {
  if (!insn.has_memory()) return;
  auto& gpr = test.state.gpr;
  const auto set = [&](uint8_t offset, uint64_t value) { gpr[offset / 8] = value; };
  if (insn.segment == x86::kGs) address -= test.state.gs_base;
  const auto disp = static_cast<uint64_t>(insn.disp);
  if (insn.base == x86::kRipBase) {
    // The displacement follows ModRM: it is where its present value is found.
    const uint64_t wanted = address - (test.address + insn.length);
    const auto old = static_cast<uint32_t>(disp);
    for (size_t i = 1; i + 4 <= insn.length; ++i) {
      if (load_le<uint32_t>(&test.code[i]) != old || test.code[i - 1] != insn.modrm) continue;
      store_le<uint32_t>(&test.code[i], static_cast<uint32_t>(wanted));
      return;
    }
    return;
  }
  const bool has_base = insn.base != x86::kNoRegister;
  const bool has_index = insn.index != x86::kNoRegister;
  if (has_base && has_index && insn.base == insn.index) return;
  if (has_base) {
    const uint64_t index = has_index ? gpr[insn.index / 8] << insn.scale : 0;
    set(insn.base, address - disp - index);
  } else if (has_index) {
    set(insn.index, (address - disp) >> insn.scale);
  }
}

}  // namespace ostler::differential
