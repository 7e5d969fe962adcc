#include "machine/plugged_devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "devices/chipset/system_ports.h"
#include "devices/ide/ata_disk.h"
#include "devices/ide/cd_drive.h"
#include "devices/ide/piix_ide.h"
#include "devices/pci/bus.h"
#include "devices/virtio/balloon/device.h"
#include "devices/virtio/block/device.h"
#include "devices/virtio/console/device.h"
#include "devices/virtio/fs/device.h"
#include "devices/virtio/net/device.h"
#include "devices/virtio/p9/device.h"
#include "devices/virtio/rng/device.h"
#include "devices/virtio/scsi/device.h"
#include "devices/virtio/transport/pci.h"
#include "devices/virtio/vhost_user/block.h"
#include "devices/virtio/vhost_user/net.h"
#include "devices/virtio/vsock/device.h"
#include "devices/virtio/vsock/unix_host.h"
#include "machine/backends.h"
#include "machine/board.h"
#include "machine/core.h"
#include "machine/device_catalog.h"
#include "machine/isa_devices.h"
#include "machine/media.h"
#include "machine/random_sources.h"

namespace ostler::machine {
namespace {

Error missing(const config::Device& device, std::string_view property, std::string_view cure) {
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("{}: the property '{}' is missing; {}", device.origin, property, cure));
}

constexpr std::string_view kDriveCure =
    "-drive if=none,id=NAME,file=IMAGE makes a disk for drive=NAME, or -blockdev a node of that name";

// The I/O thread of each queue: one for all, or as the mapping says. A mapping without queue numbers deals
// them out in turn.
Result<std::vector<std::string>> queue_threads(const virtio::block::Options& options,
                                               const config::Device& device) {
  using nlohmann::json;
  std::vector<std::string> threads(options.num_queues.value_or(1), options.iothread);
  if (options.iothread_vq_mapping.empty()) return threads;
  const auto error = [&](std::string_view text) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: iothread-vq-mapping: {}", device.origin, text));
  };
  if (!options.iothread.empty()) return error("excludes iothread");
  const json mapping = json::parse(options.iothread_vq_mapping, nullptr, false);
  if (!mapping.is_array() || mapping.empty())
    return error("must be a list of {\"iothread\": ID, \"vqs\": [NUMBER, …]}, which -device takes as JSON");
  const bool numbered = mapping[0].is_object() && mapping[0].contains("vqs");
  for (size_t i = 0; i < mapping.size(); ++i) {
    const json& each = mapping[i];
    if (!each.is_object() || !each.contains("iothread") || !each["iothread"].is_string())
      return error("each entry needs an iothread");
    if (each.contains("vqs") != numbered) return error("either all entries have vqs or none has");
    const auto id = each["iothread"].get<std::string>();
    if (!numbered) {
      for (size_t queue = i; queue < threads.size(); queue += mapping.size()) threads[queue] = id;
      continue;
    }
    if (!each["vqs"].is_array()) return error("vqs must be a list of numbers");
    for (const json& queue : each["vqs"]) {
      if (!queue.is_number_unsigned() || queue.get<uint64_t>() >= threads.size())
        return error(fmt::format("there is no queue {} among {}", queue.dump(), threads.size()));
      std::string& place = threads[queue.get<size_t>()];
      if (!place.empty()) return error(fmt::format("queue {} is given twice", queue.dump()));
      place = id;
    }
  }
  for (size_t queue = 0; queue < threads.size(); ++queue)
    if (threads[queue].empty()) return error(fmt::format("queue {} has no iothread", queue));
  return threads;
}

// "virtio-blk" of "virtio-blk-pci" and "virtio-blk-device".
std::string family_of(const std::string& type) {
  for (const std::string_view suffix : {"-pci", "-device"})
    if (type.ends_with(suffix)) return type.substr(0, type.size() - suffix.size());
  return type;
}

class IdeTray final : public Tray {
 public:
  IdeTray(ide::Channel& channel, unsigned unit, ide::CdDrive& drive)
      : channel_(channel), unit_(unit), drive_(drive) {}
  bool open(bool force) override {
    return channel_.with_drive(unit_, [&](ide::Drive&) { return drive_.open_tray(force); });
  }
  void close() override {
    channel_.with_drive(unit_, [&](ide::Drive&) {
      drive_.close_tray();
      return true;
    });
  }
  bool is_open() const override {
    return channel_.with_drive(unit_, [&](ide::Drive&) { return drive_.tray_open(); });
  }
  bool is_locked() const override {
    return channel_.with_drive(unit_, [&](ide::Drive&) { return drive_.locked(); });
  }

