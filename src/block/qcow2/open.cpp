// Opening and closing, and what the graph asks.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/log.h"
#include "block/driver.h"
#include "block/qcow2/bitmap_store.h"
#include "block/qcow2/driver.h"
#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {
namespace {

using nlohmann::json;

// Of all pages in memory; half of it may be dirty at most, by kMuchDirty of commit.cpp.
constexpr size_t kCacheBytes = 8 << 20;
constexpr uint64_t kPageBytes = 4096;

}  // namespace

Qcow2Node::Qcow2Node(Header header)
    : Node("qcow2"),
      header_(std::move(header)),
      cluster_bits_(header_.cluster_bits),
      cluster_bytes_(header_.cluster_bytes()),
      l2_bits_(static_cast<unsigned>(std::countr_zero(cluster_bytes_ / header_.l2_entry_bytes()))),
      entry_bytes_(header_.l2_entry_bytes()),
      unit_bytes_(header_.has(kExtendedL2) ? cluster_bytes_ / kSubclusters : cluster_bytes_),
      refcount_block_bits_(cluster_bits_ + 3 - header_.refcount_order),
      virtual_size_(header_.size),
      pages_(mutex_, std::min(cluster_bytes_, kPageBytes), kCacheBytes) {}

Qcow2Node::~Qcow2Node() = default;

Result<void> Qcow2Node::check_table(uint64_t offset, uint64_t entries, std::string_view what) const {
  if (entries != 0 && offset + entries * 8 > align_up(file_->size(), cluster_bytes_))
    return Error(ErrorKind::kCorrupt,
                 fmt::format("{}: the {} at {:#x} is beyond the end of the file", filename(), what, offset),
                 EINVAL);
  return {};
}

Task<Result<void>> Qcow2Node::read_table(TopTable& table, uint64_t offset, uint64_t entries,
                                         std::string what) {
  CO_TRY(check_table(offset, entries, what));
  std::vector<uint64_t> words(entries);
  if (entries != 0) {
    const int error = co_await read_bytes(*file_, offset, words.data(), entries * 8);
    if (error != 0) co_return failed(fmt::format("the {} at {:#x} cannot be read", what, offset), error);
  }
  const std::lock_guard lock(mutex_);
  table.assign(offset, std::move(words));
  co_return Result<void>();
}

Task<Result<void>> Qcow2Node::read_l1(uint64_t offset, uint64_t entries) {
  TopTable table;
  CO_TRY(co_await read_table(table, offset, entries, "L1 table"));
  const std::lock_guard lock(mutex_);
  l1_ = std::move(table);
  partial_l1_ = nullptr;
  co_return Result<void>();
}

// What is needed for writing is read when the image is opened for that; the L1 table of an image that is only
// read comes part by part.
Task<Result<void>> Qcow2Node::finish_open(bool repair) {
  if (read_only_) {
    CO_TRY(check_table(header_.l1_offset, header_.l1_entries, "L1 table"));
    partial_l1_ = std::make_unique<PartialTable>(header_.l1_offset, header_.l1_entries);
  } else {
    CO_TRY(co_await read_l1(header_.l1_offset, header_.l1_entries));
  }
  CO_TRY(co_await read_snapshots());
  CO_TRY(co_await load_bitmaps());
  if (read_only_) co_return Result<void>();
  CO_TRY(co_await read_table(refcount_table_, header_.refcount_table_offset,
                             header_.refcount_table_clusters * cluster_bytes_ / 8, "refcount table"));
  if (file_->new_space_is_zero() && !encryption_) virgin_from_ = align_up(file_->size(), cluster_bytes_);
  if (repair && header_.has(kDirty)) {
    auto report = co_await check({.repair_leaks = true, .repair_errors = true});
    if (!report) co_return std::move(report).error();
    if (report->corruptions != 0 || report->errors != 0)
      co_return Error(ErrorKind::kCorrupt,
                      fmt::format("{} was not closed and cannot be repaired: {} errors remain; check it",
                                  filename(), report->corruptions + report->errors));
    header_.incompatible &= ~uint64_t{kDirty};
    CO_TRY(co_await write_header());
  }
  co_return Result<void>();
}

