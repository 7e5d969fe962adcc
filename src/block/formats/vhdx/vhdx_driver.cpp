// The driver "vhdx": recognising, opening and creating.
#include <fmt/format.h>

#include <cstring>

#include "block/driver.h"
#include "block/formats/vhdx/vhdx_node.h"

namespace ostler::block {
namespace {

constexpr uint64_t kMegabyte = VhdxLayout::kMegabyte;

constexpr OptionSpec kCreateOptions[] = {
    {"block_size", "size", "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size."},
    {"block_state_zero", "bool (on/off)",
     "Force use of payload blocks of type 'ZERO'. Non-standard, but default."},
    {"log_size", "size", "Log size; min 1MB."},
    {"size", "size", "Virtual disk size; max of 64TB."},
    {"subformat", "str", "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'."},
};

int probe_vhdx(std::span<const std::byte> head, std::span<const std::byte>, uint64_t, std::string_view) {
  return head.size() >= 8 && std::memcmp(head.data(), "vhdxfile", 8) == 0 ? 100 : 0;
}

Task<Result<NodePtr>> open_vhdx(OpenRequest request) {
  auto file = co_await request.open_child("file");
  if (!file) co_return std::move(file).error();
  CO_TRY(request.options.finish());
  auto node = co_await VhdxNode::open(*std::move(file), !request.flags.writable);
  if (!node) co_return std::move(node).error();
  co_return NodePtr(*std::move(node));
}

// Larger blocks for larger disks keep the table small.
uint64_t usual_block(uint64_t size) {
  if (size > uint64_t{32} << 40) return 64 * kMegabyte;
  if (size > uint64_t{100} << 30) return 32 * kMegabyte;
  if (size > uint64_t{1} << 30) return 16 * kMegabyte;
  return 8 * kMegabyte;
}

// What every block of a new disk is: in space of its own, zero, or not there.
Task<Result<void>> write_table(Node& file, VhdxLayout layout, uint64_t state, uint64_t data_offset) {
  if (state == VhdxNode::kNotPresent) co_return Result<void>();
  constexpr uint64_t kEntriesAtOnce = 65536;
  const uint64_t ratio = layout.chunk_ratio(), entries = layout.entries();
  uint64_t block = 0;
  for (uint64_t first = 0; first < entries; first += kEntriesAtOnce) {
    std::vector<uint64_t> table(std::min(kEntriesAtOnce, entries - first));
    for (uint64_t i = 0; i < table.size(); ++i) {
      if ((first + i) % (ratio + 1) == ratio) continue;  // a sector bitmap, only of differencing disks
      table[i] = state;
      if (state == VhdxNode::kPresent) table[i] |= data_offset + block * layout.block_bytes;
      ++block;
    }
    CO_TRY(co_await write_image(file, layout.table_offset + first * 8, table.data(), table.size() * 8));
  }
  co_return Result<void>();
}

Task<Result<void>> create_vhdx(CreateRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto size, options.size("size"));
  if (!size) co_return options.error("size", "is missing");
  CO_TRY_ASSIGN(const auto block_size, options.size("block_size"));
  CO_TRY_ASSIGN(const auto log_size, options.size("log_size"));
  CO_TRY_ASSIGN(const auto zero_state, options.boolean("block_state_zero"));
  CO_TRY_ASSIGN(const auto subformat, options.choice("subformat", {"dynamic", "fixed"}));
  CO_TRY(options.finish());
  VhdxLayout layout;
  layout.disk_bytes = align_up(*size, 512);
  if (layout.disk_bytes > VhdxLayout::kMostDisk)
    co_return options.error("size", fmt::format("is {}; a vhdx image holds at most 64 TiB", *size));
  const uint64_t block = block_size.value_or(0) == 0 ? usual_block(layout.disk_bytes) : *block_size;
  if (!is_power_of_two(block) || block < VhdxLayout::kLeastBlock || block > VhdxLayout::kMostBlock)
    co_return options.error("block_size",
                            fmt::format("is {}; it must be a power of two from 1 MiB to 256 MiB", block));
  layout.block_bytes = static_cast<uint32_t>(block);
  VhdxHeader header;
  const uint64_t log_bytes = align_up(log_size.value_or(kMegabyte), kMegabyte);
  if (log_bytes == 0 || log_bytes > VhdxHeader::kMostLogBytes)
    co_return options.error("log_size", fmt::format("is {}; it must be 1 MiB to 1 GiB", *log_size));
  header.log_bytes = static_cast<uint32_t>(log_bytes);
  header.file_write = random_uuid();
  header.data_write = random_uuid();
  layout.leave_allocated = subformat == "fixed";
  layout.disk_id = random_uuid();
  layout.table_offset = header.log_offset + log_bytes;
  layout.table_bytes = align_up(layout.entries() * 8 + 1, kMegabyte);
  layout.metadata_offset = layout.table_offset + layout.table_bytes;
  layout.metadata_bytes = kMegabyte;
  const uint64_t data_offset = layout.metadata_offset + layout.metadata_bytes;

  CO_TRY_ASSIGN(const NodePtr made, co_await request.files.make_own());
  Node& file = *made;
  std::array<std::byte, 512> identifier{};
  std::memcpy(identifier.data(), "vhdxfile", 8);
  const std::string_view creator = "Ostler";
  for (size_t i = 0; i < creator.size(); ++i) identifier[8 + i * 2] = static_cast<std::byte>(creator[i]);
  uint64_t zeroed = data_offset;
  if (layout.leave_allocated) zeroed += layout.blocks() * block;
  CO_TRY(co_await zero_image(file, 0, zeroed));
  CO_TRY(co_await write_image(file, 0, identifier.data(), identifier.size()));
  CO_TRY(co_await header.write(file));
  CO_TRY(co_await header.write(file));
  CO_TRY(co_await layout.write(file));
  uint64_t state = VhdxNode::kNotPresent;
  if (zero_state.value_or(true)) state = VhdxNode::kZeroBlock;
  if (layout.leave_allocated) state = VhdxNode::kPresent;
  co_return co_await write_table(file, layout, state, data_offset);
}

}  // namespace

extern const Driver kVhdxDriver;
const Driver kVhdxDriver = {.name = "vhdx",
                            .kind = DriverKind::kFormat,
                            .probe = probe_vhdx,
                            .open = open_vhdx,
                            .create = create_vhdx,
                            .create_options = kCreateOptions};

}  // namespace ostler::block
