#include "block/nbd/nbd_node.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "block/driver.h"
#include "block/nbd/protocol.h"
#include "block/nbd/tls_objects.h"

namespace ostler::block::nbd {
namespace {

using Request = Link::Request;
using Kind = Link::Request::Kind;

constexpr uint64_t kMostZeroed = 1u << 30;  // of one request; the protocol has 32 bits

}  // namespace

NbdNode::NbdNode(std::unique_ptr<Link> link, bool read_only, uint64_t reconnect_seconds)
    : Node("nbd"), link_(std::move(link)), read_only_(read_only), reconnect_seconds_(reconnect_seconds) {}

bool NbdNode::is_aligned(uint64_t offset, uint64_t bytes) const {
  const uint64_t least = link_->disk().least;
  return offset % least == 0 && (bytes % least == 0 || offset + bytes == size());
}

Task<int> NbdNode::transfer(Kind kind, uint64_t offset, std::byte* data, uint64_t bytes) {
  while (bytes != 0) {
    Request request;
    request.kind = kind;
    request.offset = offset;
    request.bytes = std::min<uint64_t>(bytes, link_->disk().most);
    request.data = data;
    const int error = co_await link_->run(request);
    if (error != 0) co_return error;
    offset += request.bytes;
    data += request.bytes;
    bytes -= request.bytes;
  }
  co_return 0;
}

Task<int> NbdNode::read(uint64_t offset, Buffers to) {
  const uint64_t wanted = total_bytes(to), end = size();
  const uint64_t bytes = offset >= end ? 0 : std::min(wanted, end - offset);
  if (bytes != wanted) fill_zeroes(to, bytes);
  if (bytes == 0) co_return 0;
  if (to.size() == 1 && is_aligned(offset, bytes))
    co_return co_await transfer(Kind::kRead, offset, static_cast<std::byte*>(to[0].iov_base), bytes);
  const uint64_t least = link_->disk().least;
  const uint64_t from = offset - offset % least;
  const uint64_t until = std::min((offset + bytes + least - 1) / least * least, end);
  const AlignedBuffer bounce(until - from);
  if (!bounce) co_return -ENOMEM;
  const int error = co_await transfer(Kind::kRead, from, bounce.data(), until - from);
  if (error != 0) co_return error;
  const Slice inside(to, 0, bytes);
  copy_to(inside, bounce.data() + (offset - from));
  co_return 0;
}

Task<int> NbdNode::write(uint64_t offset, Buffers from) {
  const uint64_t bytes = total_bytes(from), end = size();
  if (read_only_) co_return -EROFS;
  if (offset > end || bytes > end - offset) co_return -ENOSPC;
  if (bytes == 0) co_return 0;
  if (!is_aligned(offset, bytes)) co_return co_await write_unaligned(offset, from);
  SharedMutex::Shared guard;
  if (link_->disk().least != 1) guard = co_await blocks_.lock_shared();
  if (from.size() == 1)
    co_return co_await transfer(Kind::kWrite, offset, static_cast<std::byte*>(from[0].iov_base), bytes);
  const AlignedBuffer bounce(bytes);
  if (!bounce) co_return -ENOMEM;
  copy_from(from, bounce.data());
  co_return co_await transfer(Kind::kWrite, offset, bounce.data(), bytes);
}

Task<int> NbdNode::write_unaligned(uint64_t offset, Buffers from) {
  const auto guard = co_await blocks_.lock();
  const uint64_t bytes = total_bytes(from), least = link_->disk().least;
  const uint64_t begin = offset - offset % least;
  const uint64_t end = std::min((offset + bytes + least - 1) / least * least, size());
  const AlignedBuffer bounce(end - begin);
  if (!bounce) co_return -ENOMEM;
  // The first and the last block hold bytes that stay.
  const uint64_t head = std::min(least, end - begin);
  int error = co_await transfer(Kind::kRead, begin, bounce.data(), head);
  if (error == 0 && end - begin > least) {
    const uint64_t tail = (end - begin - 1) / least * least;
    error = co_await transfer(Kind::kRead, begin + tail, bounce.data() + tail, end - begin - tail);
  }
  if (error != 0) co_return error;
  copy_from(from, bounce.data() + (offset - begin));
  co_return co_await transfer(Kind::kWrite, begin, bounce.data(), end - begin);
}

Task<int> NbdNode::flush() {
  if (!link_->disk().can_flush) co_return 0;
  Request request;
  request.kind = Kind::kFlush;
  co_return co_await link_->run(request);
}

Task<int> NbdNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  const RemoteDisk& disk = link_->disk();
  if (read_only_) co_return -EROFS;
  if (offset > disk.size || bytes > disk.size - offset) co_return -ENOSPC;
  if (!disk.can_zero || !is_aligned(offset, bytes)) co_return -ENOTSUP;
  if (flags.no_fallback && !disk.can_fast_zero) co_return -ENOTSUP;
  SharedMutex::Shared guard;
  if (disk.least != 1) guard = co_await blocks_.lock_shared();
  while (bytes != 0) {
    Request request;
    request.kind = Kind::kZero;
    request.offset = offset;
    request.bytes = std::min(bytes, kMostZeroed);
    if (!flags.may_unmap) request.flags |= LIBNBD_CMD_FLAG_NO_HOLE;
    if (flags.no_fallback) request.flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
    const int error = co_await link_->run(request);
    if (error != 0) co_return error;
    offset += request.bytes;
    bytes -= request.bytes;
  }
  co_return 0;
}

