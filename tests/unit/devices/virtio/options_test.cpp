// What is written on QEMU's command lines beside the properties that choose something here.
#include <gtest/gtest.h>

#include "devices/virtio/block/device.h"
#include "devices/virtio/fs/device.h"
#include "devices/virtio/net/device.h"
#include "devices/virtio/rng/device.h"
#include "devices/virtio/scsi/device.h"
#include "devices/virtio/vhost_user/block.h"

namespace ostler::virtio {
namespace {

// "" when `table` takes `text`; the error otherwise.
template <class Options>
std::string error(const config::PropertyTable<Options>& table, std::string_view text) {
  const auto parsed = table.parse(config::split_options(text));
  return parsed ? "" : parsed.error().message();
}

TEST(VirtioOptions, WhatQemuHasByDefaultMayBeSaid) {
  const char* const common = "romfile=,rombar=0,ats=off,aer=off,page-per-vq=off,acpi-index=0";
  EXPECT_EQ(error(rng::pci_properties(), common), "");
  EXPECT_EQ(error(net::pci_properties(), common), "");
  EXPECT_EQ(error(net::pci_properties(), "bootindex=-1,speed=-1,tx=bh,failover=off"), "");
  EXPECT_EQ(error(block::pci_properties(), "bootindex=-1,scsi=off,request-merging=off,seg-max-adjust=on"),
            "");
  EXPECT_EQ(error(scsi::pci_properties(), "seg_max_adjust=on"), "");
  EXPECT_EQ(error(vhost_user::block_pci_properties(), "bootindex=1"), "");
  EXPECT_EQ(error(fs::pci_properties(), "bootindex=1"), "");
}

TEST(VirtioOptions, WhatIsNotThereIsRefused) {
  EXPECT_NE(error(rng::pci_properties(), "romfile=x.rom").find("romfile="), std::string::npos);
  EXPECT_NE(error(net::pci_properties(), "tx=timer"), "");
  EXPECT_NE(error(net::pci_properties(), "bootindex=-2"), "");
  EXPECT_NE(error(block::pci_properties(), "scsi=on"), "");
}

TEST(VirtioOptions, PropertiesOfPciAreNotThoseOfMmio) {
  EXPECT_NE(error(rng::mmio_properties(), "romfile="), "");
}

TEST(VirtioOptions, SizesThatMustBePowersOfTwoAre) {
  EXPECT_EQ(error(block::pci_properties(), "logical_block_size=4k,physical_block_size=4096,queue-size=512"),
            "");
  EXPECT_NE(error(block::pci_properties(), "logical_block_size=1000"), "");
  EXPECT_NE(error(block::pci_properties(), "queue-size=100"), "");
  EXPECT_NE(error(block::pci_properties(), "queue-size=2"), "");
  EXPECT_NE(error(net::pci_properties(), "rx_queue_size=100"), "");
  EXPECT_NE(error(net::pci_properties(), "tx_queue_size=2048"), "");
  EXPECT_NE(error(scsi::pci_properties(), "virtqueue_size=100"), "");
}

TEST(VirtioOptions, NumberOfQueuesMayBeLeftToTheMachine) {
  const auto queues = [](std::string_view text) {
    return block::pci_properties().parse(config::split_options(text))->num_queues;
  };
  EXPECT_FALSE(queues(""));
  EXPECT_FALSE(queues("num-queues=2,num-queues=65535"));
  EXPECT_FALSE(queues("num-queues=auto"));
  EXPECT_EQ(queues("num-queues=64"), 64);
  EXPECT_EQ(error(scsi::pci_properties(), "num_queues=4294967295"), "");
  EXPECT_EQ(error(vhost_user::block_pci_properties(), "num-queues=65535"), "");
  EXPECT_NE(error(block::pci_properties(), "num-queues=65"), "");
  EXPECT_NE(error(block::pci_properties(), "num-queues=0"), "");
  EXPECT_NE(error(scsi::pci_properties(), "num_queues=63"), "");
}

}  // namespace
}  // namespace ostler::virtio