 private:
  ide::Channel& channel_;
  const unsigned unit_;
  ide::CdDrive& drive_;
};

}  // namespace

PluggedDevices::PluggedDevices(Core& core, Backends& backends, Media& media, Board& board,
                               chipset::SystemRequests& requests)
    : core_(core),
      backends_(backends),
      media_(media),
      board_(board),
      requests_(requests),
      ports_(core.ports()) {}

Result<std::unique_ptr<PluggedDevices>> PluggedDevices::create(const config::Machine& config, Core& core,
                                                               Backends& backends, Media& media, Board& board,
                                                               chipset::SystemRequests& requests) {
  std::unique_ptr<PluggedDevices> devices(new PluggedDevices(core, backends, media, board, requests));
  TRY_ASSIGN(devices->random_sources_, random_sources(config));
  devices->globals_ = GlobalProperties(config.globals);
  for (const config::Device& device : config.devices) TRY(devices->plug(device));
  return devices;
}

Result<void> PluggedDevices::set_link(const std::string& name, bool up) {
  for (const Card& card : cards_) {
    if (card.id != name && card.netdev != name) continue;
    card.set_link(up);
    return {};
  }
  return Error(ErrorKind::kNotFound,
               fmt::format("there is no network card or network '{}' whose link could be set", name));
}

std::string PluggedDevices::unsavable() const {
  for (const Folder& folder : folders_)
    if (folder.device->mounted())
      return fmt::format(
          "{}: a guest that has mounted a shared folder cannot be saved, as its open files are the host's; "
          "unmount it in the guest first",
          folder.origin);
  return unsavable_;
}

Result<void> PluggedDevices::plug(const config::Device& device) {
  const config::DeviceType* type = find_device_type(device.type);
  if (type == nullptr)
    return Error(ErrorKind::kNotFound,
                 fmt::format("{}: there is no device '{}'{}; -device help lists them all", device.origin,
                             device.type, device_type_suggestion(device.type)));
  if (!device.id.empty() && !ids_.insert(device.id).second)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("{}: the id '{}' is taken by another device; choose another", device.origin, device.id));
  TRY_ASSIGN(auto properties, globals_.for_device(*type));
  properties.insert(properties.end(), device.properties.begin(), device.properties.end());
  if (!device.id.empty()) properties.push_back({"id", device.id});
  auto options = type->properties->parse_any(properties);
  if (!options) return std::move(options).error().with_context(device.origin);
  if (type->bus == "ISA") return plug_isa(*type, *options, device);
  if (type->bus == "IDE") return plug_ide(*type, *options, device);
  if (type->bus == "SCSI") return plug_scsi(*type, *options, device);
  if (type->bus == "virtio-serial-bus") return plug_console_port(*type, *options, device);

  if (type->bus == "PCI" && board_.pci() == nullptr)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{}: this machine has no PCI bus; say '{}-device', or -machine microvm,pcie=on",
                             device.origin, family_of(type->name)));
  virtio::DeviceOptions bus_options;
  TRY_ASSIGN(auto made, make_virtio(*type, *options, device, bus_options));
  made->serve_rest_on(core_.loop());
  event::Loop* const doorbells = bus_options.ioeventfd && core_.takes_doorbells() ? &core_.loop() : nullptr;
  if (type->bus != "PCI") {
    auto plugged = board_.plug_mmio(std::move(made), doorbells);
    return plugged ? std::move(plugged) : std::move(plugged).error().with_context(device.origin);
  }
  if (const auto& bus = bus_options.bus; !bus.empty() && bus != "pci.0" && bus != "pcie.0" && bus != "pci")
    return Error(ErrorKind::kNotFound,
                 fmt::format("{}: bus: there is no PCI bus '{}'; all cards are on pci.0, so leave it out",
                             device.origin, bus));
  std::optional<pci::Address> address;
  if (bus_options.addr) address = pci::Address{bus_options.addr->slot, bus_options.addr->function};
  auto interfaces = virtio::pci_interfaces(device.type, made->type(), bus_options);
  if (!interfaces) return std::move(interfaces).error().with_context(device.origin);
  auto function = std::make_shared<virtio::Pci>(std::move(made), bus_options.vectors_wanted(), *interfaces);
  if (doorbells != nullptr) function->serve_on(*doorbells);
  if (bus_options.irqfd) function->lend_to_kernel();
  auto added = board_.pci()->add(std::move(function), address, bus_options.multifunction);
  if (!added) return std::move(added).error().with_context(device.origin);
  return {};
}

