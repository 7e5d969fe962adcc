#include "machine/shares.h"

#include <fmt/format.h>

#include <utility>

#include "machine/virtiofsd.h"

namespace ostler::machine {
namespace {

void place_virtiofs(config::Machine& config, const config::Share& share, const std::string& id) {
  config.memory_shared = true;
  config.chardevs.push_back({.id = id,
                             .backend = config::Chardev::kVirtiofsd,
                             .properties = {{"path", share.path}, {"tag", share.tag}},
                             .origin = share.origin});
  config.devices.push_back({.type = config.type == "microvm" ? "vhost-user-fs-device" : "vhost-user-fs-pci",
                            .id = {},
                            .properties = {{"chardev", id}, {"tag", share.tag}},
                            .origin = share.origin});
}

// Without root no file can be given to another user: the guest's wish is then as good as granted.
void place_9p(config::Machine& config, const config::Share& share, const std::string& id) {
  config::SharedFolder folder;
  folder.id = id;
  folder.path = share.path;
  folder.security = "none";
  folder.told_tag = share.tag;
  folder.origin = share.origin;
  config.shared_folders.push_back(std::move(folder));
  config.devices.push_back({.type = config.type == "microvm" ? "virtio-9p-device" : "virtio-9p-pci",
                            .id = {},
                            .properties = {{"fsdev", id}, {"mount_tag", share.tag}},
                            .origin = share.origin});
}

}  // namespace

config::Machine with_shares_placed(config::Machine config) {
  unsigned number = 0;
  for (const config::Share& share : std::exchange(config.shares, {})) {
    const std::string id = fmt::format("#share{}", number++);
    using As = config::Share::As;
    if (share.as == As::kVirtiofs || (share.as == As::kAuto && Virtiofsd::usable(share.path)))
      place_virtiofs(config, share, id);
    else
      place_9p(config, share, id);
  }
  return config;
}

}  // namespace ostler::machine
