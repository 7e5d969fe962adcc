// Names of new images and of backing files, as QEMU reads them: what stands before a colon is a protocol.
#pragma once

#include <string>

#include "base/result.h"

namespace ostler::block {

// kInvalidArgument for "k:1.qcow2", which QEMU cannot open: there is no protocol 'k'. The cure is
// "./k:1.qcow2".
Result<void> check_file_name(const std::string& filename);

}  // namespace ostler::block