Result<void> PluggedDevices::plug_isa(const config::DeviceType& type, const std::any& options,
                                      const config::Device& device) {
  if (type.name == "isa-debug-exit") {
    const auto& exit = std::any_cast<const DebugExitOptions&>(options);
    isa_.push_back(std::make_unique<chipset::DebugExit>(requests_));
    ports_.add(type.name, *isa_.back(), exit.iobase, exit.iosize, 1);
    return {};
  }
  const auto& console = std::any_cast<const DebugConsoleOptions&>(options);
  if (console.chardev.empty())
    return missing(device, "chardev", "-chardev KIND,id=NAME makes one for chardev=NAME");
  TRY_ASSIGN(chardev::CharBackend* const backend, backends_.take_chardev(console.chardev, device.origin));
  isa_.push_back(std::make_unique<chipset::DebugPort>(*backend));
  ports_.add(type.name, *isa_.back(), console.iobase, 1, 1);
  return {};
}

Result<void> PluggedDevices::plug_ide(const config::DeviceType& type, const std::any& options,
                                      const config::Device& device) {
  auto own = std::any_cast<const ide::Options&>(options);
  if (board_.ide() == nullptr)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{}: this machine has no IDE controller; say virtio-blk-device", device.origin));
  const bool disk = type.name == "ide-hd";
  if (disk && own.drive.empty()) return missing(device, "drive", kDriveCure);
  // A tray is called by something even if its device has no id.
  std::string name = own.id;
  if (name.empty() && !disk) name = own.drive.empty() ? fmt::format("cd{}", ide_drives_) : own.drive;
  DiskWish wish{.name = own.drive, .user = device.origin, .device = name};
  wish.removable = !disk;
  wish.share_writes = own.share_rw;
  wish.write_error = own.werror;
  wish.read_error = own.rerror;
  TRY_ASSIGN(auto queues, backends_.disks().take(wish));
  std::shared_ptr<block::Backend> node = queues.front();
  if (disk && node->read_only())
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("{}: an IDE disk cannot be read-only; leave readonly=on out, or use a virtio disk",
                    device.origin));
  if (!std::has_single_bit(own.physical_block_size))
    return Error(ErrorKind::kInvalidArgument, fmt::format("{}: physical_block_size: {} is not a power of two",
                                                          device.origin, own.physical_block_size));
  if (own.serial.empty()) own.serial = fmt::format("OS{:05}", ide_drives_ + 1);
  ++ide_drives_;
  if (own.model.empty()) own.model = disk ? "OSTLER HARDDISK" : "OSTLER DVD-ROM";
  if (own.version.empty()) own.version = "1.0";
  std::unique_ptr<ide::Drive> drive;
  ide::CdDrive* cd = nullptr;
  if (disk) {
    drive = std::make_unique<ide::AtaDisk>(std::move(node), own);
  } else {
    auto made = std::make_unique<ide::CdDrive>(std::move(node), own);
    cd = made.get();
    drive = std::move(made);
  }
  auto place = board_.ide()->attach(std::move(drive), own.bus, own.unit);
  if (!place) return std::move(place).error().with_context(device.origin);
  if (cd != nullptr)
    media_.add(name, own.drive,
               std::make_unique<IdeTray>(board_.ide()->channel(place->channel), place->unit, *cd));
  return {};
}

Result<virtio::console::ConsoleDevice*> PluggedDevices::find_console(const std::string& bus,
                                                                     const config::Device& device) {
  if (consoles_.empty())
    return Error(ErrorKind::kState,
                 fmt::format("{}: needs a virtio-serial device before it; add -device virtio-serial-pci",
                             device.origin));
  if (bus.empty()) return consoles_.front();
  for (virtio::console::ConsoleDevice* const each : consoles_)
    if (bus == each->name() || bus == each->name() + ".0") return each;
  return Error(
      ErrorKind::kNotFound,
      fmt::format("{}: bus: there is no '{}' before it; -device virtio-serial-pci,id=NAME makes NAME.0",
                  device.origin, bus));
}

Result<void> PluggedDevices::plug_console_port(const config::DeviceType& type, const std::any& options,
                                               const config::Device& device) {
  const auto& port = std::any_cast<const virtio::console::PortOptions&>(options);
  TRY_ASSIGN(virtio::console::ConsoleDevice* const console, find_console(port.bus, device));
  const auto named = [&](const auto* each) { return each->has_name(port.name); };
  if (!port.name.empty() && std::ranges::any_of(consoles_, named))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: name: another port is called '{}' already; choose another name",
                             device.origin, port.name));
  chardev::CharBackend* backend = nullptr;
  if (!port.chardev.empty()) {
    TRY_ASSIGN(backend, backends_.take_chardev(port.chardev, device.origin));
  }
  auto added = console->add_port(port, type.name == "virtconsole", backend);
  if (!added) return std::move(added).error().with_context(device.origin);
  return {};
}

