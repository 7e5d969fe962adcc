#include "devices/virtio/device_types.h"

#include <vector>

#include "devices/virtio/balloon/device.h"
#include "devices/virtio/block/device.h"
#include "devices/virtio/console/device.h"
#include "devices/virtio/fs/device.h"
#include "devices/virtio/net/device.h"
#include "devices/virtio/p9/device.h"
#include "devices/virtio/rng/device.h"
#include "devices/virtio/scsi/device.h"
#include "devices/virtio/vhost_user/block.h"
#include "devices/virtio/vsock/device.h"

namespace ostler::virtio {

std::span<const config::DeviceType> device_types() {
  static const std::vector<config::DeviceType> types = {
      {"virtio-blk-pci",
       "PCI",
       "disk",
       &block::pci_properties(),
       {"virtio-blk-pci-transitional", "virtio-blk-pci-non-transitional", "virtio-blk"}},
      {"virtio-blk-device", "virtio-bus", "disk", &block::mmio_properties(), {}},
      {"virtio-scsi-pci",
       "PCI",
       "SCSI controller",
       &scsi::pci_properties(),
       {"virtio-scsi-pci-transitional", "virtio-scsi-pci-non-transitional", "virtio-scsi"}},
      {"virtio-scsi-device", "virtio-bus", "SCSI controller", &scsi::mmio_properties(), {}},
      {"virtio-net-pci",
       "PCI",
       "network card",
       &net::pci_properties(),
       {"virtio-net-pci-transitional", "virtio-net-pci-non-transitional", "virtio-net"}},
      {"virtio-net-device", "virtio-bus", "network card", &net::mmio_properties(), {}},
      {"virtio-rng-pci",
       "PCI",
       "random numbers",
       &rng::pci_properties(),
       {"virtio-rng-pci-transitional", "virtio-rng-pci-non-transitional", "virtio-rng"}},
      {"virtio-rng-device", "virtio-bus", "random numbers", &rng::mmio_properties(), {}},
      {"virtio-balloon-pci",
       "PCI",
       "memory that the guest gives back",
       &balloon::pci_properties(),
       {"virtio-balloon-pci-transitional", "virtio-balloon-pci-non-transitional", "virtio-balloon"}},
      {"virtio-balloon-device",
       "virtio-bus",
       "memory that the guest gives back",
       &balloon::mmio_properties(),
       {}},
      {"virtio-vsock-pci",
       "PCI",
       "sockets between guest and host",
       &vsock::pci_properties(),
       {"virtio-vsock-pci-non-transitional", "virtio-vsock"}},
      {"virtio-vsock-device", "virtio-bus", "sockets between guest and host", &vsock::mmio_properties(), {}},
      {"virtio-9p-pci",
       "PCI",
       "shared folder (9P)",
       &p9::pci_properties(),
       {"virtio-9p-pci-transitional", "virtio-9p-pci-non-transitional", "virtio-9p"}},
      {"virtio-9p-device", "virtio-bus", "shared folder (9P)", &p9::mmio_properties(), {}},
      {"vhost-user-fs-pci", "PCI", "shared folder of virtiofsd", &fs::pci_properties(), {"vhost-user-fs"}},
      {"vhost-user-blk-pci",
       "PCI",
       "disk of another process",
       &vhost_user::block_pci_properties(),
       {"vhost-user-blk-pci-transitional", "vhost-user-blk-pci-non-transitional", "vhost-user-blk"}},
      {"vhost-user-blk-device",
       "virtio-bus",
       "disk of another process",
       &vhost_user::block_mmio_properties(),
       {}},
      {"vhost-user-fs-device", "virtio-bus", "shared folder of virtiofsd", &fs::mmio_properties(), {}},
      {"virtio-serial-pci",
       "PCI",
       "consoles and channels",
       &console::pci_properties(),
       {"virtio-serial-pci-transitional", "virtio-serial-pci-non-transitional", "virtio-serial"}},
      {"virtio-serial-device", "virtio-bus", "consoles and channels", &console::mmio_properties(), {}},
      {"virtconsole", "virtio-serial-bus", "console port (hvc)", &console::console_port_properties(), {}},
      {"virtserialport", "virtio-serial-bus", "named channel", &console::serial_port_properties(), {}},
  };
  return types;
}

}  // namespace ostler::virtio
