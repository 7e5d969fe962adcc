// A folder of a test's own, removed with what is in it.
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include <filesystem>
#include <string>
#include <system_error>

namespace ostler::test {

class TempFolder {
 public:
  // mkdtemp() replaces the last six characters, which it wants to be these.
  TempFolder() : path_(std::filesystem::temp_directory_path() / ("ostler-test-" + std::string(6, 'X'))) {
    if (mkdtemp(path_.data()) == nullptr) {
      perror(path_.c_str());
      abort();
    }
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }  // without '/' at its end
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace ostler::test
