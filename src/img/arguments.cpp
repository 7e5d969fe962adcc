#include "img/arguments.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/suggest.h"

namespace ostler::img {
namespace {

Error mistake(std::string message) {
  return Error(ErrorKind::kInvalidArgument, std::move(message));
}

// The option that a long name, whole or shortened, means.
Result<const OptionName*> find_long(std::span<const OptionName> options, std::string_view name) {
  const OptionName* found = nullptr;
  std::vector<std::string_view> names;
  for (const OptionName& each : options) {
    if (each.name.empty()) continue;
    if (each.name == name) return &each;
    names.push_back(each.name);
    if (!each.name.starts_with(name)) continue;
    if (found != nullptr)
      return mistake(fmt::format("option '--{}' is ambiguous: --{} or --{}", name, found->name, each.name));
    found = &each;
  }
  if (found == nullptr)
    return mistake(fmt::format("there is no option '--{}' of this command{}", name, suggestion(name, names)));
  return found;
}

}  // namespace

bool Arguments::has(std::string_view key) const {
  return std::ranges::any_of(options, [key](const auto& each) { return each.first == key; });
}

std::string Arguments::value(std::string_view key, std::string otherwise) const {
  for (size_t i = options.size(); i-- != 0;)
    if (options[i].first == key) return options[i].second;
  return otherwise;
}

std::vector<std::string> Arguments::values(std::string_view key) const {
  std::vector<std::string> all;
  for (const auto& [name, value] : options)
    if (name == key) all.push_back(value);
  return all;
}

Result<Arguments> parse_arguments(std::span<const OptionName> options, std::span<const std::string> words) {
  Arguments result;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      result.operands.insert(result.operands.end(), words.begin() + static_cast<ptrdiff_t>(i) + 1,
                             words.end());
      break;
    }
    if (word.size() < 2 || word[0] != '-') {
      result.operands.push_back(word);
      continue;
    }
    if (word[1] == '-') {
      const size_t equals = word.find('=');
      TRY_ASSIGN(const OptionName* option, find_long(options, std::string_view(word).substr(2, equals - 2)));
      std::string value;
      if (equals != std::string::npos) {
        if (!option->value) return mistake(fmt::format("option '--{}' takes no value", option->name));
        value = word.substr(equals + 1);
      } else if (option->value) {
        if (++i == words.size()) return mistake(fmt::format("option '--{}' needs a value", option->name));
        value = words[i];
      }
      result.options.emplace_back(option->key, std::move(value));
      continue;
    }
    for (size_t at = 1; at < word.size(); ++at) {
      const auto option = std::ranges::find(options, word[at], &OptionName::letter);
      if (option == options.end())
        return mistake(fmt::format("there is no option '-{}' of this command", word[at]));
      if (!option->value) {
        result.options.emplace_back(option->key, std::string());
        continue;
      }
      if (at + 1 < word.size()) {
        result.options.emplace_back(option->key, word.substr(at + 1));
      } else {
        if (++i == words.size()) return mistake(fmt::format("option '-{}' needs a value", word[at]));
        result.options.emplace_back(option->key, words[i]);
      }
      break;
    }
  }
  return result;
}

}  // namespace ostler::img
