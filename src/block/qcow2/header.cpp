#include "block/qcow2/header.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace ostler::block::qcow2 {
namespace {

struct FeatureName {
  uint8_t type, bit;
  const char* name;
};
constexpr FeatureName kFeatures[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};
constexpr size_t kFeatureNameBytes = 46;

Error corrupt(const std::string& name, std::string problem) {
  return Error(ErrorKind::kCorrupt, fmt::format("{}: not a valid qcow2 image: {}", name, problem), EINVAL);
}

std::string text(std::span<const std::byte> bytes) {
  std::string result(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return result.substr(0, result.find('\0'));
}

// The names of the incompatible bits in `unknown`, as the image's table has them.
std::string unknown_names(uint64_t unknown, std::span<const std::byte> table) {
  std::string names;
  for (unsigned i = 0; i < 64; ++i) {
    if ((unknown >> i & 1) == 0) continue;
    std::string each = fmt::format("bit {}", i);
    for (size_t at = 0; at + 2 + kFeatureNameBytes <= table.size(); at += 2 + kFeatureNameBytes)
      if (table[at] == std::byte{0} && table[at + 1] == static_cast<std::byte>(i))
        each = "'" + text(table.subspan(at + 2, kFeatureNameBytes)) + "'";
    names += (names.empty() ? "" : ", ") + each;
  }
  return names;
}

Result<void> parse_extensions(Header& header, std::span<const std::byte> bytes, size_t at, size_t end,
                              const std::string& name) {
  std::vector<std::byte> feature_table;
  while (at + 8 <= end) {
    const auto type = load_be<uint32_t>(&bytes[at]);
    const auto length = load_be<uint32_t>(&bytes[at + 4]);
    at += 8;
    if (type == kEndOfExtensions) break;
    if (length > end - at)
      return corrupt(
          name, fmt::format("header extension {:#x} at {} is too long ({} bytes)", type, at - 8, length));
    const auto data = bytes.subspan(at, length);
    at += (length + 7) & ~size_t{7};
    switch (type) {
      case kBackingFormat:
        header.backing_format = text(data);
        break;
      case kFeatureNames:
        feature_table.assign(data.begin(), data.end());
        break;
      case kDataFileName:
        header.data_file = text(data);
        break;
      case kBitmapsExtension:
        if (length != 24)
          return corrupt(name, fmt::format("the bitmaps extension has {} bytes, not 24", length));
        header.bitmaps = {load_be<uint32_t>(&data[0]), load_be<uint64_t>(&data[8]),
                          load_be<uint64_t>(&data[16])};
        break;
      case kEncryptionHeader:
        if (length != 16 || header.encryption != 2)
          return corrupt(name, fmt::format("the encryption header's extension has {} bytes, in an image with "
                                           "encryption method {}",
                                           length, header.encryption));
        header.encryption_header = {load_be<uint64_t>(&data[0]), load_be<uint64_t>(&data[8])};
        break;
      default:
        header.other_extensions.push_back({type, {data.begin(), data.end()}});
    }
  }
  if (const uint64_t unknown = header.incompatible & ~uint64_t{kKnownIncompatible}; unknown != 0)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{} needs qcow2 features that this version does not have: {}", name,
                             unknown_names(unknown, feature_table)),
                 ENOTSUP);
  return {};
}

Result<void> check_tables(const Header& h, const std::string& name) {
  const uint64_t mask = h.cluster_bytes() - 1;
  if (h.size > uint64_t{1} << 62) return corrupt(name, fmt::format("its size is {} bytes", h.size));
  if (h.l1_entries > kMostL1Bytes / 8)
    return corrupt(name, fmt::format("the L1 table has {} entries", h.l1_entries));
  if (h.l1_entries < h.l1_entries_for(h.size))
    return corrupt(name,
                   fmt::format("the L1 table has {} entries, too few for {} bytes", h.l1_entries, h.size));
  if ((h.l1_offset & mask) != 0 || h.l1_offset > uint64_t{1} << 56 || (h.l1_entries != 0 && h.l1_offset == 0))
    return corrupt(name, fmt::format("the L1 table's offset is {:#x}", h.l1_offset));
  if ((h.refcount_table_offset & mask) != 0 || h.refcount_table_offset > uint64_t{1} << 56 ||
      h.refcount_table_offset == 0)
    return corrupt(name, fmt::format("the refcount table's offset is {:#x}", h.refcount_table_offset));
  if (h.refcount_table_clusters == 0 || h.refcount_table_clusters > kMostRefcountTableBytes >> h.cluster_bits)
    return corrupt(name, fmt::format("the refcount table has {} clusters", h.refcount_table_clusters));
  const Header::EncryptionHeader& e = h.encryption_header;
  if (h.encryption == 2 && (e.offset == 0 || (e.offset & mask) != 0 || e.offset > uint64_t{1} << 56 ||
                            e.bytes == 0 || e.bytes > kMostEncryptionHeaderBytes))
    return corrupt(name, fmt::format("the encryption header is at {:#x} with {} bytes", e.offset, e.bytes));
  if (h.snapshot_count > kMostSnapshots)
    return corrupt(name, fmt::format("it has {} snapshots", h.snapshot_count));
  if (h.snapshot_count != 0 && ((h.snapshots_offset & mask) != 0 || h.snapshots_offset > uint64_t{1} << 56))
    return corrupt(name, fmt::format("the snapshot table's offset is {:#x}", h.snapshots_offset));
  return {};
}

}  // namespace

