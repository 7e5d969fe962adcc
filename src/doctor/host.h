// The host's files as `ostler doctor` sees them: under a root, so that tests can make a host of their own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ostler::doctor {

class Host {
 public:
  explicit Host(std::string root = "") : root_(std::move(root)) {}

  std::string path(std::string_view name) const { return root_ + std::string(name); }
  // The first line of a file, of at most 4 KiB; nothing when it cannot be read.
  std::optional<std::string> line(std::string_view name) const;
  std::optional<uint64_t> number(std::string_view name) const;
  bool exists(std::string_view name) const;
  std::vector<std::string> entries(
      std::string_view folder) const;  // sorted; empty when there is no such folder
  // 0, or the errno of opening it for reading and writing.
  int open_error(std::string_view name) const;

 private:
  std::string root_;
};

}  // namespace ostler::doctor
