// Persistent dirty bitmaps of an image: in memory while it is open, stored when it is closed.
#pragma once

#include "block/capabilities.h"

namespace ostler::block::qcow2 {

class BitmapStore {
 public:
  void written(uint64_t, uint64_t) {}
};

}  // namespace ostler::block::qcow2