Result<Header> Header::parse(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() < kHeaderBytesV2 || load_be<uint32_t>(&bytes[0]) != kMagic)
    return corrupt(name, "the header is not there");
  Header h;
  h.version = load_be<uint32_t>(&bytes[4]);
  if (h.version != 2 && h.version != 3)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{} is a qcow2 image of version {}; known are 2 and 3", name, h.version),
                 ENOTSUP);
  const auto backing_offset = load_be<uint64_t>(&bytes[8]);
  const auto backing_bytes = load_be<uint32_t>(&bytes[16]);
  h.cluster_bits = load_be<uint32_t>(&bytes[20]);
  h.size = load_be<uint64_t>(&bytes[24]);
  h.encryption = load_be<uint32_t>(&bytes[32]);
  h.l1_entries = load_be<uint32_t>(&bytes[36]);
  h.l1_offset = load_be<uint64_t>(&bytes[40]);
  h.refcount_table_offset = load_be<uint64_t>(&bytes[48]);
  h.refcount_table_clusters = load_be<uint32_t>(&bytes[56]);
  h.snapshot_count = load_be<uint32_t>(&bytes[60]);
  h.snapshots_offset = load_be<uint64_t>(&bytes[64]);
  if (h.cluster_bits < 9 || h.cluster_bits > 21)
    return corrupt(name, fmt::format("clusters of 2^{} bytes", h.cluster_bits));
  if (h.encryption > 2)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{}: encryption method {} is not known", name, h.encryption), ENOTSUP);
  size_t header_bytes = kHeaderBytesV2;
  if (h.version == 3) {
    if (bytes.size() < kHeaderBytesV3) return corrupt(name, "the header is cut off");
    h.incompatible = load_be<uint64_t>(&bytes[72]);
    h.compatible = load_be<uint64_t>(&bytes[80]);
    h.autoclear = load_be<uint64_t>(&bytes[88]);
    h.refcount_order = load_be<uint32_t>(&bytes[96]);
    header_bytes = load_be<uint32_t>(&bytes[100]);
    if (header_bytes < kHeaderBytesV3 || header_bytes > h.cluster_bytes() || header_bytes > bytes.size() ||
        header_bytes % 8 != 0)
      return corrupt(name, fmt::format("the header's length is {}", header_bytes));
    if (h.refcount_order > 6) return corrupt(name, fmt::format("refcounts of 2^{} bits", h.refcount_order));
    if (header_bytes > kHeaderBytesV3) h.compression = std::to_integer<uint8_t>(bytes[104]);
    if (header_bytes > kHeaderBytesV3 + 8)
      h.unknown_fields.assign(bytes.begin() + kHeaderBytesV3 + 8,
                              bytes.begin() + static_cast<ptrdiff_t>(header_bytes));
  }
  const size_t end = std::min<size_t>(
      bytes.size(),
      backing_offset != 0 ? std::min<uint64_t>(backing_offset, h.cluster_bytes()) : h.cluster_bytes());
  TRY(parse_extensions(h, bytes, header_bytes, end, name));
  if (h.has(kCompression) != (h.compression != 0))
    return corrupt(name, "the compression type and its feature bit contradict");
  if (h.compression > 1)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{}: compression type {} is not known", name, h.compression), ENOTSUP);
  if (h.has(kExtendedL2) && h.cluster_bits < 14)
    return corrupt(name, "extended L2 entries need clusters of 16 KiB or more");
  if (backing_offset != 0 && backing_bytes != 0) {
    if (backing_bytes > kMostHeaderStrings || backing_offset > h.cluster_bytes() ||
        backing_offset > bytes.size() ||
        backing_bytes > std::min<uint64_t>(bytes.size(), h.cluster_bytes()) - backing_offset)
      return corrupt(
          name, fmt::format("the backing file's name is at {} with {} bytes", backing_offset, backing_bytes));
    h.backing_file = text(bytes.subspan(backing_offset, backing_bytes));
  }
  TRY(check_tables(h, name));
  return h;
}

