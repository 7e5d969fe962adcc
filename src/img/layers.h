// The images of a chain, each opened alone and without the ones below: for commands that write into a chain.
#pragma once

#include <string>
#include <vector>

#include "img/tool.h"

namespace ostler::img {

struct Layer {
  std::string name;    // as it is opened
  std::string format;  // empty: recognised
  bool is_options = false;
  std::string filename;  // for people
};

// From the image down; `request` describes the first. Nothing stays open.
Result<std::vector<Layer>> layers_of(Tool& tool, const Image::Request& request);

}  // namespace ostler::img
