#include "block/formats/raw/raw_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/bytes.h"
#include "base/log.h"
#include "block/driver.h"
#include "block/open.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;

}  // namespace

Result<std::shared_ptr<RawNode>> RawNode::create(NodePtr file, bool read_only, uint64_t offset,
                                                 std::optional<uint64_t> size) {
  const uint64_t whole = align_up(file->size(), kSector);
  if (offset > whole)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: offset {} is beyond its end at {}", file->filename(), offset, whole));
  if (size && *size > whole - offset)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: offset {} and size {} together are beyond its end at {}", file->filename(),
                             offset, *size, whole));
  if (offset % kSector != 0 || (size && *size % kSector != 0))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: offset and size must be multiples of 512", file->filename()));
  auto node = std::make_shared<RawNode>(read_only, offset, size);
  const Permissions permissions = {.used = read_only ? kPermissionRead : kPermissionRead | kPermissionWrite,
                                   .shared = kPermissionsAll};
  TRY_ASSIGN(node->file_, Edge::attach(*node, std::move(file), "file", Role::kFile, permissions));
  return node;
}

RawNode::RawNode(bool read_only, uint64_t offset, std::optional<uint64_t> size)
    : Node("raw"), read_only_(read_only), offset_(offset), window_(size) {}

uint64_t RawNode::size() const {
  if (window_) return *window_;
  const uint64_t whole = align_up(file_->size(), kSector);
  return whole - std::min(whole, offset_);
}

Task<int> RawNode::read(uint64_t offset, Buffers to) {
  return file_->read(offset_ + offset, to);
}

bool RawNode::is_probed(uint64_t offset, uint64_t bytes) const {
  if (!keeps_format_ || bytes == 0) return false;
  const uint64_t end = file_->size();
  return offset < kProbedHead || offset + bytes > end - std::min<uint64_t>(end, kProbedTail);
}

// Whether the file is still taken for raw with these bytes in it (`from` null: zeros). With changing_ held.
Task<int> RawNode::check_format(uint64_t offset, uint64_t bytes, const Buffers* from) {
  const uint64_t size = std::max(file_->size(), offset + bytes);
  std::vector<std::byte> head(std::min<uint64_t>(size, kProbedHead)),
      tail(std::min<uint64_t>(size, kProbedTail));
  int error = co_await read_bytes(*file_, 0, head.data(), head.size());
  if (error == 0) error = co_await read_bytes(*file_, size - tail.size(), tail.data(), tail.size());
  if (error != 0) co_return error;
  const auto lay_over = [&](std::vector<std::byte>& part, uint64_t part_begin) {
    const uint64_t begin = std::max(offset, part_begin);
    const uint64_t end = std::min(offset + bytes, part_begin + part.size());
    if (begin >= end) return;
    std::byte* const to = part.data() + (begin - part_begin);
    if (from != nullptr)
      copy_from(Slice(*from, begin - offset, end - begin), to);
    else
      std::fill_n(to, end - begin, std::byte{0});
  };
  lay_over(head, 0);
  lay_over(tail, size - tail.size());
  const std::string_view format = recognise(head, tail, size, filename());
  if (format == "raw") co_return 0;
  if (!told_.exchange(true))
    log::warning(fmt::format(
        "{}: a write that would make it look like '{}' was refused: its format was not given, and "
        "the next start would guess wrong; give format=raw to allow it",
        filename(), format));
  co_return -EPERM;
}

int RawNode::try_write(uint64_t offset, Buffers from) {
  return is_probed(offset_ + offset, total_bytes(from)) ? -EAGAIN : file_->try_write(offset_ + offset, from);
}

Task<int> RawNode::write(uint64_t offset, Buffers from) {
  Mutex::Guard alone;
  if (const uint64_t bytes = total_bytes(from); is_probed(offset_ + offset, bytes)) {
    alone = co_await changing_.lock();
    const int error = co_await check_format(offset_ + offset, bytes, &from);
    if (error != 0) co_return error;
  }
  co_return co_await file_->write(offset_ + offset, from);
}

