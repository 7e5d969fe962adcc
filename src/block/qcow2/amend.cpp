// Changing creation options of an existing image.
#include <fmt/format.h>

#include <bit>

#include <nlohmann/json.hpp>

#include "block/options.h"
#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

Task<Result<void>> Qcow2Node::amend(nlohmann::json values) {
  if (read_only_) co_return failed("it is open for reading only", -EROFS);
  OptionReader options(std::move(values), filename());
  CO_TRY_ASSIGN(const auto compat, options.choice("compat", {"0.10", "1.1", "v2", "v3"}));
  CO_TRY_ASSIGN(const auto backing, options.string("backing_file"));
  CO_TRY_ASSIGN(const auto backing_format, options.string("backing_fmt"));
  CO_TRY_ASSIGN(const auto new_size, options.size("size"));
  CO_TRY_ASSIGN(const auto lazy, options.boolean("lazy_refcounts"));
  CO_TRY_ASSIGN(const auto data_file, options.string("data_file"));
  CO_TRY_ASSIGN(const auto raw, options.boolean("data_file_raw"));
  CO_TRY_ASSIGN(const auto bits, options.number("refcount_bits", 64));
  CO_TRY_ASSIGN(const auto force, options.boolean("force"));
  const auto encrypt = options.take("encrypt");
  CO_TRY(options.finish());
  // Another name alone would change what is read.
  if ((backing && *backing != header_.backing_file) ||
      (backing_format && *backing_format != header_.backing_format))
    co_return options.error("backing_file",
                            "is not changed here; 'rebase' gives an image another backing file");
  if (encrypt) CO_TRY(co_await amend_encryption(*encrypt, force.value_or(false)));
  if (bits && !std::has_single_bit(*bits))
    co_return options.error("refcount_bits", "must be a power of two from 1 to 64");
  if (data_file && !data_file_)
    co_return options.error("data_file", "cannot be set for an image with its data in itself");
  if (raw && *raw && (header_.autoclear & kRawDataFile) == 0)
    co_return options.error("data_file_raw", "cannot be turned on for an existing image");
  uint32_t version = header_.version;
  if (compat) version = *compat == "0.10" || *compat == "v2" ? 2 : 3;
  if (version == 2 && bits.value_or(1u << header_.refcount_order) != 16)
    co_return options.error("refcount_bits", "other than 16 needs compat=1.1");
  if (version == 3 && header_.version == 2) {
    header_.version = 3;
    CO_TRY(co_await write_header());
  }
  if (bits) {
    CO_TRY(co_await change_refcount_width(static_cast<unsigned>(std::countr_zero(*bits))));
  }
  if (lazy) {
    if (*lazy && header_.version == 2) co_return options.error("lazy_refcounts", "needs compat=1.1");
    header_.compatible =
        (header_.compatible & ~uint64_t{kLazyRefcounts}) | (*lazy ? uint64_t{kLazyRefcounts} : 0);
  }
  if (data_file) header_.data_file = *data_file;
  if (raw && !*raw) header_.autoclear &= ~uint64_t{kRawDataFile};
  if (version == 2 && header_.version == 3) CO_TRY(co_await downgrade());
  CO_TRY(co_await write_header());
  if (new_size) CO_TRY(co_await truncate(*new_size, Preallocation::kOff));
  if (const int error = co_await commit(); error != 0)
    co_return failed("its metadata cannot be written", error);
  co_return Result<void>();
}

// To version 2: what it does not have must not be in use.
Task<Result<void>> Qcow2Node::downgrade() {
  const auto cannot = [&](const char* why) {
    return Error(ErrorKind::kUnsupported, fmt::format("{}: version 2 has no {}", filename(), why), ENOTSUP);
  };
  if (header_.has(kDataFile)) co_return cannot("external data files");
  if (header_.has(kExtendedL2)) co_return cannot("extended L2 tables");
  if (header_.compression != 0) co_return cannot("compression type but zlib");
  if (header_.refcount_order != 4) co_return cannot("refcounts but of 16 bits");
  if (header_.bitmaps.count != 0) co_return cannot("bitmaps");
  if (!snapshots_.empty()) co_return cannot("zero clusters, which snapshots may have; delete them first");
  // Zero clusters become clusters of zeros, or none where nothing shines through.
  for (uint64_t at = 0; at < size();) {
    Pin page;
    int error = co_await load_l2(at, page);
    if (error != 0) co_return failed("an L2 table cannot be read", error);
    const uint64_t end = std::min(size(), at + page_span(at));
    for (; page && at < end; at += cluster_bytes_) {
      Entry entry;
      {
        const std::lock_guard lock(mutex_);
        entry = entry_locked(page, at);
        if (content(entry, at) != Content::kZero) continue;
        if (!backing_) {
          set_entry_locked(page, at, Entry{});
          give_up_locked(entry);
          continue;
        }
      }
      const uint64_t bytes = std::min(cluster_bytes_, size() - at);
      const AlignedBuffer zeroes(bytes);
      if (!zeroes) co_return failed("zeros cannot be written", -ENOMEM);
      std::fill_n(zeroes.data(), bytes, std::byte{0});
      const iovec whole = zeroes.as_iovec();
      error = co_await write_here(at, Buffers(&whole, 1));
      if (error != 0) co_return failed("zeros cannot be written", error);
    }
    at = end;
  }
  if (const int error = co_await commit(); error != 0)
    co_return failed("its metadata cannot be written", error);
  header_.version = 2;
  header_.incompatible = header_.compatible = header_.autoclear = 0;
  header_.unknown_fields.clear();
  co_return co_await write_header();
}

}  // namespace ostler::block::qcow2
