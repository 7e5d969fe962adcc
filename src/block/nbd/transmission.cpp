#include "block/nbd/transmission.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ostler::block::nbd {
namespace {

constexpr uint32_t kCachePiece = 1u << 20;
// Below this, asking for holes costs more than sending zeros.
constexpr uint32_t kLeastForHoles = 65536;
constexpr size_t kChunkHead = 20;

uint32_t error_number(int error) {
  switch (-error) {
    case 0:
      return 0;
    case EPERM:
    case EROFS:
    case EACCES:
      return kErrorPerm;
    case ENOMEM:
      return kErrorNoMem;
    case EINVAL:
      return kErrorInvalid;
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
      return kErrorNoSpace;
    case EOVERFLOW:
      return kErrorOverflow;
    case ENOTSUP:
      return kErrorNotSupported;
    case ESHUTDOWN:
    case ECANCELED:
      return kErrorShutdown;
    default:
      return kErrorIo;
  }
}

void append_chunk_head(std::string& to, uint64_t cookie, uint16_t flags, Chunk type, size_t length) {
  append_be(to, kStructuredReplyMagic);
  append_be(to, flags);
  append_be(to, static_cast<uint16_t>(type));
  append_be(to, cookie);
  append_be(to, static_cast<uint32_t>(length));
}

bool writes(Command command) {
  return command == Command::kWrite || command == Command::kTrim || command == Command::kWriteZeroes;
}

}  // namespace

Task<void> Transmission::run() {
  for (bool more = true; more;) {
    co_await Room{*this, kMostRequests, 0};
    if (broken_) break;
    more = co_await receive();
  }
  co_await Room{*this, 1, 0};
}

// Flags that a command may have. FUA is good with all: "clients MAY set it on any".
int Transmission::check(const Request& request) const {
  uint16_t known = kFlagFua;
  switch (request.command) {
    case Command::kRead:
      if (session_.structured) known |= kFlagDf;
      if (request.length > kMostTransfer) return -EINVAL;
      break;
    case Command::kWrite:
    case Command::kTrim:
    case Command::kCache:
      break;
    case Command::kFlush:
      if (request.offset != 0 || request.length != 0) return -EINVAL;
      break;
    case Command::kWriteZeroes:
      known |= kFlagNoHole | kFlagFastZero;
      break;
    case Command::kBlockStatus:
      known |= kFlagReqOne;
      if (session_.contexts.empty() || request.length == 0) return -EINVAL;
      break;
    default:
      return -EINVAL;
  }
  if ((request.flags & ~known) != 0) return -EINVAL;
  if (writes(request.command) && disk_.read_only()) return -EPERM;
  const uint64_t size = disk_.size();
  if (request.offset > size || request.length > size - request.offset)
    return request.command == Command::kWrite || request.command == Command::kWriteZeroes ? -ENOSPC : -EINVAL;
  return 0;
}

Task<bool> Transmission::receive() {
  char head[28];
  int error = co_await receiver_.read(head, sizeof head);
  if (error != 0) broken_ = error != -ENODATA;
  if (error != 0 || load_be<uint32_t>(head) != kRequestMagic) co_return false;
  Request request;
  request.flags = load_be<uint16_t>(head + 4);
  request.command = static_cast<Command>(load_be<uint16_t>(head + 6));
  request.cookie = load_be<uint64_t>(head + 8);
  request.offset = load_be<uint64_t>(head + 16);
  request.length = load_be<uint32_t>(head + 24);
  if (request.command == Command::kDisconnect) co_return false;
  request.error = check(request);
  if (request.command == Command::kWrite) {
    // Whoever sends more than the server told him it takes is not waited for.
    if (request.length > kMostTransfer) co_return false;
    if (request.error != 0) {
      error = co_await receiver_.skip(request.length);
      if (error != 0) co_return false;
    }
  }
  if (request.error == 0) {
    if (request.command == Command::kWrite || request.command == Command::kRead)
      request.charged = request.length;
    else if (request.command == Command::kCache)
      request.charged = kCachePiece;
    co_await Room{*this, kMostRequests, request.charged};
  }
  if (request.error == 0 && request.command == Command::kWrite) {
    request.payload = AlignedBuffer(std::max<size_t>(request.length, 1));
    if (!request.payload) co_return false;
    error = co_await receiver_.read(request.payload.data(), request.length);
    if (error != 0) co_return false;
  }
  ++running_;
  in_use_ += request.charged;
  spawn(serve(std::move(request)));
  co_return true;
}

