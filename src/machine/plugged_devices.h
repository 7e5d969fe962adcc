// The devices that -device asks for: makes them and plugs them into the board.
#pragma once

#include <any>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "config/machine.h"
#include "config/property.h"
#include "devices/chipset/system_requests.h"
#include "devices/virtio/options.h"
#include "devices/virtio/vhost_user/address.h"
#include "machine/fixed_regions.h"
#include "machine/global_properties.h"

namespace ostler::virtio {
class Device;
namespace balloon {
class BalloonDevice;
}
namespace console {
class ConsoleDevice;
}
namespace p9 {
class P9Device;
}
namespace scsi {
struct Options;
class ScsiDevice;
}  // namespace scsi
}  // namespace ostler::virtio

namespace ostler::machine {

class Backends;
class Board;
class Core;
class Media;

class PluggedDevices {
 public:
  // In the order of the configuration. Errors begin with the option as it was written.
  static Result<std::unique_ptr<PluggedDevices>> create(const config::Machine& config, Core& core,
                                                        Backends& backends, Media& media, Board& board,
                                                        chipset::SystemRequests& requests);

  // The cable of the network card `name`, or of the card that is connected to the network `name`.
  Result<void> set_link(const std::string& name, bool up);
  // Why the guest cannot be saved now; empty: it can.
  std::string unsavable() const;
  // Of -global, for names that nothing has.
  std::vector<std::string> warnings() const { return globals_.unknown(); }
  // Null: there is none.
  virtio::balloon::BalloonDevice* balloon() const { return balloon_; }

 private:
  PluggedDevices(Core& core, Backends& backends, Media& media, Board& board,
                 chipset::SystemRequests& requests);
  Result<void> plug(const config::Device& device);
  Result<void> plug_isa(const config::DeviceType& type, const std::any& options,
                        const config::Device& device);
  Result<void> plug_ide(const config::DeviceType& type, const std::any& options,
                        const config::Device& device);
  Result<void> plug_scsi(const config::DeviceType& type, const std::any& options,
                         const config::Device& device);
  Result<void> plug_console_port(const config::DeviceType& type, const std::any& options,
                                 const config::Device& device);
  // Whose ports are on `bus`, "ID.0" or "ID"; the first there is for an empty name.
  Result<virtio::console::ConsoleDevice*> find_console(const std::string& bus, const config::Device& device);
  // The request queues of a disk or controller whose number is not given, at most `most`.
  uint16_t automatic_queues(const config::DeviceType& type, uint16_t most) const;
  // Where the back end is. An error when it could not map the guest's memory.
  Result<virtio::vhost_user::Address> vhost_user_address(const std::string& chardev,
                                                         const config::Device& device);
  // The device of any other type, without its transport, and the options of its bus.
  Result<std::unique_ptr<virtio::Device>> make_virtio(const config::DeviceType& type, const std::any& options,
                                                      const config::Device& device,
                                                      virtio::DeviceOptions& bus_options);

  struct ScsiBus {
    std::string name, iothread;
    virtio::scsi::ScsiDevice* device;
  };
  std::unique_ptr<virtio::Device> make_scsi_controller(const virtio::scsi::Options& options);
  // An empty name: the first there is.
  Result<ScsiBus*> find_scsi_bus(const std::string& name, const config::Device& device);

  Core& core_;
  Backends& backends_;
  Media& media_;
  Board& board_;
  chipset::SystemRequests& requests_;
  FixedRegions ports_;
  GlobalProperties globals_;
  std::vector<std::unique_ptr<bus::IoHandler>> isa_;
  std::vector<virtio::console::ConsoleDevice*> consoles_;
  std::set<std::string> ids_;
  std::set<std::string> random_sources_;  // objects that a virtio-rng may name
  std::string unsavable_;                 // at any time
  struct Folder {
    std::string origin;
    virtio::p9::P9Device* device;
  };
  std::vector<Folder> folders_;  // which the guest may have mounted
  unsigned nics_ = 0;
  virtio::balloon::BalloonDevice* balloon_ = nullptr;
  struct Card {
    std::string id, netdev;
    std::function<void(bool)> set_link;
  };
  std::vector<Card> cards_;
  unsigned ide_drives_ = 0;
  std::vector<ScsiBus> scsi_buses_;
};

}  // namespace ostler::machine