Task<Result<void>> Qcow2Node::close() {
  if (read_only_ || !file_) co_return Result<void>();
  Result<void> result;
  int error = 0;
  if (bitmaps_ && !corrupt_) result = co_await store_bitmaps();
  // The first makes what was given up releasable, the second writes the released clusters' refcounts.
  if (prepared_) {
    error = co_await commit();
    if (error == 0) error = co_await release_given_up(true);
    if (error == 0) error = co_await commit();
    if (error == 0 && shorten_ && !corrupt_) error = co_await shorten_file();
    if (error == 0 && header_.has(kDirty) && !corrupt_) {
      header_.incompatible &= ~uint64_t{kDirty};
      auto written = co_await write_header();
      if (!written && result) result = std::move(written);
      error = co_await file_->flush();
    }
  }
  if (error != 0 && result) result = failed("its metadata cannot be written when it is closed", error);
  prepared_ = false;
  co_return result;
}

Limits Qcow2Node::limits() const {
  Limits limits;
  limits.cluster_bytes = cluster_bytes_;
  limits.discard_alignment = cluster_bytes_;
  return limits;
}

std::vector<const Edge*> Qcow2Node::children() const {
  std::vector<const Edge*> edges;
  for (const Edge* edge : {&file_, &data_file_, &backing_})
    if (*edge) edges.push_back(edge);
  return edges;
}

json Qcow2Node::options() const {
  return Node::options();
}

json Qcow2Node::format_specific_info() const {
  json data;
  data["compat"] = header_.version == 2 ? "0.10" : "1.1";
  data["refcount-bits"] = 1u << header_.refcount_order;
  data["compression-type"] = header_.compression == 1 ? "zstd" : "zlib";
  if (header_.version >= 3) {
    data["lazy-refcounts"] = (header_.compatible & kLazyRefcounts) != 0;
    data["corrupt"] = header_.has(kCorrupt);
    data["extended-l2"] = header_.has(kExtendedL2);
  }
  if (header_.has(kDataFile)) {
    data["data-file"] = header_.data_file;
    data["data-file-raw"] = (header_.autoclear & kRawDataFile) != 0;
  }
  add_encryption_info(data);
  add_bitmap_info(data);
  return {{"type", "qcow2"}, {"data", data}};
}

Result<void> Qcow2Node::set_backing(NodePtr node) {
  if (!node) {
    backing_.detach();
    return {};
  }
  Permissions permissions = {.used = kPermissionRead, .shared = kPermissionRead | kPermissionWriteUnchanged};
  if (flags_.force_share) permissions.shared = kPermissionsAll;
  TRY_ASSIGN(Edge edge, Edge::attach(*this, std::move(node), "backing", Role::kBacking, permissions));
  backing_ = std::move(edge);
  return {};
}

Task<Result<void>> Qcow2Node::reopen(bool writable) {
  if (writable == !read_only_) co_return Result<void>();
  if (!writable) {
    CO_TRY(co_await close());
    read_only_ = true;
    CO_TRY(co_await file_->reopen(false));
    if (data_file_) CO_TRY(co_await data_file_->reopen(false));
    co_return Result<void>();
  }
  if (header_.has(kCorrupt))
    co_return Error(ErrorKind::kCorrupt, filename() + " is corrupt; repair it before it is written");
  if (encryption_ && !encryption_->cipher)
    co_return Error(ErrorKind::kPermission,
                    filename() + " is encrypted and was opened without its encrypt.key-secret", EACCES);
  CO_TRY(co_await file_->reopen(true));
  if (data_file_) CO_TRY(co_await data_file_->reopen(true));
  read_only_ = false;
  auto finished = co_await finish_open(true);
  if (finished) co_return finished;
  read_only_ = true;
  for (Edge* const edge : {&file_, &data_file_})
    if (*edge) static_cast<void>(co_await (*edge)->reopen(false));
  co_return finished;
}

