// bitmap: works on the dirty bitmaps that an image keeps.
#include <algorithm>
#include <optional>

#include "block/capabilities.h"
#include "img/commands.h"
#include "img/text.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {kObject,
                                   kImageOptions,
                                   kFormat,
                                   {"b", 'b', "source-file", true},
                                   {"F", 'F', "source-format", true},
                                   {"g", 'g', "granularity", true},
                                   {"add", 0, "add"},
                                   {"remove", 0, "remove"},
                                   {"clear", 0, "clear"},
                                   {"enable", 0, "enable"},
                                   {"disable", 0, "disable"},
                                   {"merge", 0, "merge", true}};
constexpr std::string_view kActions[] = {"add", "remove", "clear", "enable", "disable", "merge"};
constexpr uint64_t kMostGranularity = uint64_t{1} << 31;

struct Target {
  Tool& tool;
  block::Bitmaps& bitmaps;
  std::string name;
  uint64_t image_size;
  uint64_t granularity;
  block::Bitmaps* source;  // of --merge
};

// Without -g: a cluster, from 4 KiB to 64 KiB.
uint64_t usual_granularity(const block::Node& node) {
  const uint64_t cluster = node.limits().cluster_bytes;
  return cluster == 0 ? 65536 : std::clamp<uint64_t>(cluster, 4096, 65536);
}

Result<void> merge(const Target& target, const std::string& from) {
  uint64_t unused = 0;
  TRY(target.bitmaps.next_dirty(target.name, 0, unused,
                                unused));  // it must be there, whatever there is to add
  for (uint64_t at = 0; at < target.image_size;) {
    uint64_t begin = 0, end = 0;
    TRY_ASSIGN(const bool found, target.source->next_dirty(from, at, begin, end));
    if (!found) break;
    if (begin >= target.image_size) break;
    end = std::min(end, target.image_size);
    TRY(target.bitmaps.mark(target.name, begin, end - begin));
    at = end;
  }
  return {};
}

Result<void> act(const Target& target, std::string_view action, const std::string& value) {
  block::Bitmaps& bitmaps = target.bitmaps;
  if (action == "add") return target.tool.run(bitmaps.add(target.name, target.granularity, true));
  if (action == "remove") return target.tool.run(bitmaps.remove(target.name));
  if (action == "clear") return target.tool.run(bitmaps.clear(target.name));
  if (action == "enable") return target.tool.run(bitmaps.enable(target.name, true));
  if (action == "disable") return target.tool.run(bitmaps.enable(target.name, false));
  return merge(target, value);
}

Result<block::Bitmaps*> bitmaps_of(const Image& image, const std::string& name) {
  if (block::Bitmaps* const bitmaps = image.node()->bitmaps()) return bitmaps;
  return Error(ErrorKind::kUnsupported,
               fmt::format("{}: images of the format '{}' keep no bitmaps", name, image.node()->driver()));
}

}  // namespace

Result<int> bitmap(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  std::vector<std::pair<std::string_view, std::string>> actions;
  for (const auto& each : arguments.options)
    if (std::ranges::find(kActions, each.first) != std::end(kActions)) actions.push_back(each);
  if (arguments.operands.size() != 2)
    return Error(ErrorKind::kInvalidArgument,
                 "two operands are needed, the names of an image and of a bitmap");
  if (actions.empty())
    return Error(ErrorKind::kInvalidArgument,
                 "nothing is said to do; there are --add, --remove, --clear, --enable, --disable, --merge");
  if (arguments.has("g") && !arguments.has("add"))
    return Error(ErrorKind::kInvalidArgument, "-g is for --add only");
  if (arguments.has("b") && !arguments.has("merge"))
    return Error(ErrorKind::kInvalidArgument, "-b is for --merge only");
  if (arguments.has("F") && !arguments.has("b"))
    return Error(ErrorKind::kInvalidArgument, "-F needs -b, the file whose format it is");
  const std::string& name = arguments.operands[0];
  TRY_ASSIGN(const auto request, image_request(arguments, name, true));
  TRY_ASSIGN(Image image, Image::open(tool, request));
  TRY_ASSIGN(block::Bitmaps* const bitmaps, bitmaps_of(image, name));
  block::Bitmaps* source = bitmaps;
  std::optional<Image> source_image;
  if (arguments.has("b")) {
    TRY_ASSIGN(Image opened,
               Image::open(tool, {.name = arguments.value("b"), .format = arguments.value("F")}));
    TRY_ASSIGN(source, bitmaps_of(opened, arguments.value("b")));
    source_image.emplace(std::move(opened));
  }
  uint64_t granularity = usual_granularity(*image.node());
  if (arguments.has("g")) {
    TRY_ASSIGN(granularity, size_of_option("-g", arguments.value("g")));
    if (granularity < 512 || granularity > kMostGranularity || (granularity & (granularity - 1)) != 0)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("-g: {} is not a power of two from 512 to 2G", granularity));
  }
  const Target target = {tool, *bitmaps, arguments.operands[1], image.size(), granularity, source};
  for (const auto& [action, value] : actions) {
    auto done = act(target, action, value);
    if (!done)
      return std::move(done).error().with_context(
          fmt::format("{}: --{} of bitmap '{}'", name, action, target.name));
  }
  TRY(image.close());
  return 0;
}

}  // namespace ostler::img
