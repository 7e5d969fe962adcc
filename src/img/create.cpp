// create: a new image, empty or on a backing file.
#include "img/commands.h"
#include "img/new_image.h"
#include "img/text.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {
    kObject, kQuiet, kFormat, kMoreOptions, {"b", 'b', "", true}, {"F", 'F', "", true}, {"u", 'u'}};

}  // namespace

Result<int> create(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  NewImage image;
  image.name = arguments.operands.empty() ? "" : arguments.operands[0];
  image.format = arguments.value("f");
  if (image.format.empty() && tool.style.for_people) {
    image.format = format_of_name(image.name);
    if (image.format.empty()) image.format = "qcow2";
  }
  if (image.format.empty()) image.format = "raw";
  TRY_ASSIGN(const block::Driver* driver, block::need_driver(image.format));
  TRY_ASSIGN(image.options, creation_options(arguments));
  if (asks_for_help(image.options)) {
    std::fputs(option_help(*driver, !image.name.empty()).c_str(), stdout);
    return 0;
  }
  if (image.name.empty())
    return Error(ErrorKind::kInvalidArgument, "the name of the new image is missing; it is the operand");
  if (arguments.operands.size() > 2)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("there are two operands, a file name and a size; '{}' is one too many",
                             arguments.operands[2]));
  if (driver->create == nullptr)
    return Error(ErrorKind::kUnsupported, fmt::format("-f: images of '{}' cannot be created", image.format));
  TRY(check_option_names(*driver, image.options));
  if (arguments.operands.size() == 2) {
    if (image.options.contains("size"))
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: the size is given twice, as an operand and as -o size; leave one out",
                               image.name));
    TRY_ASSIGN(image.options["size"], size_of_option("size", arguments.operands[1]));
  } else if (image.options.contains("size")) {
    TRY_ASSIGN(image.options["size"], size_of_option("-o size", block::string_at(image.options, "size")));
  }
  if (arguments.has("b")) image.options["backing_file"] = arguments.value("b");
  if (arguments.has("F")) image.options["backing_fmt"] = arguments.value("F");
  image.trust_backing = arguments.has("u");
  TRY(complete_backing(tool, image));
  if (!image.options.contains("size"))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: the size is missing; give it behind the file name, like 10G", image.name));
  tool.say(formatting_line(image));
  std::fflush(stdout);
  TRY(make_image(tool, image));
  return 0;
}

}  // namespace ostler::img