Task<Result<void>> Qcow2Node::change_backing_file(std::string file, std::string format) {
  if (read_only_) co_return failed("it is open for reading only", -EROFS);
  if (header_.autoclear & kRawDataFile && !file.empty())
    co_return Error(ErrorKind::kInvalidArgument,
                    filename() + ": an image with a raw data file has no backing file");
  Header next = header_;
  next.backing_file = file;
  next.backing_format = file.empty() ? "" : format;
  CO_TRY_ASSIGN(const std::vector<std::byte> bytes, next.serialize(filename()));
  int error = co_await commit();
  if (error == 0) error = co_await write_bytes(*file_, 0, bytes.data(), bytes.size());
  if (error == 0) error = co_await file_->flush();
  if (error != 0) co_return failed("its header cannot be written", error);
  header_ = std::move(next);
  co_return Result<void>();
}

namespace {

// Of QEMU's settings, those that mean something here. Metadata is always kept from being overwritten, and the
// order of writing it needs no lazy refcounts (docs/block.md).
struct Tuning {
  bool pass_discards = true;  // to the file, when the image's clusters become free
};

Result<void> check_overlap_choice(OptionReader& options) {
  static const std::vector<std::string_view> kTemplates = {"none", "constant", "cached", "all"};
  const auto value = options.take("overlap-check");
  if (!value) return {};
  json named = value->is_object() ? *value : json::object();
  if (!value->is_object()) named["template"] = *value;
  OptionReader inner(std::move(named), options.where() + ": overlap-check");
  TRY_ASSIGN(const auto choice, inner.choice("template", kTemplates));
  static_cast<void>(choice);
  for (const char* part : {"main-header", "active-l1", "active-l2", "refcount-table", "refcount-block",
                           "snapshot-table", "inactive-l1", "inactive-l2", "bitmap-directory"}) {
    TRY_ASSIGN(const auto flag, inner.boolean(part));
    static_cast<void>(flag);
  }
  return inner.finish();
}

Result<Tuning> take_tuning(OptionReader& options) {
  Tuning tuning;
  // Sizes of caches are hints to another implementation: this one bounds its own.
  for (const char* size : {"cache-size", "l2-cache-size", "refcount-cache-size", "l2-cache-entry-size",
                           "cache-clean-interval"}) {
    TRY_ASSIGN(const auto value, options.size(size));
    static_cast<void>(value);
  }
  for (const char* flag :
       {"pass-discard-snapshot", "pass-discard-other", "discard-no-unref", "lazy-refcounts"}) {
    TRY_ASSIGN(const auto value, options.boolean(flag));
    static_cast<void>(value);
  }
  TRY_ASSIGN(const auto pass, options.boolean("pass-discard-request"));
  tuning.pass_discards = pass.value_or(true);
  TRY(check_overlap_choice(options));
  return tuning;
}

Result<EncryptOptions> take_encrypt_options(OptionReader& options) {
  EncryptOptions result;
  const auto values = options.take("encrypt");
  if (!values) return result;
  OptionReader inner(*values, options.where() + ": encrypt");
  TRY_ASSIGN(const auto format, inner.choice("format", {"aes", "luks"}));
  TRY_ASSIGN(const auto secret, inner.string("key-secret"));
  TRY(inner.finish());
  result = {format.value_or(""), secret.value_or("")};
  return result;
}

// Options for the backing file that do not say which it is ("backing.encrypt.key-secret=…") are for the one
// that the image names.
Result<void> complete_backing(json& value, const Header& header, const std::string& name) {
  if (!value.is_object() || value.contains("driver") || value.contains("file") || value.contains("filename"))
    return {};
  if (header.backing_file.empty())
    return Error(ErrorKind::kInvalidArgument, name + " has no backing file, but options for one are given");
  TRY_ASSIGN(value["file"], options_of_filename(backing_path(name, header.backing_file)));
  if (!header.backing_format.empty()) value["driver"] = header.backing_format;
  return {};
}

Task<Result<Header>> read_header(NodePtr file, std::string name) {
  std::vector<std::byte> bytes(std::min<uint64_t>(file->size(), 65536));
  int error = 0;
  if (!bytes.empty()) error = co_await read_bytes(*file, 0, bytes.data(), bytes.size());
  if (error != 0) co_return errno_error(name + ": its header cannot be read", -error);
  if (bytes.size() == 65536 && load_be<uint32_t>(&bytes[0]) == kMagic) {
    const auto bits = load_be<uint32_t>(&bytes[20]);
    if (bits > 16 && bits <= 21 && load_be<uint64_t>(&bytes[8]) > 60000) {
      // A long header of an image with large clusters.
      bytes.resize(std::min<uint64_t>(file->size(), uint64_t{1} << bits));
      error = co_await read_bytes(*file, 0, bytes.data(), bytes.size());
      if (error != 0) co_return errno_error(name + ": its header cannot be read", -error);
    }
  }
  co_return Header::parse(bytes, name);
}

}  // namespace

