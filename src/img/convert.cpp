// convert: images, one behind the other, copied into a new or an existing one.
#include <algorithm>

#include "block/capabilities.h"
#include "img/commands.h"
#include "img/copy.h"
#include "img/new_image.h"
#include "img/same_file.h"
#include "img/snapshot_name.h"
#include "img/text.h"
#include "img/unlocked.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {kObject,
                                   kImageOptions,
                                   kForceShare,
                                   kFormat,
                                   kQuiet,
                                   kPercent,
                                   kCache,
                                   kSourceCache,
                                   kMoreOptions,
                                   {"target-image-opts", 0, "target-image-opts"},
                                   {"target-is-zero", 0, "target-is-zero"},
                                   {"bitmaps", 0, "bitmaps"},
                                   {"skip-broken-bitmaps", 0, "skip-broken-bitmaps"},
                                   {"salvage", 0, "salvage"},
                                   {"C", 'C'},
                                   {"c", 'c'},
                                   {"n", 'n'},
                                   {"W", 'W'},
                                   {"O", 'O', "", true},
                                   {"B", 'B', "", true},
                                   {"F", 'F', "", true},
                                   {"l", 'l', "", true},
                                   {"S", 'S', "", true},
                                   {"r", 'r', "rate-limit", true},
                                   {"m", 'm', "", true}};
constexpr uint64_t kMostSparse = 16 << 20, kMostParallel = 16;

Error mistake(std::string message) {
  return Error(ErrorKind::kInvalidArgument, std::move(message));
}

Result<void> check_combinations(const Arguments& given) {
  if (given.operands.size() < 2)
    return mistake("at least two operands are needed, the names of the source and of the target");
  if (given.has("target-is-zero") && !given.has("n"))
    return mistake("--target-is-zero is for existing images; it needs -n");
  if (given.has("target-image-opts") && !given.has("n"))
    return mistake("--target-image-opts is for existing images; it needs -n");
  if (given.has("n") && given.has("o")) return mistake("-o is for new images; it excludes -n");
  if (given.has("n") && given.has("B")) return mistake("-B is for new images; it excludes -n");
  if (given.has("C") && given.has("S")) return mistake("-C and -S exclude each other");
  if (given.has("C") && given.has("c")) return mistake("-C and -c exclude each other");
  if (given.has("C") && given.has("salvage")) return mistake("-C and --salvage exclude each other");
  if (given.has("skip-broken-bitmaps") && !given.has("bitmaps"))
    return mistake("--skip-broken-bitmaps needs --bitmaps");
  if (given.has("target-image-opts") && given.has("O"))
    return mistake("-O and --target-image-opts exclude each other; name the format by 'driver='");
  return {};
}

Result<CopySettings> settings_of(const Arguments& given) {
  CopySettings settings;
  settings.compress = given.has("c");
  settings.in_order = !given.has("W");
  settings.salvage = given.has("salvage");
  settings.target_is_zero = given.has("target-is-zero");
  if (given.has("m")) {
    TRY_ASSIGN(const uint64_t parallel, number_of_option("-m", given.value("m"), 1, kMostParallel));
    settings.parallel = static_cast<unsigned>(parallel);
  }
  if (given.has("S")) {
    TRY_ASSIGN(settings.sparse_bytes, size_of_option("-S", given.value("S")));
    if (settings.sparse_bytes % 512 != 0 || settings.sparse_bytes > kMostSparse)
      return mistake(fmt::format("-S: {} is not a multiple of 512 up to 16M; 0 writes everything",
                                 settings.sparse_bytes));
    settings.everything = settings.sparse_bytes == 0;
  }
  if (given.has("r")) {
    TRY_ASSIGN(settings.bytes_per_second, size_of_option("-r", given.value("r")));
  }
  return settings;
}

