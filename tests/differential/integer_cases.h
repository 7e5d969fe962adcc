// The integer, stack, near control and string instructions, for the campaigns that need random ones.
#pragma once

#include "campaign.h"

namespace ostler::differential {

Family integer_family();

}  // namespace ostler::differential
