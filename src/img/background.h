// A command that goes on in a process of its own: the first one ends when the work has begun.
#pragma once

#include <functional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace ostler::img {

// Tells the process that waits, once, that the work has begun.
class Readiness {
 public:
  explicit Readiness(Fd pipe) : pipe_(std::move(pipe)) {}
  // `text` is what the first process says. From now on standard input and output, and unless
  // `keep_errors` standard error, are those of nobody.
  Result<void> tell(const std::string& text, bool keep_errors);

 private:
  Fd pipe_;
};

// Runs `work` in a new process and session. In that process: its result. In the first: 0 after
// `say`, with what tell() was given, or 1 if the work ended before; the new process has then told why.
// The caller has no threads.
Result<int> run_in_background(const std::function<Result<int>(Readiness& readiness)>& work,
                              const std::function<void(const std::string& text)>& say);

// The number of this process in a file that others find it by. Locked while it lives, then removed.
class PidFile {
 public:
  PidFile() = default;
  static Result<PidFile> create(const std::string& path);
  PidFile(PidFile&&) noexcept = default;
  PidFile& operator=(PidFile&&) = delete;
  ~PidFile();

 private:
  PidFile(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  std::string path_;
  Fd fd_;
};

}  // namespace ostler::img
