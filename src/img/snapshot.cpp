// snapshot: lists, makes, applies and deletes snapshots inside an image.
#include <sys/time.h>

#include "block/capabilities.h"
#include "img/commands.h"
#include "img/info_text.h"

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {kObject,
                                   kImageOptions,
                                   kForceShare,
                                   kFormat,
                                   kQuiet,
                                   {"l", 'l'},
                                   {"a", 'a', "", true},
                                   {"c", 'c', "", true},
                                   {"d", 'd', "", true}};

block::SnapshotInfo snapshot_now(std::string name, uint64_t disk_bytes) {
  timeval time;
  gettimeofday(&time, nullptr);
  block::SnapshotInfo info;
  info.name = std::move(name);
  info.date_seconds = static_cast<uint64_t>(time.tv_sec);
  info.date_nanoseconds = static_cast<uint32_t>(time.tv_usec) * 1000;
  info.icount = 0;
  info.disk_bytes = disk_bytes;
  return info;
}

}  // namespace

Result<int> snapshot(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  std::string_view action;
  for (const auto& [key, value] : arguments.options) {
    if (key != "l" && key != "a" && key != "c" && key != "d") continue;
    if (!action.empty())
      return Error(ErrorKind::kInvalidArgument, fmt::format("-{} and -{} exclude each other", action, key));
    action = key;
  }
  if (action.empty()) action = "l";
  TRY_ASSIGN(const std::string name, one_operand(arguments, "the name of an image"));
  TRY_ASSIGN(auto request, image_request(arguments, name, action != "l"));
  request.flags.no_backing = action == "l";
  TRY_ASSIGN(Image image, Image::open(tool, request));
  block::Snapshots* const snapshots = image.node()->snapshots();
  const std::string which = arguments.value(action);
  if (action == "l") {
    if (snapshots != nullptr && !snapshots->list().empty())
      std::fputs(snapshot_table(snapshots->list()).c_str(), stdout);
    return 0;
  }
  if (snapshots == nullptr)
    return Error(ErrorKind::kUnsupported, fmt::format("{}: images of the format '{}' hold no snapshots", name,
                                                      image.node()->driver()));
  Result<void> done;
  if (action == "c") done = tool.run(snapshots->create(snapshot_now(which, image.node()->size())));
  if (action == "a") done = tool.run(snapshots->apply(which));
  if (action == "d") done = tool.run(snapshots->remove(which));
  if (!done) return std::move(done).error().with_context(fmt::format("{}: snapshot '{}'", name, which));
  TRY(image.close());
  return 0;
}

}  // namespace ostler::img
