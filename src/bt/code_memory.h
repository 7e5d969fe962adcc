// Host memory that translated code lies in: one memory object, mapped writable in one place and executable in
// another. Offsets count from the start of either. Members from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/fd.h"
#include "base/result.h"

namespace ostler::bt {

class CodeMemory {
 public:
  // Errors: what the host says.
  static Result<std::unique_ptr<CodeMemory>> create(size_t bytes);
  ~CodeMemory();
  CodeMemory(const CodeMemory&) = delete;
  CodeMemory& operator=(const CodeMemory&) = delete;

  size_t size() const { return size_; }
  uint8_t* writable(size_t at) { return writable_ + at; }
  const uint8_t* executable(size_t at) const { return executable_ + at; }

  // Makes [from, end), of which nothing has been written yet, present: page faults one by one cost more than
  // half of the time there is for a translation. Where it fails they bring it in.
  void provide(size_t from, size_t end);
  // Gives whole pages of [from, end) back to the host: they are zeros. Nobody uses them.
  void give_back(size_t from, size_t end);

 private:
  CodeMemory() = default;
  Fd object_;
  uint8_t* writable_ = nullptr;
  const uint8_t* executable_ = nullptr;
  size_t size_ = 0;
};

}  // namespace ostler::bt