Task<void> Transmission::serve(Request request) {
  if (broken_ && !writes(request.command)) request.error = -ESHUTDOWN;
  if (request.error != 0)
    co_await answer(request.cookie, request.error);
  else if (request.command == Command::kRead)
    co_await read(request);
  else if (request.command == Command::kBlockStatus)
    co_await block_status(request);
  else {
    const int error = co_await perform(request);
    co_await answer(request.cookie, error);
  }
  request.payload = {};
  --running_;
  in_use_ -= request.charged;
  if (waiter_ && has_room(wanted_requests_, wanted_bytes_))
    IoContext::current()->post(std::exchange(waiter_, nullptr));
}

Task<int> Transmission::perform(Request& request) {
  Client& client = disk_.client();
  int error = 0;
  switch (request.command) {
    case Command::kWrite: {
      const iovec piece[] = {{request.payload.data(), request.length}};
      if (request.length != 0) error = co_await client.write(request.offset, piece);
      break;
    }
    case Command::kTrim:
      error = co_await client.discard(request.offset, request.length);
      if (error == -ENOTSUP) error = 0;  // a hint
      break;
    case Command::kWriteZeroes: {
      const ZeroFlags flags = {.may_unmap = (request.flags & kFlagNoHole) == 0,
                               .no_fallback = (request.flags & kFlagFastZero) != 0};
      error = co_await client.write_zeroes(request.offset, request.length, flags);
      break;
    }
    case Command::kCache:
      error = co_await cache(request.offset, request.length);
      break;
    default:
      error = co_await client.flush();
      break;
  }
  if (error == 0 && (request.flags & kFlagFua) != 0 && writes(request.command))
    error = co_await client.flush();
  co_return error;
}

// Reading is what brings content near: into the page cache, or from a backing file into the image where a
// filter copies on read.
Task<int> Transmission::cache(uint64_t offset, uint64_t bytes) {
  const AlignedBuffer scratch(kCachePiece);
  if (!scratch) co_return -ENOMEM;
  while (bytes != 0 && !broken_) {
    const iovec piece[] = {{scratch.data(), std::min<uint64_t>(bytes, kCachePiece)}};
    const int error = co_await disk_.client().read(offset, piece);
    if (error != 0) co_return error;
    offset += piece[0].iov_len;
    bytes -= piece[0].iov_len;
  }
  co_return 0;
}

Task<void> Transmission::read(Request& request) {
  request.payload = AlignedBuffer(std::max<size_t>(request.length, 1));
  if (!request.payload) {
    co_await answer(request.cookie, -ENOMEM);
    co_return;
  }
  std::string heads;
  std::vector<iovec> pieces;
  int error = 0;
  if (!session_.structured || request.length == 0 || (request.flags & kFlagDf) != 0 ||
      request.length < kLeastForHoles) {
    pieces.resize(2);
    pieces[1] = {request.payload.data(), request.length};
    if (request.length != 0) error = co_await disk_.client().read(request.offset, Buffers(pieces).subspan(1));
    if (request.length == 0 && session_.structured) {
      append_chunk_head(heads, request.cookie, kReplyFlagDone, Chunk::kNone, 0);
    } else if (session_.structured) {
      append_chunk_head(heads, request.cookie, kReplyFlagDone, Chunk::kOffsetData, 8 + request.length);
      append_be(heads, request.offset);
    } else {
      append_be(heads, kSimpleReplyMagic);
      append_be(heads, uint32_t{0});
      append_be(heads, request.cookie);
    }
    pieces[0] = {heads.data(), heads.size()};
  } else {
    error = co_await read_pieces(request, heads, pieces);
  }
  if (error != 0)
    co_await answer(request.cookie, error);
  else
    co_await send(pieces);
}

