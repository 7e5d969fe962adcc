#include "img/new_image.h"

#include <algorithm>
#include <map>

#include "base/suggest.h"
#include "block/file_name.h"
#include "img/text.h"

namespace ostler::img {
namespace {

using nlohmann::json;

// {"encrypt": {"format": "luks"}} as "encrypt.format" → "luks".
void flatten(const json& options, const std::string& prefix, std::map<std::string, json>& flat) {
  for (const auto& [key, value] : options.items()) {
    if (value.is_object())
      flatten(value, prefix + key + ".", flat);
    else
      flat[prefix + key] = value;
  }
}

std::string value_text(const json& value, std::string_view type) {
  if (!value.is_string()) return value.dump();
  const auto& text = value.get_ref<const std::string&>();
  if (type == "size" || type == "num")
    if (const auto size = block::parse_size(text)) return std::to_string(*size);
  std::string doubled;  // as -o takes it
  for (const char each : text) doubled.append(each == ',' ? 2 : 1, each);
  return doubled;
}

// What qemu-img tells of options that were not given, and the order in which it tells qcow2's.
struct Told {
  std::string_view name;
  std::string_view otherwise;
};
constexpr Told kQcow2Told[] = {{"cluster_size", "65536"},
                               {"extended_l2", "off"},
                               {"preallocation", ""},
                               {"compression_type", "zlib"},
                               {"size", ""},
                               {"compat", ""},
                               {"backing_file", ""},
                               {"backing_fmt", ""},
                               {"data_file", ""},
                               {"data_file_raw", ""},
                               {"lazy_refcounts", "off"},
                               {"refcount_bits", "16"}};

std::vector<block::OptionSpec> all_options(const block::Driver& driver) {
  std::vector<block::OptionSpec> all(driver.create_options.begin(), driver.create_options.end());
  if (driver.kind == block::DriverKind::kFormat) {
    const block::Driver* file = block::find_driver("file");
    for (const block::OptionSpec& spec : file->create_options)
      if (std::ranges::find(all, spec.name, &block::OptionSpec::name) == all.end()) all.push_back(spec);
  }
  return all;
}

}  // namespace

bool asks_for_help(const json& options) {
  return options.contains("help") || options.contains("?");
}

Result<void> check_option_names(const block::Driver& driver, const json& options) {
  std::map<std::string, json> flat;
  flatten(options, "", flat);
  const auto specs = all_options(driver);
  std::vector<std::string_view> names;
  for (const auto& spec : specs) names.push_back(spec.name);
  for (const auto& [name, value] : flat)
    if (std::ranges::find(names, std::string_view(name)) == names.end())
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("-o: the format '{}' has no option '{}'{}; see -o help", driver.name, name,
                               suggestion(name, names)));
  return {};
}

Result<void> complete_backing(Tool& tool, NewImage& image) {
  TRY(block::check_file_name(image.name));
  const std::string file = block::string_at(image.options, "backing_file");
  if (!image.options.contains("backing_file") && image.options.contains("backing_fmt"))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: -F tells the format of a backing file, and none is named; give -b FILE too",
                             image.name));
  if (file.empty() && image.options.contains("backing_file"))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: -b names no file; leave it out for an image without one", image.name));
  if (file.empty()) return {};
  TRY_ASSIGN(const block::Driver* driver, block::need_driver(image.format));
  if (std::ranges::find(driver->create_options, "backing_file", &block::OptionSpec::name) ==
      driver->create_options.end())
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{}: images of the format '{}' have no backing file", image.name, image.format));
  const std::string format = block::string_at(image.options, "backing_fmt");
  if (!format.empty()) TRY(block::need_driver(format));
  if (image.trust_backing) return {};
  TRY(block::check_file_name(file));
  block::OpenFlags flags;
  flags.force_share = true;  // only its size is read, which no writer makes wrong
  TRY_ASSIGN(block::NodePtr backing, tool.run(tool.opener.open_backing(image.name, file, format, flags, 0)));
  const std::string found = backing->driver();
  if (!image.options.contains("size")) image.options["size"] = (backing->size() + 511) / 512 * 512;
  TRY(tool.run(block::close_chain(std::move(backing))));
  if (format.empty()) {
    if (!tool.style.for_people)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: the format of the backing file {} is not given; it looks like {}, say "
                               "-F {} if that is right",
                               image.name, file, found, found));
    image.options["backing_fmt"] = found;
  }
  return {};
}

Result<void> check_compression(const block::Driver& driver) {
  if (driver.compression) return {};
  return Error(
      ErrorKind::kUnsupported,
      fmt::format("-c: the format '{}' does not compress; leave -c out, or give -O qcow2", driver.name));
}

Result<void> make_image(Tool& tool, const NewImage& image) {
  block::OpenFlags flags;
  flags.no_backing = image.trust_backing;
  return tool.run(tool.opener.create(image.name, image.format, image.options, flags));
}

std::string formatting_line(const NewImage& image) {
  std::map<std::string, json> flat;
  flatten(image.options, "", flat);
  std::string line = fmt::format("Formatting '{}', fmt={}", image.name, image.format);
  const block::Driver* driver = block::find_driver(image.format);
  const auto specs = all_options(*driver);
  const auto type_of = [&](std::string_view name) {
    const auto spec = std::ranges::find(specs, name, &block::OptionSpec::name);
    return spec == specs.end() ? std::string_view() : spec->type;
  };
  const auto tell = [&](std::string_view name, std::string_view otherwise) {
    const auto found = flat.find(std::string(name));
    if (found != flat.end())
      line += fmt::format(" {}={}", name, value_text(found->second, type_of(name)));
    else if (!otherwise.empty())
      line += fmt::format(" {}={}", name, otherwise);
    if (found != flat.end()) flat.erase(found);
  };
  if (image.format == "qcow2") {
    std::map<std::string, json> first = flat;
    for (const auto& [name, value] : first)
      if (name.starts_with("encrypt")) tell(name, "");
    for (const Told& each : kQcow2Told) tell(each.name, each.otherwise);
  } else {
    tell("size", "");
  }
  for (const auto& [name, value] : flat)
    line += fmt::format(" {}={}", name, value_text(value, type_of(name)));
  return line + "\n";
}

std::string option_help(const block::Driver& driver, bool whole) {
  auto specs =
      whole ? all_options(driver)
            : std::vector<block::OptionSpec>(driver.create_options.begin(), driver.create_options.end());
  std::ranges::sort(specs, {}, &block::OptionSpec::name);
  std::string text =
      whole ? std::string("Supported options:\n") : fmt::format("Supported {} options:\n", driver.name);
  for (const auto& spec : specs)
    text += fmt::format("  {:<22} - {}\n", fmt::format("{}=<{}>", spec.name, spec.type), spec.help);
  if (!whole)
    text +=
        "\nThe protocol level may support further options.\nSpecify the target filename to include those "
        "options.\n";
  return text;
}

}  // namespace ostler::img
