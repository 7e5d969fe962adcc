// The XML that tells a debugger our registers (Debugging with GDB, appendix G "Target Descriptions").
#pragma once

#include <string>

namespace ostler::gdb {

const std::string& target_description();

}  // namespace ostler::gdb
