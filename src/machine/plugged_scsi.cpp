// SCSI controllers, and the disks and CD drives on their buses.
#include <fmt/format.h>

#include <bit>

#include "base/suggest.h"
#include "devices/scsi/cd.h"
#include "devices/scsi/disk.h"
#include "devices/virtio/scsi/device.h"
#include "machine/backends.h"
#include "machine/board.h"
#include "machine/core.h"
#include "machine/media.h"
#include "machine/plugged_devices.h"

namespace ostler::machine {
namespace {

Error wrong(const config::Device& device, std::string_view text) {
  return Error(ErrorKind::kInvalidArgument, fmt::format("{}: {}", device.origin, text));
}

Result<void> check_texts(const scsi::Options& options, const config::Device& device) {
  for (const auto& [name, text, most] :
       {std::tuple{"serial", &options.serial, 36u}, std::tuple{"device_id", &options.device_id, 36u},
        std::tuple{"vendor", &options.vendor, 8u}, std::tuple{"product", &options.product, 16u},
        std::tuple{"ver", &options.version, 4u}})
    if (text->size() > most)
      return wrong(device,
                   fmt::format("{}: '{}' is longer than {} characters; shorten it", name, *text, most));
  return {};
}

Result<void> check_sizes(const scsi::Options& options, uint64_t bytes, const config::Device& device) {
  for (const auto& [name, value] : {std::pair{"logical_block_size", options.logical_block_size},
                                    std::pair{"physical_block_size", options.physical_block_size}})
    if (!std::has_single_bit(value))
      return wrong(device, fmt::format("{}: {} is not a power of two", name, value));
  if (options.physical_block_size < options.logical_block_size)
    return wrong(device, "physical_block_size: is less than logical_block_size");
  if (bytes < options.logical_block_size)
    return wrong(device,
                 fmt::format("the disk of {} bytes is smaller than a block of {}; give a larger image", bytes,
                             options.logical_block_size));
  return {};
}

class ScsiTray final : public Tray {
 public:
  explicit ScsiTray(std::shared_ptr<scsi::Cd> drive) : drive_(std::move(drive)) {}
  bool open(bool force) override { return drive_->open_tray(force); }
  void close() override { drive_->close_tray(); }
  bool is_open() const override { return drive_->tray_open(); }
  bool is_locked() const override { return drive_->locked(); }

 private:
  const std::shared_ptr<scsi::Cd> drive_;
};

}  // namespace

std::unique_ptr<virtio::Device> PluggedDevices::make_scsi_controller(const virtio::scsi::Options& options) {
  auto made = std::make_unique<virtio::scsi::ScsiDevice>(core_.memory(), options);
  scsi_buses_.push_back({options.id.empty() ? fmt::format("scsi.{}", scsi_buses_.size()) : options.id + ".0",
                         options.iothread, made.get()});
  return made;
}

Result<PluggedDevices::ScsiBus*> PluggedDevices::find_scsi_bus(const std::string& name,
                                                               const config::Device& device) {
  if (scsi_buses_.empty())
    return Error(ErrorKind::kState,
                 fmt::format("{}: needs a SCSI controller before it; add -device virtio-scsi-{}",
                             device.origin, board_.pci() != nullptr ? "pci" : "device"));
  if (name.empty()) return &scsi_buses_.front();
  std::vector<std::string_view> known;
  for (ScsiBus& bus : scsi_buses_) {
    if (bus.name == name) return &bus;
    known.push_back(bus.name);
  }
  return Error(ErrorKind::kNotFound, fmt::format("{}: there is no SCSI bus '{}'; known are {}", device.origin,
                                                 name, fmt::join(known, ", ")));
}

Result<void> PluggedDevices::plug_scsi(const config::DeviceType& type, const std::any& options,
                                       const config::Device& device) {
  auto own = std::any_cast<const scsi::Options&>(options);
  const bool disk = type.name == "scsi-hd";
  TRY_ASSIGN(ScsiBus* const bus, find_scsi_bus(own.bus, device));
  if (disk && own.drive.empty())
    return wrong(
        device,
        "the property 'drive' is missing; -drive if=none,id=NAME,file=IMAGE makes a disk for drive=NAME");
  TRY(check_texts(own, device));
  if (own.scsi_id == scsi::Options::kFirstFree) {
    own.scsi_id = 0;
    while (own.scsi_id <= virtio::scsi::kMaxTarget &&
           bus->device->has_target(static_cast<uint8_t>(own.scsi_id)))
      ++own.scsi_id;
  }
  if (own.scsi_id > virtio::scsi::kMaxTarget)
    return wrong(device, fmt::format("scsi-id: the targets of a bus are 0 to {}", virtio::scsi::kMaxTarget));
  // A tray is called by something even if its device has no id.
  std::string name = own.id;
  if (name.empty() && !disk)
    name = own.drive.empty() ? fmt::format("{}-cd{}-{}", bus->name, own.scsi_id, own.lun) : own.drive;
  DiskWish wish{.name = own.drive, .user = device.origin, .device = name};
  wish.removable = !disk;
  wish.share_writes = own.share_rw;
  wish.write_error = own.werror;
  wish.read_error = own.rerror;
  wish.iothreads = {bus->iothread};
  TRY_ASSIGN(auto queues, backends_.disks().take(wish));
  std::shared_ptr<block::Backend> node = queues.front();
  if (disk) TRY(check_sizes(own, node->size(), device));
  if (own.vendor.empty()) own.vendor = "OSTLER";
  if (own.product.empty()) own.product = disk ? "OSTLER HARDDISK" : "OSTLER CD-ROM";
  if (own.version.empty()) own.version = "1.0";
  const auto target = static_cast<uint8_t>(own.scsi_id);
  const auto lun = static_cast<uint16_t>(own.lun);
  std::shared_ptr<scsi::LogicalUnit> unit;
  std::unique_ptr<Tray> tray;
  if (disk) {
    unit = std::make_shared<scsi::Disk>(std::move(node), own);
  } else {
    auto cd = std::make_shared<scsi::Cd>(std::move(node), own);
    tray = std::make_unique<ScsiTray>(cd);
    unit = std::move(cd);
  }
  if (!bus->device->add(target, lun, std::move(unit)))
    return wrong(
        device,
        fmt::format("target {} has a logical unit {} already; give it another scsi-id or lun", target, lun));
  if (tray != nullptr) media_.add(name, own.drive, std::move(tray));
  return {};
}

}  // namespace ostler::machine
