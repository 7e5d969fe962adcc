// The image tool as a program: `ostler-img COMMAND …`, and `ostler image COMMAND …` for people.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "img/tool.h"

namespace ostler::img {

// `words` behind the program's name; the exit status. `version` is shown by --version.
int run_program(Style style, std::span<const std::string> words, std::string_view version);

}  // namespace ostler::img
