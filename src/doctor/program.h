// `ostler doctor [--json]`: what this host can do for guests, and what to do about what is missing.
#pragma once

#include <span>
#include <string>

namespace ostler::doctor {

// The exit status: 0, or 1 after a mistake in the arguments.
int run_program(std::span<const std::string> arguments);

}  // namespace ostler::doctor