Task<int> RawNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  Mutex::Guard alone;
  if (is_probed(offset_ + offset, bytes)) {
    alone = co_await changing_.lock();
    const int error = co_await check_format(offset_ + offset, bytes, nullptr);
    if (error != 0) co_return error;
  }
  co_return co_await file_->write_zeroes(offset_ + offset, bytes, flags);
}

Task<int> RawNode::discard(uint64_t offset, uint64_t bytes) {
  if (is_probed(offset_ + offset, bytes)) co_return 0;  // a hint, and what is left might be zeros or not
  co_return co_await file_->discard(offset_ + offset, bytes);
}

Task<int> RawNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) {
  const int error = co_await file_->block_status(offset_ + offset, bytes, detail, status);
  status.allocated = true;
  co_return error;
}

Task<Result<void>> RawNode::truncate(uint64_t size, Preallocation preallocation) {
  if (is_window())
    co_return Error(ErrorKind::kUnsupported,
                    filename() + ": a window of a file (offset, size) cannot be resized");
  if (preallocation == Preallocation::kMetadata)
    co_return Error(
        ErrorKind::kUnsupported,
        filename() + ": preallocation=metadata is for formats with tables; there are off, falloc, full");
  auto result = co_await file_->truncate(size, preallocation);
  if (result) resized();
  co_return result;
}

Task<Result<void>> RawNode::reopen(bool writable) {
  const PermissionMask used = writable ? kPermissionRead | kPermissionWrite : kPermissionRead;
  if (writable) CO_TRY(file_.set_permissions({used, kPermissionsAll}));
  auto result = co_await file_->reopen(writable);
  if (!result) co_return result;
  if (!writable) CO_TRY(file_.set_permissions({used, kPermissionsAll}));
  read_only_ = !writable;
  co_return result;
}

nlohmann::json RawNode::options() const {
  nlohmann::json result = Node::options();
  if (offset_ != 0) result["offset"] = offset_;
  if (window_) result["size"] = *window_;
  return result;
}

namespace {

constexpr OptionSpec kCreateOptions[] = {
    {"size", "size", "Virtual disk size"},
    {"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)"},
};

Task<Result<NodePtr>> open_raw(OpenRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto offset, options.size("offset"));
  CO_TRY_ASSIGN(const auto size, options.size("size"));
  auto file = co_await request.open_child("file");
  if (!file) co_return std::move(file).error();
  CO_TRY(options.finish());
  CO_TRY_ASSIGN(std::shared_ptr<RawNode> node,
                RawNode::create(*std::move(file), !request.flags.writable, offset.value_or(0), size));
  co_return NodePtr(std::move(node));
}

Task<Result<void>> create_raw(CreateRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto size, options.size("size"));
  if (!size) co_return options.error("size", "is missing");
  CO_TRY_ASSIGN(const auto mode, options.choice("preallocation", {"off", "falloc", "full"}));
  CO_TRY(options.finish());
  const uint64_t bytes = align_up(*size, kSector);
  CO_TRY_ASSIGN(const NodePtr file, co_await request.files.make_own(bytes, mode.value_or("off")));
  co_return co_await file->truncate(bytes, Preallocation::kOff);  // of a device: is it that large?
}

Task<Result<nlohmann::json>> measure_raw(nlohmann::json options, NodePtr source) {
  OptionReader reader(std::move(options), "measure");
  CO_TRY_ASSIGN(const auto size, reader.size("size"));
  nlohmann::json result;
  result["required"] = source ? source->size() : align_up(size.value_or(0), kSector);
  result["fully-allocated"] = result["required"];
  co_return result;
}

}  // namespace

extern const Driver kRawDriver;
const Driver kRawDriver = {.name = "raw",
                           .kind = DriverKind::kFormat,
                           .open = open_raw,
                           .create = create_raw,
                           .create_options = kCreateOptions,
                           .measure = measure_raw};

}  // namespace ostler::block
