// Objects of the shared folder as descriptors. A node holds its object itself (O_PATH), not a path: renames
// do not move it, and no name that a guest gives is looked up but a single one, in a folder that it has
// reached before, without following links. That is what keeps guests inside the folder.
//
// Functions return 0 or an errno. Any thread; they wait for the host's file system.
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.h"

namespace ostler::fs9p {

struct Node {
  Fd fd;  // O_PATH | O_NOFOLLOW
  uint64_t device = 0, inode = 0;
  mode_t type = 0;  // S_IFDIR, S_IFREG, …, as the host has it

  bool is_directory() const { return type == S_IFDIR; }
  bool same_as(const Node& other) const { return device == other.device && inode == other.inode; }
};
using NodePtr = std::shared_ptr<const Node>;

// The path by which system calls without a form for O_PATH descriptors reach their object.
class ProcPath {
 public:
  explicit ProcPath(const Fd& fd);
  const char* c_str() const { return text_.data(); }

 private:
  std::array<char, 32> text_;
};

// Why no folder of the share may get an entry `name`, or 0: it is empty, "." or "..", longer than 255 bytes,
// or has '/' or NUL.
int check_name(std::string_view name);

// openat2() of one checked name in `folder`, or of "..": no link is followed.
int open_beneath(const Fd& folder, const std::string& name, int flags, mode_t mode, Fd& out);
// The object in `folder`, or an O_PATH descriptor of an open one.
int find_node(const Node& folder, const std::string& name, NodePtr& out);
int node_of(Fd fd, NodePtr& out);
// An open description of the same object. Of regular files and folders only: opening others has effects.
int reopen(const Node& node, int flags, Fd& out);
int reopen_as_node(const Fd& open, NodePtr& out);
// The parent of a folder that lies in the tree of `root`; `root` itself for `root`. ENOENT when the folder
// has been moved out of the tree.
int parent_of(const NodePtr& folder, const NodePtr& root, NodePtr& out);

}  // namespace ostler::fs9p
