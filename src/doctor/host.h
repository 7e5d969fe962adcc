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
  // A file of at most 64 KiB; nothing when it cannot be read.
  std::optional<std::string> text(std::string_view name) const;
  // Its first line.
  std::optional<std::string> line(std::string_view name) const;
  std::optional<uint64_t> number(std::string_view name) const;
  bool exists(std::string_view name) const;
  std::vector<std::string> entries(
      std::string_view folder) const;  // sorted; empty when there is no such folder
  // Why a file tells nothing about the host: "/sys is not mounted". Empty: it does tell,
  // as `folder`, which every kernel has, can be seen.
  std::string unseen(std::string_view name, std::string_view folder) const;
  // How a command that writes to the file begins: "", or "on the host: " where a container shows it
  // read-only.
  std::string where_to_write(std::string_view name) const;
  // Whether this process's network namespace has it: /sys may show another's.
  bool has_interface(const std::string& name) const;
  // 0, or the errno of opening it for reading and writing.
  int open_error(std::string_view name) const;

 private:
  std::string root_;
};

}  // namespace ostler::doctor