// A chunk for each run of content or of zeros. All is read before anything is sent: an error is the answer.
Task<int> Transmission::read_pieces(Request& request, std::string& heads, std::vector<iovec>& pieces) {
  static const MetaContext kAllocation = {MetaContext::Kind::kAllocation, {}, {}};
  std::vector<Extent> extents;
  int error = co_await disk_.extents(kAllocation, request.offset, request.length, false, extents);
  if (error != 0) extents.assign(1, {request.length, 0});
  uint32_t covered = 0;
  for (Extent& extent : extents) {
    extent.flags &= kStateZero;
    covered += extent.bytes;
  }
  if (covered != request.length) extents.push_back({request.length - covered, 0});
  // Its pieces are pointed to: the text must not move.
  heads.reserve(extents.size() * (kChunkHead + 12));
  uint32_t at = 0;
  for (size_t i = 0; i < extents.size();) {
    const bool zero = extents[i].flags != 0;
    uint32_t bytes = 0;
    for (; i < extents.size() && (extents[i].flags != 0) == zero; ++i) bytes += extents[i].bytes;
    const uint16_t flags = i == extents.size() ? kReplyFlagDone : 0;
    const uint64_t offset = request.offset + at;
    const size_t head = heads.size();
    if (zero) {
      append_chunk_head(heads, request.cookie, flags, Chunk::kOffsetHole, 12);
      append_be(heads, offset);
      append_be(heads, bytes);
    } else {
      append_chunk_head(heads, request.cookie, flags, Chunk::kOffsetData, 8 + size_t{bytes});
      append_be(heads, offset);
    }
    pieces.push_back({heads.data() + head, heads.size() - head});
    if (!zero) {
      const iovec content[] = {{request.payload.data() + at, bytes}};
      error = co_await disk_.client().read(offset, content);
      if (error != 0) co_return error;
      pieces.push_back(content[0]);
    }
    at += bytes;
  }
  co_return 0;
}

Task<void> Transmission::block_status(Request& request) {
  std::vector<Extent> extents;
  for (size_t i = 0; i < session_.contexts.size(); ++i) {
    const uint32_t number = session_.contexts[i];
    const int error = co_await disk_.extents(disk_.contexts()[number], request.offset, request.length,
                                             (request.flags & kFlagReqOne) != 0, extents);
    if (error != 0) {
      co_await answer(request.cookie, error);
      co_return;
    }
    std::string data;
    append_be(data, number);
    for (const Extent& extent : extents) {
      append_be(data, extent.bytes);
      append_be(data, extent.flags);
    }
    const uint16_t flags = i + 1 == session_.contexts.size() ? kReplyFlagDone : 0;
    co_await chunk(request.cookie, flags, Chunk::kBlockStatus, std::move(data));
  }
}

Task<void> Transmission::answer(uint64_t cookie, int error) {
  const uint32_t number = error_number(error);
  if (!session_.structured) {
    std::string reply;
    append_be(reply, kSimpleReplyMagic);
    append_be(reply, number);
    append_be(reply, cookie);
    const iovec piece[] = {{reply.data(), reply.size()}};
    co_await send(piece);
    co_return;
  }
  std::string data;
  if (error != 0) {
    const std::string text = strerror(-error);
    append_be(data, number);
    append_be(data, static_cast<uint16_t>(text.size()));
    data += text;
  }
  const Chunk type = error != 0 ? Chunk::kError : Chunk::kNone;
  co_await chunk(cookie, kReplyFlagDone, type, std::move(data));
}

Task<void> Transmission::chunk(uint64_t cookie, uint16_t flags, Chunk type, std::string data) {
  std::string head;
  append_chunk_head(head, cookie, flags, type, data.size());
  const iovec pieces[] = {{head.data(), head.size()}, {data.data(), data.size()}};
  co_await send(pieces);
}

Task<void> Transmission::send(Buffers pieces) {
  const auto guard = co_await sending_.lock();
  if (broken_) co_return;
  const int error = co_await channel_.send(pieces);
  if (error == 0) co_return;
  broken_ = true;
  channel_.shutdown();  // ends receiving too
}

}  // namespace ostler::block::nbd
