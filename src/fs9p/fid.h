// Fids: a guest's names for objects that it has reached, opened or not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "fs9p/host_file.h"
#include "fs9p/share.h"

namespace ostler::fs9p {

// Where a fid stands. `parent` and `name` are where it was found, for Tremove and Trename; null for the root
// and after "..".
struct Place {
  NodePtr node, parent;
  std::string name;
  uint32_t uid = kNoUser;  // of the user whom Tattach told
};

struct OpenFile {
  Fd fd;
  std::mutex position;  // of a folder's descriptor
};

// The value of an extended attribute, or the list of names, that is read or written through a fid.
class XattrValue {
 public:
  // Null: too much waits in such values of the share.
  static std::unique_ptr<XattrValue> make(std::shared_ptr<Share> share, std::vector<std::byte> bytes);
  ~XattrValue() { share_->return_xattr_bytes(bytes.size()); }
  XattrValue(const XattrValue&) = delete;
  XattrValue& operator=(const XattrValue&) = delete;

  std::vector<std::byte> bytes;  // as many as at first
  std::string name;              // empty: it is read
  int flags = 0;
  size_t written = 0;

 private:
  XattrValue(std::shared_ptr<Share> share, std::vector<std::byte> all)
      : bytes(std::move(all)), share_(std::move(share)) {}
  const std::shared_ptr<Share> share_;
};

// One thread at a time holds `mutex`, never while it waits for the host; what it copied stays usable when the
// fid goes away.
class Fid {
 public:
  // Of a share with room for it.
  Fid(std::shared_ptr<Share> share, Place at) : place(std::move(at)), share_(std::move(share)) {}
  ~Fid() { share_->return_fid(); }
  Fid(const Fid&) = delete;
  Fid& operator=(const Fid&) = delete;

  Place where() {
    const std::lock_guard lock(mutex);
    return place;
  }
  std::shared_ptr<OpenFile> opened() {
    const std::lock_guard lock(mutex);
    return file;
  }
  std::mutex mutex;
  // Guarded by it.
  Place place;
  std::shared_ptr<OpenFile> file;  // null: not opened
  std::unique_ptr<XattrValue> xattr;

 private:
  const std::shared_ptr<Share> share_;
};
using FidPtr = std::shared_ptr<Fid>;

// Those of a session. Any thread.
class FidTable {
 public:
  FidPtr find(uint32_t number);
  // False: the number is taken.
  bool add(uint32_t number, FidPtr fid);
  void replace(uint32_t number, FidPtr fid);
  // Removes it; null: there is none.
  FidPtr take(uint32_t number);
  bool empty();

 private:
  std::mutex mutex_;
  std::map<uint32_t, FidPtr> fids_;
};

}  // namespace ostler::fs9p