Task<Result<NodePtr>> open_qcow2(OpenRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const Tuning tuning, take_tuning(options));
  auto file = co_await request.open_child("file");
  if (!file) co_return std::move(file).error();
  const std::string name = (*file)->filename();
  auto header = co_await read_header(*file, name);
  if (!header) co_return std::move(header).error();
  CO_TRY_ASSIGN(const EncryptOptions encrypt, take_encrypt_options(options));
  if (header->encryption == 0 && !(encrypt.format.empty() && encrypt.secret.empty()))
    co_return options.error("encrypt", "is given, but the image is not encrypted");
  if (header->has(kCorrupt) && request.flags.writable && !request.flags.check)
    co_return Error(ErrorKind::kCorrupt, name + " is corrupt and cannot be written; check and repair it");

  NodePtr data;
  const bool has_data_option = request.has("data-file");
  if (header->has(kDataFile)) {
    if (has_data_option) {
      auto opened = co_await request.open_child("data-file");
      if (!opened) co_return std::move(opened).error();
      data = *std::move(opened);
    } else {
      if (header->data_file.empty())
        co_return Error(ErrorKind::kInvalidArgument,
                        name + " has its data in another file; name it with data-file=");
      // As it is written, not relative to the image: so does QEMU.
      CO_TRY_ASSIGN(json described, options_of_filename(header->data_file));
      auto opened = co_await request.opener.open_at(std::move(described), request.flags, request.depth + 1);
      if (!opened) co_return std::move(opened).error().with_context("data file of " + name);
      data = *std::move(opened);
    }
  } else if (has_data_option) {
    co_return options.error("data-file", "is given, but the image has its data in itself");
  }

  NodePtr backing;
  bool no_backing = request.flags.no_backing;
  if (request.has("backing")) {
    json& value = options.left()["backing"];
    if (value.is_null() || value == "") {
      options.take("backing");
      no_backing = true;
    } else {
      OpenFlags flags = request.flags;
      flags.writable = false;
      CO_TRY(complete_backing(value, *header, name));
      auto opened = co_await request.open_child("backing", flags);
      if (!opened) co_return std::move(opened).error();
      backing = *std::move(opened);
      no_backing = true;
    }
  }
  CO_TRY(options.finish());
  if (!no_backing && !header->backing_file.empty()) {
    OpenFlags flags = request.flags;
    flags.check = false;
    auto opened = co_await request.opener.open_backing(name, header->backing_file, header->backing_format,
                                                       flags, request.depth);
    if (!opened) co_return std::move(opened).error();
    backing = *std::move(opened);
  }

  auto node = std::make_shared<Qcow2Node>(*std::move(header));
  CO_TRY(node->connect(*std::move(file), std::move(data), request.flags));
  node->discard_host_ = node->discards_ && tuning.pass_discards;
  if (backing) CO_TRY(node->set_backing(std::move(backing)));
  if (node->encrypted()) CO_TRY(co_await node->open_encryption(encrypt, request.opener));
  CO_TRY(co_await node->finish_open(!request.flags.check));
  co_return NodePtr(std::move(node));
}

Result<void> Qcow2Node::connect(NodePtr file, NodePtr data, OpenFlags flags) {
  flags_ = flags;
  read_only_ = !flags.writable;
  discards_ = discard_host_ = flags.unmap;
  Permissions permissions;
  permissions.used = read_only_ ? kPermissionRead : kPermissionRead | kPermissionWrite | kPermissionResize;
  permissions.shared = flags.force_share ? kPermissionsAll : kPermissionRead | kPermissionWriteUnchanged;
  TRY_ASSIGN(file_, Edge::attach(*this, std::move(file), "file", Role::kFile, permissions));
  if (data) {
    TRY_ASSIGN(data_file_, Edge::attach(*this, std::move(data), "data-file", Role::kData, permissions));
  }
  return {};
}

}  // namespace ostler::block::qcow2
