// The state while a QEMU command line is read, and the handlers of its options, one file per group.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "config/key_values.h"
#include "config/qemu_command_line.h"

namespace ostler::config {

struct QemuBuilder {
  CommandLine out;

  // Things that need the whole command line before they are decided.
  struct PendingDrive {
    Drive drive;
    std::string interface;               // empty: the machine's own
    std::optional<unsigned> index = {};  // of if=ide: two for each bus; of if=scsi: the target
    Properties device_properties = {};
  };
  std::vector<PendingDrive> drives;
  struct PendingNic {
    Netdev netdev;
    std::string model;  // empty: virtio
    Properties device_properties;
    std::string origin = {};  // of the card; empty: that of its network
  };
  std::vector<PendingNic> nics;
  // -net: cards and networks that share hub 0.
  std::vector<PendingNic> hub_nics;
  std::vector<Netdev> hub_networks;
  std::vector<Device> virtfs_devices;  // without their types
  std::vector<std::string> serial_options;
  bool snapshot = false;  // -snapshot
  bool nographic = false;
  bool memory_given = false;  // -m
  unsigned next_anonymous = 0;

  Machine& machine() { return out.machine; }
  std::string anonymous_id(std::string_view kind);

  Result<void> finish();

 private:
  Result<void> place_ide_drives();
  void place_scsi_controller();
  void place_nics();
  void place_virtfs_devices();
  void add_nic(PendingNic nic);
  Result<void> size_memory();  // without -m: that of the backends
};

// One line of what `-netdev help` and the like print.
struct KindHelp {
  std::string_view name, help;
};
inline bool asks_for_help(std::string_view value) {
  return value == "help" || value == "?";
}
// The program prints `title` and the list, and ends.
void tell_kinds(QemuBuilder& b, std::string_view title, std::span<const KindHelp> kinds);
std::vector<std::string_view> names_of(std::span<const KindHelp> kinds);

using QemuHandler = Result<void> (*)(QemuBuilder&, std::string_view value);

// machine, CPU, memory, boot
Result<void> option_machine(QemuBuilder& b, std::string_view value);
Result<void> option_accel(QemuBuilder& b, std::string_view value);
Result<void> option_cpu(QemuBuilder& b, std::string_view value);
Result<void> option_smp(QemuBuilder& b, std::string_view value);
Result<void> option_memory(QemuBuilder& b, std::string_view value);
Result<void> option_overcommit(QemuBuilder& b, std::string_view value);
Result<void> option_numa(QemuBuilder& b, std::string_view value);
Result<void> option_rtc(QemuBuilder& b, std::string_view value);
Result<void> option_name(QemuBuilder& b, std::string_view value);
Result<void> option_uuid(QemuBuilder& b, std::string_view value);
// storage
Result<void> option_drive(QemuBuilder& b, std::string_view value);
Result<void> option_blockdev(QemuBuilder& b, std::string_view value);
Result<void> option_disk_image(QemuBuilder& b, std::string_view value);
Result<void> option_hda(QemuBuilder& b, std::string_view value);
Result<void> option_hdb(QemuBuilder& b, std::string_view value);
Result<void> option_hdc(QemuBuilder& b, std::string_view value);
Result<void> option_hdd(QemuBuilder& b, std::string_view value);
Result<void> option_cdrom(QemuBuilder& b, std::string_view value);
Result<void> option_object(QemuBuilder& b, std::string_view value);
// devices, network, character devices
Result<void> option_device(QemuBuilder& b, std::string_view value);
Result<void> option_global(QemuBuilder& b, std::string_view value);
Result<void> option_netdev(QemuBuilder& b, std::string_view value);
Result<void> option_nic(QemuBuilder& b, std::string_view value);
Result<void> option_net(QemuBuilder& b, std::string_view value);
Result<void> option_chardev(QemuBuilder& b, std::string_view value);
Result<void> option_fsdev(QemuBuilder& b, std::string_view value);
Result<void> option_virtfs(QemuBuilder& b, std::string_view value);
Result<void> option_debugcon(QemuBuilder& b, std::string_view value);
Result<void> option_gdb(QemuBuilder& b, std::string_view value);

// A character back end in the short form of -serial ("stdio", "mon:stdio", "file:x", "unix:x,server=on",
// "chardev:id"): adds a Chardev and returns its id; "" for none.
Result<std::string> short_chardev(QemuBuilder& b, std::string_view option, std::string_view value);

}  // namespace ostler::config
