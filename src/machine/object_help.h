// -object help, and -object TYPE,help.
#pragma once

#include <string>

namespace ostler::machine {

// Of one type, or of all for an empty one.
std::string object_help(const std::string& type);

}  // namespace ostler::machine