// Bitmaps of the source that were stored properly, with their names.
Result<std::vector<block::BitmapInfo>> bitmaps_to_copy(const Image& source, bool skip_broken) {
  block::Bitmaps* const bitmaps = source.node()->bitmaps();
  if (bitmaps == nullptr)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("--bitmaps: {}: images of the format '{}' keep no bitmaps",
                             source.node()->filename(), source.node()->driver()));
  std::vector<block::BitmapInfo> list;
  for (auto& each : bitmaps->list()) {
    if (!each.persistent) continue;
    if (each.in_use && skip_broken) continue;
    if (each.in_use)
      return Error(ErrorKind::kCorrupt,
                   fmt::format("--bitmaps: {}: bitmap '{}' was not stored properly; remove it, or give "
                               "--skip-broken-bitmaps",
                               source.node()->filename(), each.name));
    list.push_back(std::move(each));
  }
  return list;
}

Result<void> copy_bitmaps(Tool& tool, const Image& source, const Image& target,
                          const std::vector<block::BitmapInfo>& list) {
  block::Bitmaps* const from = source.node()->bitmaps();
  block::Bitmaps* const to = target.node()->bitmaps();
  if (to == nullptr)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("--bitmaps: {}: images of the format '{}' keep no bitmaps",
                             target.node()->filename(), target.node()->driver()));
  for (const auto& each : list) {
    TRY(tool.run(to->add(each.name, each.granularity, each.enabled)));
    // Writing the copy is no change to the content it stands for.
    TRY(tool.run(to->clear(each.name)));
    for (uint64_t at = 0; at < source.size();) {
      uint64_t begin = 0, end = 0;
      TRY_ASSIGN(const bool found, from->next_dirty(each.name, at, begin, end));
      if (!found || begin >= source.size()) break;
      end = std::min(end, source.size());
      TRY(to->mark(each.name, begin, end - begin));
      at = end;
    }
  }
  return {};
}

Result<NewImage> new_image_of(Tool& tool, const Arguments& given, const std::string& name) {
  NewImage image;
  image.name = name;
  image.format = given.value("O");
  if (image.format.empty() && tool.style.for_people) image.format = format_of_name(name);
  if (image.format.empty()) image.format = "raw";
  TRY_ASSIGN(image.options, creation_options(given));
  if (given.has("B")) image.options["backing_file"] = given.value("B");
  if (given.has("F")) image.options["backing_fmt"] = given.value("F");
  return image;
}

// The options that name secrets, as opening an image needs them too.
nlohmann::json secrets_of(const nlohmann::json& options) {
  auto secrets = nlohmann::json::object();
  if (options.contains("key-secret")) secrets["key-secret"] = options["key-secret"];
  if (options.contains("encrypt") && options["encrypt"].contains("key-secret"))
    secrets["encrypt"]["key-secret"] = options["encrypt"]["key-secret"];
  return secrets;
}

Result<void> add_secrets(Image::Request& request, const NewImage& image) {
  nlohmann::json options = secrets_of(image.options);
  if (options.empty()) return {};
  options["driver"] = image.format;
  TRY_ASSIGN(options["file"], block::options_of_filename(request.name));
  request.name = "json:" + options.dump();
  request.format.clear();
  return {};
}

// Options of the new image, before anything is made.
Result<void> check_new_image(Tool& tool, NewImage& image, uint64_t size, bool compress) {
  TRY_ASSIGN(const block::Driver* driver, block::need_driver(image.format));
  if (driver->create == nullptr)
    return Error(ErrorKind::kUnsupported, fmt::format("-O: images of '{}' cannot be created", image.format));
  TRY(check_option_names(*driver, image.options));
  if (compress) TRY(check_compression(*driver));
  const std::string subformat = block::string_at(image.options, "subformat");
  if (compress && image.format == "vmdk" && subformat.ends_with("Flat"))
    return Error(ErrorKind::kUnsupported,
                 fmt::format("-c: vmdk images of the subformat {} hold nothing compressed; use -o "
                             "subformat=streamOptimized",
                             subformat));
  const std::string preallocation = block::string_at(image.options, "preallocation", "off");
  if (compress && secrets_of(image.options).size() != 0)
    return mistake("-c and encryption exclude each other: what is compressed would not be encrypted");
  if (compress && preallocation != "off") return mistake("-c and -o preallocation exclude each other");
  if (!image.options.contains("size")) image.options["size"] = size;
  return complete_backing(tool, image);
}

}  // namespace

