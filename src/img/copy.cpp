#include "img/copy.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bytes.h"

namespace ostler::img {

using block::Task;

namespace {

// Large enough that the target is written in long requests, small enough to stay in the processor's cache.
constexpr uint64_t kBuffer = 1 << 20, kMostCluster = 2 << 20, kSector = 512, kStatusStep = uint64_t{1} << 30;
// Smaller runs within a cluster would cost the target more (filling the rest of a new one) than they save.
constexpr uint64_t kMostUnit = 65536;
constexpr unsigned kWritesOfPiece = 16, kCompressionsOfPiece = 4;
constexpr uint64_t kSecond = 1'000'000'000;

}  // namespace

Copy::Copy(std::vector<CopySource> sources, block::Client& target, CopySettings settings, Progress& progress)
    : sources_(std::move(sources)), target_(target), settings_(settings), progress_(progress) {
  for (const CopySource& each : sources_) total_ += each.bytes;
  const uint64_t cluster = target_.node()->limits().cluster_bytes;
  buffer_ = kBuffer;
  if (settings_.compress) {
    unit_ = std::clamp<uint64_t>(cluster, kSector, kMostCluster);
    buffer_ = std::max(kBuffer, unit_);
  } else if (settings_.keep_backed) {
    unit_ = kSector;
  } else {
    unit_ = std::bit_ceil(std::max({settings_.sparse_bytes, std::min(cluster, kMostUnit), kSector}));
  }
}

Task<Result<void>> Copy::run() {
  begin_time_ = block::IoContext::now();
  block::TaskGroup workers(settings_.parallel);
  for (unsigned i = 0; i < settings_.parallel; ++i) {
    const int error = co_await workers.start(work());
    if (error != 0) break;
  }
  const int error = co_await workers.wait();
  if (error != 0) co_return errno_error(problem_, -error);
  co_return Result<void>();
}

Task<int> Copy::work() {
  const block::AlignedBuffer buffer(buffer_);
  if (!buffer) co_return failed("finding memory for the copy", *target_.node(), 0, -ENOMEM);
  for (;;) {
    Piece piece;
    {
      auto guard = co_await scanning_.lock();
      if (stopped_) co_return 0;
      const int error = co_await next(piece);
      if (error != 0) co_return error;
      if (piece.bytes == 0) co_return 0;
      piece.ticket = tickets_++;
    }
    const int error = co_await process(piece, buffer.data());
    if (error != 0) co_return error;
    progress_.advance(piece.bytes);
  }
}

Copy::Place Copy::place_of(uint64_t offset) const {
  for (const CopySource& each : sources_) {
    if (offset < each.bytes) return {&each, each.start + offset, each.bytes - offset};
    offset -= each.bytes;
  }
  ASSERT(false, "offsets are below the sum of the sources");
  return {};
}

Task<int> Copy::status_at(uint64_t offset, Kind& kind, uint64_t& bytes) {
  const Place place = place_of(offset);
  if (settings_.everything) {
    kind = Kind::kData;
    bytes = place.bytes;
    co_return 0;
  }
  block::ChainStatus status;
  const block::NodePtr node = place.source->client->node();
  const int error =
      co_await block::chain_status(node, place.source->base, place.offset, std::min(place.bytes, kStatusStep),
                                   block::StatusDetail::kPrecise, status);
  if (error != 0) {
    // What cannot be told is read.
    if (settings_.salvage) {
      kind = Kind::kData;
      bytes = std::min(place.bytes, buffer_);
      co_return 0;
    }
    co_return failed("reading its tables", *node, place.offset, error);
  }
  bytes = std::min(status.bytes, place.bytes);
  if (!status.allocated && settings_.keep_backed)
    kind = Kind::kBacked;
  else
    kind = status.zero || !status.allocated ? Kind::kZero : Kind::kData;
  co_return 0;
}

// The next piece, with scanning_ held. Ends of runs are moved to multiples of a unit, in favour of data.
Task<int> Copy::next(Piece& piece) {
  piece.offset = position_;
  if (position_ == total_) co_return 0;
  while (run_end_ <= position_) {
    uint64_t bytes = 0;
    const int error = co_await status_at(position_, run_kind_, bytes);
    if (error != 0) co_return error;
    run_end_ = position_ + bytes;
  }
  piece.kind = run_kind_;
  uint64_t end = run_end_;
  // More of the same kind fills the buffer.
  while (piece.kind == Kind::kData && end < total_ && end - position_ < buffer_) {
    uint64_t bytes = 0;
    const int error = co_await status_at(end, run_kind_, bytes);
    if (error != 0) co_return error;
    run_end_ = end + bytes;
    if (run_kind_ != Kind::kData) break;
    end = run_end_;
  }
  if (end < total_ && piece.kind == Kind::kZero) {
    end = align_down(end, unit_);
    if (end <= position_) {
      piece.kind = Kind::kData;
      end = position_ + 1;
    }
  }
  if (piece.kind == Kind::kData) {
    end = std::min(align_up(end, unit_), total_);
    // Pieces end at multiples of the unit, whatever their begin.
    const uint64_t aligned = align_down(position_ + buffer_, unit_);
    end = std::min(end, aligned > position_ ? aligned : position_ + buffer_);
  } else {
    end = std::min(end, position_ + kStatusStep);
  }
  piece.bytes = end - position_;
  position_ = end;
  if (settings_.bytes_per_second != 0 && piece.kind == Kind::kData) {
    const double seconds =
        static_cast<double>(limited_bytes_) / static_cast<double>(settings_.bytes_per_second);
    limited_bytes_ += piece.bytes;
    const uint64_t time = begin_time_ + static_cast<uint64_t>(seconds * kSecond);
    if (time > block::IoContext::now()) co_await block::IoContext::current()->sleep_until(time);
  }
  co_return 0;
}

Task<int> Copy::process(Piece piece, std::byte* buffer) {
  int error = 0;
  if (piece.kind == Kind::kData) error = co_await read(piece.offset, buffer, piece.bytes);
  if (error == 0) {
    if (settings_.in_order) co_await wait_for_turn(piece.ticket);
    if (!stopped_) error = co_await write(piece, buffer);
  }
  if (error != 0) {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    turns_.wake_all();
  }
  co_return error;
}

Task<int> Copy::read(uint64_t offset, std::byte* to, uint64_t bytes) {
  while (bytes != 0) {
    const Place place = place_of(offset);
    const uint64_t part = std::min(bytes, place.bytes);
    const iovec piece = {to, part};
    int error = co_await place.source->client->read(place.offset, block::Buffers(&piece, 1));
    if (error != 0 && settings_.salvage) error = co_await read_sectors(place, to, part);
    if (error != 0) co_return failed("reading", *place.source->client->node(), place.offset, error);
    offset += part;
    to += part;
    bytes -= part;
  }
  co_return 0;
}

Task<int> Copy::read_sectors(Place place, std::byte* to, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kSector) {
    const iovec piece = {to + at, std::min(kSector, bytes - at)};
    const int error = co_await place.source->client->read(place.offset + at, block::Buffers(&piece, 1));
    if (error == 0) continue;
    std::memset(piece.iov_base, 0, piece.iov_len);
    unreadable_ += piece.iov_len;
  }
  co_return 0;
}