Task<int> NbdNode::discard(uint64_t offset, uint64_t bytes) {
  const RemoteDisk& disk = link_->disk();
  if (read_only_) co_return -EROFS;
  if (!disk.can_trim || offset >= disk.size) co_return 0;
  const uint64_t end = std::min(offset + bytes, disk.size) / disk.least * disk.least;
  uint64_t at = (offset + disk.least - 1) / disk.least * disk.least;
  while (at < end) {
    Request request;
    request.kind = Kind::kTrim;
    request.offset = at;
    request.bytes = std::min(end - at, kMostZeroed);
    const int error = co_await link_->run(request);
    if (error != 0) co_return error;
    at += request.bytes;
  }
  co_return 0;
}

Task<int> NbdNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail, BlockStatus& status) {
  const RemoteDisk& disk = link_->disk();
  status = {};
  status.bytes = bytes;
  status.data = status.allocated = status.offset_valid = true;
  status.offset = offset;
  status.file = this;
  const uint64_t from = offset - offset % disk.least;
  if (!disk.can_tell_status || from >= disk.size) co_return 0;
  Request request;
  request.kind = Kind::kStatus;
  request.offset = from;
  const uint64_t until = std::min((offset + bytes + disk.least - 1) / disk.least * disk.least, disk.size);
  request.bytes = std::min(until - from, kMostZeroed);
  request.flags = LIBNBD_CMD_FLAG_REQ_ONE;
  const int error = co_await link_->run(request);
  if (error != 0) co_return error;
  // Servers may tell less than was asked for, but something.
  if (request.extent_bytes <= offset - from) co_return -EIO;
  status.bytes = std::min<uint64_t>(bytes, request.extent_bytes - (offset - from));
  status.data = (request.extent_flags & kStateHole) == 0;
  status.zero = (request.extent_flags & kStateZero) != 0;
  co_return 0;
}

Task<Result<void>> NbdNode::close() {
  link_->close();
  co_return Result<void>();
}

Limits NbdNode::limits() const {
  Limits limits;
  limits.request_alignment = link_->disk().least;
  limits.most_transfer = link_->disk().most;
  limits.discard_alignment = link_->disk().least;
  return limits;
}

nlohmann::json NbdNode::options() const {
  const Remote& remote = link_->remote();
  nlohmann::json result = {{"driver", "nbd"}, {"export", remote.export_name}};
  if (remote.path.empty())
    result["server"] = {{"type", "inet"}, {"host", remote.host}, {"port", remote.port}};
  else
    result["server"] = {{"type", "unix"}, {"path", remote.path}};
  if (remote.tls) result["tls-creds"] = remote.tls_credentials;
  if (!remote.tls_hostname.empty()) result["tls-hostname"] = remote.tls_hostname;
  if (reconnect_seconds_ != 0) result["reconnect-delay"] = reconnect_seconds_;
  return result;
}

namespace {

constexpr uint64_t kSecond = 1'000'000'000;

Result<std::shared_ptr<const TlsCredentials>> find_client_tls(const Opener& opener, const Remote& remote,
                                                              const std::string& where) {
  auto found = find_tls(opener, remote.tls_credentials, TlsEndpoint::kClient);
  if (!found) return std::move(found).error().with_context(where);
  if ((*found)->needs_hostname() && remote.host.empty() && remote.tls_hostname.empty())
    return Error(ErrorKind::kInvalidArgument,
                 where +
                     ": a unix socket does not say what name the server's certificate is for; "
                     "tls-hostname=NAME does, and verify-peer=off in the TLS object takes any");
  return found;
}

Task<Result<NodePtr>> open_nbd(OpenRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(Remote remote, take_remote(options));
  CO_TRY_ASSIGN(const auto delay, options.number("reconnect-delay", 1u << 20));
  CO_TRY(options.finish());
  const uint64_t seconds = delay.value_or(0);
  const std::string where = remote.uri();
  std::shared_ptr<const TlsCredentials> tls;
  if (remote.tls) {
    CO_TRY_ASSIGN(tls, find_client_tls(request.opener, remote, where));
  }
  auto link = std::make_unique<Link>(std::move(remote), std::move(tls), seconds * kSecond);
  Result<void> connected;
  Link* const to_connect = link.get();
  co_await IoContext::current()->offload([&connected, to_connect] { connected = to_connect->connect(); });
  if (!connected) co_return std::move(connected).error();
  if (request.flags.writable && link->disk().read_only) {
    link->close();
    co_return Error(ErrorKind::kPermission,
                    where + ": the server lets nobody write to it; open it read-only");
  }
  std::shared_ptr<NbdNode> node =
      std::make_shared<NbdNode>(std::move(link), !request.flags.writable, seconds);
  co_return NodePtr(std::move(node));
}

}  // namespace
}  // namespace ostler::block::nbd

namespace ostler::block {

extern const Driver kNbdDriver;
const Driver kNbdDriver = {.name = "nbd",
                           .kind = DriverKind::kProtocol,
                           .open = nbd::open_nbd,
                           .schemes = "nbd nbds nbd+unix nbds+unix"};

}  // namespace ostler::block
