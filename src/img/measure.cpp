// measure: how large the file of a new image would be.
#include "block/capabilities.h"
#include "block/driver.h"
#include "img/commands.h"
#include "img/new_image.h"
#include "img/snapshot_name.h"
#include "img/text.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {kObject,
                                   kImageOptions,
                                   kForceShare,
                                   kFormat,
                                   kOutput,
                                   kMoreOptions,
                                   {"O", 'O', "", true},
                                   {"l", 'l', "", true},
                                   {"size", 0, "size", true}};

// Where the keys lie depends on none of it, but an image could not be made without a passphrase.
Result<void> check_secret(Tool& tool, const block::Driver& driver, const nlohmann::json& options) {
  const bool whole = driver.name == "luks";
  if (!whole && (!options.contains("encrypt") || !options["encrypt"].is_object())) return {};
  const std::string option = whole ? "-o key-secret" : "-o encrypt.key-secret";
  const std::string id = block::string_at(whole ? options : options["encrypt"], "key-secret");
  if (id.empty())
    return Error(ErrorKind::kInvalidArgument,
                 option + " is missing: the name of an --object secret with the passphrase");
  TRY(tool.opener.secret(id, option));
  return {};
}

void print_result(const nlohmann::json& result, bool as_json) {
  if (as_json) {
    std::fputs(json_text(result).c_str(), stdout);
    return;
  }
  fmt::print("required size: {}\nfully allocated size: {}\n", result["required"].get<uint64_t>(),
             result["fully-allocated"].get<uint64_t>());
  if (result.contains("bitmaps")) fmt::print("bitmaps size: {}\n", result["bitmaps"].get<uint64_t>());
}

}  // namespace

Result<int> measure(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  TRY_ASSIGN(const bool json, wants_json(arguments));
  const bool by_size = arguments.has("size");
  if (by_size && !arguments.operands.empty())
    return Error(ErrorKind::kInvalidArgument, "--size and the name of an image exclude each other");
  if (!by_size && arguments.operands.empty())
    return Error(ErrorKind::kInvalidArgument, "either --size or the name of an image is needed");
  const std::string format = arguments.value("O", "raw");
  TRY_ASSIGN(const block::Driver* driver, block::need_driver(format));
  TRY_ASSIGN(nlohmann::json options, creation_options(arguments));
  if (asks_for_help(options)) {
    std::fputs(option_help(*driver, true).c_str(), stdout);
    return 0;
  }
  TRY(check_option_names(*driver, options));
  if (driver->measure == nullptr)
    return Error(
        ErrorKind::kUnsupported,
        fmt::format("-O: how large an image of the format '{}' is cannot be told beforehand", format));
  TRY(check_secret(tool, *driver, options));
  block::take_file_options(options, *driver, *block::find_driver("file"));  // they change nothing here
  if (by_size) {
    TRY_ASSIGN(options["size"], size_of_option("--size", arguments.value("size")));
    TRY_ASSIGN(const auto result, tool.run(driver->measure(options, nullptr)));
    print_result(result, json);
    return 0;
  }
  TRY_ASSIGN(const std::string name, one_operand(arguments, "the name of an image"));
  TRY_ASSIGN(const auto request, image_request(arguments, name, false));
  TRY_ASSIGN(const Image image, Image::open(tool, request));
  if (arguments.has("l")) TRY(load_snapshot(tool, image, arguments.value("l")));
  options["size"] = image.size();
  TRY_ASSIGN(const auto result, tool.run(driver->measure(options, image.node())));
  print_result(result, json);
  return 0;
}

}  // namespace ostler::img
