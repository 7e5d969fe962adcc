// Making a new image file: the options of creation, and what is told about them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "block/driver.h"
#include "img/tool.h"

namespace ostler::img {

struct NewImage {
  std::string name;
  std::string format;
  nlohmann::json options;      // nested, as -o has them; "size" in bytes once it is known
  bool trust_backing = false;  // -u: the backing file is not looked at
};

// The name of every option must be one of the format's or of the file's.
Result<void> check_option_names(const block::Driver& driver, const nlohmann::json& options);
// The size and, for people, the format of a backing file are read from it; a format is asked for otherwise.
Result<void> complete_backing(Tool& tool, NewImage& image);
// For -c: some image of the format holds compressed clusters.
Result<void> check_compression(const block::Driver& driver);
Result<void> make_image(Tool& tool, const NewImage& image);

// "Formatting 'disk.qcow2', fmt=qcow2 cluster_size=65536 … size=1048576 …"
std::string formatting_line(const NewImage& image);
// The list behind `-o help`; with the options of files if `whole`.
std::string option_help(const block::Driver& driver, bool whole);
// -o help, -o ? or one of several -o parts of that name.
bool asks_for_help(const nlohmann::json& options);

}  // namespace ostler::img
