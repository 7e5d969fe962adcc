#include "bt/code_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/bytes.h"
#include "memory/address.h"

namespace ostler::bt {

Result<std::unique_ptr<CodeMemory>> CodeMemory::create(size_t bytes) {
  std::unique_ptr<CodeMemory> made(new CodeMemory);
  made->size_ = bytes;
  made->object_ = Fd(memfd_create("ostler-code", MFD_CLOEXEC));
  const Fd& object = made->object_;
  if (!object || ftruncate(object.get(), static_cast<off_t>(bytes)) != 0)
    return errno_error("memory for translated code", errno);
  void* writable = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, object.get(), 0);
  if (writable == MAP_FAILED) return errno_error("memory for translated code", errno);
  made->writable_ = static_cast<uint8_t*>(writable);
  void* executable = mmap(nullptr, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, object.get(), 0);
  if (executable == MAP_FAILED) return errno_error("executable memory for translated code", errno);
  made->executable_ = static_cast<const uint8_t*>(executable);
  return made;
}

CodeMemory::~CodeMemory() {
  if (executable_ != nullptr) munmap(const_cast<uint8_t*>(executable_), size_);
  if (writable_ != nullptr) munmap(writable_, size_);
}

// Written by a system call and then mapped in pieces, pages cost less than by faults for writing.
// MADV_COLLAPSE would make huge pages of it, and did (Linux 6.18), but waits for all processors each time,
// which costs more than the host's TLB gains.
void CodeMemory::provide(size_t from, size_t end) {
  static std::array<uint8_t, size_t{64} << 10> zeros;  // not const: so it takes no room in the file
  from = align_down(from, kPageSize);
  for (size_t at = from; at < end; at += zeros.size())
    if (pwrite(object_.get(), zeros.data(), std::min(zeros.size(), end - at), static_cast<off_t>(at)) < 0)
      break;
  madvise(writable_ + from, end - from, MADV_POPULATE_READ);
  madvise(const_cast<uint8_t*>(executable_) + from, end - from, MADV_POPULATE_READ);
}

void CodeMemory::give_back(size_t from, size_t end) {
  from = align_up(from, kPageSize);
  end = align_down(end, kPageSize);
  // Where that cannot be done the memory is used again.
  if (from < end) madvise(writable_ + from, end - from, MADV_REMOVE);
}

}  // namespace ostler::bt