Result<int> convert(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments given, read_arguments(tool, kOptions, words));
  const std::string target_name = given.operands.empty() ? "" : given.operands.back();
  TRY_ASSIGN(NewImage image, new_image_of(tool, given, target_name));
  if (asks_for_help(image.options)) {
    TRY_ASSIGN(const block::Driver* driver, block::need_driver(image.format));
    std::fputs(option_help(*driver, given.operands.size() > 1).c_str(), stdout);
    return 0;
  }
  TRY(check_combinations(given));
  TRY_ASSIGN(CopySettings settings, settings_of(given));
  if (given.has("l") && given.operands.size() > 2)
    return mistake("-l names a snapshot of one source; there are several");

  std::vector<Image> sources;
  std::vector<CopySource> parts;
  uint64_t total = 0;
  for (size_t i = 0; i + 1 < given.operands.size(); ++i) {
    TRY_ASSIGN(const auto request, image_request(given, given.operands[i], false, "T"));
    TRY_ASSIGN(Image source, Image::open(tool, request));
    TRY(check_unlocked(tool, source));
    if (!given.has("target-image-opts")) TRY(check_not_read_from(target_name, source));
    if (given.has("l")) TRY(load_snapshot(tool, source, given.value("l")));
    parts.push_back({.client = &source.client(), .bytes = source.size()});
    total += source.size();
    sources.push_back(std::move(source));
  }
  std::vector<block::BitmapInfo> bitmaps;
  if (given.has("bitmaps")) {
    if (sources.size() != 1) return mistake("--bitmaps needs one source; there are several");
    TRY_ASSIGN(bitmaps, bitmaps_to_copy(sources[0], given.has("skip-broken-bitmaps")));
  }

  const bool is_new = !given.has("n");
  Image::Request request = {.name = target_name};
  auto cache = block::set_cache_mode(request.flags, given.value("t", "unsafe"));
  if (!cache) return std::move(cache).error().with_context("-t");
  request.flags.writable = true;
  if (is_new) {
    TRY(check_new_image(tool, image, total, settings.compress));
    const std::string backing = block::string_at(image.options, "backing_file");
    if (!backing.empty()) {
      if (sources.size() != 1) return mistake("-B needs one source; there are several");
      settings.keep_backed = true;
      parts[0].base = block::next_in_chain(sources[0].node());
      settings.keep_backed = parts[0].base != nullptr;
    }
    TRY(make_image(tool, image));
    request.format = image.format;
    TRY(add_secrets(request, image));
  } else {
    request.is_options = given.has("target-image-opts");
    request.format = given.value("O", request.is_options ? "" : "raw");
  }
  TRY_ASSIGN(Image target, Image::open(tool, request));
  if (target.size() < total)
    return mistake(fmt::format("{}: it has {} bytes, and the source {}; resize it first", target_name,
                               target.size(), total));
  if (settings.compress) {
    const block::Driver* const driver = block::find_driver(target.node()->driver());
    if (driver == nullptr || !driver->compression)
      return Error(ErrorKind::kUnsupported, fmt::format("-c: {}: the format '{}' does not compress",
                                                        target_name, target.node()->driver()));
  }
  if (settings.compress && target.node()->driver() == "vmdk" && !target.node()->compresses()) {
    tool.warn(
        fmt::format("-c: {}: only vmdk images of the subformat streamOptimized are compressed, this one "
                    "is not; -o subformat=streamOptimized makes one",
                    target_name));
    settings.compress = false;
  }
  if (is_new && target.node()->new_space_is_zero()) settings.target_is_zero = true;

  {
    Progress progress(tool.progress_form(), "convert", total);
    Copy copy(std::move(parts), target.client(), settings, progress);
    TRY(tool.run(copy.run()));
    progress.finish();
    if (copy.unreadable_bytes() != 0)
      tool.warn(fmt::format("{} bytes of the source could not be read and are zeros in {}",
                            copy.unreadable_bytes(), target_name));
  }
  if (given.has("bitmaps")) TRY(copy_bitmaps(tool, sources[0], target, bitmaps));
  const int flushed = tool.run(target.client().flush());
  if (flushed != 0)
    return errno_error(target.node()->filename() + ": its content cannot be made durable", -flushed);
  TRY(target.close());
  return 0;
}

}  // namespace ostler::img
