#include "gdb/fields.h"

#include <algorithm>

namespace ostler::gdb {
namespace {

std::optional<unsigned> digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

}  // namespace

std::string to_hex(std::span<const std::byte> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(2 * bytes.size());
  for (const std::byte byte : bytes) {
    out += kDigits[std::to_integer<unsigned>(byte) >> 4];
    out += kDigits[std::to_integer<unsigned>(byte) & 15];
  }
  return out;
}

std::string to_hex(std::string_view text) {
  return to_hex(std::as_bytes(std::span(text)));
}

std::optional<std::vector<std::byte>> from_hex(std::string_view digits) {
  if (digits.size() % 2 != 0) return std::nullopt;
  std::vector<std::byte> out;
  out.reserve(digits.size() / 2);
  for (size_t i = 0; i < digits.size(); i += 2) {
    const auto high = digit(digits[i]), low = digit(digits[i + 1]);
    if (!high || !low) return std::nullopt;
    out.push_back(static_cast<std::byte>(*high << 4 | *low));
  }
  return out;
}

bool Fields::skip(char c) {
  if (!rest_.starts_with(c)) return false;
  rest_.remove_prefix(1);
  return true;
}

bool Fields::skip(std::string_view word) {
  if (!rest_.starts_with(word)) return false;
  rest_.remove_prefix(word.size());
  return true;
}

std::string_view Fields::until(char c) {
  const size_t end = std::min(rest_.find(c), rest_.size());
  const std::string_view field = rest_.substr(0, end);
  rest_.remove_prefix(std::min(end + 1, rest_.size()));
  return field;
}

std::optional<uint64_t> Fields::number() {
  uint64_t value = 0;
  unsigned count = 0;
  for (; !rest_.empty(); ++count, rest_.remove_prefix(1)) {
    const auto next = digit(rest_.front());
    if (!next) break;
    if (count == 16) return std::nullopt;
    value = value << 4 | *next;
  }
  if (count == 0) return std::nullopt;
  return value;
}

std::optional<int64_t> Fields::id() {
  if (skip("-1")) return ThreadId::kAll;
  const auto value = number();
  if (!value || *value > INT32_MAX) return std::nullopt;
  return static_cast<int64_t>(*value);
}

std::optional<ThreadId> Fields::thread_id() {
  ThreadId out;
  if (skip('p')) {
    const auto process = id();
    if (!process) return std::nullopt;
    out.process = *process;
    out.thread = ThreadId::kAll;
    if (!skip('.')) return out;
  }
  const auto thread = id();
  if (!thread) return std::nullopt;
  out.thread = *thread;
  return out;
}

}  // namespace ostler::gdb
