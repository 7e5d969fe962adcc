// A folder of the host for guests of rigs and fuzzers, with something beside it that they must not reach.
// Made anew, and removed at the end.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "fs9p/share.h"
#include "support/temp_folder.h"

namespace ostler::rigs {

class P9Folder {
 public:
  P9Folder() {
    std::ofstream(outer_ / "secret") << "secret";
    refill();
  }
  P9Folder(const P9Folder&) = delete;
  P9Folder& operator=(const P9Folder&) = delete;

  // The folder as it was at first.
  void refill() {
    std::error_code ignored;
    std::filesystem::remove_all(outer_ / "share", ignored);
    std::filesystem::create_directories(outer_ / "share/a/b");
    std::filesystem::create_directory_symlink("..", outer_ / "share/c");
    std::ofstream(outer_ / "share/b") << "content";
  }
  std::shared_ptr<fs9p::Share> open(fs9p::Security security = fs9p::Security::kNone) const {
    auto share = fs9p::Share::open({.path = outer_ / "share", .security = security});
    if (!share) std::abort();
    return *std::move(share);
  }
  // What lies beside the share is as it was.
  bool untouched() const {
    std::ifstream file(outer_ / "secret");
    std::string text;
    file >> text;
    const auto status = std::filesystem::status(outer_ / "secret");
    const auto entries = std::filesystem::directory_iterator(outer_.path());
    return text == "secret" &&
           (status.permissions() & std::filesystem::perms::others_write) == std::filesystem::perms::none &&
           std::distance(begin(entries), end(entries)) == 2;
  }

 private:
  const test::TempFolder outer_;
};

}  // namespace ostler::rigs
