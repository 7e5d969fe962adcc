// -drive and -blockdev.

#include <fmt/format.h>

#include <algorithm>

#include "config/property.h"
#include "config/qemu_builder.h"

namespace ostler::config {
namespace {

// Settings whose only value so far is the one that describes what the block layer does.
Result<void> take_fixed(KeyValues& keys, std::string_view key, std::vector<std::string_view> same) {
  const auto value = keys.take(key);
  if (!value || std::find(same.begin(), same.end(), *value) != same.end()) return {};
  return keys.error(key, fmt::format("'{}' is not available in this version; leave it out", *value));
}

Result<void> take_common(KeyValues& keys, BlockNode& node, std::string_view read_only_key) {
  TRY_ASSIGN(const auto read_only, keys.take_bool(read_only_key));
  node.read_only = read_only.value_or(false);
  TRY_ASSIGN(const auto discard, keys.take_choice("discard", {"unmap", "on", "ignore", "off"}));
  node.unmap = discard == "unmap" || discard == "on";
  TRY(take_fixed(keys, "detect-zeroes", {"off"}));
  return {};
}

}  // namespace

Result<void> option_drive(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse("-drive", value, "file"));
  QemuBuilder::PendingDrive drive;
  drive.node.origin = keys.origin();
  if (auto file = keys.take("file")) drive.node.file = *file;
  drive.interface = keys.take("if").value_or("");
  drive.node.driver = keys.take("format").value_or("");  // none: recognised by the content
  TRY(take_common(keys, drive.node, "readonly"));
  TRY_ASSIGN(const auto snapshot, keys.take_bool("snapshot"));
  drive.node.snapshot = snapshot.value_or(false);
  TRY(take_fixed(keys, "cache", {"writeback"}));
  TRY(take_fixed(keys, "aio", {"threads"}));
  TRY_ASSIGN(const auto media, keys.take_choice("media", {"disk", "cdrom"}));
  drive.cdrom = media == "cdrom";
  drive.node.read_only = drive.node.read_only || drive.cdrom;
  TRY(take_fixed(keys, "werror", {"report"}));
  TRY(take_fixed(keys, "rerror", {"report"}));
  TRY_ASSIGN(const auto index, keys.take_number("index"));
  TRY_ASSIGN(const auto unit, keys.take_number("unit"));
  TRY_ASSIGN(const auto bus, keys.take_number("bus"));
  if (index && (unit || bus)) return keys.error("index", "goes without bus and unit, which say the same");
  for (const auto& [key, place] : {std::pair{"index", index}, std::pair{"bus", bus}, std::pair{"unit", unit}})
    if (place && *place > 3) return keys.error(key, fmt::format("{} is too large", *place));
  if (index)
    drive.index = static_cast<unsigned>(*index);
  else if (bus || unit)
    drive.index = static_cast<unsigned>(2 * bus.value_or(0) + unit.value_or(0));
  if (auto serial = keys.take("serial")) drive.device_properties.push_back({"serial", *serial});
  drive.node.name = keys.take("id").value_or("");
  TRY(keys.finish());
  if (!drive.interface.empty() && drive.interface != "ide" && drive.interface != "virtio" &&
      drive.interface != "none")
    return keys.error("if", fmt::format("'{}' has no controller in this version; say if=virtio or if=ide",
                                        drive.interface));
  if (drive.node.file.empty() && !drive.cdrom) return keys.error("file", "is missing: the disk has no image");
  if (drive.node.name.empty()) drive.node.name = b.anonymous_id("drive");
  b.drives.push_back(std::move(drive));
  return {};
}

Result<void> option_blockdev(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse_either("-blockdev", value, "driver"));
  BlockNode node;
  node.origin = keys.origin();
  const auto driver = keys.take("driver");
  if (!driver) return keys.error("driver", "is missing");
  const auto name = keys.take("node-name");
  if (!name) return keys.error("node-name", "is missing: nothing could refer to this node");
  node.name = *name;
  TRY(take_common(keys, node, "read-only"));
  TRY_ASSIGN(const auto automatic, keys.take_bool("auto-read-only"));
  static_cast<void>(automatic);  // a file that cannot be opened for writing is an error with its cure instead
  TRY(take_fixed(keys, "cache.direct", {"off"}));
  TRY(take_fixed(keys, "cache.no-flush", {"off"}));
  TRY(take_fixed(keys, "aio", {"threads"}));
  TRY(take_fixed(keys, "locking", {"auto", "on"}));
  if (*driver == "raw" || *driver == "qcow2") {
    if (const auto child = keys.take("file")) {
      node.file.clear();
      // A reference: this node takes over what the named one describes.
      const auto& nodes = b.machine().block_nodes;
      const auto found =
          std::find_if(nodes.begin(), nodes.end(), [&](const BlockNode& n) { return n.name == *child; });
      if (found == nodes.end())
        return keys.error("file", fmt::format("there is no node '{}' before this option", *child));
      node.driver = found->driver == "null-co" ? found->driver : *driver;
      node.file = found->file;
      node.read_only = node.read_only || found->read_only;
    } else {
      TRY(take_fixed(keys, "file.driver", {"file"}));
      const auto file = keys.take("file.filename");
      if (!file) return keys.error("file.filename", "is missing");
      node.driver = *driver;
      node.file = *file;
      TRY(take_fixed(keys, "file.aio", {"threads"}));
      TRY(take_fixed(keys, "file.cache.direct", {"off"}));
    }
  } else if (*driver == "file") {
    node.driver = "file";
    const auto file = keys.take("filename");
    if (!file) return keys.error("filename", "is missing");
    node.file = *file;
  } else if (*driver == "null-co" || *driver == "null-aio") {
    node.driver = "null-co";
    TRY_ASSIGN(const auto size, keys.take_size("size", 1));
    node.file = std::to_string(size.value_or(uint64_t{1} << 30));
  } else {
    return keys.error(
        "driver",
        fmt::format("'{}' is not available in this version; known are raw, qcow2, file, null-co", *driver));
  }
  TRY(keys.finish());
  b.machine().block_nodes.push_back(std::move(node));
  return {};
}

}  // namespace ostler::config
