// map: where each part of an image's content lies, in which file of the chain and at which offset.
#include <algorithm>
#include <optional>

#include "img/commands.h"
#include "img/text.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {kObject,
                                   kImageOptions,
                                   kForceShare,
                                   kFormat,
                                   kOutput,
                                   {"start", 's', "start-offset", true},
                                   {"length", 'l', "max-length", true}};

struct Extent {
  uint64_t start = 0, length = 0;
  unsigned depth = 0;
  bool present = false, zero = false, data = false;
  std::optional<uint64_t> offset = {};
  block::Node* file = nullptr;

  bool continued_by(const Extent& next) const {
    return present == next.present && zero == next.zero && data == next.data && depth == next.depth &&
           offset.has_value() == next.offset.has_value() &&
           (!offset || (file == next.file && *offset + length == *next.offset));
  }
};

// One run from `offset` on. What no image has is zero, at the depth of the image that decides so: the last
// one, or one whose backing file is too short.
block::Task<int> extent_at(block::NodePtr top, uint64_t offset, uint64_t bytes, Extent& extent) {
  extent = {.start = offset};
  for (block::NodePtr node = block::skip_filters(std::move(top));; ++extent.depth) {
    block::BlockStatus status;
    const int error = co_await node->block_status(offset, bytes, block::StatusDetail::kLayout, status);
    if (error != 0) co_return error;
    if (status.bytes == 0) co_return -EIO;
    bytes = std::min(bytes, status.bytes);
    extent.length = bytes;
    block::NodePtr below = block::next_in_chain(node);
    const bool decides = status.data || status.zero || status.allocated;
    if (decides || !below || offset >= below->size()) {
      extent.present = status.allocated;
      extent.zero = status.zero || !decides;
      extent.data = status.data;
      if (status.offset_valid) extent.offset = status.offset;
      extent.file = status.file;
      co_return 0;
    }
    bytes = std::min(bytes, below->size() - offset);
    node = std::move(below);
  }
}

std::string json_line(const Extent& extent) {
  std::string line =
      fmt::format(R"({{ "start": {}, "length": {}, "depth": {}, "present": {}, "zero": {}, "data": {})",
                  extent.start, extent.length, extent.depth, extent.present, extent.zero, extent.data);
  if (extent.offset) line += fmt::format(R"(, "offset": {})", *extent.offset);
  return line + "}";
}

std::string hex(uint64_t value) {
  return value == 0 ? "0" : fmt::format("{:#x}", value);
}

class Printer {
 public:
  explicit Printer(bool json) : json_(json) {
    if (json_)
      std::fputs("[", stdout);
    else
      fmt::print("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File");
  }
  Result<void> print(const Extent& extent) {
    if (json_) {
      fmt::print("{}{}", first_ ? "" : ",\n", json_line(extent));
      first_ = false;
      return {};
    }
    if (!extent.data || extent.zero) return {};
    if (!extent.offset || extent.file == nullptr)
      return Error(
          ErrorKind::kUnsupported,
          fmt::format("at offset {} the content is compressed, encrypted or not in a file of its own; "
                      "--output=json shows such parts",
                      extent.start));
    fmt::print("{:<16}{:<16}{:<16}{}\n", hex(extent.start), hex(extent.length), hex(*extent.offset),
               extent.file->filename());
    return {};
  }
  void end() {
    if (json_) std::fputs("]\n", stdout);
  }

 private:
  const bool json_;
  bool first_ = true;
};

}  // namespace

Result<int> map(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  TRY_ASSIGN(const bool json, wants_json(arguments));
  uint64_t at = 0, most = ~uint64_t{0};
  if (arguments.has("start")) {
    TRY_ASSIGN(at, size_of_option("--start-offset", arguments.value("start")));
  }
  if (arguments.has("length")) {
    TRY_ASSIGN(most, size_of_option("--max-length", arguments.value("length")));
  }
  TRY_ASSIGN(const std::string name, one_operand(arguments, "the name of an image"));
  TRY_ASSIGN(const auto request, image_request(arguments, name, false));
  TRY_ASSIGN(const Image image, Image::open(tool, request));
  const uint64_t size = image.size();
  const uint64_t end = at >= size ? at : at + std::min(most, size - at);
  Printer printer(json);
  Extent run = {.start = at};
  constexpr uint64_t kStep = uint64_t{1} << 30;
  while (at < end) {
    Extent next;
    const int error = tool.run(extent_at(image.node(), at, std::min(end - at, kStep), next));
    if (error != 0) return errno_error(fmt::format("{}: at offset {}", name, at), -error);
    at += next.length;
    if (run.length != 0 && run.continued_by(next)) {
      run.length += next.length;
      continue;
    }
    if (run.length != 0) TRY(printer.print(run));
    run = next;
  }
  TRY(printer.print(run));
  printer.end();
  return 0;
}

}  // namespace ostler::img