Result<std::vector<std::byte>> Header::serialize(const std::string& name) const {
  std::vector<std::byte> out(version == 3 ? kHeaderBytesV3 + 8 : kHeaderBytesV2);
  store_be<uint32_t>(&out[0], kMagic);
  store_be<uint32_t>(&out[4], version);
  store_be<uint32_t>(&out[20], cluster_bits);
  store_be<uint64_t>(&out[24], size);
  store_be<uint32_t>(&out[32], encryption);
  store_be<uint32_t>(&out[36], l1_entries);
  store_be<uint64_t>(&out[40], l1_offset);
  store_be<uint64_t>(&out[48], refcount_table_offset);
  store_be<uint32_t>(&out[56], refcount_table_clusters);
  store_be<uint32_t>(&out[60], snapshot_count);
  store_be<uint64_t>(&out[64], snapshots_offset);
  if (version == 3) {
    store_be<uint64_t>(&out[72], incompatible);
    store_be<uint64_t>(&out[80], compatible);
    store_be<uint64_t>(&out[88], autoclear);
    store_be<uint32_t>(&out[96], refcount_order);
    out[104] = static_cast<std::byte>(compression);
    out.insert(out.end(), unknown_fields.begin(), unknown_fields.end());
    store_be<uint32_t>(&out[100], static_cast<uint32_t>(out.size()));
  }
  const auto add = [&](uint32_t type, std::span<const std::byte> data) {
    const size_t at = out.size();
    out.resize(at + 8 + ((data.size() + 7) & ~size_t{7}));
    store_be<uint32_t>(&out[at], type);
    store_be<uint32_t>(&out[at + 4], static_cast<uint32_t>(data.size()));
    std::ranges::copy(data, out.begin() + static_cast<ptrdiff_t>(at) + 8);
  };
  const auto add_text = [&](uint32_t type, const std::string& value) {
    if (!value.empty()) add(type, std::as_bytes(std::span(value)));
  };
  add_text(kBackingFormat, backing_format);
  add_text(kDataFileName, data_file);
  if (encryption == 2) {
    std::byte data[16] = {};
    store_be<uint64_t>(&data[0], encryption_header.offset);
    store_be<uint64_t>(&data[8], encryption_header.bytes);
    add(kEncryptionHeader, data);
  }
  for (const Extension& each : other_extensions) add(each.type, each.data);
  if (bitmaps.count != 0) {
    std::byte data[24] = {};
    store_be<uint32_t>(&data[0], bitmaps.count);
    store_be<uint64_t>(&data[8], bitmaps.directory_bytes);
    store_be<uint64_t>(&data[16], bitmaps.directory_offset);
    add(kBitmapsExtension, data);
  }
  const size_t backing_room = 8 + backing_file.size();
  if (version == 3) {
    std::vector<std::byte> table;
    for (const FeatureName& each : kFeatures) {
      const size_t at = table.size();
      table.resize(at + 2 + kFeatureNameBytes);
      table[at] = static_cast<std::byte>(each.type);
      table[at + 1] = static_cast<std::byte>(each.bit);
      std::ranges::copy(std::as_bytes(std::span(std::string_view(each.name))),
                        table.begin() + static_cast<ptrdiff_t>(at) + 2);
    }
    // Small clusters have no room for names that only help in messages.
    if (out.size() + 8 + table.size() + backing_room <= cluster_bytes()) add(kFeatureNames, table);
  }
  add(kEndOfExtensions, {});
  if (!backing_file.empty()) {
    store_be<uint64_t>(&out[8], out.size());
    store_be<uint32_t>(&out[16], static_cast<uint32_t>(backing_file.size()));
    std::ranges::copy(std::as_bytes(std::span(backing_file)), std::back_inserter(out));
  }
  if (out.size() > cluster_bytes() || backing_file.size() > kMostHeaderStrings)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("{}: the header with the backing file's name takes {} bytes, more than a cluster of {}",
                    name, out.size(), cluster_bytes()),
        ENOSPC);
  out.resize(cluster_bytes());
  return out;
}

}  // namespace ostler::block::qcow2
