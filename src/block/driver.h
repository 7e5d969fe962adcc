// The table of drivers: what a kind of node is called, how an image of it is recognised, opened and created.
// A new format is a folder with one `const Driver` and a line in drivers.cpp.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "block/new_files.h"
#include "block/node.h"
#include "block/open.h"
#include "block/options.h"

namespace ostler::block {

enum class DriverKind { kProtocol, kFormat, kFilter };

// What a driver's open() gets.
struct OpenRequest {
  OptionReader
      options;  // the node's own; the generic ones (driver, node-name, read-only, cache, …) are taken out
  OpenFlags flags;  // with the generic options applied
  Opener& opener;
  unsigned depth = 0;

  // Opens what option `name` describes: an object, or the name of an existing node. Errors if it is absent.
  Task<Result<NodePtr>> open_child(std::string_view name);
  // The same with other flags than the parent's.
  Task<Result<NodePtr>> open_child(std::string_view name, OpenFlags child_flags);
  bool has(std::string_view name) { return options.left().contains(name); }
};

// What a driver's create() gets.
struct CreateRequest {
  OptionReader options;  // of creation, "size" among them
  std::string filename;  // as the user names the image
  OpenFlags flags;
  Opener& opener;
  NewFiles& files;  // a format calls make_own() when it has read its options and found them right
  NodePtr backing;  // open for reading, if backing_file is given and was looked at
};

struct Driver {
  std::string_view name;
  DriverKind kind;
  // How sure it is that `head` (the first 64 KiB at most) begins an image of this format: 0 to 100. `tail`:
  // its last 512 bytes, for formats with a footer.
  int (*probe)(std::span<const std::byte> head, std::span<const std::byte> tail, uint64_t size,
               std::string_view filename) = nullptr;
  // Gives the node, whole or not at all. The caller names it.
  Task<Result<NodePtr>> (*open)(OpenRequest request) = nullptr;
  Task<Result<void>> (*create)(CreateRequest request) = nullptr;
  std::span<const OptionSpec> create_options = {};
  std::span<const OptionSpec> amend_options = {};
  // {"required": bytes, "fully-allocated": bytes, …} of a new image with `options`, holding `source` (null:
  // empty).
  Task<Result<nlohmann::json>> (*measure)(nlohmann::json options, NodePtr source) = nullptr;
  // The prefix of names that mean this protocol: "nbd" for "nbd://…" and "nbd:…". Several, by spaces.
  std::string_view schemes = {};
  bool compression = false;  // write_compressed() works, on images made for it at least
};

std::span<const Driver* const> drivers();
const Driver* find_driver(std::string_view name);
// Options of creation that `format` has not but its file has, like "nocow": taken out of `options`.
nlohmann::json take_file_options(nlohmann::json& options, const Driver& format, const Driver& protocol);
// The error names the known ones.
Result<const Driver*> need_driver(std::string_view name);

}  // namespace ostler::block
