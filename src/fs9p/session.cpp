// What all requests share, and those that make and end fids.
#include "fs9p/session.h"

#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace ostler::fs9p {

int Session::serve(const Message& message, Reply& reply) {
  return std::visit([&](const auto& request) { return run(request, reply); }, message);
}

int Session::find(uint32_t number, FidPtr& out) {
  out = fids_.find(number);
  return out == nullptr ? EBADF : 0;
}

int Session::find_place(uint32_t number, Place& out) {
  FidPtr fid;
  if (const int error = find(number, fid); error != 0) return error;
  out = fid->where();
  return 0;
}

int Session::find_changing(uint32_t number, std::string_view name, Place& out) {
  if (share_->options().read_only) return EROFS;
  if (const int error = check_name(name); error != 0) return error;
  if (const int error = find_place(number, out); error != 0) return error;
  return out.node->is_directory() ? 0 : ENOTDIR;
}

int Session::add(uint32_t number, Place place) {
  if (!share_->take_fid()) return EMFILE;
  return fids_.add(number, std::make_shared<Fid>(share_, std::move(place))) ? 0 : EBADF;
}

int Session::qid_of(const Node& node, Qid& out) {
  Attributes attributes;
  if (const int error = share_->attributes(node, attributes); error != 0) return error;
  return share_->qid(attributes, out);
}

uint32_t Session::data_room(uint32_t wanted, const Reply& reply) const {
  const size_t most = std::min<size_t>(msize_, reply.room());
  return most <= kReadHeadBytes ? 0 : static_cast<uint32_t>(std::min<size_t>(wanted, most - kReadHeadBytes));
}

int Session::run(const Unknown&, Reply&) {
  return EOPNOTSUPP;
}
int Session::run(const Version&, Reply&) {
  return EOPNOTSUPP;
}
int Session::run(const Flush&, Reply&) {
  return EOPNOTSUPP;
}

// There is no authentication, and one tree.
int Session::run(const Attach& request, Reply& reply) {
  if (!request.tree.empty() && request.tree != "/") return ENOENT;
  Qid qid;
  if (const int error = qid_of(*share_->root(), qid); error != 0) return error;
  const int error =
      add(request.fid, {.node = share_->root(), .parent = nullptr, .name = {}, .uid = request.uid});
  reply << qid;
  return error;
}

int Session::step(const Place& from, std::string_view name, Place& out, Qid& qid) {
  out = {.node = nullptr, .parent = nullptr, .name = {}, .uid = from.uid};
  int error = 0;
  if (name == "..") {
    error = parent_of(from.node, share_->root(), out.node);
  } else {
    if (error = check_name(name); error != 0) return error;
    out.parent = from.node;
    out.name = name;
    error = find_node(*from.node, out.name, out.node);
  }
  return error != 0 ? error : qid_of(*out.node, qid);
}

// walk(5): as far as it goes; the new fid exists only when it went all the way.
int Session::run(const Walk& request, Reply& reply) {
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  const bool same = request.new_fid == request.fid;
  if (same && fid->opened() != nullptr) return EBUSY;
  Place place = fid->where();
  reply << uint16_t{0};
  uint16_t done = 0;
  for (; done < request.count; ++done) {
    Place next;
    Qid qid;
    if (const int error = step(place, request.names[done], next, qid); error != 0) {
      if (done == 0) return error;
      break;
    }
    reply << qid;
    place = std::move(next);
  }
  reply.patch(kHeaderBytes, done);
  if (done < request.count) return 0;
  if (!same) return add(request.new_fid, std::move(place));
  if (!share_->take_fid()) return EMFILE;
  fids_.replace(request.new_fid, std::make_shared<Fid>(share_, std::move(place)));
  return 0;
}

// The fid is gone whatever the reply says. A value that was written is set now.
int Session::run(const Clunk& request, Reply&) {
  const FidPtr fid = fids_.take(request.fid);
  if (fid == nullptr) return EBADF;
  std::unique_ptr<XattrValue> value;
  {
    const std::lock_guard lock(fid->mutex);
    value = std::move(fid->xattr);
  }
  if (value == nullptr || value->name.empty()) return 0;
  if (value->written != value->bytes.size()) return EIO;
  const Place place = fid->where();
  const ProcPath path(place.node->fd);
  // Linux removes an attribute by a value of no bytes that must replace one.
  const bool remove = value->bytes.empty() && (value->flags & XATTR_REPLACE) != 0;
  const int status = remove ? ::removexattr(path.c_str(), value->name.c_str())
                            : ::setxattr(path.c_str(), value->name.c_str(), value->bytes.data(),
                                         value->bytes.size(), value->flags);
  return status == 0 ? 0 : errno;
}

}  // namespace ostler::fs9p
