// The driver "qed": recognising and creating.
#include <fmt/format.h>

#include "block/formats/qed/qed_node.h"

namespace ostler::block {
namespace {

constexpr OptionSpec kCreateOptions[] = {
    {"backing_file", "str", "File name of a base image"},
    {"backing_fmt", "str", "Image format of the base image"},
    {"cluster_size", "size", "Cluster size (in bytes)"},
    {"size", "size", "Virtual disk size"},
    {"table_size", "size", "L1/L2 table size (in clusters)"},
};

int probe_qed(std::span<const std::byte> head, std::span<const std::byte>, uint64_t, std::string_view) {
  return head.size() >= QedHeader::kBytes && load_le<uint32_t>(head.data()) == QedHeader::kMagic ? 100 : 0;
}

Task<Result<void>> create_qed(CreateRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto size, options.size("size"));
  if (!size) co_return options.error("size", "is missing");
  CO_TRY_ASSIGN(const auto cluster_size, options.size("cluster_size"));
  CO_TRY_ASSIGN(const auto table_size, options.number("table_size"));
  CO_TRY_ASSIGN(const auto backing_file, options.string("backing_file"));
  CO_TRY_ASSIGN(const auto backing_format, options.string("backing_fmt"));
  CO_TRY(options.finish());
  const uint64_t cluster = cluster_size.value_or(65536), tables = table_size.value_or(4);
  if (!is_power_of_two(cluster) || cluster < 4096 || cluster > (64u << 20))
    co_return options.error("cluster_size",
                            fmt::format("is {}; it must be a power of two from 4 KiB to 64 MiB", cluster));
  // Tables of one cluster are within the specification and are read, but qemu-img opens no such image.
  if (!is_power_of_two(tables) || tables < 2 || tables > 16)
    co_return options.error("table_size", fmt::format("is {}; it must be 2, 4, 8 or 16", tables));
  QedHeader header;
  header.cluster_bytes = static_cast<uint32_t>(cluster);
  header.table_clusters = static_cast<uint32_t>(tables);
  // Nor one whose tables reach further than 64 bits tell.
  if (header.reach_bytes() == 0) {
    while (header.reach_bytes() == 0) header.cluster_bytes /= 2;
    co_return options.error("cluster_size",
                            fmt::format("is {}; with tables of {} clusters {} bytes are the most", cluster,
                                        tables, header.cluster_bytes));
  }
  header.l1_offset = cluster;
  header.disk_bytes = align_up(*size, 512);
  if (header.disk_bytes > header.most_bytes())
    co_return options.error("size", fmt::format("is {}; with such clusters and tables {} bytes are the most",
                                                *size, header.most_bytes()));
  if (backing_file && backing_file->size() > 1023)
    co_return options.error("backing_file", "is longer than 1023 characters");
  CO_TRY_ASSIGN(const NodePtr made, co_await request.files.make_own());
  Node& file = *made;
  CO_TRY(co_await zero_image(file, 0, header.l1_offset + header.table_bytes()));
  if (backing_file && !backing_file->empty()) {
    header.features |= QedHeader::kBacking;
    if (backing_format == "raw") header.features |= QedHeader::kBackingIsRaw;
    header.backing_offset = QedHeader::kBytes;
    header.backing_bytes = static_cast<uint32_t>(backing_file->size());
    CO_TRY(co_await write_image(file, header.backing_offset, backing_file->data(), backing_file->size()));
  }
  const auto bytes = header.encode();
  co_return co_await write_image(file, 0, bytes.data(), bytes.size());
}

}  // namespace

extern const Driver kQedDriver;
const Driver kQedDriver = {.name = "qed",
                           .kind = DriverKind::kFormat,
                           .probe = probe_qed,
                           .open = QedNode::open,
                           .create = create_qed,
                           .create_options = kCreateOptions};

}  // namespace ostler::block
