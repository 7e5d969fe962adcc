#include "img/snapshot_name.h"

#include <algorithm>

#include "block/capabilities.h"
#include "block/options.h"

namespace ostler::img {
namespace {

// The id that `which` means, found among those of the image.
Result<std::string> resolve(const block::Snapshots& snapshots, const std::string& which) {
  if (!which.starts_with("snapshot.")) return which;
  TRY_ASSIGN(auto parsed, block::parse_option_list(which));
  block::OptionReader options(parsed.value("snapshot", nlohmann::json::object()), "-l");
  TRY_ASSIGN(const auto id, options.string("id"));
  TRY_ASSIGN(const auto name, options.string("name"));
  TRY(options.finish());
  for (const auto& each : snapshots.list())
    if ((!id || each.id == *id) && (!name || each.name == *name)) return each.id;
  return Error(ErrorKind::kNotFound, fmt::format("there is no snapshot '{}'", which));
}

}  // namespace

Result<void> load_snapshot(Tool& tool, const Image& image, const std::string& which) {
  const std::string file = image.node()->filename();
  block::Snapshots* const snapshots = image.node()->snapshots();
  if (snapshots == nullptr)
    return Error(ErrorKind::kUnsupported, fmt::format("-l: {}: images of the format '{}' hold no snapshots",
                                                      file, image.node()->driver()));
  auto id = resolve(*snapshots, which);
  if (!id) return std::move(id).error().with_context("-l: " + file);
  auto loaded = tool.run(snapshots->load(*id));
  if (!loaded) return std::move(loaded).error().with_context("-l: " + file);
  return {};
}

}  // namespace ostler::img
