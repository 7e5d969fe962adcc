// The driver "parallels": recognising, opening and creating.
#include <fmt/format.h>

#include "block/driver.h"
#include "block/formats/parallels/parallels_node.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;

constexpr OptionSpec kCreateOptions[] = {
    {"cluster_size", "size", "Parallels image cluster size"},
    {"size", "size", "Virtual disk size"},
};

int probe_parallels(std::span<const std::byte> head, std::span<const std::byte>, uint64_t, std::string_view) {
  return ParallelsHeader::recognised(head) && load_le<uint32_t>(head.data() + 16) == 2 ? 100 : 0;
}

Task<Result<NodePtr>> open_parallels(OpenRequest request) {
  auto file = co_await request.open_child("file");
  if (!file) co_return std::move(file).error();
  CO_TRY(request.options.finish());
  auto node = co_await ParallelsNode::open(*std::move(file), !request.flags.writable);
  if (!node) co_return std::move(node).error();
  co_return NodePtr(*std::move(node));
}

Task<Result<void>> create_parallels(CreateRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto size, options.size("size"));
  if (!size) co_return options.error("size", "is missing");
  CO_TRY_ASSIGN(const auto cluster_size, options.size("cluster_size"));
  CO_TRY(options.finish());
  const uint64_t cluster = cluster_size.value_or(1 << 20);
  if (cluster == 0 || cluster % kSector != 0 || cluster > (256u << 20))
    co_return options.error("cluster_size",
                            fmt::format("is {}; it must be a multiple of 512 up to 256 MiB", cluster));
  ParallelsHeader header;
  header.sectors = align_up(*size, kSector) / kSector;
  header.cluster_sectors = static_cast<uint32_t>(cluster / kSector);
  const uint64_t entries = (header.sectors + header.cluster_sectors - 1) / header.cluster_sectors;
  if (entries * 4 > ParallelsHeader::kMostTableBytes || header.sectors / header.heads / 32 > 0xffffffff)
    co_return options.error(
        "size",
        fmt::format("is {}, more than a parallels image with clusters of {} bytes holds", *size, cluster));
  header.entries = static_cast<uint32_t>(entries);
  header.cylinders = static_cast<uint32_t>(header.sectors / header.heads / 32);
  const uint64_t data = (ParallelsHeader::kBytes + entries * 4 + cluster - 1) / cluster * cluster;
  header.data_sector = static_cast<uint32_t>(data / kSector);
  CO_TRY_ASSIGN(const NodePtr file, co_await request.files.make_own());
  CO_TRY(co_await zero_image(*file, 0, data));
  const auto bytes = header.encode();
  co_return co_await write_image(*file, 0, bytes.data(), bytes.size());
}

}  // namespace

extern const Driver kParallelsDriver;
const Driver kParallelsDriver = {.name = "parallels",
                                 .kind = DriverKind::kFormat,
                                 .probe = probe_parallels,
                                 .open = open_parallels,
                                 .create = create_parallels,
                                 .create_options = kCreateOptions};

}  // namespace ostler::block