// A queue and an interrupt for each vCPU need MSI-X: devices on MMIO have one interrupt for all.
uint16_t PluggedDevices::automatic_queues(const config::DeviceType& type, uint16_t most) const {
  if (type.bus != "PCI") return 1;
  return static_cast<uint16_t>(std::min<size_t>(core_.cpu_count(), most));
}

Result<virtio::vhost_user::Address> PluggedDevices::vhost_user_address(const std::string& chardev,
                                                                       const config::Device& device) {
  if (chardev.empty())
    return missing(device, "chardev",
                   "-chardev socket,id=NAME,path=SOCKET is where the back end listens, for chardev=NAME");
  TRY(backends_.has_vhost_user(chardev, device.origin));
  for (const auto& block : core_.ram().blocks()) {
    if (block->memory().shared() && block->memory().fd() >= 0) continue;
    std::string cure =
        fmt::format("add -object memory-backend-memfd,id=mem,size={}M -machine memory-backend=mem",
                    (core_.layout().low + core_.layout().high) >> 20);
    if (block->name() != "ram")
      cure = fmt::format("make it -object memory-backend-memfd,id={},share=on,…, or -file", block->name());
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: the back end must map the guest's memory, and '{}' is private; {}",
                             device.origin, block->name(), cure));
  }
  return backends_.take_vhost_user(chardev, device.origin);
}

