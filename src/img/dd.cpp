// dd: a part of an image copied into a new one; `bs`, `count` and `skip` as dd(1) has them, except that
// `count` is counted from the begin of the input, not from `skip`.
#include <algorithm>

#include "base/suggest.h"
#include "img/commands.h"
#include "img/copy.h"
#include "img/new_image.h"
#include "img/same_file.h"
#include "img/text.h"
#include "img/unlocked.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {kObject, kImageOptions, kForceShare, kFormat, {"O", 'O', "", true}};
constexpr uint64_t kMostBlock = 0x7fffffff;

struct Operands {
  std::string input, output;
  uint64_t block = 512, skip = 0, count = 0;
  bool counted = false;
};

Result<Operands> read_operands(const std::vector<std::string>& words) {
  static constexpr std::string_view kNames[] = {"if", "of", "bs", "count", "skip"};
  Operands operands;
  for (const std::string& word : words) {
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
    if (equals == std::string::npos || std::ranges::find(kNames, name) == std::end(kNames))
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("'{}' is not an operand of dd{}; there are if=, of=, bs=, count= and skip=",
                               word, suggestion(name, kNames)));
    if (name == "if") operands.input = value;
    if (name == "of") operands.output = value;
    if (name == "bs") {
      TRY_ASSIGN(operands.block, size_of_option("bs", value));
      if (operands.block == 0 || operands.block > kMostBlock)
        return Error(ErrorKind::kInvalidArgument,
                     fmt::format("bs: {} is not from 1 to {}", value, kMostBlock));
    }
    if (name == "skip") {
      TRY_ASSIGN(operands.skip, size_of_option("skip", value));
    }
    if (name == "count") {
      TRY_ASSIGN(operands.count, size_of_option("count", value));
      operands.counted = true;
    }
  }
  if (operands.input.empty() || operands.output.empty())
    return Error(ErrorKind::kInvalidArgument, "both if=FILE and of=FILE are needed");
  return operands;
}

uint64_t product(uint64_t a, uint64_t b) {
  uint64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) ? ~uint64_t{0} : result;
}

}  // namespace

Result<int> dd(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  TRY_ASSIGN(const Operands operands, read_operands(arguments.operands));
  TRY_ASSIGN(const auto request, image_request(arguments, operands.input, false));
  TRY_ASSIGN(const Image source, Image::open(tool, request));
  TRY(check_unlocked(tool, source));
  TRY(check_not_read_from(operands.output, source));
  NewImage image;
  image.name = operands.output;
  image.format = arguments.value("O", "raw");
  TRY_ASSIGN(const block::Driver* driver, block::need_driver(image.format));
  if (driver->create == nullptr)
    return Error(ErrorKind::kUnsupported, fmt::format("-O: images of '{}' cannot be created", image.format));
  uint64_t end = source.size();
  if (operands.counted) end = std::min(end, product(operands.count, operands.block));
  const uint64_t skip = product(operands.skip, operands.block);
  if (skip > end && !operands.counted)
    tool.warn(fmt::format("{}: skip is beyond its end at {}; the output is empty", operands.input, end));
  const uint64_t start = std::min(skip, end), bytes = (end - start + 511) / 512 * 512;
  image.options["size"] = bytes;
  TRY(make_image(tool, image));
  Image::Request target_request = {.name = image.name, .format = image.format};
  target_request.flags.writable = true;
  TRY_ASSIGN(Image target, Image::open(tool, target_request));
  CopySettings settings;
  settings.target_is_zero = target.node()->new_space_is_zero();
  settings.sparse_bytes = settings.target_is_zero ? settings.sparse_bytes : 0;
  std::vector<CopySource> parts;
  parts.push_back(
      {.client = &source.client(), .start = start, .bytes = std::min(bytes, source.size() - start)});
  Progress progress(tool.progress_form(), "dd", bytes);
  Copy copy(std::move(parts), target.client(), settings, progress);
  TRY(tool.run(copy.run()));
  progress.finish();
  TRY(target.close());
  return 0;
}

}  // namespace ostler::img
