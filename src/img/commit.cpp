// commit: writes what an image holds into its backing file, or into one further down.
#include "img/commands.h"
#include "img/copy.h"
#include "img/layers.h"
#include "img/text.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {kObject,
                                   kImageOptions,
                                   kFormat,
                                   kQuiet,
                                   kPercent,
                                   kCache,
                                   {"d", 'd'},
                                   {"b", 'b', "", true},
                                   {"r", 'r', "rate-limit", true}};

// Which layer -b means; without it, the one below the image.
Result<size_t> find_base(const std::vector<Layer>& layers, const std::string& base,
                         const std::string& image) {
  if (layers.size() == 1)
    return Error(ErrorKind::kInvalidArgument, fmt::format("{}: it has no backing file to write into", image));
  if (base.empty()) return size_t{1};
  const std::string path = block::backing_path(layers[0].filename, base);
  for (size_t i = 1; i < layers.size(); ++i)
    if (layers[i].name == base || layers[i].name == path) return i;
  return Error(
      ErrorKind::kNotFound,
      fmt::format("-b: '{}' is not in the chain of backing files of {}; info --backing-chain shows it", base,
                  image));
}

// Writes what `layer` alone has into `base`.
Result<void> commit_layer(Tool& tool, const Layer& layer, Image& base, uint64_t rate) {
  Image::Request request = {.name = layer.name, .format = layer.format, .is_options = layer.is_options};
  request.flags.no_backing = true;
  TRY_ASSIGN(Image source, Image::open(tool, request));
  if (source.size() > base.size())
    TRY(tool.run(base.node()->truncate(source.size(), block::Preallocation::kOff)));
  CopySettings settings;
  settings.keep_backed = true;
  settings.sparse_bytes = 0;
  settings.bytes_per_second = rate;
  std::vector<CopySource> parts;
  parts.push_back({.client = &source.client(), .bytes = source.size()});
  Progress progress(tool.progress_form(), "commit", source.size());
  Copy copy(std::move(parts), base.client(), settings, progress);
  TRY(tool.run(copy.run()));
  progress.finish();
  return {};
}

}  // namespace

Result<int> commit(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments given, read_arguments(tool, kOptions, words));
  uint64_t rate = 0;
  if (given.has("r")) {
    TRY_ASSIGN(rate, size_of_option("-r", given.value("r")));
  }
  TRY_ASSIGN(const std::string name, one_operand(given, "the name of an image"));
  TRY_ASSIGN(auto request, image_request(given, name, true));
  request.flags.no_backing = true;
  TRY_ASSIGN(const auto layers, layers_of(tool, request));
  TRY_ASSIGN(const size_t base_at, find_base(layers, given.value("b"), name));
  {
    Image::Request base_request = {
        .name = layers[base_at].name, .format = layers[base_at].format, .flags = request.flags};
    base_request.flags.no_backing = false;
    TRY_ASSIGN(Image base, Image::open(tool, base_request));
    // From the bottom up: an upper image's content counts.
    for (size_t i = base_at; i-- != 0;) TRY(commit_layer(tool, layers[i], base, rate));
    const int flushed = tool.run(base.client().flush());
    if (flushed != 0)
      return errno_error(layers[base_at].filename + ": its content cannot be made durable", -flushed);
    TRY(base.close());
  }
  // Only now is nothing lost when the image is emptied.
  if (!given.has("d") && !given.has("b")) {
    TRY_ASSIGN(Image image, Image::open(tool, request));
    TRY(tool.run(image.node()->make_empty()));
    TRY(image.close());
  }
  tool.say("Image committed.\n");
  return 0;
}

}  // namespace ostler::img
