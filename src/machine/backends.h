// The host's ends of the guest's devices, by the ids that devices refer to.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/result.h"
#include "chardev/char_backend.h"
#include "chardev/mux.h"
#include "config/machine.h"
#include "devices/virtio/vhost_user/address.h"
#include "event/loop.h"
#include "fs9p/share.h"
#include "machine/disks.h"
#include "machine/networks.h"
#include "machine/virtiofsd.h"

namespace ostler::machine {

class Backends {
 public:
  // Opens every file, socket and terminal. `quit` ends the program (Ctrl-A x); `stop` as Disks wants it.
  static Result<std::unique_ptr<Backends>> create(const config::Machine& config, event::Loop& loop,
                                                  std::function<void()> quit, Disks::Stop stop);

  // Each back end serves one device (a multiplexed character back end several). kNotFound names the known
  // ids, kBusy who has it. `user` names the device for that.
  Result<chardev::CharBackend*> take_chardev(const std::string& id, const std::string& user);
  // A network of another process is taken by vhost_user_network(), claim_netdev() and
  // take_vhost_user().
  Result<net::Backend*> take_netdev(const std::string& id, const std::string& user) {
    return networks_->take(id, user);
  }
  Result<net::KernelTap*> take_kernel_tap(const std::string& id, const std::string& user) {
    return networks_->take_kernel_tap(id, user);
  }
  Result<void> claim_netdev(const std::string& id, const std::string& user) {
    return networks_->claim(id, user);
  }
  std::vector<std::string> unused_networks() const { return networks_->unused(); }
  std::optional<VhostUserNetwork> vhost_user_network(const std::string& id) const {
    return networks_->vhost_user(id);
  }
  // Whether there is such a socket.
  Result<void> has_vhost_user(const std::string& id, const std::string& user) const;
  // The socket of a vhost-user back end, which is not opened before its device is.
  Result<virtio::vhost_user::Address> take_vhost_user(const std::string& id, const std::string& user);
  // The folder of an -fsdev; several devices may show it.
  Result<std::shared_ptr<fs9p::Share>> take_share(const std::string& id, const std::string& user);
  Disks& disks() { return *disks_; }

 private:
  Backends() = default;
  Result<void> open_chardevs(const config::Machine& config, event::Loop& loop,
                             const std::function<void()>& quit);
  Result<void> open_shared_folders(const config::Machine& config);
  Result<void> claim(const std::string& kind, const std::string& id, const std::string& user);

  struct Chardev {
    std::unique_ptr<chardev::CharBackend> backend;  // null when a mux owns it
    std::unique_ptr<chardev::Mux> mux;
  };
  std::map<std::string, Chardev> chardevs_;
  std::map<std::string, virtio::vhost_user::Address> vhost_user_;
  std::vector<std::unique_ptr<Virtiofsd>> daemons_;
  std::map<std::string, std::shared_ptr<fs9p::Share>> shares_;
  std::unique_ptr<Disks> disks_;
  std::unique_ptr<Networks> networks_;
  std::map<std::string, std::string> users_;  // "kind id" -> device
};

}  // namespace ostler::machine
