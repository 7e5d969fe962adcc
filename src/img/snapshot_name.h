// How command lines name a snapshot of the source: "name", or "snapshot.id=1,snapshot.name=before".
#pragma once

#include <string>

#include "img/tool.h"

namespace ostler::img {

// From now on `image` reads as it was then. The image must be open for reading.
Result<void> load_snapshot(Tool& tool, const Image& image, const std::string& which);

}  // namespace ostler::img
