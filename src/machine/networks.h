// The networks of a machine: back ends by their ids, hubs that join some of them, and filters in front. The
// machine's thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "chardev/char_backend.h"
#include "config/machine.h"
#include "event/loop.h"
#include "net/backend.h"
#include "net/filter.h"
#include "net/hub.h"
#include "net/kernel_tap.h"

namespace ostler::machine {

// A network that another process carries: -netdev vhost-user.
struct VhostUserNetwork {
  std::string chardev;
  unsigned queue_pairs = 1;
};

class Networks {
 public:
  // Opens networks in the order of the command line, then filters, then what joins hubs. Errors begin with
  // the option. `take_chardev`: Backends::take_chardev(), for what user networks forward to.
  using TakeChardev =
      std::function<Result<chardev::CharBackend*>(const std::string& id, const std::string& user)>;
  static Result<std::unique_ptr<Networks>> create(const config::Machine& config, event::Loop& loop,
                                                  const TakeChardev& take_chardev);
  // Cards are gone.
  ~Networks();

  // What a card is connected to. Each network serves one card or hub: kNotFound names the nearest id, kBusy
  // who has it. `user` names the device for that.
  Result<net::Backend*> take(const std::string& id, const std::string& user);
  // The same for a card whose frames the host's kernel can carry; null: it cannot for this network, which is
  // to be had of take().
  Result<net::KernelTap*> take_kernel_tap(const std::string& id, const std::string& user);
  // Nothing: the network `id` is none of that kind, or is not known.
  std::optional<VhostUserNetwork> vhost_user(const std::string& id) const;
  // Who has the network `id` of that kind. Errors as of take().
  Result<void> claim(const std::string& id, const std::string& user);
  // A warning for each network that leads nowhere. Once all cards are made.
  std::vector<std::string> unused() const;

 private:
  struct Network {
    net::Backend* backend = nullptr;      // the outermost: the last filter, or what is filtered
    std::unique_ptr<net::Backend> owned;  // null for a port, which its hub owns
    std::vector<std::unique_ptr<net::Filter>> filters;
    std::string user;                            // the device that has it; "": free
    std::string origin;                          // the option
    std::optional<uint64_t> hub;                 // whose port it is
    std::optional<VhostUserNetwork> vhost_user;  // then there is no back end here
    std::unique_ptr<net::KernelTap> kernel_tap;  // nor here, until take() makes it of it
  };
  explicit Networks(event::Loop& loop) : loop_(loop) {}
  Result<void> open(const config::Netdev& netdev, const TakeChardev& take_chardev);
  Result<void> open_vhost_user(const config::Netdev& netdev);
  Result<void> open_backend(const config::Netdev& netdev, const TakeChardev& take_chardev);
  Result<void> open_kernel_tap(const config::Netdev& netdev);
  Result<void> open_port(const config::Netdev& netdev);
  Result<void> filter(const config::Object& object);
  void use_backend(Network& network, std::unique_ptr<net::Backend> backend);
  Result<Network*> look_up(const std::string& id, const std::string& user);
  Result<Network*> find(const std::string& id, const std::string& user);
  net::Hub& hub(uint64_t number);

  event::Loop& loop_;
  std::map<std::string, Network> networks_;
  std::map<uint64_t, std::unique_ptr<net::Hub>> hubs_;
  struct Join {
    uint64_t hub;
    std::string network;
    std::string user;
  };
  std::vector<Join> joins_;
};

}  // namespace ostler::machine
