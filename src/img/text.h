// Numbers and times as the tool shows them.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ostler::img {

// "196 KiB", "1.5 MiB", "0 B": three significant digits, below 1000 of a unit.
std::string size_text(uint64_t bytes);
// "7", "1:05", "2:00:09".
std::string duration_text(uint64_t seconds);
// block::parse_size() whose error names `option`.
Result<uint64_t> size_of_option(std::string_view option, std::string_view text);
// A whole number from `least` to `most`; the error names `option`.
Result<uint64_t> number_of_option(std::string_view option, std::string_view text, uint64_t least,
                                  uint64_t most);
// Indented by four spaces, with a line feed at its end.
std::string json_text(const nlohmann::ordered_json& value);

}  // namespace ostler::img
