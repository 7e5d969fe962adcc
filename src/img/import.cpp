// import: a disk of another program (or of an .ova, the archive that programs exchange machines by) as a new
// qcow2 image.
#include <unistd.h>

#include "img/commands.h"
#include "img/copy.h"
#include "img/new_image.h"
#include "img/ova.h"
#include "img/text.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {
    kObject, kFormat, kQuiet, kPercent, {"c", 'c'}, {"O", 'O', "", true}, {"disk", 0, "disk", true}};
constexpr unsigned kMostMembers = 4096;

// The disks in the archive, in its order.
Result<std::vector<OvaMember>> disks_of(Tool& tool, const std::string& name) {
  TRY_ASSIGN(const Image archive, Image::open(tool, {.name = name, .format = "raw"}));
  std::vector<OvaMember> disks;
  std::array<std::byte, kTarBlock> header;
  uint64_t at = 0;
  for (unsigned i = 0; i < kMostMembers && at + kTarBlock <= archive.size(); ++i) {
    const int error = tool.run(block::read_bytes(*archive.node(), at, header.data(), header.size()));
    if (error != 0) return errno_error(fmt::format("{}: at offset {}", name, at), -error);
    auto member = read_tar_header(header, at, archive.size());
    if (!member) return std::move(member).error().with_context(name);
    if (!*member) break;
    const std::string format = format_of_name((*member)->name);
    if (!format.empty() && !(*member)->name.ends_with(".iso")) disks.push_back(**member);
    at = (*member)->next;
  }
  if (disks.empty())
    return Error(ErrorKind::kNotFound, fmt::format("{}: there is no disk image in this archive", name));
  return disks;
}

std::string list_of(const std::vector<OvaMember>& disks) {
  std::string list;
  for (const auto& each : disks) list += (list.empty() ? "" : ", ") + each.name;
  return list;
}

// The disk that is meant, as a part of the archive's file.
Result<nlohmann::json> options_of_disk(const std::string& name, const std::vector<OvaMember>& disks,
                                       const std::string& which) {
  if (disks.size() > 1 && which.empty())
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("{}: there are several disks in it; name one with --disk: {}", name, list_of(disks)));
  for (const auto& each : disks) {
    if (!which.empty() && each.name != which) continue;
    nlohmann::json file = {{"driver", "file"}, {"filename", name}};
    nlohmann::json part = {{"driver", "raw"}, {"offset", each.offset}, {"size", each.bytes / 512 * 512}};
    part["file"] = std::move(file);
    nlohmann::json disk = {{"driver", format_of_name(each.name)}};
    disk["file"] = std::move(part);
    return disk;
  }
  return Error(ErrorKind::kNotFound,
               fmt::format("--disk: {}: there is no disk '{}'; there are {}", name, which, list_of(disks)));
}

std::string target_of(const std::string& source, const std::string& format) {
  const size_t slash = source.rfind('/'), dot = source.rfind('.');
  const bool has_suffix = dot != std::string::npos && (slash == std::string::npos || dot > slash + 1);
  return source.substr(0, has_suffix ? dot : std::string::npos) + "." + format;
}

}  // namespace

Result<int> import(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments given, read_arguments(tool, kOptions, words));
  if (given.operands.empty() || given.operands.size() > 2)
    return Error(ErrorKind::kInvalidArgument,
                 "one or two operands are needed, the file to import and the new image");
  const std::string& name = given.operands[0];
  Image::Request request = {.name = name, .format = given.value("f")};
  if (name.ends_with(".ova")) {
    TRY_ASSIGN(const auto disks, disks_of(tool, name));
    TRY_ASSIGN(const auto options, options_of_disk(name, disks, given.value("disk")));
    request.name = "json:" + options.dump();
  }
  TRY_ASSIGN(Image source, Image::open(tool, request));
  NewImage image;
  image.format = given.value("O", "qcow2");
  image.name = given.operands.size() == 2 ? given.operands[1] : target_of(name, image.format);
  TRY_ASSIGN(const block::Driver* driver, block::need_driver(image.format));
  if (driver->create == nullptr)
    return Error(ErrorKind::kUnsupported, fmt::format("-O: images of '{}' cannot be created", image.format));
  if (image.name == name)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: it would be overwritten; name another file for the new image", name));
  if (given.operands.size() == 1 && access(image.name.c_str(), F_OK) == 0)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{0}: it exists already and was not named; name the new image as the second "
                             "operand, {0} if it is to be overwritten",
                             image.name));
  image.options["size"] = source.size();
  if (given.has("c")) {
    TRY(check_compression(*driver));
    // Of vmdk's kinds the only one that compresses.
    if (image.format == "vmdk") image.options["subformat"] = "streamOptimized";
  }
  TRY(make_image(tool, image));
  Image::Request target_request = {.name = image.name, .format = image.format};
  target_request.flags.writable = true;
  target_request.flags.no_flush = true;
  TRY_ASSIGN(Image target, Image::open(tool, target_request));
  CopySettings settings;
  settings.compress = given.has("c");
  settings.target_is_zero = target.node()->new_space_is_zero();
  std::vector<CopySource> parts;
  parts.push_back({.client = &source.client(), .bytes = source.size()});
  {
    Progress progress(tool.progress_form(), "import", source.size());
    Copy copy(std::move(parts), target.client(), settings, progress);
    TRY(tool.run(copy.run()));
    progress.finish();
  }
  TRY(target.close());
  tool.say(fmt::format("{}: {} of {} imported.\n", image.name, size_text(source.size()), name));
  return 0;
}

}  // namespace ostler::img
