#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "base/fd.h"

namespace ostler {

Result<MappedFile> MappedFile::open(const std::string& path, const std::string& what) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_error(what + ": cannot be opened; check the path and its permissions", errno);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return errno_error(what + ": cannot be examined", errno);
  if (S_ISDIR(status.st_mode))
    return Error(ErrorKind::kInvalidArgument, what + ": is a directory; name a file in it");
  if (!S_ISREG(status.st_mode)) return Error(ErrorKind::kInvalidArgument, what + ": is not a regular file");
  if (status.st_size == 0) return Error(ErrorKind::kCorrupt, what + ": is empty");
  const auto size = static_cast<size_t>(status.st_size);
  void* mapping = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (mapping == MAP_FAILED) return errno_error(what + ": cannot be mapped", errno);
  MappedFile file;
  file.bytes_ = {static_cast<const uint8_t*>(mapping), size};
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
}

}  // namespace ostler
