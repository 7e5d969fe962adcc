#include "block/filters/log_writes_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "block/driver.h"

namespace ostler::block {
namespace {

constexpr uint64_t kLeastSector = 512, kMostSector = 8u << 20;
constexpr uint64_t kDefaultInterval = 4096;
constexpr size_t kEntryBytes = 32, kSuperBytes = 28;
constexpr uint64_t kPiece = 1 << 20;  // of zeros, which are logged as data

bool is_sector_size(uint64_t bytes) {
  return std::has_single_bit(bytes) && bytes >= kLeastSector && bytes <= kMostSector;
}

Error wrong_log(const Node& log, std::string_view what) {
  return Error(ErrorKind::kCorrupt,
               fmt::format("{}: {}; leave log-append out to begin a new log there", log.filename(), what),
               EINVAL);
}

}  // namespace

Result<void> LogWritesNode::connect_log(NodePtr log, Permissions permissions) {
  TRY_ASSIGN(log_, Edge::attach(*this, std::move(log), "log", Role::kData, permissions));
  return {};
}

Task<Result<void>> LogWritesNode::begin_log() {
  next_ = sector_;
  const int error = co_await store_count();
  if (error != 0) co_return errno_error(log_->filename() + ": the log cannot be written", -error);
  co_return Result<void>();
}

Task<Result<void>> LogWritesNode::continue_log() {
  std::array<std::byte, kSuperBytes> super;
  int error = co_await read_bytes(*log_, 0, super.data(), super.size());
  if (error != 0) co_return errno_error(log_->filename() + ": the log cannot be read", -error);
  const uint64_t size = log_->size();
  const auto sector = load_le<uint32_t>(super.data() + 24);
  if (load_le<uint64_t>(super.data()) != kMagic || load_le<uint64_t>(super.data() + 8) != kVersion)
    co_return wrong_log(*log_, "it holds no log of version 1");
  if (!is_sector_size(sector)) co_return wrong_log(*log_, fmt::format("its sectors have {} bytes", sector));
  sector_ = sector;
  next_ = sector_;
  const auto count = load_le<uint64_t>(super.data() + 16);
  // Each entry has a sector of the log, so that its size limits the work.
  for (entries_ = 0; entries_ < count; ++entries_) {
    std::array<std::byte, kEntryBytes> entry;
    if (next_ >= size)
      co_return wrong_log(*log_, fmt::format("it ends after {} of {} entries", entries_, count));
    error = co_await read_bytes(*log_, next_, entry.data(), entry.size());
    if (error != 0) co_return errno_error(log_->filename() + ": the log cannot be read", -error);
    const bool has_data = (load_le<uint64_t>(entry.data() + 16) & kDiscarded) == 0;
    const uint64_t sectors = has_data ? load_le<uint64_t>(entry.data() + 8) : 0;
    if (sectors > (size - next_) / sector_)
      co_return wrong_log(*log_, fmt::format("it ends within entry {}", entries_));
    next_ += (1 + sectors) * sector_;
  }
  co_return Result<void>();
}

Limits LogWritesNode::limits() const {
  Limits limits = child_->limits();
  limits.request_alignment = std::max(limits.request_alignment, static_cast<uint32_t>(sector_));
  return limits;
}

nlohmann::json LogWritesNode::options() const {
  nlohmann::json result = Node::options();
  result["log-sector-size"] = sector_;
  result["log-super-update-interval"] = interval_;
  return result;
}

// With logging_ held.
Task<int> LogWritesNode::store_count() {
  const AlignedBuffer super(sector_);
  if (!super) co_return -ENOMEM;
  const iovec whole = super.as_iovec();
  fill_zeroes(Buffers(&whole, 1));
  store_le<uint64_t>(super.data(), kMagic);
  store_le<uint64_t>(super.data() + 8, kVersion);
  store_le<uint64_t>(super.data() + 16, entries_);
  store_le<uint32_t>(super.data() + 24, static_cast<uint32_t>(sector_));
  // What it counts is there before it.
  int error = co_await log_->flush();
  if (error == 0) error = co_await write_bytes(*log_, 0, super.data(), super.size());
  if (error == 0) error = co_await log_->flush();
  if (error == 0) unstored_ = 0;
  co_return error;
}

// With logging_ held.
Task<int> LogWritesNode::add_entry(uint64_t first, uint64_t sectors, uint64_t flags, Buffers data) {
  const AlignedBuffer entry(sector_);
  if (!entry) co_return -ENOMEM;
  const iovec whole = entry.as_iovec();
  fill_zeroes(Buffers(&whole, 1));
  store_le<uint64_t>(entry.data(), first);
  store_le<uint64_t>(entry.data() + 8, sectors);
  store_le<uint64_t>(entry.data() + 16, flags);
  const uint64_t bytes = total_bytes(data);
  int error = co_await write_bytes(*log_, next_, entry.data(), entry.size());
  if (error == 0 && bytes != 0) error = co_await log_->write(next_ + sector_, data);
  if (error != 0) co_return error;
  next_ += sector_ + bytes;
  ++entries_;
  ++unstored_;
  if (unstored_ >= interval_) error = co_await store_count();
  co_return error;
}

// A write that is done. What it does not cover of its first and last sector is read.
Task<int> LogWritesNode::log_data(uint64_t offset, Buffers from) {
  const Mutex::Guard turn = co_await logging_.lock();
  const uint64_t bytes = total_bytes(from);
  const uint64_t begin = align_down(offset, sector_), end = align_up(offset + bytes, sector_);
  if (begin == offset && end == offset + bytes)
    co_return co_await add_entry(begin / sector_, bytes / sector_, 0, from);
  const AlignedBuffer sectors(end - begin);
  if (!sectors) co_return -ENOMEM;
  const int error = co_await read_bytes(*child_, begin, sectors.data(), sectors.size());
  if (error != 0) co_return error;
  copy_from(from, sectors.data() + (offset - begin));
  const iovec whole = sectors.as_iovec();
  co_return co_await add_entry(begin / sector_, (end - begin) / sector_, 0, Buffers(&whole, 1));
}

Task<int> LogWritesNode::write(uint64_t offset, Buffers from) {
  const int error = co_await child_->write(offset, from);
  if (error != 0) co_return error;
  co_return co_await log_data(offset, from);
}

Task<int> LogWritesNode::write_compressed(uint64_t offset, Buffers from) {
  const int error = co_await child_->write_compressed(offset, from);
  if (error != 0) co_return error;
  co_return co_await log_data(offset, from);
}

Task<int> LogWritesNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  int error = co_await child_->write_zeroes(offset, bytes, flags);
  if (error != 0) co_return error;
  const AlignedBuffer zeroes(std::min(bytes, kPiece));
  if (!zeroes) co_return -ENOMEM;
  const iovec whole = zeroes.as_iovec();
  fill_zeroes(Buffers(&whole, 1));
  for (uint64_t done = 0; done < bytes && error == 0;) {
    const iovec piece{zeroes.data(), std::min(bytes - done, kPiece)};
    error = co_await log_data(offset + done, Buffers(&piece, 1));
    done += piece.iov_len;
  }
  co_return error;
}

