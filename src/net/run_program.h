// Programs of the host that set networks up.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace ostler::net {

// Runs it to its end with our standard error and no input, and our right to administer networks if we have
// it. `kept`: a descriptor that it inherits under the same number; -1: none. Errors: it is not there, or its
// status is not 0.
Result<void> run_program(const std::vector<std::string>& words, int kept = -1);

// Whether this process may administer networks (CAP_NET_ADMIN in its namespace).
bool may_administer();
// How this user gets that right, as a command to type.
std::string grant_command();

}  // namespace ostler::net
