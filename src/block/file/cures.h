// What errors of opening a file advise: options of the program that runs. The machine's, unless the program
// is another one.
#pragma once

#include <string_view>

namespace ostler::block {

// Each stands behind "…; " and ends the sentence. The texts live as long as the program.
struct Cures {
  std::string_view locked = "stop it, or use snapshot=on with file.locking=off at your own risk";
  std::string_view locked_by_writer = locked;  // for one who only reads
  std::string_view not_writable = "use readonly=on, or snapshot=on to keep changes in a temporary file";
};

const Cures& cures();
// Before images are opened, while no other thread opens one.
void set_cures(const Cures& cures);

}  // namespace ostler::block
