// `-accel bt,perfmap=on`: names for translated code in perf's reports, in the file that perf looks for
// (tools/perf/Documentation/jit-interface.txt of Linux): lines of address and size, hexadecimal without 0x,
// and a name. Grows no further than the code cache, since a flush empties it. Under the cache's mutex.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace ostler::bt {

class PerfMap {
 public:
  // Replaces the file at `path`, which must not be another user's.
  static Result<std::unique_ptr<PerfMap>> create(const std::string& path);
  static std::string path_of_this_process();  // "/tmp/perf-PID.map"

  // Errors of writing are not told: a full disk shall not end the guest.
  void add(const void* host, size_t bytes, std::string_view name);
  void clear();

 private:
  explicit PerfMap(Fd file) : file_(std::move(file)) {}
  Fd file_;
};

}  // namespace ostler::bt
