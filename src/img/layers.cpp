#include "img/layers.h"

namespace ostler::img {

Result<std::vector<Layer>> layers_of(Tool& tool, const Image::Request& request) {
  std::vector<Layer> layers;
  Image::Request next = request;
  for (;;) {
    next.flags.no_backing = true;
    next.flags.writable = false;
    TRY_ASSIGN(const Image image, Image::open(tool, next));
    layers.push_back({next.name, next.format, next.is_options, image.node()->filename()});
    const std::string backing = image.node()->backing_file_name();
    if (backing.empty()) return layers;
    if (layers.size() > block::Opener::kMostImages)
      return Error(ErrorKind::kCorrupt,
                   fmt::format("{}: the chain of backing files has more than {} images; it may be a circle",
                               request.name, block::Opener::kMostImages));
    next.name = block::backing_path(image.node()->filename(), backing);
    next.format = image.node()->backing_file_format();
    next.is_options = false;
  }
}

}  // namespace ostler::img
