// Opening and creating images: from a file name or from options to a chain of nodes.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

#include "block/io_context.h"
#include "block/node.h"

namespace ostler::block {

namespace nbd {
class TlsCredentials;
}

struct OpenFlags {
  bool writable = false;
  bool direct = false;        // O_DIRECT
  bool no_flush = false;      // flushes do nothing
  bool writethrough = false;  // for the user's Client: each write is flushed
  bool force_share = false;   // -U: reads an image that another program writes
  bool unmap = true;          // discards reach the host's file
  bool no_backing = false;    // only this image
  bool check = false;  // opened to be checked: a dirty image is not repaired, a corrupt one may be opened
  bool locking = true;
  Aio aio = Aio::kIoUring;  // threads: also where the context has a ring
};

// "none", "writeback", "writethrough", "unsafe", "directsync".
Result<void> set_cache_mode(OpenFlags& flags, std::string_view mode);

// Opens nodes and knows those with a name. One per machine or tool.
class Opener {
 public:
  Opener() = default;
  Opener(const Opener&) = delete;
  Opener& operator=(const Opener&) = delete;

  // `filename`: a path, "json:{…}", or a protocol's URL. `format`: a driver's name; empty: recognised by the
  // content. The chain of backing images is opened too, for reading.
  Task<Result<NodePtr>> open(std::string filename, std::string format, OpenFlags flags);
  // {"driver": …, …} as -blockdev has it, nested or with dotted keys. Without "driver": recognised.
  Task<Result<NodePtr>> open(nlohmann::json options, OpenFlags flags);
  // Makes an image of `format` in a new file `filename` (an existing one loses its content, once the options
  // are right). They are as -o has them; without "size": the backing file's. NewFiles: what an error leaves.
  Task<Result<void>> create(std::string filename, std::string format, nlohmann::json options,
                            OpenFlags flags);

  NodePtr find(const std::string& node_name) const;
  // Names it; kInvalidArgument if the name is taken. An empty name: a free one, "#block123".
  Result<void> add(const NodePtr& node, std::string node_name);

  // Passphrases by name (`--object secret`), for drivers of encrypted formats ("key-secret"). kNotFound
  // begins with the option that named it and tells how one is given.
  Result<void> add_secret(const std::string& id, std::string secret);
  Result<std::string> secret(const std::string& id, std::string_view option) const;
  // The same for `--object tls-creds-x509` and `tls-creds-psk` (nbd/tls_objects.h). Null: there is none of
  // this id. Objects of both kinds have different ids.
  Result<void> add_tls(const std::string& id, std::shared_ptr<const nbd::TlsCredentials> credentials);
  std::shared_ptr<const nbd::TlsCredentials> tls(const std::string& id) const;

  // For drivers: `depth` images lie above; they may be no more than kMostImages.
  static constexpr unsigned kMostImages = 256;
  Task<Result<NodePtr>> open_at(nlohmann::json options, OpenFlags flags, unsigned depth);
  // The backing image named `file` in `parent_file`, by the rules of backing_path().
  Task<Result<NodePtr>> open_backing(std::string parent_file, std::string file, std::string format,
                                     OpenFlags flags, unsigned depth);

 private:
  Task<Result<NodePtr>> open_filename(std::string filename, std::string format, OpenFlags flags,
                                      unsigned depth);
  Task<Result<NodePtr>> open_once(nlohmann::json options, OpenFlags flags, unsigned depth);

  mutable std::mutex mutex_;
  mutable std::map<std::string, std::weak_ptr<Node>> names_;
  std::map<std::string, std::string> secrets_;
  std::map<std::string, std::shared_ptr<const nbd::TlsCredentials>> tls_;
  unsigned next_name_ = 100;
};

// Closes the node and, after it, what lies below and nobody else uses. Best called for every opened chain;
// the first error is given.
Task<Result<void>> close_chain(NodePtr node);

// `file` as it is meant in an image `parent`: relative to the folder of the parent unless it is absolute or
// names a protocol.
std::string backing_path(const std::string& parent, const std::string& file);
// {"driver": "file", "filename": …} or what a protocol's name or "json:" describes.
Result<nlohmann::json> options_of_filename(const std::string& filename);
// The name of the format whose probe is surest; "raw" if none is.
Task<Result<std::string>> probe_format(NodePtr file, std::string filename);
// The same from the first and last bytes of a file, as many as probes look at and the file has.
inline constexpr size_t kProbedHead = 65536, kProbedTail = 512;
std::string_view recognise(std::span<const std::byte> head, std::span<const std::byte> tail, uint64_t size,
                           std::string_view filename);

}  // namespace ostler::block
