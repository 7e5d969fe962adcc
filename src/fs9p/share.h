// A folder of the host that guests may see: where it is, who may do what, and how owners and modes are kept.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "fs9p/host_file.h"
#include "fs9p/protocol.h"

namespace ostler::fs9p {

enum class Security {
  kPassthrough,  // owners and modes are the host's; a failure to set them is the guest's
  kNone,         // the same, but owners that cannot be set are not
  kMapped,       // in attributes "user.virtfs.…" of the files; links and special files are plain files
};

struct ShareOptions {
  std::string path;
  Security security = Security::kPassthrough;
  bool read_only = false;
  // What files and folders made for a guest have on the host, with kMapped.
  uint32_t file_mode = 0600, directory_mode = 0700;
};

// What a guest is told of an object. Times in seconds and nanoseconds.
struct Attributes {
  uint32_t mode = 0, uid = 0, gid = 0;
  uint64_t links = 0, device = 0, inode = 0, special = 0;  // special: the device that a node stands for
  uint64_t size = 0, block_size = 0, blocks = 0;
  struct Time {
    int64_t seconds = 0;
    uint32_t nanoseconds = 0;
  } accessed, modified, changed, born;
  bool born_known = false;
};

// Who makes something, and what it is to be: a mode with its type, and the device of a device node.
struct Making {
  uint32_t uid, gid, mode;
  uint64_t special = 0;
};

// Constant but for the counters and the table of devices: any thread. Functions that return an int return 0
// or an errno.
class Share {
 public:
  // Fids of all shares of this process at a time, in all sessions: each takes one to three descriptors. At
  // most an eighth of what the process may have.
  static constexpr unsigned kMostFids = 65536;
  // What may wait in values of extended attributes that guests read or write.
  static constexpr size_t kMostXattrBytes = 4u << 20;

  // Errors: no such folder, no right to read it, a host that lacks openat2() or /proc, a file system without
  // user attributes for kMapped. Raises the soft limit of open files to the hard one.
  static Result<std::shared_ptr<Share>> open(const ShareOptions& options);

  const ShareOptions& options() const { return options_; }
  bool mapped() const { return options_.security == Security::kMapped; }
  const NodePtr& root() const { return root_; }

  int attributes(const Node& node, Attributes& out) const;
  // Inodes of several file systems below the folder get paths that differ. EXDEV beyond kMostDevices of them.
  int qid(const Attributes& attributes, Qid& out);
  int qid_path(uint64_t device, uint64_t inode, uint64_t& out);
  // Owner and mode of what was just made.
  int give(const Node& node, const Making& making) const;
  // A mode of an existing one, without its type.
  int change_mode(const Node& node, uint32_t mode) const;
  // kNoUser: stays.
  int change_owner(const Node& node, uint32_t uid, uint32_t gid) const;

  // One more fid; false: there are too many.
  bool take_fid();
  void return_fid();
  bool take_xattr_bytes(size_t size);
  void return_xattr_bytes(size_t size) { xattr_bytes_.fetch_sub(size); }
  unsigned fids() const { return fids_.load(); }  // of this share

 private:
  static constexpr size_t kMostDevices = 256;

  Share(ShareOptions options, NodePtr root, unsigned most_fids);
  uint32_t mode_on_host(uint32_t mode) const;

  const ShareOptions options_;
  const NodePtr root_;
  const unsigned most_fids_;
  std::atomic<unsigned> fids_{0};
  std::atomic<size_t> xattr_bytes_{0};
  std::mutex mutex_;
  std::vector<uint64_t> devices_;  // guarded by mutex_; the first is the root's
};

}  // namespace ostler::fs9p
