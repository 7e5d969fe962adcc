// The driver "vmdk": recognising and creating.
#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "block/formats/vmdk/vmdk_node.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kSplitBytes = uint64_t{2} << 30;  // of an extent of twoGbMaxExtent…

constexpr OptionSpec kCreateOptions[] = {
    {"adapter_type", "str",
     "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX"},
    {"backing_file", "str", "File name of a base image"},
    {"backing_fmt", "str", "Must be 'vmdk' if present"},
    {"compat6", "bool (on/off)", "VMDK version 6 image"},
    {"hwversion", "str", "VMDK hardware version"},
    {"size", "size", "Virtual disk size"},
    {"subformat", "str",
     "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | "
     "twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized}"},
    {"toolsversion", "str", "VMware guest tools version"},
    {"zeroed_grain", "bool (on/off)", "Enable efficient zero writes using the zeroed-grain GTE feature"},
};

struct Plan {
  uint64_t size = 0;
  std::string subformat = "monolithicSparse";
  std::string adapter = "ide";
  std::string hardware = "4";
  std::string tools = "2147483647";
  std::string backing_file;
  bool zeroed_grain = false;
  bool flat = false, split = false, packed = false;
};

Result<Plan> read_plan(OptionReader& options) {
  Plan plan;
  TRY_ASSIGN(const auto size, options.size("size"));
  if (!size) return options.error("size", "is missing");
  plan.size = align_up(*size, kSector);
  if (plan.size / kSector > VmdkDescriptor::kMostSectors || plan.size == 0)
    return options.error("size", fmt::format("is {}; a vmdk image holds 512 bytes to 8 PiB", *size));
  TRY_ASSIGN(const auto subformat,
             options.choice("subformat", {"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse",
                                          "twoGbMaxExtentFlat", "streamOptimized"}));
  plan.subformat = subformat.value_or(plan.subformat);
  TRY_ASSIGN(const auto adapter,
             options.choice("adapter_type", {"ide", "lsilogic", "buslogic", "legacyESX"}));
  plan.adapter = adapter.value_or(plan.adapter);
  TRY_ASSIGN(const auto hardware, options.string("hwversion"));
  TRY_ASSIGN(const auto compat6, options.boolean("compat6"));
  if (compat6.value_or(false) && hardware)
    return options.error("compat6", "and 'hwversion' cannot be given together");
  plan.hardware = hardware.value_or(compat6.value_or(false) ? "6" : "4");
  TRY_ASSIGN(const auto tools, options.string("toolsversion"));
  plan.tools = tools.value_or(plan.tools);
  for (const std::string& text : {plan.hardware, plan.tools})
    if (text.find_first_of("\"\r\n") != std::string::npos)
      return options.error("hwversion", "and 'toolsversion' cannot hold quotation marks or line ends");
  TRY_ASSIGN(const auto zeroed, options.boolean("zeroed_grain"));
  plan.zeroed_grain = zeroed.value_or(false);
  TRY_ASSIGN(const auto backing_format, options.choice("backing_fmt", {"vmdk"}));
  static_cast<void>(backing_format);
  TRY_ASSIGN(const auto backing_file, options.string("backing_file"));
  plan.backing_file = backing_file.value_or("");
  TRY(options.finish());
  plan.flat = plan.subformat.ends_with("Flat");
  plan.split = plan.subformat.starts_with("twoGb");
  plan.packed = plan.subformat == "streamOptimized";
  if (plan.backing_file.find_first_of("\"\r\n") != std::string::npos)
    return options.error("backing_file", "cannot hold quotation marks or line ends in a vmdk image");
  if (!plan.backing_file.empty() && plan.flat)
    return options.error("backing_file", "is not possible for flat extents");
  return plan;
}

std::string descriptor_text(const Plan& plan, const std::string& extents, uint32_t cid, uint32_t parent_cid) {
  const unsigned heads = plan.adapter == "ide" ? 16 : 255, sectors = 63;
  std::string text =
      fmt::format("# Disk DescriptorFile\nversion=1\nCID={:08x}\nparentCID={:08x}\ncreateType=\"{}\"\n", cid,
                  parent_cid, plan.subformat);
  if (!plan.backing_file.empty()) text += fmt::format("parentFileNameHint=\"{}\"\n", plan.backing_file);
  text += fmt::format(
      "\n# Extent description\n{}\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{}\"\n"
      "ddb.geometry.cylinders = \"{}\"\nddb.geometry.heads = \"{}\"\nddb.geometry.sectors = \"{}\"\n"
      "ddb.adapterType = \"{}\"\nddb.toolsVersion = \"{}\"\n",
      extents, plan.hardware, plan.size / (uint64_t{sectors} * heads * kSector), heads, sectors, plan.adapter,
      plan.tools);
  return text;
}

