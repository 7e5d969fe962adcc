// The driver "vdi": recognising, opening and creating.
#include <fmt/format.h>

#include "block/driver.h"
#include "block/formats/vdi/vdi_node.h"

namespace ostler::block {
namespace {

constexpr OptionSpec kCreateOptions[] = {
    {"size", "size", "Virtual disk size"},
    {"static", "bool (on/off)", "VDI static (pre-allocated) image"},
};

int probe_vdi(std::span<const std::byte> head, std::span<const std::byte>, uint64_t, std::string_view) {
  return head.size() >= VdiHeader::kBytes &&
                 load_le<uint32_t>(head.data() + VdiHeader::kSignatureOffset) == VdiHeader::kSignature
             ? 100
             : 0;
}

Task<Result<NodePtr>> open_vdi(OpenRequest request) {
  auto file = co_await request.open_child("file");
  if (!file) co_return std::move(file).error();
  CO_TRY(request.options.finish());
  auto node = co_await VdiNode::open(*std::move(file), !request.flags.writable);
  if (!node) co_return std::move(node).error();
  co_return NodePtr(*std::move(node));
}

Task<Result<void>> create_vdi(CreateRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto size, options.size("size"));
  if (!size) co_return options.error("size", "is missing");
  CO_TRY_ASSIGN(const auto is_static, options.boolean("static"));
  CO_TRY(options.finish());
  VdiHeader header;
  header.type = is_static.value_or(false) ? VdiHeader::kStatic : VdiHeader::kDynamic;
  header.disk_bytes = align_up(*size, 512);
  const uint64_t blocks = (header.disk_bytes + header.block_bytes - 1) / header.block_bytes;
  if (blocks * 4 > VdiHeader::kMostMapBytes)
    co_return options.error("size", fmt::format("is {}; a vdi image holds at most {} bytes", *size,
                                                VdiHeader::kMostMapBytes / 4 * header.block_bytes));
  header.blocks = static_cast<uint32_t>(blocks);
  header.data_offset = static_cast<uint32_t>(align_up(header.map_offset + blocks * 4, 512));
  header.allocated = header.type == VdiHeader::kStatic ? header.blocks : 0;
  header.uuid = random_uuid();
  header.last_snapshot = random_uuid();
  CO_TRY_ASSIGN(const NodePtr made, co_await request.files.make_own());
  Node& file = *made;
  const auto bytes = header.encode();
  CO_TRY(co_await write_image(file, 0, bytes.data(), bytes.size()));
  std::vector<uint32_t> map((header.data_offset - header.map_offset) / 4);
  for (uint32_t i = 0; i < header.blocks; ++i)
    map[i] = header.type == VdiHeader::kStatic ? i : VdiHeader::kUnallocated;
  if (!map.empty()) CO_TRY(co_await write_image(file, header.map_offset, map.data(), map.size() * 4));
  if (header.allocated != 0)
    co_return co_await zero_image(file, header.data_offset, blocks * header.block_bytes);
  co_return Result<void>();
}

}  // namespace

extern const Driver kVdiDriver;
const Driver kVdiDriver = {.name = "vdi",
                           .kind = DriverKind::kFormat,
                           .probe = probe_vdi,
                           .open = open_vdi,
                           .create = create_vdi,
                           .create_options = kCreateOptions};

}  // namespace ostler::block
