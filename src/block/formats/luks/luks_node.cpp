#include "block/formats/luks/luks_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kBounce = 1 << 20;

}  // namespace

Task<Result<NodePtr>> LuksNode::open(OpenRequest request) {
  CO_TRY_ASSIGN(const auto secret, request.options.string("key-secret"));
  auto opened = co_await request.open_child("file");
  if (!opened) co_return std::move(opened).error();
  const NodePtr file = *std::move(opened);
  CO_TRY(request.options.finish());
  std::array<std::byte, LuksHeader::kBytes> bytes;
  CO_TRY(co_await read_image(*file, 0, bytes.data(), bytes.size()));
  CO_TRY_ASSIGN(const LuksHeader header, LuksHeader::parse(bytes, *file, file->size()));
  if (!secret && request.flags.writable)
    co_return Error(ErrorKind::kInvalidArgument,
                    file->filename() +
                        " is encrypted: give the passphrase by --object secret,id=NAME,file=PATH and "
                        "the option key-secret=NAME");
  auto node = std::make_shared<LuksNode>(!request.flags.writable, header);
  node->opener_ = &request.opener;
  if (secret) {
    CO_TRY_ASSIGN(const std::string text, request.opener.secret(*secret, "key-secret"));
    auto key = co_await unlock_luks(*file, 0, header, SecretBytes(text));
    if (!key) co_return std::move(key).error();
    node->cipher_ = std::make_unique<LuksCipher>(header.algorithm, *std::move(key));
  }
  const PermissionMask used = node->read_only_ ? kPermissionRead : kPermissionRead | kPermissionWrite;
  const Permissions permissions = {.used = used, .shared = kPermissionsAll};
  CO_TRY_ASSIGN(node->file_, Edge::attach(*node, file, "file", Role::kFile, permissions));
  co_return NodePtr(std::move(node));
}

uint64_t LuksNode::size() const {
  const uint64_t end = file_->size();
  return end <= header_.payload_offset() ? 0 : (end - header_.payload_offset()) / kSector * kSector;
}

Task<int> LuksNode::read_sectors(uint64_t offset, std::span<std::byte> to) {
  const int error = co_await read_bytes(*file_, header_.payload_offset() + offset, to.data(), to.size());
  if (error != 0) co_return error;
  co_return cipher_->decrypt(offset / kSector, to) ? 0 : -EIO;
}

Task<int> LuksNode::read(uint64_t offset, Buffers to) {
  if (!cipher_) co_return -EACCES;
  const uint64_t bytes = total_bytes(to);
  const uint64_t inside = std::min(bytes, size() - std::min(size(), offset));
  if (inside != bytes) fill_zeroes(to, inside);
  const uint64_t begin = align_down(offset, kSector), end = align_up(offset + inside, kSector);
  const AlignedBuffer bounce(std::min(end - begin, kBounce));
  if (!bounce) co_return -ENOMEM;
  for (uint64_t at = begin; at < end && inside != 0; at += bounce.size()) {
    const std::span<std::byte> part = bounce.bytes().first(std::min<uint64_t>(bounce.size(), end - at));
    const int error = co_await read_sectors(at, part);
    if (error != 0) co_return error;
    const uint64_t from = std::max(at, offset), until = std::min(at + part.size(), offset + inside);
    const Slice piece(to, from - offset, until - from);
    copy_to(piece, part.data() + (from - at));
  }
  co_return 0;
}

Task<int> LuksNode::write(uint64_t offset, Buffers from) {
  if (read_only_) co_return -EROFS;
  const uint64_t bytes = total_bytes(from);
  if (offset > size() || bytes > size() - offset) co_return -EINVAL;
  const uint64_t begin = align_down(offset, kSector), end = align_up(offset + bytes, kSector);
  Mutex::Guard alone;
  if (begin != offset || end != offset + bytes) alone = co_await unaligned_.lock();
  const AlignedBuffer bounce(std::min(end - begin, kBounce));
  if (!bounce) co_return -ENOMEM;
  for (uint64_t at = begin; at < end; at += bounce.size()) {
    const std::span<std::byte> part = bounce.bytes().first(std::min<uint64_t>(bounce.size(), end - at));
    const uint64_t first = std::max(at, offset), until = std::min(at + part.size(), offset + bytes);
    if (first != at || until != at + part.size()) {
      const int error = co_await read_sectors(at, part);
      if (error != 0) co_return error;
    }
    const Slice piece(from, first - offset, until - first);
    copy_from(piece, part.data() + (first - at));
    if (!cipher_->encrypt(at / kSector, part)) co_return -EIO;
    const int error = co_await write_bytes(*file_, header_.payload_offset() + at, part.data(), part.size());
    if (error != 0) co_return error;
  }
  co_return 0;
}

Task<int> LuksNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail, BlockStatus& status) {
  status = {};
  status.bytes = std::min(bytes, size() - std::min(size(), offset));
  status.data = true;
  status.allocated = true;
  co_return 0;
}

Task<Result<void>> LuksNode::amend(nlohmann::json values) {
  OptionReader options(std::move(values), filename());
  CO_TRY_ASSIGN(const auto force, options.boolean("force"));
  CO_TRY_ASSIGN(const LuksChange change, read_luks_change(options, *opener_, force.value_or(false)));
  if (!cipher_ || read_only_)
    co_return cannot(*file_, "luks",
                     "its key slots change only when it is open for writing, with its key-secret");
  auto changed = co_await change_luks(*file_, 0, header_, cipher_->key(), change);
  if (!changed) co_return std::move(changed).error();
  header_ = *std::move(changed);
  co_return Result<void>();
}

Task<Result<void>> LuksNode::truncate(uint64_t size, Preallocation preallocation) {
  if (size > (uint64_t{1} << 62))
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{}: the size {} is too large", filename(), size));
  auto result = co_await file_->truncate(header_.payload_offset() + size, preallocation);
  if (result) resized();
  co_return result;
}

nlohmann::json LuksNode::format_specific_info() const {
  return {{"type", "luks"}, {"data", header_.describe()}};
}

}  // namespace ostler::block
