// A device's (or back end's) properties, declared once as a table over a plain options struct:
//
//   struct Options { std::string drive; uint32_t queue_size = 256; OnOffAuto discard = OnOffAuto::kAuto; };
//
//   const PropertyTable<Options>& properties() {
//     static const PropertyTable<Options> table("virtio-blk-pci", {
//         reference("drive", "block node", &Options::drive, "the disk that this device shows"),
//         number("queue-size", &Options::queue_size, 2, 1024, "descriptors in a queue"),
//     });
//     return table;
//   }
//
// The same table parses "k=v" text, prints -device X,help, and reads a property back. Defaults are those of
// the struct, so they are written in one place. Tables are immutable once built: any thread may use them.
#pragma once

#include <any>
#include <array>
#include <concepts>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/suggest.h"
#include "config/key_value.h"

namespace ostler::config {

enum class OnOffAuto : uint8_t { kAuto, kOn, kOff };

using MacAddress = std::array<uint8_t, 6>;

// PCI slot and function, as "4" or "4.1" (hexadecimal, as QEMU writes them).
struct PciAddress {
  uint8_t slot = 0;
  uint8_t function = 0;
  friend bool operator==(const PciAddress&, const PciAddress&) = default;
};

// Splits "a=b,c=d,,e,flag" as QEMU does: a doubled comma is a comma, a word without "=" means "word=on",
// "noword" is not special. The first word without "=" gets the key `implied_key`, if that is not empty.
std::vector<KeyValue> split_options(std::string_view text, std::string_view implied_key = {});

// Text to value. The error is one sentence without the property's name: "'x' is not a number (…)".
Result<bool> parse_bool(std::string_view text);  // on, off, yes, no, true, false
Result<OnOffAuto> parse_on_off_auto(std::string_view text);
Result<uint64_t> parse_number(std::string_view text);  // decimal, 0x hexadecimal
Result<uint64_t> parse_size(std::string_view text,
                            uint64_t unit = 1);  // bytes; suffixes b k M G T P, fractions
Result<MacAddress> parse_mac(std::string_view text);
Result<PciAddress> parse_pci_address(std::string_view text);
std::string mac_text(const MacAddress& mac);

// What help shows of one property.
struct PropertyInfo {
  std::string name;
  std::string type;  // "bool", "uint32", "size", "str", "block node", "OnOffAuto", "a|b|c"
  std::string help;
};

// The table without its options type, for those who only list, parse and pass on.
class PropertySchema {
 public:
  virtual ~PropertySchema() = default;
  virtual const std::string& owner() const = 0;
  virtual std::vector<PropertyInfo> list() const = 0;
  virtual std::string default_text(std::string_view property) const = 0;
  // The filled options struct, as std::any of the table's type. An unknown name gives an error with the
  // nearest.
  virtual Result<std::any> parse_any(std::span<const KeyValue> values) const = 0;
  // "name=<type>  help (default: …)", a line each, sorted: -device X,help.
  std::string help() const;
};

template <class Options>
struct Property {
  PropertyInfo info;
  std::function<Result<void>(Options&, std::string_view)> set;
  std::function<std::string(const Options&)> get;
};

template <class Options>
class PropertyTable final : public PropertySchema {
 public:
  PropertyTable(std::string owner, std::vector<Property<Options>> properties)
      : owner_(std::move(owner)), properties_(std::move(properties)) {}

  const std::string& owner() const override { return owner_; }

  std::vector<PropertyInfo> list() const override {
    std::vector<PropertyInfo> infos;
    for (const auto& property : properties_) infos.push_back(property.info);
    return infos;
  }

  std::string default_text(std::string_view name) const override {
    const auto* property = find(name);
    return property == nullptr ? std::string() : property->get(Options{});
  }

  const Property<Options>* find(std::string_view name) const {
    for (const auto& property : properties_)
      if (property.info.name == name) return &property;
    return nullptr;
  }

