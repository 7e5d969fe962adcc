// Image locks at the byte offsets where QEMU puts them, so that both programs respect each other: an OFD read
// lock at 100 + p for each permission p in use, at 200 + p for each that others must not use.
#pragma once

#include <string>

#include "base/result.h"
#include "block/permissions.h"

namespace ostler::block {

// Locks `fd` for these permissions; kBusy names the file if another open file contradicts. A file system
// without locks is no error. The locks go with the last copy of the descriptor.
Result<void> lock_image(int fd, const std::string& path, Permissions permissions);
// Before the descriptor is closed: an io_uring may hold the open file, and so its locks, a little longer.
void unlock_image(int fd);

}  // namespace ostler::block
