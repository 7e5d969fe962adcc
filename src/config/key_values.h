// QEMU's option syntax: "first,key=value,key2=a,,b" or the same as JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "config/key_value.h"

namespace ostler::config {

// The pairs of one option. Each consumer takes the keys it knows, in order to name what is left over at the
// end.
class KeyValues {
 public:
  // `option` is for messages ("-drive"). `implied` is the key of a first value without one; empty: keys only.
  // A word without '=' after the first is a bool: "readonly" is readonly=on.
  static Result<KeyValues> parse(std::string option, std::string_view text, std::string_view implied);
  // {"driver":"file","filename":"x","cache":{"direct":true}}: nested keys joined by dots.
  static Result<KeyValues> parse_json(std::string option, std::string_view text);
  // JSON when it begins with '{'.
  static Result<KeyValues> parse_either(std::string option, std::string_view text, std::string_view implied);

  // Pairs parsed before, under the name of the option they came from.
  static KeyValues from(std::string origin, Properties pairs);

  // The last value of `key`, removed; none when absent.
  std::optional<std::string> take(std::string_view key);
  // All of them, in order; a list of JSON ("key.0", "key.1") likewise.
  std::vector<std::string> take_all(std::string_view key);
  // The word "nowait" is wait=off, as QEMU's older short form has it.
  Result<std::optional<bool>> take_bool(std::string_view key);
  Result<std::optional<uint64_t>> take_number(std::string_view key);
  Result<std::optional<uint64_t>> take_size(std::string_view key, uint64_t unit);
  // One of `choices`, the first when absent.
  Result<std::string> take_choice(std::string_view key, std::vector<std::string_view> choices);
  Properties take_rest() { return std::move(pairs_); }

  // Error naming the first key nobody took, with the nearest of those asked for.
  Result<void> finish() const;

  const std::string& origin() const { return origin_; }            // "-drive file=x,if=virtio"
  Error error(std::string_view key, std::string_view text) const;  // "-drive x: key: text"

 private:
  std::string origin_;
  Properties pairs_;
  std::vector<std::string> asked_;
};

}  // namespace ostler::config
