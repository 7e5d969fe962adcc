// `ostler run --share`: which device a folder gets.
#include "machine/shares.h"

#include <gtest/gtest.h>

#include "machine/virtiofsd.h"

namespace ostler::machine {
namespace {

using As = config::Share::As;

config::Machine placed(As as, const std::string& type = "pc", const std::string& path = "/some/where") {
  config::Machine config;
  config.type = type;
  config.shares.push_back({.path = path, .tag = "tag", .as = as, .origin = "--share"});
  return with_shares_placed(config);
}

TEST(Shares, by_9p_are_served_in_process) {
  const config::Machine config = placed(As::k9p);
  ASSERT_EQ(config.devices.size(), 1u);
  EXPECT_EQ(config.devices[0].type, "virtio-9p-pci");
  ASSERT_EQ(config.shared_folders.size(), 1u);
  EXPECT_EQ(config.shared_folders[0].id, config.devices[0].properties.at(0).value);
  EXPECT_EQ(config.shared_folders[0].path, "/some/where");
  EXPECT_EQ(config.shared_folders[0].security, "none");
  EXPECT_EQ(config.shared_folders[0].told_tag, "tag");
  EXPECT_FALSE(config.memory_shared);
  EXPECT_TRUE(config.shares.empty());
}

TEST(Shares, by_virtiofs_need_shared_memory) {
  const config::Machine config = placed(As::kVirtiofs);
  ASSERT_EQ(config.devices.size(), 1u);
  EXPECT_EQ(config.devices[0].type, "vhost-user-fs-pci");
  EXPECT_EQ(config.chardevs.at(0).id, config.devices[0].properties.at(0).value);
  EXPECT_TRUE(config.memory_shared);
}

TEST(Shares, of_a_machine_without_pci_are_on_virtio_mmio) {
  EXPECT_EQ(placed(As::k9p, "microvm").devices.at(0).type, "virtio-9p-device");
  EXPECT_EQ(placed(As::kVirtiofs, "microvm").devices.at(0).type, "vhost-user-fs-device");
}

// A host has a virtiofsd that can serve a folder or not; the older one takes no comma in its name.
TEST(Shares, are_served_in_process_where_virtiofsd_cannot) {
  for (const std::string path : {"/some/where", "/some,where"}) {
    const bool can = Virtiofsd::usable(path).has_value();
    EXPECT_EQ(placed(As::kAuto, "pc", path).devices.at(0).type, can ? "vhost-user-fs-pci" : "virtio-9p-pci")
        << path;
  }
}

}  // namespace
}  // namespace ostler::machine
