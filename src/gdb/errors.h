// Short replies and signal numbers of the protocol. Errors are errno in decimal digits, as users of QEMU know
// them; clients only tell them from success.
#pragma once

#include <string>

namespace ostler::gdb {

inline const std::string kOk = "OK", kInvalid = "E22", kFault = "E14", kNoSpace = "E28", kNoSuchAnnex = "E00";

inline constexpr unsigned kSigNone = 0, kSigInt = 2, kSigTrap = 5;

}  // namespace ostler::gdb