Task<int> LogWritesNode::discard(uint64_t offset, uint64_t bytes) {
  const int error = co_await child_->discard(offset, bytes);
  if (error != 0) co_return error;
  const uint64_t first = align_up(offset, sector_) / sector_, last = (offset + bytes) / sector_;
  if (first >= last) co_return 0;
  const Mutex::Guard turn = co_await logging_.lock();
  co_return co_await add_entry(first, last - first, kDiscarded, {});
}

Task<int> LogWritesNode::flush() {
  int error = co_await child_->flush();
  if (error != 0) co_return error;
  const Mutex::Guard turn = co_await logging_.lock();
  error = co_await add_entry(0, 0, kFlushed, {});
  if (error == 0 && unstored_ != 0) error = co_await store_count();
  co_return error;
}

Task<Result<void>> LogWritesNode::close() {
  const Mutex::Guard turn = co_await logging_.lock();
  const int error = unstored_ == 0 ? 0 : co_await store_count();
  if (error != 0) co_return errno_error(log_->filename() + ": the log's end cannot be written", -error);
  co_return Result<void>();
}

namespace {

Task<Result<NodePtr>> open_log_writes(OpenRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto sector, options.size("log-sector-size"));
  CO_TRY_ASSIGN(const auto append, options.boolean("log-append"));
  CO_TRY_ASSIGN(const auto interval, options.number("log-super-update-interval"));
  if (!is_sector_size(sector.value_or(kLeastSector)))
    co_return options.error("log-sector-size", "must be a power of two from 512 to 8M");
  if (sector && append.value_or(false))
    co_return options.error("log-sector-size", "is that of the log which log-append continues; leave it out");
  if (interval.value_or(1) == 0) co_return options.error("log-super-update-interval", "must be 1 at least");
  auto child = co_await request.open_child("file");
  if (!child) co_return std::move(child).error();
  auto log = co_await request.open_child("log");
  if (!log) co_return std::move(log).error();
  CO_TRY(options.finish());
  auto node =
      std::make_shared<LogWritesNode>(sector.value_or(kLeastSector), interval.value_or(kDefaultInterval));
  const bool writable = request.flags.writable;
  CO_TRY(node->connect(*std::move(child), pass_through_permissions(writable)));
  Permissions alone = {.used = kPermissionRead, .shared = kPermissionsAll};
  if (writable) {
    alone.used |= kPermissionWrite | kPermissionResize;
    alone.shared &= ~(kPermissionWrite | kPermissionResize);
  }
  CO_TRY(node->connect_log(*std::move(log), alone));
  if (writable && append.value_or(false))
    CO_TRY(co_await node->continue_log());
  else if (writable)
    CO_TRY(co_await node->begin_log());
  co_return NodePtr(std::move(node));
}

}  // namespace

extern const Driver kLogWritesDriver;
const Driver kLogWritesDriver = {
    .name = "blklogwrites", .kind = DriverKind::kFilter, .open = open_log_writes};

}  // namespace ostler::block
