// Words of a command line as options and operands, by the rules of getopt_long(3): options may stand behind
// operands, letters may be joined ("-qp", "-fraw"), long names may be shortened while they are unique, "--"
// ends the options.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace ostler::img {

struct OptionName {
  std::string_view key;  // what Arguments calls it
  char letter = 0;       // 0: only the long name
  std::string_view name = {};
  bool value = false;
};

class Arguments {
 public:
  bool has(std::string_view key) const;
  // The last one's value; `otherwise` if there is none.
  std::string value(std::string_view key, std::string otherwise = {}) const;
  std::vector<std::string> values(std::string_view key) const;

  std::vector<std::pair<std::string_view, std::string>> options;  // in their order
  std::vector<std::string> operands;
};

// `options` outlives the result. Errors name the word and, if it looks like a mistake in typing, the option.
Result<Arguments> parse_arguments(std::span<const OptionName> options, std::span<const std::string> words);

}  // namespace ostler::img
