#include "img/tool.h"

#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "block/driver.h"
#include "block/file/cures.h"
#include "img/objects.h"

namespace ostler::img {

using nlohmann::json;

namespace {

// Those that are options of this command.
block::Cures cures_of(std::span<const OptionName> options) {
  const auto has = [&](std::string_view key) {
    return std::ranges::find(options, key, &OptionName::key) != options.end();
  };
  block::Cures cures;
  cures.locked = "stop it first";
  cures.locked_by_writer =
      has("force-share") ? "stop it, or give -U to read the image all the same" : "stop it first";
  cures.not_writable = has("read-only") ? "give --read-only, or check its permissions"
                                        : "check its permissions and whether its file system is read-only";
  return cures;
}

}  // namespace

void Tool::say(const std::string& text) const {
  if (!quiet) std::fputs(text.c_str(), stdout);
}

void Tool::complain(const std::string& sentence) const {
  std::fflush(stdout);
  fmt::print(stderr, "{}: {}\n", style.program, sentence);
}

void Tool::warn(const std::string& text) const {
  complain("warning: " + text);
}

Progress::Form Tool::progress_form() const {
  if (quiet) return Progress::Form::kNone;
  if (isatty(STDOUT_FILENO) != 0) return Progress::Form::kLine;
  return percent ? Progress::Form::kPercent : Progress::Form::kNone;
}

Result<Arguments> read_arguments(Tool& tool, std::span<const OptionName> options,
                                 std::span<const std::string> words) {
  TRY_ASSIGN(Arguments arguments, parse_arguments(options, words));
  block::set_cures(cures_of(options));
  tool.quiet = arguments.has("q");
  tool.percent = arguments.has("p");
  for (const std::string& object : arguments.values("object")) TRY(add_object(tool.opener, object));
  return arguments;
}

Result<bool> wants_json(const Arguments& arguments) {
  const std::string output = arguments.value("output", "human");
  if (output == "json") return true;
  if (output == "human") return false;
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("--output: '{}' is not a form of output; there are human and json", output));
}

Result<json> creation_options(const Arguments& arguments) {
  std::string all;
  for (const std::string& part : arguments.values("o")) all += (all.empty() ? "" : ",") + part;
  if (all.empty()) return json::object();
  auto options = block::parse_option_list(all);
  if (!options) return std::move(options).error().with_context("-o");
  return options;
}

Result<std::string> one_operand(const Arguments& arguments, std::string_view what) {
  if (arguments.operands.size() == 1) return arguments.operands.front();
  if (arguments.operands.empty())
    return Error(ErrorKind::kInvalidArgument, fmt::format("{} is missing; it is the operand", what));
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("there is one operand, {}; '{}' is one too many", what, arguments.operands[1]));
}

Result<Image::Request> image_request(const Arguments& arguments, std::string name, bool writable,
                                     std::string_view cache, std::string_view otherwise) {
  Image::Request request;
  request.name = std::move(name);
  request.format = arguments.value("f");
  request.is_options = arguments.has("image-opts");
  if (request.is_options && !request.format.empty())
    return Error(ErrorKind::kInvalidArgument,
                 "-f and --image-opts exclude each other; name the format by 'driver=' in the options");
  request.flags.writable = writable;
  request.flags.force_share = arguments.has("force-share");
  auto set = block::set_cache_mode(request.flags, arguments.value(cache, std::string(otherwise)));
  if (!set) return std::move(set).error().with_context(fmt::format("-{}", cache));
  return request;
}

Result<Image> Image::open(Tool& tool, const Request& request) {
  block::NodePtr node;
  if (request.is_options) {
    auto options = block::parse_option_list(request.name);
    if (!options) return std::move(options).error().with_context("--image-opts");
    if (options->contains("filename") && !options->contains("file")) {
      // The name of a file stands for the node below a format.
      const block::Driver* driver = block::find_driver(block::string_at(*options, "driver"));
      if (driver == nullptr || driver->kind == block::DriverKind::kFormat) {
        TRY_ASSIGN((*options)["file"], block::options_of_filename(block::string_at(*options, "filename")));
        options->erase("filename");
      }
    }
    TRY_ASSIGN(node, tool.run(tool.opener.open(*std::move(options), request.flags)));
  } else {
    TRY_ASSIGN(node, tool.run(tool.opener.open(request.name, request.format, request.flags)));
  }
  block::Permissions permissions;
  permissions.used = block::kPermissionRead;
  if (request.flags.writable) permissions.used |= block::kPermissionWrite | block::kPermissionResize;
  auto client = block::Client::attach(node, tool.style.program, permissions);
  if (!client) {
    auto closed = tool.run(block::close_chain(std::move(node)));
    static_cast<void>(closed);  // nothing was written
    return std::move(client).error();
  }
  Image image;
  image.tool_ = &tool;
  image.client_ = *std::move(client);
  image.client_->set_writethrough(request.flags.writethrough);
  return image;
}

Result<void> Image::close() {
  if (!client_) return {};
  block::NodePtr node = client_->node();
  client_ = nullptr;
  return tool_->run(block::close_chain(std::move(node)));
}

Image::~Image() {
  auto closed = close();
  static_cast<void>(closed);  // whoever has written calls close()
}

std::string format_of_name(std::string_view filename) {
  static constexpr std::pair<std::string_view, std::string_view> kSuffixes[] = {
      {".qcow2", "qcow2"}, {".raw", "raw"}, {".img", "raw"},       {".iso", "raw"},
      {".vmdk", "vmdk"},   {".vdi", "vdi"}, {".vhdx", "vhdx"},     {".vhd", "vpc"},
      {".vpc", "vpc"},     {".qed", "qed"}, {".hds", "parallels"}, {".luks", "luks"}};
  for (const auto& [suffix, format] : kSuffixes)
    if (filename.ends_with(suffix)) return std::string(format);
  return {};
}

}  // namespace ostler::img
