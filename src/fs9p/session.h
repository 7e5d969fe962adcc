// One mount of a guest, from Tversion to the next: its fids, and what each request does to the share.
// Requests of a session run side by side; each waits for the host's file system on its own thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "fs9p/fid.h"
#include "fs9p/reply.h"
#include "fs9p/request.h"
#include "fs9p/share.h"

namespace ostler::fs9p {

class Session {
 public:
  // `msize`: the most bytes of a message that were agreed on.
  Session(std::shared_ptr<Share> share, uint32_t msize) : share_(std::move(share)), msize_(msize) {}

  // Writes the body of the reply, with at most as much data as it has room for. 0 or the errno of an Rlerror.
  // Tversion and Tflush are not for a session.
  int serve(const Message& message, Reply& reply);
  uint32_t msize() const { return msize_; }
  bool mounted() { return !fids_.empty(); }

 private:
  // What one request does: session_*.cpp.
  int run(const Unknown&, Reply&);
  int run(const Version&, Reply&);
  int run(const Flush&, Reply&);
  int run(const Attach& request, Reply& reply);
  int run(const Walk& request, Reply& reply);
  int run(const Clunk& request, Reply& reply);
  int run(const Open& request, Reply& reply);
  int run(const Create& request, Reply& reply);
  int run(const Read& request, Reply& reply);
  int run(const Write& request, Reply& reply);
  int run(const Sync& request, Reply& reply);
  int run(const Lock& request, Reply& reply);
  int run(const GetLock& request, Reply& reply);
  int run(const ReadDirectory& request, Reply& reply);
  int run(const Symlink& request, Reply& reply);
  int run(const MakeNode& request, Reply& reply);
  int run(const MakeDirectory& request, Reply& reply);
  int run(const Rename& request, Reply& reply);
  int run(const RenameAt& request, Reply& reply);
  int run(const Link& request, Reply& reply);
  int run(const UnlinkAt& request, Reply& reply);
  int run(const Remove& request, Reply& reply);
  int run(const ReadLink& request, Reply& reply);
  int run(const GetAttributes& request, Reply& reply);
  int run(const SetAttributes& request, Reply& reply);
  int run(const XattrWalk& request, Reply& reply);
  int run(const XattrCreate& request, Reply& reply);
  int run(const StatFs& request, Reply& reply);

  // EBADF.
  int find(uint32_t number, FidPtr& out);
  int find_place(uint32_t number, Place& out);
  // The folder of `number`, in which `name` is to be changed: EROFS, ENOTDIR, and errors of the name.
  int find_changing(uint32_t number, std::string_view name, Place& out);
  // EMFILE, EBADF when the number is taken.
  int add(uint32_t number, Place place);
  int qid_of(const Node& node, Qid& out);
  // One step of a walk from `from`.
  int step(const Place& from, std::string_view name, Place& out, Qid& qid);
  int open_place(const Place& place, uint32_t flags, std::shared_ptr<OpenFile>& out, Qid& qid);
  // What has been made as `name`: owner and mode, and the qid as the reply. Removed again when that fails.
  int finish_making(const Place& folder, const std::string& name, const Making& making, bool directory,
                    Reply& reply);
  // Removes `name` if it is `node` still.
  int remove_entry(const Place& place);
  // How much of `wanted` the reply can carry after a head of kReadHeadBytes.
  uint32_t data_room(uint32_t wanted, const Reply& reply) const;

  const std::shared_ptr<Share> share_;
  const uint32_t msize_;
  FidTable fids_;
};

}  // namespace ostler::fs9p
