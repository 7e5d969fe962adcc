// `ostler ps`.
#pragma once

#include <span>
#include <string>

namespace ostler::ps {

// The exit status.
int run_program(std::span<const std::string> arguments);

}  // namespace ostler::ps
