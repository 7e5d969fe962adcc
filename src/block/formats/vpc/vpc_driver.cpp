// The driver "vpc": recognising, opening and creating.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "block/driver.h"
#include "block/formats/vpc/vpc_node.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kMostSectors = 0xff000000;  // 2040 GiB, the limit of the format
constexpr int64_t kSecondsTo2000 = 946684800;

constexpr OptionSpec kCreateOptions[] = {
    {"force_size", "bool (on/off)",
     "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based "
     "calculation"},
    {"size", "size", "Virtual disk size"},
    {"subformat", "str",
     "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed}"},
};

// A fixed disk has a footer only. A guest can write one to the end of its raw disk, but not name the file.
int probe_vpc(std::span<const std::byte> head, std::span<const std::byte> tail, uint64_t,
              std::string_view filename) {
  if (head.size() >= 8 && std::memcmp(head.data(), "conectix", 8) == 0) return 100;
  const bool named = filename.ends_with(".vhd") || filename.ends_with(".VHD");
  return named && tail.size() == VhdFooter::kBytes && VhdFooter::recognised(tail.first<VhdFooter::kBytes>())
             ? 90
             : 0;
}

Task<Result<NodePtr>> open_vpc(OpenRequest request) {
  auto file = co_await request.open_child("file");
  if (!file) co_return std::move(file).error();
  CO_TRY(request.options.finish());
  auto node = co_await VpcNode::open(*std::move(file), !request.flags.writable);
  if (!node) co_return std::move(node).error();
  co_return NodePtr(*std::move(node));
}

// The smallest geometry that holds `sectors`.
VhdGeometry geometry_for(uint64_t sectors) {
  VhdGeometry geometry = VhdGeometry::of(sectors);
  for (uint64_t more = 1; geometry.total() < sectors && sectors <= VhdGeometry::kMostSectors; ++more)
    geometry = VhdGeometry::of(sectors + more);
  return geometry;
}

Task<Result<void>> write_dynamic(Node& file, VhdFooter footer) {
  VhdHeader header;
  footer.header_offset = VhdFooter::kBytes;
  header.table_offset = footer.header_offset + VhdHeader::kBytes;
  header.entries =
      static_cast<uint32_t>((footer.current_bytes + header.block_bytes - 1) / header.block_bytes);
  const std::vector<std::byte> table(align_up(header.entries * uint64_t{4}, kSector), std::byte{0xff});
  const auto footer_bytes = footer.encode();
  const auto header_bytes = header.encode();
  CO_TRY(co_await write_image(file, 0, footer_bytes.data(), footer_bytes.size()));
  CO_TRY(co_await write_image(file, footer.header_offset, header_bytes.data(), header_bytes.size()));
  CO_TRY(co_await write_image(file, header.table_offset, table.data(), table.size()));
  co_return co_await write_image(file, header.table_offset + table.size(), footer_bytes.data(),
                                 footer_bytes.size());
}

Task<Result<void>> create_vpc(CreateRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto size, options.size("size"));
  if (!size) co_return options.error("size", "is missing");
  CO_TRY_ASSIGN(const auto subformat, options.choice("subformat", {"dynamic", "fixed"}));
  CO_TRY_ASSIGN(const auto force_size, options.boolean("force_size"));
  CO_TRY(options.finish());
  const uint64_t sectors = align_up(*size, kSector) / kSector;
  if (sectors > kMostSectors)
    co_return options.error("size", fmt::format("is {}; a vpc image holds at most 2040 GiB", *size));
  VhdFooter footer;
  footer.geometry = geometry_for(sectors);
  // Beyond the largest geometry the size tells.
  const bool exact = force_size.value_or(false) || sectors > VhdGeometry::kMostSectors;
  if (force_size.value_or(false)) footer.creator = "qem2";
  footer.current_bytes = (exact ? sectors : footer.geometry.total()) * kSector;
  footer.original_bytes = footer.current_bytes;
  footer.type = subformat == "fixed" ? VhdFooter::kFixed : VhdFooter::kDynamic;
  footer.uuid = random_uuid();
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  footer.timestamp =
      static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count() - kSecondsTo2000);
  CO_TRY_ASSIGN(const NodePtr made, co_await request.files.make_own());
  Node& file = *made;
  if (footer.type == VhdFooter::kDynamic) co_return co_await write_dynamic(file, footer);
  const auto bytes = footer.encode();
  if (footer.current_bytes != 0) CO_TRY(co_await zero_image(file, 0, footer.current_bytes));
  co_return co_await write_image(file, footer.current_bytes, bytes.data(), bytes.size());
}

}  // namespace

extern const Driver kVpcDriver;
const Driver kVpcDriver = {.name = "vpc",
                           .kind = DriverKind::kFormat,
                           .probe = probe_vpc,
                           .open = open_vpc,
                           .create = create_vpc,
                           .create_options = kCreateOptions};

}  // namespace ostler::block
