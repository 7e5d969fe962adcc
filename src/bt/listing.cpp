#include "bt/listing.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "base/symbols.h"
#include "x86/format.h"

namespace ostler::bt {

std::string guest_listing(const GuestCode& code) {
  std::string text = fmt::format("block {:#x}{} phys {:#x} mode {:#x}, {} bytes{}\n", code.base + code.rip,
                                 symbols::at(code.base + code.rip), code.phys, code.mode, code.bytes,
                                 code.copies == 1 ? "" : fmt::format(", {} times", code.copies));
  // The last copy is as it was read.
  for (unsigned i = code.count - code.count / code.copies; i < code.count; ++i) {
    const GuestInsn& g = code.insns[i];
    text += fmt::format("  {:#018x}  {}\n", code.base + code.rip_of(g),
                        x86::format(g.insn, code.base + code.rip_of(g)));
  }
  return text;
}

std::string host_listing(const CodeCache& cache, const Block& block, Offset end) {
  const Offset from = block.start;
  std::string text = fmt::format("host code of block {:#x} at {}, {} bytes\n", block.rip,
                                 static_cast<const void*>(cache.executable(from)), end - from);
  for (Offset at = from; at < end;) {
    const uint8_t* host = cache.executable(at);
    const auto address = reinterpret_cast<uint64_t>(host);
    x86::Instruction insn;
    if (x86::decode(std::span(host, end - at), x86::CodeSize::k64, insn) == x86::DecodeStatus::kOk) {
      text += fmt::format("  {:#018x}  {}\n", address, x86::format(insn, address));
      at += insn.length;
    } else {
      text += fmt::format("  {:#018x}  db {:#04x}\n", address, *host);
      ++at;
    }
  }
  return text;
}

}  // namespace ostler::bt
