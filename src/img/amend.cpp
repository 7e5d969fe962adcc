// amend: changes options that an image was made with.
#include <algorithm>

#include "base/suggest.h"
#include "block/driver.h"
#include "img/commands.h"
#include "img/new_image.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {kObject,  kImageOptions, kFormat,      kQuiet,
                                   kPercent, kCache,        kMoreOptions, {"force", 0, "force"}};

Error not_amendable(std::string_view format) {
  return Error(ErrorKind::kUnsupported,
               fmt::format("the format '{}' has no options that can be changed afterwards", format));
}

std::string amend_help(const block::Driver& driver) {
  std::vector<block::OptionSpec> specs(driver.amend_options.begin(), driver.amend_options.end());
  std::ranges::sort(specs, {}, &block::OptionSpec::name);
  std::string text = fmt::format("Amend options for '{}':\n", driver.name);
  for (const auto& spec : specs)
    text += fmt::format("  {:<22} - {}\n", fmt::format("{}=<{}>", spec.name, spec.type), spec.help);
  return text;
}

}  // namespace

Result<int> amend(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  if (!arguments.has("o"))
    return Error(ErrorKind::kInvalidArgument, "-o is missing: the options to change, like -o compat=1.1");
  TRY_ASSIGN(const nlohmann::json options, creation_options(arguments));
  if (asks_for_help(options) && arguments.has("f")) {
    TRY_ASSIGN(const block::Driver* driver, block::need_driver(arguments.value("f")));
    if (driver->amend_options.empty()) return not_amendable(driver->name);
    std::fputs(amend_help(*driver).c_str(), stdout);
    return 0;
  }
  TRY_ASSIGN(const std::string name, one_operand(arguments, "the name of an image"));
  TRY_ASSIGN(const auto request, image_request(arguments, name, true));
  TRY_ASSIGN(Image image, Image::open(tool, request));
  const block::Driver* const driver = block::find_driver(image.node()->driver());
  if (driver == nullptr || driver->amend_options.empty())
    return not_amendable(image.node()->driver()).with_context(name);
  if (asks_for_help(options)) {
    std::fputs(amend_help(*driver).c_str(), stdout);
    return 0;
  }
  nlohmann::json values = options;
  if (arguments.has("force")) values["force"] = true;
  Progress progress(tool.progress_form(), "amend", 0);
  TRY(tool.run(image.node()->amend(std::move(values))));
  TRY(image.close());
  progress.finish();
  return 0;
}

}  // namespace ostler::img
