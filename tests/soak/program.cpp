// Decodes pseudo-random bytes and formats what they mean, for `./dev soak compile`:  program COUNT
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "x86/format.h"
#include "x86/instruction.h"

int main(int argc, char** argv) {
  using namespace ostler::x86;
  uint64_t seed = 1, sum = 0xcbf29ce484222325;
  std::map<std::string, int> mnemonics;
  std::array<int, 16> lengths{};
  int invalid = 0;
  for (int i = argc > 1 ? atoi(argv[1]) : 1000; i > 0; --i) {
    std::array<uint8_t, 16> code;
    for (auto& byte : code) {
      seed = seed * 6364136223846793005 + 1442695040888963407;
      byte = static_cast<uint8_t>(seed >> 56);
    }
    Instruction insn;
    if (decode(code, CodeSize::k64, insn) != DecodeStatus::kOk) {
      ++invalid;
      continue;
    }
    const std::string text = format(insn, static_cast<uint64_t>(i) << 4);
    for (const char c : text) sum = (sum ^ static_cast<uint8_t>(c)) * 0x100000001b3;
    ++mnemonics[text.substr(0, text.find(' '))];
    ++lengths[insn.length];
  }
  printf("invalid %d sum %016llx\n", invalid, static_cast<unsigned long long>(sum));
  for (const int length : lengths) printf("%d ", length);
  puts("");
  for (const auto& [mnemonic, count] : mnemonics) printf("%s %d\n", mnemonic.c_str(), count);
}
