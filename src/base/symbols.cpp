#include "base/symbols.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

namespace ostler::symbols {
namespace {

constexpr uint64_t kSoon = 4096;  // bytes

using Table = std::vector<Symbol>;
std::mutex mutex;
std::shared_ptr<const Table> known;

}  // namespace

void set(std::vector<Symbol> symbols) {
  // Of those at one address, one that tells its size.
  std::ranges::stable_sort(symbols, [](const Symbol& a, const Symbol& b) {
    return std::pair(a.address, a.size == 0) < std::pair(b.address, b.size == 0);
  });
  const auto same = [](const Symbol& a, const Symbol& b) { return a.address == b.address; };
  symbols.erase(std::unique(symbols.begin(), symbols.end(), same), symbols.end());
  auto table = std::make_shared<const Table>(std::move(symbols));
  const std::lock_guard lock(mutex);
  known = std::move(table);
}

std::string at(uint64_t address) {
  std::shared_ptr<const Table> table;
  {
    const std::lock_guard lock(mutex);
    table = known;
  }
  if (table == nullptr) return {};
  const auto after = std::ranges::upper_bound(*table, address, {}, &Symbol::address);
  if (after == table->begin()) return {};
  const Symbol& symbol = *(after - 1);
  const uint64_t offset = address - symbol.address;
  if (offset >= (symbol.size != 0 ? symbol.size : kSoon)) return {};
  return offset == 0 ? fmt::format(" <{}>", symbol.name) : fmt::format(" <{}+{:#x}>", symbol.name, offset);
}

}  // namespace ostler::symbols
