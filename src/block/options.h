// Options of nodes and of creation: JSON objects whose values are JSON's or, from command lines, strings.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ostler::block {

// For `-o help` and messages. `type`: "str", "bool (on/off)", "size", "num" or the choices, as they are
// shown.
struct OptionSpec {
  std::string_view name;
  std::string_view type;
  std::string_view help;
};

// "64k", "1.5G", "512": bytes, suffixes of powers of 1024 (b k K M G T P E).
Result<uint64_t> parse_size(std::string_view text);

// The string at `key`, or `otherwise` if there is none.
std::string string_at(const nlohmann::json& object, const char* key, std::string otherwise = {});

// Takes known options out of an object one after the other; finish() complains about what is left.
class OptionReader {
 public:
  // `where` begins every message: "qcow2 image disk.qcow2".
  OptionReader(nlohmann::json object, std::string where);

  std::optional<nlohmann::json> take(std::string_view name);  // null counts as absent
  Result<std::optional<std::string>> string(std::string_view name);
  Result<std::optional<bool>> boolean(std::string_view name);  // true, "on", "yes", …
  Result<std::optional<uint64_t>> number(std::string_view name, uint64_t most = ~uint64_t{0});
  Result<std::optional<uint64_t>> size(std::string_view name);
  Result<std::optional<std::string>> choice(std::string_view name, std::span<const std::string_view> choices);
  Result<std::optional<std::string>> choice(std::string_view name,
                                            std::initializer_list<std::string_view> choices) {
    return choice(name, std::span(choices.begin(), choices.size()));
  }
  Error error(std::string_view name, std::string_view problem) const;
  Result<void> finish() const;
  const std::string& where() const { return where_; }
  nlohmann::json& left() { return object_; }

 private:
  nlohmann::json object_;
  const std::string where_;
  std::vector<std::string> known_;
};

// {"file.filename": "x", "rules.0.errno": 5} as {"file": {"filename": "x"}, "rules": [{"errno": 5}]}.
Result<nlohmann::json> nest_options(const nlohmann::json& flat);
// "a=b,c.d=e" as an object; ",," is a comma in a value. A part without '=' is `implied`'s value or "on".
Result<nlohmann::json> parse_option_list(std::string_view text, std::string_view implied = {});

}  // namespace ostler::block
