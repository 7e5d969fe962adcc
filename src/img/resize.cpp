// resize: the virtual size of an image, absolute or by a difference.
#include "img/commands.h"
#include "img/text.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {
    kObject, kImageOptions,           kFormat,
    kQuiet,  {"shrink", 0, "shrink"}, {"preallocation", 0, "preallocation", true}};

Result<block::Preallocation> preallocation_of(const std::string& mode) {
  if (mode == "off") return block::Preallocation::kOff;
  if (mode == "metadata") return block::Preallocation::kMetadata;
  if (mode == "falloc") return block::Preallocation::kFalloc;
  if (mode == "full") return block::Preallocation::kFull;
  return Error(
      ErrorKind::kInvalidArgument,
      fmt::format("--preallocation: '{}' is not a mode; there are off, metadata, falloc, full", mode));
}

// The size is the last word, and may look like an option: "-10M".
bool is_size(const std::string& word) {
  return word.size() > 1 && word[0] == '-' && word[1] >= '0' && word[1] <= '9';
}

}  // namespace

Result<int> resize(Tool& tool, Words words) {
  std::string size;
  if (!words.empty() && is_size(words.back())) {
    size = words.back();
    words = words.first(words.size() - 1);
  }
  TRY_ASSIGN(Arguments arguments, read_arguments(tool, kOptions, words));
  if (size.empty() && !arguments.operands.empty()) {
    size = arguments.operands.back();
    arguments.operands.pop_back();
  }
  if (size.empty() || arguments.operands.empty())
    return Error(ErrorKind::kInvalidArgument,
                 "two operands are needed, the name of an image and its new size");
  TRY_ASSIGN(const std::string name, one_operand(arguments, "the name of an image"));
  const char sign = size[0];
  if (sign == '+' || sign == '-') size.erase(0, 1);
  TRY_ASSIGN(const uint64_t bytes, size_of_option("size", size));
  TRY_ASSIGN(const auto preallocation, preallocation_of(arguments.value("preallocation", "off")));
  TRY_ASSIGN(const auto request, image_request(arguments, name, true));
  TRY_ASSIGN(Image image, Image::open(tool, request));
  const uint64_t now = image.size();
  if (sign == '-' && bytes >= now)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: it has {} bytes and cannot lose {}", name, now, bytes));
  if (sign == '+' && bytes > (~uint64_t{0} >> 1) - now)
    return Error(ErrorKind::kInvalidArgument, fmt::format("{}: the size would be above 8 EiB", name));
  const uint64_t wanted = sign == '+' ? now + bytes : sign == '-' ? now - bytes : bytes;
  if (wanted < now) {
    if (preallocation != block::Preallocation::kOff)
      return Error(ErrorKind::kInvalidArgument,
                   "--preallocation is for growing; leave it out to make an image smaller");
    if (!arguments.has("shrink"))
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: with {} bytes instead of {}, what lies behind would be lost; give "
                               "--shrink if that is wanted",
                               name, wanted, now));
  }
  TRY(tool.run(image.node()->truncate((wanted + 511) / 512 * 512, preallocation)));
  TRY(image.close());
  tool.say("Image resized.\n");
  return 0;
}

}  // namespace ostler::img
