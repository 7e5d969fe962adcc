#include "block/formats/dmg/dmg_node.h"

#include <bzlib.h>
#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>

namespace ostler::block {
namespace {

bool unpack(DmgChunk::Kind kind, const std::vector<std::byte>& packed, std::vector<std::byte>& to) {
  if (kind == DmgChunk::Kind::kZlib) {
    uLongf got = to.size();
    return uncompress(reinterpret_cast<Bytef*>(to.data()), &got,
                      reinterpret_cast<const Bytef*>(packed.data()), packed.size()) == Z_OK &&
           got == to.size();
  }
  auto got = static_cast<unsigned>(to.size());
  // bzip2's interface lacks a const: it only reads its source.
  auto* const source = reinterpret_cast<char*>(const_cast<std::byte*>(packed.data()));
  return BZ2_bzBuffToBuffDecompress(reinterpret_cast<char*>(to.data()), &got, source,
                                    static_cast<unsigned>(packed.size()), 0, 0) == BZ_OK &&
         got == to.size();
}

int probe_dmg(std::span<const std::byte>, std::span<const std::byte> tail, uint64_t,
              std::string_view filename) {
  // A guest can write a trailer to the end of its raw disk, but not name the file.
  return filename.ends_with(".dmg") && DmgTrailer::recognised(tail) ? 90 : 0;
}

}  // namespace

Task<Result<NodePtr>> DmgNode::open(OpenRequest request) {
  auto opened = co_await request.open_child("file");
  if (!opened) co_return std::move(opened).error();
  const NodePtr file = *std::move(opened);
  CO_TRY(request.options.finish());
  if (request.flags.writable)
    co_return cannot(*file, "dmg", "dmg images can only be read; use read-only=on or convert it");
  if (file->size() < DmgTrailer::kBytes) co_return damaged(*file, "dmg", "its trailer is missing");
  std::array<std::byte, DmgTrailer::kBytes> bytes;
  CO_TRY(co_await read_image(*file, file->size() - bytes.size(), bytes.data(), bytes.size()));
  CO_TRY_ASSIGN(const DmgTrailer trailer, DmgTrailer::parse(bytes, *file));
  std::string list(trailer.list_bytes, '\0');
  CO_TRY(co_await read_image(*file, trailer.list_offset, list.data(), list.size()));
  auto node = std::make_shared<DmgNode>();
  CO_TRY_ASSIGN(node->chunks_, parse_dmg_chunks(list, trailer.data_offset, *file));
  const Permissions permissions = {.used = kPermissionRead, .shared = kPermissionsAll};
  CO_TRY_ASSIGN(node->file_, Edge::attach(*node, file, "file", Role::kFile, permissions));
  co_return NodePtr(std::move(node));
}

const DmgChunk& DmgNode::chunk_at(uint64_t offset) const {
  return *std::ranges::upper_bound(chunks_, offset, {}, &DmgChunk::end);
}

Task<int> DmgNode::read_packed(const DmgChunk& chunk, uint64_t from, Buffers to) {
  const auto turn = co_await unpacking_.lock();
  const auto index = static_cast<size_t>(&chunk - chunks_.data());
  if (kept_ != index) {
    kept_ = kNone;
    std::vector<std::byte> packed(chunk.length);
    const int error = co_await read_bytes(*file_, chunk.offset, packed.data(), packed.size());
    if (error != 0) co_return error;
    unpacked_.resize(chunk.bytes);
    if (!unpack(chunk.kind, packed, unpacked_)) co_return -EIO;
    kept_ = index;
  }
  copy_to(to, unpacked_.data() + from);
  co_return 0;
}

Task<int> DmgNode::read(uint64_t offset, Buffers to) {
  const uint64_t bytes = total_bytes(to);
  const uint64_t inside = std::min(bytes, size() - std::min(size(), offset));
  if (inside != bytes) fill_zeroes(to, inside);
  for (uint64_t done = 0; done < inside;) {
    const uint64_t at = offset + done;
    const DmgChunk& chunk = chunk_at(at);
    // What no chunk describes is zero.
    const bool gap = at < chunk.begin;
    const uint64_t run = std::min(inside - done, (gap ? chunk.begin : chunk.end()) - at);
    const Slice part(to, done, run);
    int error = 0;
    if (gap || chunk.kind == DmgChunk::Kind::kZero)
      fill_zeroes(part);
    else if (chunk.kind == DmgChunk::Kind::kRaw)
      error = co_await file_->read(chunk.offset + (at - chunk.begin), part);
    else
      error = co_await read_packed(chunk, at - chunk.begin, part);
    if (error != 0) co_return error;
    done += run;
  }
  co_return 0;
}

Task<int> DmgNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail, BlockStatus& status) {
  status = {};
  if (offset >= size() || bytes == 0) co_return 0;
  const DmgChunk& chunk = chunk_at(offset);
  const bool gap = offset < chunk.begin;
  status.bytes = std::min(bytes, (gap ? chunk.begin : chunk.end()) - offset);
  status.allocated = true;
  status.zero = gap || chunk.kind == DmgChunk::Kind::kZero;
  status.data = !status.zero;
  status.compressed = status.data && chunk.kind != DmgChunk::Kind::kRaw;
  if (status.data && !status.compressed) {
    status.recurse = true;
    status.offset_valid = true;
    status.offset = chunk.offset + (offset - chunk.begin);
    status.file = file_.node().get();
  }
  co_return 0;
}

extern const Driver kDmgDriver;
const Driver kDmgDriver = {
    .name = "dmg", .kind = DriverKind::kFormat, .probe = probe_dmg, .open = DmgNode::open};

}  // namespace ostler::block
