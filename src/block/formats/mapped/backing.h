// The backing node of an image that is being opened.
#pragma once

#include "block/driver.h"

namespace ostler::block {

// What option "backing" says, else the image that `name` means from `file` on; null if there is none or none
// is wanted. Opened for reading.
Task<Result<NodePtr>> open_backing_of(OpenRequest& request, NodePtr file, std::string name,
                                      std::string format);

}  // namespace ostler::block
