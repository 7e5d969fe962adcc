// Opening files of the host: what they are, how large, and what O_DIRECT asks of them.
#pragma once

#include "base/fd.h"
#include "base/result.h"
#include "block/file/file_node.h"

namespace ostler::block {

struct OpenedFile {
  Fd fd;
  uint64_t size = 0;  // bytes
  bool is_device = false;
};

Result<OpenedFile> open_host_file(const FileOptions& options);
Result<void> lock_host_file(int fd, const FileOptions& options);
// Bytes that offsets, lengths and memory must be multiples of, 512 to 4096.
uint32_t direct_io_alignment(int fd);

}  // namespace ostler::block
