// Translations as text: `-d in_asm,out_asm`.
#pragma once

#include <string>

#include "bt/code_cache.h"
#include "bt/guest_code.h"

namespace ostler::bt {

// The block's guest instructions, a line each.
std::string guest_listing(const GuestCode& code);
// Its host instructions up to `end`, those of the cold code left out.
std::string host_listing(const CodeCache& cache, const Block& block, Offset end);

}  // namespace ostler::bt
