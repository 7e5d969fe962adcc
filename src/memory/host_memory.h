// Host memory for a block: anonymous, a memory object or a file, with huge pages, host NUMA nodes and the
// rest of what a user may ask for (QEMU's memory-backend-ram, -memfd and -file).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace ostler::memory {

enum class Backing : uint8_t { kAnonymous, kMemfd, kFile };
enum class HostPolicy : uint8_t { kDefault, kPreferred, kBind, kInterleave };

struct RamOptions {
  std::string name;                       // for error messages and /proc/pid/maps
  uint64_t size = 0;                      // bytes, a positive multiple of the page size
  Backing backing = Backing::kAnonymous;  //
  std::string path = {};                  // of a file, or of a folder for a file that nobody else sees
  uint64_t offset = 0;                    // of the memory in its file; a multiple of the page size
  bool share = false;                     // others that map the object see writes; anonymous: a child would
  bool huge = false;                      // of a memory object: pages of hugetlbfs
  uint64_t huge_size = 0;                 // bytes; 0: the host's default
  uint64_t align = 0;                     // of the address; 0: as the pages want it
  bool seal = true;                       // a memory object: nobody changes its size
  bool reserve = false;                   // counts against the host's limit of overcommitment at once
  bool overcommit = false;                // may be more than the host's memory and swap
  bool merge = false;                     // for KSM
  bool dump = false;                      // in core dumps of this process
  HostPolicy policy = HostPolicy::kDefault;
  std::vector<unsigned> host_nodes = {};  // NUMA nodes of the host
};

// One mapping. Its size is a multiple of its page size.
class HostMemory {
 public:
  // Errors: kInvalidArgument (sizes, a file that does not fit), kNoResource (more than the host has, or it
  // refuses), those of files.
  static Result<HostMemory> create(const RamOptions& options);
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&&) = delete;
  ~HostMemory();

  std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  uint64_t page_size() const { return page_size_; }  // of the host's memory, bytes
  // The object or file behind it, for processes that map it too; -1: none. The memory is at file_offset().
  int fd() const { return fd_.get(); }
  uint64_t file_offset() const { return file_offset_; }
  bool shared() const { return shared_; }

  // Takes all of it from the host now, with so many threads. `progress` gets bytes done, from this thread,
  // some times a second. Errors: kNoResource; what was taken stays.
  Result<void> populate(const std::string& name, unsigned threads,
                        const std::function<void(uint64_t done)>& progress) const;
  // Keeps it out of the host's swap, and takes all of it now.
  Result<void> lock(const std::string& name) const;
  // Gives whole pages within [offset, offset + length) back to the host. They read as zeros afterwards, or
  // as the file's bytes where it is mapped privately. Any thread. False: the host cannot.
  bool discard(uint64_t offset, uint64_t length) const;

 private:
  HostMemory() = default;
  Result<void> open_object(const RamOptions& options);
  Result<void> map(const RamOptions& options);
  Result<void> place(const RamOptions& options) const;

  Fd fd_;
  uint64_t file_offset_ = 0;
  void* reservation_ = nullptr;
  size_t reserved_ = 0;
  std::byte* data_ = nullptr;
  uint64_t size_ = 0, page_size_ = 0;
  bool shared_ = false;
};

}  // namespace ostler::memory