std::string file_part(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

nlohmann::json file_options(const std::string& path) {
  return {{"driver", "file"}, {"filename", path}};
}

VmdkExtentHeader empty_extent(const Plan& plan, uint64_t bytes) {
  VmdkExtentHeader header;
  header.capacity = bytes / kSector;
  if (plan.packed) header.flags |= VmdkExtentHeader::kFlagCompressed | VmdkExtentHeader::kFlagMarkers;
  if (plan.zeroed_grain) header.flags |= VmdkExtentHeader::kFlagZeroedGrains;
  return header;
}

// An extent in a file of its own beside the descriptor.
Task<Result<void>> create_extent_file(CreateRequest& request, std::string path, Plan plan, uint64_t bytes) {
  auto made = co_await request.files.make_other(path, plan.flat ? bytes : 0);
  if (!made || plan.flat) co_return made;
  OpenFlags flags = request.flags;
  flags.writable = true;
  nlohmann::json naming = file_options(path);
  auto file = co_await request.opener.open_at(std::move(naming), flags, 0);
  if (!file) co_return std::move(file).error();
  VmdkExtentHeader header = empty_extent(plan, bytes);
  auto result = co_await create_vmdk_extent(**file, header);
  auto closed = co_await close_chain(*std::move(file));
  if (!result) co_return result;
  co_return closed;
}

Task<Result<uint32_t>> cid_of_parent(CreateRequest& request, std::string backing_file) {
  NodePtr parent = skip_filters(request.backing);
  NodePtr opened;
  if (!parent) {
    OpenFlags flags = request.flags;
    flags.writable = false;
    auto found = co_await request.opener.open_backing(request.filename, backing_file, "vmdk", flags, 0);
    if (!found) co_return std::move(found).error();
    opened = *std::move(found);
    parent = opened;
  }
  const auto* vmdk = dynamic_cast<const VmdkNode*>(parent.get());
  if (vmdk == nullptr)
    co_return request.options.error("backing_file",
                                    "must be a vmdk image: vmdk images have no others below them");
  const uint32_t cid = vmdk->cid();
  parent = nullptr;
  if (opened) CO_TRY(co_await close_chain(std::move(opened)));
  co_return cid;
}

Task<Result<void>> create_vmdk(CreateRequest request) {
  CO_TRY_ASSIGN(const Plan plan, read_plan(request.options));
  uint32_t parent_cid = VmdkDescriptor::kNoParent;
  if (!plan.backing_file.empty()) {
    CO_TRY_ASSIGN(parent_cid, co_await cid_of_parent(request, plan.backing_file));
  }
  std::random_device source;
  const uint32_t cid = source() & 0xfffffffe;

  std::string lines;
  if (!plan.flat && !plan.split) {
    lines = fmt::format("RW {} SPARSE \"{}\"\n", plan.size / kSector, file_part(request.filename));
    const std::string text = descriptor_text(plan, lines, cid, parent_cid);
    if (text.size() > VmdkExtentHeader::kDescriptorSectors * kSector)
      co_return request.options.error("backing_file", "is too long for the image's descriptor");
    VmdkExtentHeader header = empty_extent(plan, plan.size);
    header.descriptor_offset = 1;
    header.descriptor_size = VmdkExtentHeader::kDescriptorSectors;
    CO_TRY_ASSIGN(const NodePtr made, co_await request.files.make_own());
    Node& file = *made;
    CO_TRY(co_await create_vmdk_extent(file, header));
    co_return co_await write_image(file, header.descriptor_offset * kSector, text.data(), text.size());
  }

  const uint64_t extent_bytes = plan.split ? kSplitBytes : plan.size;
  const uint64_t count = (plan.size + extent_bytes - 1) / extent_bytes;
  if (count > VmdkDescriptor::kMostExtents)
    co_return request.options.error(
        "size", fmt::format("needs {} extents; {} are the most", count, VmdkDescriptor::kMostExtents));
  CO_TRY_ASSIGN(const NodePtr file, co_await request.files.make_own());
  std::string stem = request.filename;
  if (stem.ends_with(".vmdk")) stem.resize(stem.size() - 5);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t bytes = std::min(extent_bytes, plan.size - i * extent_bytes);
    const std::string path =
        plan.split ? fmt::format("{}-{}{:03}.vmdk", stem, plan.flat ? 'f' : 's', i + 1) : stem + "-flat.vmdk";
    CO_TRY(co_await create_extent_file(request, path, plan, bytes));
    lines += fmt::format("RW {} {} \"{}\"{}\n", bytes / kSector, plan.flat ? "FLAT" : "SPARSE",
                         file_part(path), plan.flat ? " 0" : "");
  }
  const std::string text = descriptor_text(plan, lines, cid, parent_cid);
  co_return co_await write_image(*file, 0, text.data(), text.size());
}

int probe_vmdk(std::span<const std::byte> head, std::span<const std::byte>, uint64_t, std::string_view) {
  if (head.size() < 4) return 0;
  const auto magic = load_le<uint32_t>(head.data());
  if (magic == VmdkExtentHeader::kMagic || magic == load_le<uint32_t>("COWD")) return 100;
  const std::string_view text(reinterpret_cast<const char*>(head.data()),
                              std::min<size_t>(head.size(), 4096));
  return VmdkDescriptor::recognised(text.substr(0, text.find('\0'))) ? 100 : 0;
}

}  // namespace

extern const Driver kVmdkDriver;
const Driver kVmdkDriver = {.name = "vmdk",
                            .kind = DriverKind::kFormat,
                            .probe = probe_vmdk,
                            .open = VmdkNode::open,
                            .create = create_vmdk,
                            .create_options = kCreateOptions,
                            .compression = true};

}  // namespace ostler::block
