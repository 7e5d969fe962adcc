#include "config/property.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace ostler::config {
namespace {

Error invalid(std::string message) {
  return Error(ErrorKind::kInvalidArgument, std::move(message));
}

std::string quoted(std::string_view text) {
  return "'" + std::string(text) + "'";
}

}  // namespace

std::vector<KeyValue> split_options(std::string_view text, std::string_view implied_key) {
  std::vector<KeyValue> values;
  size_t at = 0;
  bool first = true;
  while (at < text.size()) {
    std::string word;
    while (at < text.size()) {
      if (text[at] != ',') {
        word += text[at++];
      } else if (at + 1 < text.size() && text[at + 1] == ',') {
        word += ',';
        at += 2;
      } else {
        break;
      }
    }
    ++at;  // the separating comma, or past the end
    const size_t equals = word.find('=');
    if (equals != std::string::npos)
      values.push_back({word.substr(0, equals), word.substr(equals + 1)});
    else if (first && !implied_key.empty())
      values.push_back({std::string(implied_key), word});
    else if (!word.empty())
      values.push_back({word, "on"});
    first = false;
  }
  return values;
}

Result<bool> parse_bool(std::string_view text) {
  for (std::string_view yes : {"on", "yes", "true", "y"})
    if (text == yes) return true;
  for (std::string_view no : {"off", "no", "false", "n"})
    if (text == no) return false;
  return invalid(quoted(text) + " is neither on nor off");
}

Result<OnOffAuto> parse_on_off_auto(std::string_view text) {
  if (text == "auto") return OnOffAuto::kAuto;
  auto value = parse_bool(text);
  if (!value) return invalid(quoted(text) + " is none of on, off, auto");
  return *value ? OnOffAuto::kOn : OnOffAuto::kOff;
}

Result<uint64_t> parse_number(std::string_view text) {
  std::string_view digits = text;
  int base = 10;
  if (digits.starts_with("0x") || digits.starts_with("0X")) {
    digits.remove_prefix(2);
    base = 16;
  }
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error == std::errc::result_out_of_range) return invalid(quoted(text) + " is too large a number");
  if (error != std::errc() || end != digits.data() + digits.size() || digits.empty())
    return invalid(quoted(text) + " is not a number");
  return value;
}

Result<uint64_t> parse_number_between(std::string_view text, uint64_t least, uint64_t most) {
  TRY_ASSIGN(uint64_t value, parse_number(text));
  if (value < least || value > most)
    return invalid(std::string(text) + " is outside " + std::to_string(least) + " to " +
                   std::to_string(most));
  return value;
}

Result<uint64_t> parse_power_of_two(std::string_view text, uint64_t least, uint64_t most) {
  TRY_ASSIGN(const uint64_t value, parse_size(text));
  if (value < least || value > most || !std::has_single_bit(value))
    return invalid(std::string(text) + " is not a power of two from " + std::to_string(least) + " to " +
                   std::to_string(most));
  return value;
}

Result<uint64_t> parse_size(std::string_view text, uint64_t unit) {
  const auto not_a_size = [&] { return invalid(quoted(text) + " is not a size (examples: 512M, 4G, 1.5T)"); };
  std::string_view digits = text;
  if (!digits.empty() && std::isalpha(static_cast<unsigned char>(digits.back())) != 0 &&
      !digits.starts_with("0x")) {
    constexpr std::string_view kSuffixes = "bkmgtpe";
    const size_t power =
        kSuffixes.find(static_cast<char>(std::tolower(static_cast<unsigned char>(digits.back()))));
    if (power == std::string_view::npos) return not_a_size();
    unit = uint64_t{1} << (10 * power);
    digits.remove_suffix(1);
  }
  if (digits.empty()) return not_a_size();
  if (digits.find('.') == std::string_view::npos) {
    auto count = parse_number(digits);
    if (!count) return not_a_size();
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(*count, unit, &bytes)) return invalid(quoted(text) + " is too large");
    return bytes;
  }
  double fraction = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), fraction);
  if (error != std::errc() || end != digits.data() + digits.size() || !std::isfinite(fraction) ||
      fraction < 0)
    return not_a_size();
  const double bytes = fraction * static_cast<double>(unit);
  if (bytes >= 18446744073709551615.0) return invalid(quoted(text) + " is too large");
  return static_cast<uint64_t>(bytes);
}

Result<MacAddress> parse_mac(std::string_view text) {
  MacAddress mac{};
  size_t at = 0;
  for (size_t i = 0; i < mac.size(); ++i) {
    if (i != 0 && (at >= text.size() || (text[at] != ':' && text[at] != '-')))
      return invalid(quoted(text) + " is not a MAC address (example: 52:54:00:12:34:56)");
    if (i != 0) ++at;
    const char* begin = text.data() + at;
    const char* limit = text.data() + std::min(text.size(), at + 2);
    const auto [end, error] = std::from_chars(begin, limit, mac[i], 16);
    if (error != std::errc())
      return invalid(quoted(text) + " is not a MAC address (example: 52:54:00:12:34:56)");
    at = static_cast<size_t>(end - text.data());
  }
  if (at != text.size()) return invalid(quoted(text) + " is not a MAC address (example: 52:54:00:12:34:56)");
  if ((mac[0] & 1) != 0)
    return invalid(quoted(text) + " is a multicast address; clear the first byte's lowest bit");
  return mac;
}

Result<PciAddress> parse_pci_address(std::string_view text) {
  const auto wrong = [&] {
    return invalid(quoted(text) + " is not slot[.function] in hexadecimal (00.0 to 1f.7)");
  };
  std::string_view slot_text = text, function_text = "0";
  if (const size_t dot = text.find('.'); dot != std::string_view::npos) {
    slot_text = text.substr(0, dot);
    function_text = text.substr(dot + 1);
  }
  if (slot_text.starts_with("0x")) slot_text.remove_prefix(2);
  unsigned slot = 0, function = 0;
  const auto hexadecimal = [](std::string_view digits, unsigned& value) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  if (!hexadecimal(slot_text, slot) || !hexadecimal(function_text, function) || slot > 31 || function > 7)
    return wrong();
  return PciAddress{static_cast<uint8_t>(slot), static_cast<uint8_t>(function)};
}

std::string mac_text(const MacAddress& mac) {
  char buffer[18];
  std::snprintf(buffer, sizeof buffer, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                mac[4], mac[5]);
  return buffer;
}

std::string PropertySchema::help() const {
  auto infos = list();
  std::ranges::sort(infos, {}, &PropertyInfo::name);
  std::string text = owner() + " options:\n";
  for (const auto& info : infos) {
    std::string line = "  " + info.name + "=<" + info.type + ">";
    if (line.size() < 32) line.resize(32, ' ');
    line += " - " + info.help;
    if (const auto value = default_text(info.name); !value.empty()) line += " (default: " + value + ")";
    text += line + "\n";
  }
  return text;
}

}  // namespace ostler::config
