// -hda to -hdd, -cdrom, an image without an option, and the places of drives on the IDE buses.

#include <fmt/format.h>

#include <array>

#include "config/qemu_builder.h"

namespace ostler::config {
namespace {

constexpr unsigned kUnitsOfBus = 2, kIdeDrives = 4;

Result<void> add_ide(QemuBuilder& b, std::string origin, std::string_view file, unsigned index, bool cdrom) {
  QemuBuilder::PendingDrive drive;
  drive.drive.origin = std::move(origin);
  drive.drive.id = b.anonymous_id("drive");
  drive.drive.options = "{}";  // the format is recognised by the content
  drive.drive.file = file;
  drive.drive.read_only = drive.drive.cdrom = cdrom;
  drive.interface = "ide";
  drive.index = index;
  b.drives.push_back(std::move(drive));
  return {};
}

}  // namespace

Result<void> option_hda(QemuBuilder& b, std::string_view v) {
  return add_ide(b, fmt::format("-hda {}", v), v, 0, false);
}
Result<void> option_hdb(QemuBuilder& b, std::string_view v) {
  return add_ide(b, fmt::format("-hdb {}", v), v, 1, false);
}
Result<void> option_hdc(QemuBuilder& b, std::string_view v) {
  return add_ide(b, fmt::format("-hdc {}", v), v, 2, false);
}
Result<void> option_hdd(QemuBuilder& b, std::string_view v) {
  return add_ide(b, fmt::format("-hdd {}", v), v, 3, false);
}
Result<void> option_cdrom(QemuBuilder& b, std::string_view v) {
  return add_ide(b, fmt::format("-cdrom {}", v), v, 2, true);
}
Result<void> option_disk_image(QemuBuilder& b, std::string_view v) {
  return add_ide(b, fmt::format("'{}'", v), v, 0, false);
}

Result<void> QemuBuilder::place_ide_drives() {
  std::array<const PendingDrive*, kIdeDrives> places{};
  for (PendingDrive& drive : drives) {
    if (drive.interface.empty()) drive.interface = machine().type == "microvm" ? "virtio" : "ide";
    if (drive.drive.cdrom && drive.interface == "virtio")
      return Error(ErrorKind::kUnsupported,
                   fmt::format("{}: media: a CD-ROM drive is no virtio disk; say if=scsi or if=ide",
                               drive.drive.origin));
    if (drive.interface != "ide") continue;
    if (machine().type == "microvm")
      return Error(
          ErrorKind::kUnsupported,
          fmt::format("{}: the microvm machine has no IDE controller; write -drive file={},if=virtio",
                      drive.drive.origin, drive.drive.file));
    if (!drive.index) {
      unsigned free = 0;
      while (free < kIdeDrives && places[free] != nullptr) ++free;
      drive.index = free;
    }
    if (*drive.index >= kIdeDrives)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: there are {} places for IDE drives; give this one to if=virtio",
                               drive.drive.origin, kIdeDrives));
    const PendingDrive*& place = places[*drive.index];
    if (place != nullptr)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: the place {} on the IDE buses is taken by {}", drive.drive.origin,
                               *drive.index, place->drive.origin));
    place = &drive;
    Device device{.type = drive.drive.cdrom ? "ide-cd" : "ide-hd",
                  .id = {},
                  .properties = std::move(drive.device_properties),
                  .origin = drive.drive.origin};
    device.properties.push_back({"bus", fmt::format("ide.{}", *drive.index / kUnitsOfBus)});
    device.properties.push_back({"unit", std::to_string(*drive.index % kUnitsOfBus)});
    device.properties.push_back({"drive", drive.drive.id});
    machine().devices.push_back(std::move(device));
  }
  return {};
}

}  // namespace ostler::config