Result<std::unique_ptr<virtio::Device>> PluggedDevices::make_virtio(const config::DeviceType& type,
                                                                    const std::any& options,
                                                                    const config::Device& device,
                                                                    virtio::DeviceOptions& bus_options) {
  const std::string family = family_of(type.name);
  if (family == "virtio-blk") {
    auto own = std::any_cast<virtio::block::Options>(options);
    if (!own.num_queues) own.num_queues = automatic_queues(type, virtio::Device::kMaxQueues);
    if (own.drive.empty()) return missing(device, "drive", kDriveCure);
    bus_options = own;
    DiskWish wish{.name = own.drive, .user = device.origin};
    wish.device = own.id;
    wish.share_writes = own.share_rw;
    wish.write_error = own.werror;
    wish.read_error = own.rerror;
    TRY_ASSIGN(wish.iothreads, queue_threads(own, device));
    TRY_ASSIGN(auto queues, backends_.disks().take(wish));
    return std::unique_ptr<virtio::Device>(
        std::make_unique<virtio::block::BlockDevice>(core_.memory(), std::move(queues), own));
  }
  if (family == "virtio-net") {
    auto own = std::any_cast<virtio::net::Options>(options);
    if (own.netdev.empty())
      return Error(
          ErrorKind::kInvalidArgument,
          fmt::format("{}: the property 'netdev' is missing; -netdev user,id=NAME makes a network for "
                      "netdev=NAME",
                      device.origin));
    if (!own.mac) own.mac = virtio::net::default_mac(nics_);
    ++nics_;
    bus_options = own;
    if (const auto network = backends_.vhost_user_network(own.netdev)) {
      TRY(backends_.claim_netdev(own.netdev, device.origin));
      TRY_ASSIGN(const auto address, vhost_user_address(network->chardev, device));
      auto made = virtio::vhost_user::NetDevice::create(core_.memory(), core_.loop(), own,
                                                        network->queue_pairs, address);
      if (!made) return std::move(made).error().with_context(device.origin);
      cards_.push_back({own.id, own.netdev, [card = made->get()](bool up) { card->set_link(up); }});
      return std::unique_ptr<virtio::Device>(*std::move(made));
    }
    if (!own.rss && !own.hash) {  // which the kernel does not do
      TRY_ASSIGN(net::KernelTap* const tap, backends_.take_kernel_tap(own.netdev, device.origin));
      if (tap != nullptr) {
        auto made = virtio::vhost_user::NetDevice::create(core_.memory(), core_.loop(), own, *tap);
        if (!made) return std::move(made).error().with_context(device.origin);
        cards_.push_back({own.id, own.netdev, [card = made->get()](bool up) { card->set_link(up); }});
        return std::unique_ptr<virtio::Device>(*std::move(made));
      }
    }
    TRY_ASSIGN(net::Backend* const backend, backends_.take_netdev(own.netdev, device.origin));
    auto card = std::make_unique<virtio::net::NetDevice>(core_.memory(), *backend, own);
    cards_.push_back({own.id, own.netdev, [card = card.get()](bool up) { card->set_link(up); }});
    return std::unique_ptr<virtio::Device>(std::move(card));
  }
  if (family == "virtio-scsi") {
    auto own = std::any_cast<virtio::scsi::Options>(options);
    if (!own.num_queues) own.num_queues = automatic_queues(type, virtio::scsi::kMostRequestQueues);
    bus_options = own;
    if (!own.iothread.empty()) TRY(backends_.disks().check_iothread(own.iothread, device.origin));
    return make_scsi_controller(own);
  }
  if (family == "virtio-rng") {
    const auto& own = std::any_cast<const virtio::rng::Options&>(options);
    if (!own.rng.empty() && !random_sources_.contains(own.rng))
      return Error(ErrorKind::kNotFound,
                   fmt::format("{}: rng: there is no source '{}'; -object rng-builtin,id={} "
                               "makes it",
                               device.origin, own.rng, own.rng));
    bus_options = own;
    return std::unique_ptr<virtio::Device>(
        std::make_unique<virtio::rng::RngDevice>(core_.memory(), core_.loop(), own));
  }
  if (family == "virtio-balloon") {
    const auto& own = std::any_cast<const virtio::balloon::Options&>(options);
    if (balloon_ != nullptr)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: the guest has a balloon already; leave one out", device.origin));
    bus_options = own;
    const uint64_t bytes = core_.layout().low + core_.layout().high;
    if (!own.iothread.empty()) TRY(backends_.disks().check_iothread(own.iothread, device.origin));
    auto made = std::make_unique<virtio::balloon::BalloonDevice>(core_.memory(), core_.loop(), bytes, own);
    balloon_ = made.get();
    return std::unique_ptr<virtio::Device>(std::move(made));
  }
  if (family == "virtio-vsock") {
    const auto& own = std::any_cast<const virtio::vsock::Options&>(options);
    if (own.guest_cid == 0)
      return missing(device, "guest-cid", "guest-cid=3 is the first that a guest may have");
    if (own.uds_path.empty())
      return missing(device, "uds-path",
                     "programs of the host connect to uds-path=SOCKET, and serve port N at SOCKET_N");
    bus_options = own;
    auto host = virtio::vsock::UnixHost::create(core_.loop(), own.uds_path);
    if (!host) return std::move(host).error().with_context(device.origin);
    return std::unique_ptr<virtio::Device>(
        std::make_unique<virtio::vsock::SocketDevice>(core_.memory(), core_.loop(), *std::move(host), own));
  }
  if (family == "virtio-9p") {
    const auto& own = std::any_cast<const virtio::p9::Options&>(options);
    if (own.fsdev.empty())
      return missing(device, "fsdev",
                     "-fsdev local,id=NAME,path=FOLDER,security_model=none shares a folder for fsdev=NAME");
    bus_options = own;
    TRY_ASSIGN(auto share, backends_.take_share(own.fsdev, device.origin));
    auto made = virtio::p9::P9Device::create(core_.memory(), std::move(share), own);
    if (!made) return std::move(made).error().with_context(device.origin);
    folders_.push_back({device.origin, made->get()});
    return std::unique_ptr<virtio::Device>(*std::move(made));
  }
  if (family == "vhost-user-fs") {
    const auto& own = std::any_cast<const virtio::fs::Options&>(options);
    bus_options = own;
    TRY_ASSIGN(const auto address, vhost_user_address(own.chardev, device));
    auto made = virtio::fs::FsDevice::create(core_.memory(), core_.loop(), own, address);
    if (!made) return std::move(made).error().with_context(device.origin);
    unsavable_ = fmt::format(
        "{}: a guest with a shared folder cannot be saved, as only virtiofsd knows which "
        "files are open; leave the folder out",
        device.origin);
    return std::unique_ptr<virtio::Device>(*std::move(made));
  }
  if (family == "vhost-user-blk") {
    auto own = std::any_cast<virtio::vhost_user::BlockOptions>(options);
    own.auto_queues = automatic_queues(type, virtio::Device::kMaxQueues);
    bus_options = own;
    TRY_ASSIGN(const auto address, vhost_user_address(own.chardev, device));
    auto made = virtio::vhost_user::BlockDevice::create(core_.memory(), core_.loop(), own, address);
    if (!made) return std::move(made).error().with_context(device.origin);
    return std::unique_ptr<virtio::Device>(*std::move(made));
  }
  const auto& own = std::any_cast<const virtio::console::Options&>(options);
  bus_options = own;
  auto made = std::make_unique<virtio::console::ConsoleDevice>(core_.memory(), own);
  consoles_.push_back(made.get());
  return std::unique_ptr<virtio::Device>(std::move(made));
}

}  // namespace ostler::machine
