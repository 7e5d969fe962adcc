// What a server gives its clients: one disk with a name, and what it tells about the disk's blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/client.h"

namespace ostler::block::nbd {

// A metadata context of NBD_OPT_SET_META_CONTEXT. Its number is its place in Export::contexts().
struct MetaContext {
  enum class Kind { kAllocation, kAllocationDepth, kDirtyBitmap };
  Kind kind;
  std::string name;    // as the protocol has it, "base:allocation"
  std::string bitmap;  // of kDirtyBitmap
};

struct Extent {
  uint32_t bytes;
  uint32_t flags;
};

// Immutable; its requests are those of the client. On any I/O context.
class Export {
 public:
  struct Settings {
    std::string name = {};  // clients that ask for the name "" get it too
    std::string description = {};
    bool read_only = false;
    bool multi_conn = false;                // several connections see each other's writes and flushes
    std::vector<std::string> bitmaps = {};  // told as qemu:dirty-bitmap:NAME
    bool allocation_depth = false;          // told as qemu:allocation-depth
  };
  // kNotFound if a bitmap is not there, kCorrupt if it is not usable.
  static Result<std::shared_ptr<Export>> create(std::shared_ptr<Client> client, Settings settings);

  Client& client() const { return *client_; }
  const Settings& settings() const { return settings_; }
  uint64_t size() const { return client_->size(); }
  bool read_only() const { return settings_.read_only || client_->read_only(); }
  bool is_called(std::string_view name) const { return name.empty() || name == settings_.name; }
  uint16_t transmission_flags(bool structured) const;
  const std::vector<MetaContext>& contexts() const { return contexts_; }

  // Extents from `offset` on, together `bytes` at most, kMostExtents or, with `one`, a single one. The range
  // lies in the disk. 0 or a negative errno; at least one extent without error.
  static constexpr size_t kMostExtents = 2048;
  Task<int> extents(const MetaContext& context, uint64_t offset, uint32_t bytes, bool one,
                    std::vector<Extent>& result) const;

 private:
  Export(std::shared_ptr<Client> client, Settings settings);
  int dirty_extent(const MetaContext& context, uint64_t offset, uint32_t bytes, Extent& extent) const;
  const std::shared_ptr<Client> client_;
  const Settings settings_;
  std::vector<MetaContext> contexts_;
};

}  // namespace ostler::block::nbd
