// New images, how large they will be, and the driver's entry.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <optional>

#include "block/driver.h"
#include "block/qcow2/driver.h"
#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {
namespace {

using nlohmann::json;

constexpr OptionSpec kCreateOptions[] = {
    {"backing_file", "str", "File name of a base image"},
    {"backing_fmt", "str", "Image format of the base image"},
    {"cluster_size", "size", "qcow2 cluster size"},
    {"compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"compression_type", "str", "Compression method used for image cluster compression"},
    {"data_file", "str", "File name of an external data file"},
    {"data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image"},
    {"encrypt.cipher-alg", "str",
     "Name of encryption cipher algorithm: aes-128, aes-192, aes-256 (default), cast5-128, serpent-128, "
     "serpent-192, serpent-256, twofish-128 or twofish-256"},
    {"encrypt.cipher-mode", "str", "Name of encryption cipher mode: cbc, ctr, ecb or xts (default)"},
    {"encrypt.format", "str", "Encrypt the image: luks"},
    {"encrypt.hash-alg", "str",
     "Name of encryption hash algorithm: md5, ripemd160, sha1, sha224, sha256 (default), sha384 or sha512"},
    {"encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {"encrypt.ivgen-alg", "str", "Name of IV generator algorithm: essiv, plain or plain64 (default)"},
    {"encrypt.ivgen-hash-alg", "str",
     "Name of IV generator hash algorithm, for essiv: sha256 (default) or md5"},
    {"encrypt.key-secret", "str", "ID of secret providing the LUKS passphrase"},
    {"encryption", "bool (on/off)", "The old way to say encrypt.format=aes, which is not made any more"},
    {"extended_l2", "bool (on/off)", "Extended L2 tables"},
    {"lazy_refcounts", "bool (on/off)", "Postpone refcount updates"},
    {"preallocation", "str", "Preallocation mode (allowed values: off, metadata, falloc, full)"},
    {"refcount_bits", "num", "Width of a reference count entry in bits"},
    {"size", "size", "Virtual disk size"},
};
constexpr OptionSpec kAmendOptions[] = {
    {"backing_file", "str", "File name of a base image"},
    {"backing_fmt", "str", "Image format of the base image"},
    {"compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"data_file", "str", "File name of an external data file"},
    {"data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image"},
    {"encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {"encrypt.keyslot", "num",
     "The key slot to change; else the first free one, or all that old-secret opens"},
    {"encrypt.new-secret", "str", "ID of the secret with the passphrase to add"},
    {"encrypt.old-secret", "str", "ID of the secret with the passphrase to take away"},
    {"encrypt.state", "str", "What the key slot becomes (active/inactive)"},
    {"lazy_refcounts", "bool (on/off)", "Postpone refcount updates"},
    {"refcount_bits", "num", "Width of a reference count entry in bits"},
    {"size", "size", "Virtual disk size"},
};

Result<std::optional<LuksPlan>> take_encryption(OptionReader& options) {
  TRY_ASSIGN(const auto old, options.boolean("encryption"));
  if (old.value_or(false)) return options.error("encryption", "is of the past; use encrypt.format=luks");
  const auto values = options.take("encrypt");
  if (!values) return std::optional<LuksPlan>();
  OptionReader inner(*values, options.where() + ": encrypt");
  TRY_ASSIGN(const auto format, inner.choice("format", {"aes", "luks"}));
  if (!format) return inner.error("format", "is missing; it is luks");
  if (*format == "aes") return inner.error("format", "'aes' is only read, not made; use luks");
  TRY_ASSIGN(LuksPlan plan, read_luks_plan(inner));
  TRY(inner.finish());
  return std::optional<LuksPlan>(std::move(plan));
}

struct NewImage {
  Header header;
  uint64_t size = 0;
  Preallocation preallocation = Preallocation::kOff;
  std::optional<LuksPlan> encryption;
};

Result<NewImage> parse_new_image(OptionReader& options) {
  NewImage image;
  Header& h = image.header;
  TRY_ASSIGN(const auto size, options.size("size"));
  if (!size) return options.error("size", "is missing");
  image.size = align_up(*size, 512);
  TRY_ASSIGN(const auto compat, options.choice("compat", {"0.10", "1.1", "v2", "v3"}));
  h.version = compat == "0.10" || compat == "v2" ? 2 : 3;
  TRY_ASSIGN(const auto cluster, options.size("cluster_size"));
  const uint64_t cluster_bytes = cluster.value_or(65536);
  if (!std::has_single_bit(cluster_bytes) || cluster_bytes < 512 || cluster_bytes > 2u << 20)
    return options.error("cluster_size", "must be a power of two from 512 to 2M");
  h.cluster_bits = static_cast<uint32_t>(std::countr_zero(cluster_bytes));
  TRY_ASSIGN(const auto bits, options.number("refcount_bits", 64));
  const uint64_t refcount_bits = bits.value_or(16);
  if (!std::has_single_bit(refcount_bits))
    return options.error("refcount_bits", "must be a power of two from 1 to 64");
  h.refcount_order = static_cast<uint32_t>(std::countr_zero(refcount_bits));
  if (h.version == 2 && refcount_bits != 16)
    return options.error("refcount_bits", "other than 16 needs compat=1.1");
  TRY_ASSIGN(const auto lazy, options.boolean("lazy_refcounts"));
  if (lazy.value_or(false)) {
    if (h.version == 2) return options.error("lazy_refcounts", "needs compat=1.1");
    h.compatible |= kLazyRefcounts;
  }
  TRY_ASSIGN(const auto extended, options.boolean("extended_l2"));
  if (extended.value_or(false)) {
    if (h.version == 2) return options.error("extended_l2", "needs compat=1.1");
    if (cluster_bytes < 16384) return options.error("extended_l2", "needs clusters of 16k or more");
    h.incompatible |= kExtendedL2;
  }
  TRY_ASSIGN(const auto compression, options.choice("compression_type", {"zlib", "zstd"}));
  if (compression == "zstd") {
    if (h.version == 2) return options.error("compression_type", "other than zlib needs compat=1.1");
    h.compression = 1;
    h.incompatible |= kCompression;
  }
  TRY_ASSIGN(const auto backing, options.string("backing_file"));
  TRY_ASSIGN(const auto backing_format, options.string("backing_fmt"));
  h.backing_file = backing.value_or("");
  if (!h.backing_file.empty()) h.backing_format = backing_format.value_or("");
  TRY_ASSIGN(const auto mode, options.choice("preallocation", {"off", "metadata", "falloc", "full"}));
  if (mode == "metadata") image.preallocation = Preallocation::kMetadata;
  if (mode == "falloc") image.preallocation = Preallocation::kFalloc;
  if (mode == "full") image.preallocation = Preallocation::kFull;
  if (!h.backing_file.empty() && image.preallocation != Preallocation::kOff)
    return options.error("preallocation",
                         "cannot be used with a backing file: it would hide the file's content");
  TRY_ASSIGN(const auto data_file, options.string("data_file"));
  TRY_ASSIGN(const auto raw, options.boolean("data_file_raw"));
  if (data_file) {
    if (h.version == 2) return options.error("data_file", "needs compat=1.1");
    h.data_file = *data_file;
    h.incompatible |= kDataFile;
  }
  if (raw.value_or(false)) {
    if (!data_file) return options.error("data_file_raw", "needs data_file");
    if (!h.backing_file.empty())
      return options.error("data_file_raw", "and a backing file exclude each other");
    h.autoclear |= kRawDataFile;
    if (image.preallocation == Preallocation::kOff) image.preallocation = Preallocation::kMetadata;
  }
  TRY_ASSIGN(options.left(), nest_options(options.left()));
  TRY_ASSIGN(image.encryption, take_encryption(options));
  if (image.encryption && (h.autoclear & kRawDataFile) != 0)
    return options.error("data_file_raw", "and encryption exclude each other");
  TRY(options.finish());
  return image;
}

uint64_t ceil_div(uint64_t value, uint64_t by) {
  return value / by + (value % by != 0);
}

// Header, tables and refcounts of an image whose data takes `data_bytes`.
uint64_t metadata_bytes(const Header& h, uint64_t size, uint64_t data_bytes) {
  const uint64_t cluster = h.cluster_bytes(), entries = cluster / h.l2_entry_bytes();
  const uint64_t tables = ceil_div(ceil_div(size, cluster), entries);
  const uint64_t l1_clusters = ceil_div(tables * 8, cluster);
  const uint64_t fixed = 1 + tables + l1_clusters + ceil_div(data_bytes, cluster);
  const uint64_t per_block = cluster * 8 >> h.refcount_order;
  uint64_t blocks = 0, table = 0, before = 0, total = fixed;
  while (total != before) {
    before = total;
    blocks = ceil_div(fixed + table + blocks, per_block);
    table = ceil_div(blocks, cluster / 8);
    total = fixed + blocks + table;
  }
  return (1 + tables + l1_clusters + blocks + table) * cluster;
}

// What properly stored bitmaps take: a directory, and a table and bits of each (qcow2 "Bitmaps extension").
uint64_t bitmap_bytes(const Header& h, uint64_t size, const std::vector<BitmapInfo>& list) {
  constexpr uint64_t kEntryBytes = 24, kTableEntryBytes = 8;
  const uint64_t cluster = h.cluster_bytes();
  uint64_t directory = 0, total = 0;
  for (const BitmapInfo& each : list) {
    if (!each.persistent || each.in_use) continue;
    const uint64_t bits = ceil_div(size, each.granularity);
    const uint64_t clusters = ceil_div(ceil_div(bits, 8), cluster);
    total += clusters * cluster + align_up(clusters * kTableEntryBytes, cluster);
    directory += align_up(kEntryBytes + each.name.size(), 8);
  }
  return total + align_up(directory, cluster);
}

json open_file_options(const std::string& path) {
  return json{{"driver", "file"}, {"filename", path}};
}

Result<void> check_size(const NewImage& image, const std::string& where) {
  const Header& header = image.header;
  if (header.l1_entries_for(image.size) <= kMostL1Bytes / 8) return {};
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("{}: {} bytes are too many for clusters of {}; use larger clusters", where,
                           image.size, header.cluster_bytes()));
}

}  // namespace

Task<Result<void>> create_qcow2(CreateRequest request) {
  CO_TRY_ASSIGN(NewImage image, parse_new_image(request.options));
  std::string passphrase;
  if (image.encryption) {
    if (image.encryption->secret.empty())
      co_return request.options.error("encrypt.key-secret",
                                      "is missing: the name of an --object secret with the passphrase");
    CO_TRY_ASSIGN(passphrase, request.opener.secret(image.encryption->secret, "encrypt.key-secret"));
  }
  Header& h = image.header;
  const uint64_t cluster = h.cluster_bytes();
  h.refcount_table_offset = cluster;
  h.refcount_table_clusters = 1;
  CO_TRY(check_size(image, request.filename));
  CO_TRY_ASSIGN(const std::vector<std::byte> header, h.serialize(request.filename));
  CO_TRY_ASSIGN(const NodePtr file, co_await request.files.make_own());
  NodePtr data;
  if (h.has(kDataFile)) {
    const std::string path = h.data_file;
    CO_TRY(co_await request.files.make_other(path));
    json open_options = open_file_options(path);
    auto opened = co_await request.opener.open_at(std::move(open_options), request.flags, 0);
    if (!opened) co_return std::move(opened).error();
    data = *std::move(opened);
  }
  // Header, refcount table, one refcount block; the rest is made by opening and growing it.
  std::vector<std::byte> tables(2 * cluster);
  store_be<uint64_t>(tables.data(), 2 * cluster);
  for (uint64_t i = 0; i < 3; ++i) store_refcount(&tables[cluster], i, h.refcount_order, 1);
  int error = co_await write_bytes(*file, cluster, tables.data(), tables.size());
  if (error == 0) error = co_await write_bytes(*file, 0, header.data(), header.size());
  if (error != 0) co_return errno_error(request.filename + ": the image cannot be written", -error);
  auto node = std::make_shared<Qcow2Node>(h);
  OpenFlags flags = request.flags;
  flags.writable = true;
  CO_TRY(node->connect(file, std::move(data), flags));
  CO_TRY(co_await node->finish_open(false));
  if (image.encryption) {
    LuksPlan plan = *std::move(image.encryption);
    std::string text = passphrase;
    CO_TRY(co_await node->create_encryption(std::move(plan), std::move(text)));
  }
  auto grown = co_await node->truncate(image.size, image.preallocation);
  auto closed = co_await node->close();
  if (!grown) co_return grown;
  co_return closed;
}

Task<Result<json>> measure_qcow2(json options, NodePtr source) {
  if (source && !options.contains("size")) options["size"] = source->size();
  OptionReader reader(std::move(options), "measure");
  CO_TRY_ASSIGN(const NewImage image, parse_new_image(reader));
  CO_TRY(check_size(image, "measure"));
  const uint64_t cluster = image.header.cluster_bytes();
  const uint64_t size = align_up(image.size, cluster);
  uint64_t data = image.preallocation >= Preallocation::kFalloc ? size : 0;
  if (source && data == 0) {
    uint64_t counted = 0;  // clusters below have been
    for (uint64_t at = 0; at < source->size();) {
      ChainStatus status;
      const int error =
          co_await chain_status(source, nullptr, at, source->size() - at, StatusDetail::kPrecise, status);
      if (error != 0) co_return errno_error(source->filename() + " cannot be measured", -error);
      if (status.bytes == 0) break;
      if (!status.zero && status.allocated) {
        const uint64_t first = std::max(align_down(at, cluster), counted),
                       end = align_up(at + status.bytes, cluster);
        if (end > first) data += end - first;
        counted = std::max(counted, end);
      }
      at += status.bytes;
    }
  }
  const uint64_t keys = image.encryption ? align_up(image.encryption->header.payload_offset(), cluster) : 0;
  const uint64_t whole = keys + metadata_bytes(image.header, image.size, size) + size;
  json result;
  result["required"] = image.header.has(kDataFile) ? whole - size : whole - size + data;
  result["fully-allocated"] = image.header.has(kDataFile) ? whole - size : whole;
  Bitmaps* const bitmaps = source ? source->bitmaps() : nullptr;
  if (bitmaps != nullptr && image.header.version >= 3)
    result["bitmaps"] = bitmap_bytes(image.header, image.size, bitmaps->list());
  co_return result;
}

namespace {

int probe(std::span<const std::byte> head, std::span<const std::byte>, uint64_t, std::string_view) {
  if (head.size() < 8 || load_be<uint32_t>(&head[0]) != kMagic) return 0;
  return load_be<uint32_t>(&head[4]) >= 2 ? 100 : 0;
}

}  // namespace
}  // namespace ostler::block::qcow2

namespace ostler::block {

extern const Driver kQcow2Driver;
const Driver kQcow2Driver = {.name = "qcow2",
                             .kind = DriverKind::kFormat,
                             .probe = qcow2::probe,
                             .open = qcow2::open_qcow2,
                             .create = qcow2::create_qcow2,
                             .create_options = qcow2::kCreateOptions,
                             .amend_options = qcow2::kAmendOptions,
                             .measure = qcow2::measure_qcow2,
                             .compression = true};

}  // namespace ostler::block
