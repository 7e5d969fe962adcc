// A file's bytes, mapped read-only.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace ostler {

class MappedFile {
 public:
  // Errors: missing, a directory, not readable, empty. `what` begins the sentence: "-kernel 'path'".
  static Result<MappedFile> open(const std::string& path, const std::string& what);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  std::span<const uint8_t> bytes_;
};

}  // namespace ostler
