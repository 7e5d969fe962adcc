#include "img/text.h"

#include <fmt/format.h>

#include <charconv>

#include "block/options.h"

namespace ostler::img {

std::string size_text(uint64_t bytes) {
  static constexpr std::string_view kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.3g} {}", value, kUnits[unit]);
}

std::string duration_text(uint64_t seconds) {
  if (seconds < 60) return fmt::format("{} s", seconds);
  if (seconds < 3600) return fmt::format("{}:{:02}", seconds / 60, seconds % 60);
  return fmt::format("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

Result<uint64_t> size_of_option(std::string_view option, std::string_view text) {
  auto size = block::parse_size(text);
  if (!size) return std::move(size).error().with_context(std::string(option));
  return size;
}

Result<uint64_t> number_of_option(std::string_view option, std::string_view text, uint64_t least,
                                  uint64_t most) {
  uint64_t number = 0;
  int base = 10;
  std::string_view digits = text;
  if (digits.starts_with("0x")) {
    digits.remove_prefix(2);
    base = 16;
  }
  const auto [end, status] = std::from_chars(digits.begin(), digits.end(), number, base);
  if (status != std::errc() || end != digits.end() || digits.empty() || number < least || number > most)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: '{}' is not a number from {} to {}", option, text, least, most));
  return number;
}

std::string json_text(const nlohmann::ordered_json& value) {
  return value.dump(4, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace ostler::img