Task<int> Copy::write(Piece piece, const std::byte* from) {
  block::TaskGroup writes(settings_.compress ? kCompressionsOfPiece : kWritesOfPiece);
  const uint64_t end = piece.offset + piece.bytes;
  if (piece.kind == Kind::kZero) {
    if (!settings_.target_is_zero)
      static_cast<void>(co_await writes.start(write_run(piece.offset, nullptr, piece.bytes, true)));
  } else if (piece.kind == Kind::kData) {
    const bool whole = settings_.everything || (settings_.sparse_bytes == 0 && !settings_.compress);
    for (uint64_t at = piece.offset; at < end && writes.error() == 0;) {
      // A run of units that are zero, or that are not.
      bool zero = false;
      uint64_t run_end = at;
      while (run_end < end) {
        const uint64_t unit_end = std::min(align_up(run_end + 1, unit_), end);
        const bool unit_zero =
            !whole && block::all_zeroes(from + (run_end - piece.offset), unit_end - run_end);
        if (run_end == at)
          zero = unit_zero;
        else if (unit_zero != zero)
          break;
        run_end = unit_end;
        if (settings_.compress && !zero) break;  // one cluster a request
        if (whole) run_end = end;
      }
      if (!zero || !settings_.target_is_zero)
        static_cast<void>(
            co_await writes.start(write_run(at, from + (at - piece.offset), run_end - at, zero)));
      at = run_end;
    }
  }
  if (settings_.in_order) pass_turn();
  co_return co_await writes.wait();
}

Task<int> Copy::write_run(uint64_t offset, const std::byte* from, uint64_t bytes, bool zero) {
  int error = 0;
  if (zero) {
    error = co_await target_.write_zeroes(offset, bytes, {.may_unmap = true});
  } else {
    const iovec piece = {const_cast<std::byte*>(from), bytes};  // a write only reads it
    if (settings_.compress)
      error = co_await target_.write_compressed(offset, block::Buffers(&piece, 1));
    else
      error = co_await target_.write(offset, block::Buffers(&piece, 1));
  }
  if (error != 0) co_return failed("writing", *target_.node(), offset, error);
  co_return 0;
}

Task<void> Copy::wait_for_turn(uint64_t ticket) {
  std::unique_lock lock(mutex_);
  while (turn_ != ticket && !stopped_) co_await turns_.wait(lock);
}

void Copy::pass_turn() {
  const std::lock_guard lock(mutex_);
  ++turn_;
  turns_.wake_all();
}

int Copy::failed(std::string_view what, const block::Node& node, uint64_t offset, int error) {
  const std::lock_guard lock(mutex_);
  if (problem_.empty()) problem_ = fmt::format("{}: {} failed at offset {}", node.filename(), what, offset);
  stopped_ = true;
  turns_.wake_all();
  return error;
}

}  // namespace ostler::img
