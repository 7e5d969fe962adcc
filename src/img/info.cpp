// info: what is known about an image without reading its content, alone or with its chain of backing files.
#include <set>

#include "block/edge.h"
#include "img/commands.h"
#include "img/info_text.h"
#include "img/text.h"

namespace ostler::img {
namespace {

using nlohmann::ordered_json;

constexpr OptionName kOptions[] = {kObject, kImageOptions, kForceShare,
                                   kFormat, kOutput,       {"backing-chain", 0, "backing-chain"}};

// True if a file's name does not tell what is read of it: `node` or one below it shows a part.
bool is_part(const block::Node& node) {
  if (node.driver() == "raw") {
    const nlohmann::json options = node.options();
    if (options.contains("offset") || options.contains("size")) return true;
  }
  for (const block::Edge* edge : node.children())
    if (edge->role() == block::Role::kFile && is_part(*edge->node())) return true;
  return false;
}

// "json:{"driver": "raw", "offset": 512, …}", the driver first.
std::string part_text(const nlohmann::json& options) {
  std::string text;
  const auto add = [&](const std::string& key, const nlohmann::json& value) {
    text += fmt::format("{}\"{}\": {}", text.empty() ? "{" : ", ", key,
                        value.is_object() ? part_text(value) : value.dump());
  };
  if (options.contains("driver")) add("driver", options["driver"]);
  for (const auto& [key, value] : options.items())
    if (key != "driver") add(key, value);
  return text + "}";
}

std::string name_of(const block::Node& node) {
  return is_part(node) ? "json:" + part_text(node.options()) : node.filename();
}

// The images of a chain, each opened alone: a missing backing file spoils the description of nothing above.
Result<ordered_json> describe_chain(Tool& tool, Image::Request request, bool whole_chain) {
  ordered_json list = ordered_json::array();
  std::set<std::string> seen;
  for (;;) {
    if (!request.is_options && !seen.insert(request.name).second)
      return Error(ErrorKind::kCorrupt,
                   fmt::format("{}: the chain of backing files is a circle; give the image another backing "
                               "file with rebase -u",
                               request.name));
    request.flags.no_backing = true;
    TRY_ASSIGN(const Image image, Image::open(tool, request));
    const block::Node& node = *image.node();
    const bool named = !request.is_options && !request.name.starts_with("json:");
    const std::string filename = named ? request.name : name_of(node);
    list.push_back(image_description(node, filename));
    const std::string backing = node.backing_file_name();
    if (!whole_chain || backing.empty()) return list;
    if (list.size() > block::Opener::kMostImages)
      return Error(ErrorKind::kCorrupt, fmt::format("{}: the chain of backing files has more than {} images",
                                                    filename, block::Opener::kMostImages));
    request = {.name = block::backing_path(filename, backing),
               .format = node.backing_file_format(),
               .flags = request.flags};
  }
}

}  // namespace

Result<int> info(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  TRY_ASSIGN(const bool json, wants_json(arguments));
  TRY_ASSIGN(const std::string name, one_operand(arguments, "the name of an image"));
  TRY_ASSIGN(const auto request, image_request(arguments, name, false));
  const bool chain = arguments.has("backing-chain");
  TRY_ASSIGN(const ordered_json list, describe_chain(tool, request, chain));
  if (json) {
    std::fputs(json_text(chain ? list : list[0]).c_str(), stdout);
    return 0;
  }
  std::string text;
  for (const auto& each : list) text += (text.empty() ? "" : "\n") + description_text(each);
  std::fputs(text.c_str(), stdout);
  return 0;
}

}  // namespace ostler::img
