// Names of guest addresses, for logs, where the guest's kernel tells them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ostler::symbols {

struct Symbol {
  uint64_t address = 0;
  uint64_t size = 0;  // bytes; 0: not told
  std::string name;
};

// Instead of those that were known. Any thread.
void set(std::vector<Symbol> symbols);

// " <name+0x12>"; nothing for what lies in no symbol, and not soon behind one whose size is not told. Any
// thread.
std::string at(uint64_t address);

}  // namespace ostler::symbols