  Result<void> set(Options& options, std::string_view name, std::string_view value) const {
    const auto* property = find(name);
    if (property == nullptr) return unknown(name);
    auto done = property->set(options, value);
    if (!done) return std::move(done).error().with_context(owner_ + ": " + std::string(name));
    return {};
  }

  Result<Options> parse(std::span<const KeyValue> values) const {
    Options options;
    for (const auto& [key, value] : values) TRY(set(options, key, value));
    return options;
  }

  Result<std::any> parse_any(std::span<const KeyValue> values) const override {
    TRY_ASSIGN(Options options, parse(values));
    return std::any(std::move(options));
  }

  const std::vector<Property<Options>>& properties() const { return properties_; }

 private:
  Error unknown(std::string_view name) const {
    std::vector<std::string_view> known;
    for (const auto& property : properties_) known.push_back(property.info.name);
    return Error(ErrorKind::kInvalidArgument,
                 owner_ + " has no property '" + std::string(name) + "'" + suggestion(name, known));
  }

  std::string owner_;
  std::vector<Property<Options>> properties_;
};

// The kinds of property. `member` may be of a base struct of Options.

template <class Options>
Property<Options> boolean(std::string name, bool Options::*member, std::string help) {
  return {{std::move(name), "bool", std::move(help)},
          [member](Options& options, std::string_view text) -> Result<void> {
            TRY_ASSIGN(options.*member, parse_bool(text));
            return {};
          },
          [member](const Options& options) { return std::string(options.*member ? "on" : "off"); }};
}

template <class Options>
Property<Options> on_off_auto(std::string name, OnOffAuto Options::*member, std::string help) {
  return {{std::move(name), "OnOffAuto", std::move(help)},
          [member](Options& options, std::string_view text) -> Result<void> {
            TRY_ASSIGN(options.*member, parse_on_off_auto(text));
            return {};
          },
          [member](const Options& options) {
            static const char* const names[] = {"auto", "on", "off"};
            return std::string(names[static_cast<int>(options.*member)]);
          }};
}

Result<uint64_t> parse_number_between(std::string_view text, uint64_t least, uint64_t most);

template <class Options, std::unsigned_integral T>
Property<Options> number(std::string name, T Options::*member, uint64_t least, uint64_t most,
                         std::string help) {
  return {{std::move(name), "uint" + std::to_string(sizeof(T) * 8), std::move(help)},
          [=](Options& options, std::string_view text) -> Result<void> {
            TRY_ASSIGN(uint64_t value, parse_number_between(text, least, most));
            options.*member = static_cast<T>(value);
            return {};
          },
          [member](const Options& options) { return std::to_string(options.*member); }};
}

template <class Options, std::unsigned_integral T>
Property<Options> size(std::string name, T Options::*member, uint64_t most, std::string help) {
  return {{std::move(name), "size", std::move(help)},
          [=](Options& options, std::string_view text) -> Result<void> {
            TRY_ASSIGN(uint64_t value, parse_size(text));
            if (value > most)
              return Error(ErrorKind::kInvalidArgument,
                           std::string(text) + " is more than " + std::to_string(most));
            options.*member = static_cast<T>(value);
            return {};
          },
          [member](const Options& options) { return std::to_string(options.*member); }};
}

// "-1" too, which is `unset`.
template <class Options, std::unsigned_integral T>
Property<Options> number_or_unset(std::string name, T Options::*member, uint64_t least, uint64_t most,
                                  T unset, std::string help) {
  auto property = number(std::move(name), member, least, most, std::move(help));
  property.set = [=, plain = std::move(property.set)](Options& options,
                                                      std::string_view text) -> Result<void> {
    if (text != "-1") return plain(options, text);
    options.*member = unset;
    return {};
  };
  return property;
}

// Bytes with suffixes, or a count; a power of two.
Result<uint64_t> parse_power_of_two(std::string_view text, uint64_t least, uint64_t most);

template <class Options, std::unsigned_integral T>
Property<Options> power_of_two(std::string name, T Options::*member, uint64_t least, uint64_t most,
                               std::string help) {
  auto property = number(std::move(name), member, least, most, std::move(help));
  property.set = [=](Options& options, std::string_view text) -> Result<void> {
    TRY_ASSIGN(const uint64_t value, parse_power_of_two(text, least, most));
    options.*member = static_cast<T>(value);
    return {};
  };
  return property;
}

// A property of QEMU's that has nothing to choose here: `same` are its values that ask for what is there
// anyway, the first of them the default. Another one is an error that ends in `otherwise`.
template <class Options>
Property<Options> settled(std::string name, std::vector<std::string> same, std::string otherwise,
                          std::string help) {
  return {{std::move(name), "str", std::move(help)},
          [same, otherwise = std::move(otherwise)](Options&, std::string_view value) -> Result<void> {
            for (const std::string& each : same)
              if (each == value) return {};
            return Error(ErrorKind::kUnsupported,
                         "'" + std::string(value) + "' is not available; " + otherwise);
          },
          [same](const Options&) { return same.front(); }};
}

template <class Options>
Property<Options> text(std::string name, std::string Options::*member, std::string help) {
  return {{std::move(name), "str", std::move(help)},
          [member](Options& options, std::string_view value) -> Result<void> {
            options.*member = std::string(value);
            return {};
          },
          [member](const Options& options) { return options.*member; }};
}

// The id of another object; `what` names its kind ("block node", "netdev", "chardev", "rng object").
template <class Options>
Property<Options> reference(std::string name, std::string what, std::string Options::*member,
                            std::string help) {
  auto property = text(std::move(name), member, std::move(help));
  property.info.type = "id of a " + what;
  return property;
}

template <class Options>
Property<Options> mac(std::string name, std::optional<MacAddress> Options::*member, std::string help) {
  return {{std::move(name), "mac", std::move(help)},
          [member](Options& options, std::string_view value) -> Result<void> {
            TRY_ASSIGN(options.*member, parse_mac(value));
            return {};
          },
          [member](const Options& options) {
            return options.*member ? mac_text(*(options.*member)) : std::string("made from the position");
          }};
}

template <class Options>
Property<Options> pci_address(std::string name, std::optional<PciAddress> Options::*member,
                              std::string help) {
  return {{std::move(name), "slot[.function]", std::move(help)},
          [member](Options& options, std::string_view value) -> Result<void> {
            TRY_ASSIGN(options.*member, parse_pci_address(value));
            return {};
          },
          [member](const Options& options) -> std::string {
            if (!(options.*member)) return "first free";
            char buffer[8];
            std::snprintf(buffer, sizeof buffer, "%02x.%x", (options.*member)->slot,
                          (options.*member)->function);
            return buffer;
          }};
}

// One of a few names, stored as the enum's value at the same index.
template <class Options, class Enum>
requires std::is_enum_v<Enum> Property<Options> choice(std::string name, Enum Options::*member,
                                                       std::vector<std::string> names, std::string help) {
  std::string type;
  for (const auto& each : names) type += (type.empty() ? "" : "|") + each;
  return {{std::move(name), type, std::move(help)},
          [=](Options& options, std::string_view value) -> Result<void> {
            for (size_t i = 0; i < names.size(); ++i) {
              if (names[i] != value) continue;
              options.*member = static_cast<Enum>(i);
              return {};
            }
            return Error(ErrorKind::kInvalidArgument, "'" + std::string(value) + "' is not one of " + type);
          },
          [=](const Options& options) { return names[static_cast<size_t>(options.*member)]; }};
}

// One line of `-device help`: a name that -device knows, the bus it plugs into, and its properties.
struct DeviceType {
  std::string name;
  std::string bus;  // "PCI", "virtio-bus", "virtio-serial-bus", "IDE", "SCSI", "ISA"
  std::string help;
  const PropertySchema* properties;
  std::vector<std::string> aliases;
};

}  // namespace ostler::config
