// -fsdev and -virtfs: folders of the host that guests see by 9P.

#include <fmt/format.h>

#include <charconv>

#include "config/qemu_builder.h"

namespace ostler::config {
namespace {

// The permissions that files or folders get on the host, as chmod takes them.
Result<uint32_t> take_mode(KeyValues& keys, std::string_view key, bool mapped, uint32_t otherwise) {
  const auto text = keys.take(key);
  if (!text) return otherwise;
  if (!mapped) return keys.error(key, "only goes with security_model=mapped-xattr");
  uint32_t mode = 0;
  const char* const end = text->data() + text->size();
  const auto [stop, error] = std::from_chars(text->data(), end, mode, 8);
  if (error != std::errc() || stop != end || mode > 0777)
    return keys.error(key, fmt::format("'{}' is no mode; write it in octal, as 0640", *text));
  return mode;
}

Result<SharedFolder> take_folder(KeyValues& keys) {
  SharedFolder folder;
  folder.origin = keys.origin();
  if (const auto driver = keys.take("fsdriver"); driver != "local")
    return keys.error("fsdriver",
                      fmt::format("'{}' is not available; write local,path=DIR,…", driver.value_or("")));
  const auto path = keys.take("path");
  if (!path || path->empty()) return keys.error("path", "is missing");
  folder.path = *path;
  const auto model = keys.take("security_model");
  if (!model) return keys.error("security_model", "is missing; say none, mapped-xattr or passthrough");
  folder.security = *model == "mapped" ? "mapped-xattr" : *model;
  if (folder.security != "none" && folder.security != "mapped-xattr" && folder.security != "passthrough")
    return keys.error("security_model",
                      fmt::format("'{}' is not one of none, mapped-xattr, passthrough", *model));
  TRY_ASSIGN(const auto read_only, keys.take_bool("readonly"));
  folder.read_only = read_only.value_or(false);
  const bool mapped = folder.security == "mapped-xattr";
  TRY_ASSIGN(folder.file_mode, take_mode(keys, "fmode", mapped, folder.file_mode));
  TRY_ASSIGN(folder.directory_mode, take_mode(keys, "dmode", mapped, folder.directory_mode));
  if (keys.take("writeout"))
    return keys.error(
        "writeout",
        "is not available; a program of the guest says sync or fsync, or the guest mounts with -o sync");
  if (const auto devices = keys.take("multidevs"); devices && *devices != "remap")
    return keys.error("multidevs",
                      fmt::format("'{}' is not available; inodes are always remapped", *devices));
  return folder;
}

}  // namespace

Result<void> option_fsdev(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse("-fsdev", value, "fsdriver"));
  TRY_ASSIGN(SharedFolder folder, take_folder(keys));
  const auto id = keys.take("id");
  if (!id || id->empty()) return keys.error("id", "is missing: no device could use it");
  folder.id = *id;
  TRY(keys.finish());
  b.machine().shared_folders.push_back(std::move(folder));
  return {};
}

Result<void> option_virtfs(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse("-virtfs", value, "fsdriver"));
  TRY_ASSIGN(SharedFolder folder, take_folder(keys));
  const auto tag = keys.take("mount_tag");
  if (!tag) return keys.error("mount_tag", "is missing: the guest mounts by it");
  folder.id = keys.take("id").value_or(*tag);
  TRY(keys.finish());
  b.virtfs_devices.push_back({.type = {},  // the machine's, which may not be known yet
                              .id = {},
                              .properties = {{"fsdev", folder.id}, {"mount_tag", *tag}},
                              .origin = folder.origin});
  b.machine().shared_folders.push_back(std::move(folder));
  return {};
}

void QemuBuilder::place_virtfs_devices() {
  for (Device& device : virtfs_devices) {
    device.type = machine().type == "microvm" ? "virtio-9p-device" : "virtio-9p-pci";
    machine().devices.push_back(std::move(device));
  }
}

}  // namespace ostler::config
