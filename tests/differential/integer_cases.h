// The integer, stack, near control and string instructions, for the campaigns that need random ones.
#pragma once

#include "campaign.h"

namespace ostler::differential {

Family integer_family();

// The bytes of one of them, nothing else decided; empty when the dice gave none.
std::vector<uint8_t> random_integer_code(Random& random, x86::CodeSize code_size = x86::CodeSize::k64);

}  // namespace ostler::differential
