#include "machine/networks.h"

#include <fmt/format.h>

#include "base/suggest.h"
#include "config/key_values.h"
#include "devices/virtio/net/device.h"
#include "net/dump_filter.h"
#include "net/filter_options.h"
#include "net/open.h"
#include "net/rate_filter.h"
#include "net/tap_backend.h"
#include "net/user_backend.h"
#include "net/user_options.h"

namespace ostler::machine {

Networks::~Networks() {
  for (auto& [id, network] : networks_)
    for (auto& each : network.filters) each->attach(nullptr);
  // Hubs let go of the networks that they join, and filters are in front of ports.
  for (auto& [id, network] : networks_)
    if (!network.owned)
      while (!network.filters.empty()) network.filters.pop_back();
  hubs_.clear();
  for (auto& [id, network] : networks_)
    while (!network.filters.empty()) network.filters.pop_back();
}

net::Hub& Networks::hub(uint64_t number) {
  auto& hub = hubs_[number];
  if (hub == nullptr) hub = std::make_unique<net::Hub>(loop_);
  return *hub;
}

Result<void> Networks::open_port(const config::Netdev& netdev) {
  auto keys = config::KeyValues::from(netdev.origin, netdev.properties);
  TRY_ASSIGN(const auto number, keys.take_number("hubid"));
  if (!number) return keys.error("hubid", "is missing: the number of the hub to join");
  const auto joined = keys.take("netdev");
  TRY(keys.finish());
  // A port with a network is not for cards.
  if (joined) {
    joins_.push_back({*number, *joined, netdev.origin});
    return {};
  }
  Network& port = networks_[netdev.id];
  port.backend = &hub(*number).add_port();
  port.origin = netdev.origin;
  port.hub = *number;
  return {};
}

Result<void> Networks::open_vhost_user(const config::Netdev& netdev) {
  auto keys = config::KeyValues::from(netdev.origin, netdev.properties);
  const auto chardev = keys.take("chardev");
  if (!chardev)
    return keys.error("chardev", "is missing: the socket of the back end, -chardev socket,path=…");
  TRY_ASSIGN(const auto queues, keys.take_number("queues"));
  // Whether a guest without MSI-X gets vhost too; a back end of another process is all there is.
  TRY(keys.take_bool("vhostforce"));
  constexpr uint64_t kMost = virtio::net::NetDevice::kMostPairs;
  if (queues && (*queues == 0 || *queues > kMost))
    return keys.error("queues", fmt::format("must be 1 to {} queue pairs", kMost));
  TRY(keys.finish());
  Network& network = networks_[netdev.id];
  network.origin = netdev.origin;
  network.vhost_user =
      VhostUserNetwork{.chardev = *chardev, .queue_pairs = static_cast<unsigned>(queues.value_or(1))};
  return {};
}

// Who uses it is not known yet: a card of which the kernel serves the queues, or a back end of this process.
Result<void> Networks::open_kernel_tap(const config::Netdev& netdev) {
  auto properties = netdev.properties;
  properties.push_back({"id", netdev.id});
  auto options = net::parse_tap(properties);
  if (!options) return std::move(options).error().with_context(netdev.origin);
  if (!options->vhost) return open_backend(netdev, {});
  auto tap = net::KernelTap::open(*options);
  if (!tap) return std::move(tap).error().with_context(netdev.origin);
  Network& network = networks_[netdev.id];
  network.origin = netdev.origin;
  if ((*tap)->has_vhost())
    network.kernel_tap = *std::move(tap);
  else
    use_backend(network, std::make_unique<net::TapBackend>(loop_, (*tap)->take_device(), netdev.id));
  return {};
}

std::optional<VhostUserNetwork> Networks::vhost_user(const std::string& id) const {
  const auto found = networks_.find(id);
  return found == networks_.end() ? std::nullopt : found->second.vhost_user;
}

namespace {

Result<std::unique_ptr<net::Backend>> open_user(event::Loop& loop, const config::Properties& properties,
                                                const std::string& origin,
                                                const Networks::TakeChardev& take_chardev) {
  TRY_ASSIGN(auto options, net::UserOptions::parse(properties));
  for (net::GuestForward& forward : options.guest_forwards)
    if (!forward.chardev.empty()) {
      TRY_ASSIGN(forward.device, take_chardev(forward.chardev, origin));
    }
  TRY_ASSIGN(auto backend, net::UserBackend::create(loop, options));
  return std::unique_ptr<net::Backend>(std::move(backend));
}

}  // namespace

Result<void> Networks::open(const config::Netdev& netdev, const TakeChardev& take_chardev) {
  if (networks_.contains(netdev.id))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: the id '{}' is taken by another network", netdev.origin, netdev.id));
  if (netdev.type == "hubport") return open_port(netdev);
  if (netdev.type == "vhost-user") return open_vhost_user(netdev);
  if (netdev.type == "tap") return open_kernel_tap(netdev);
  return open_backend(netdev, take_chardev);
}

Result<void> Networks::open_backend(const config::Netdev& netdev, const TakeChardev& take_chardev) {
  auto properties = netdev.properties;
  properties.push_back({"id", netdev.id});
  auto backend = netdev.type == "user" ? open_user(loop_, properties, netdev.origin, take_chardev)
                                       : net::open(loop_, netdev.type, properties);
  if (!backend && backend.error().message().starts_with(netdev.origin)) return std::move(backend).error();
  if (!backend) return std::move(backend).error().with_context(netdev.origin);
  Network& network = networks_[netdev.id];
  use_backend(network, *std::move(backend));
  network.origin = netdev.origin;
  return {};
}

void Networks::use_backend(Network& network, std::unique_ptr<net::Backend> backend) {
  network.owned = std::move(backend);
  network.backend = network.owned.get();
}

Result<Networks::Network*> Networks::look_up(const std::string& id, const std::string& user) {
  const auto found = networks_.find(id);
  if (found != networks_.end()) return &found->second;
  std::vector<std::string_view> known;
  for (const auto& entry : networks_) known.push_back(entry.first);
  return Error(ErrorKind::kNotFound,
               fmt::format("{}: there is no network '{}'{}", user, id, suggestion(id, known)));
}

// One whose frames come here.
Result<Networks::Network*> Networks::find(const std::string& id, const std::string& user) {
  TRY_ASSIGN(Network* const network, look_up(id, user));
  if (!network->vhost_user) return network;
  return Error(ErrorKind::kUnsupported,
               fmt::format("{}: frames of the network '{}' go by another process (vhost-user), where no "
                           "filter and no hub is; only a virtio-net card can use it",
                           user, id));
}

Result<void> Networks::claim(const std::string& id, const std::string& user) {
  TRY_ASSIGN(Network* const network, look_up(id, user));
  if (!network->user.empty())
    return Error(ErrorKind::kBusy,
                 fmt::format("{}: the network '{}' is already used by {}", user, id, network->user));
  network->user = user;
  return {};
}

Result<net::Backend*> Networks::take(const std::string& id, const std::string& user) {
  TRY_ASSIGN(Network* const network, find(id, user));
  TRY(claim(id, user));
  if (network->kernel_tap != nullptr) {
    const auto tap = std::move(network->kernel_tap);
    use_backend(*network, std::make_unique<net::TapBackend>(loop_, tap->take_device(), id));
  }
  return network->backend;
}

Result<net::KernelTap*> Networks::take_kernel_tap(const std::string& id, const std::string& user) {
  TRY_ASSIGN(Network* const network, find(id, user));
  net::KernelTap* const tap = network->kernel_tap.get();
  if (tap == nullptr) return nullptr;
  TRY(claim(id, user));
  return tap;
}

std::vector<std::string> Networks::unused() const {
  std::vector<std::string> warnings;
  std::map<uint64_t, unsigned> members;  // of hubs
  for (const auto& [id, network] : networks_) {
    if (network.user.empty())
      warnings.push_back(fmt::format("{}: no card uses this network; add -device virtio-net-pci,netdev={}",
                                     network.origin, id));
    if (network.hub) ++members[*network.hub];
  }
  for (const Join& join : joins_) ++members[join.hub];
  for (const Join& join : joins_)
    if (members[join.hub] == 1)
      warnings.push_back(fmt::format(
          "{}: this network is alone on hub {}; add a card, -net nic for that of -net", join.user, join.hub));
  return warnings;
}

namespace {

// The filter that `object` describes, in front of the network that `find` gives for its netdev; null when it
// is off.
template <class Options, class Find, class Make>
Result<std::unique_ptr<net::Filter>> make_filter(const config::Object& object,
                                                 const config::PropertyTable<Options>& table, Find find,
                                                 Make make) {
  auto options = table.parse(object.properties);
  if (!options) return std::move(options).error().with_context(object.origin);
  if (options->netdev.empty())
    return Error(ErrorKind::kInvalidArgument,
                 object.origin + ": netdev is missing: the id of the network to filter");
  TRY_ASSIGN(net::Backend* const inner, find(options->netdev));
  if (!options->status) return std::unique_ptr<net::Filter>();
  auto made = make(*inner, *options);
  if (!made) return std::move(made).error().with_context(object.origin);
  return made;
}

Result<std::unique_ptr<net::Filter>> make_dump(net::Backend& inner, const net::DumpOptions& options) {
  if (options.file.empty())
    return Error(ErrorKind::kInvalidArgument, "file is missing: where the capture goes");
  TRY_ASSIGN(auto file, net::PcapFile::create(options.file, options.max_length));
  return std::unique_ptr<net::Filter>(
      std::make_unique<net::DumpFilter>(inner, std::move(file), options.direction));
}

}  // namespace

Result<void> Networks::filter(const config::Object& object) {
  Network* network = nullptr;
  const auto find_inner = [&](const std::string& id) -> Result<net::Backend*> {
    TRY_ASSIGN(network, find(id, object.origin));
    if (network->kernel_tap != nullptr)
      return Error(ErrorKind::kUnsupported,
                   fmt::format("{}: the kernel carries the frames of the network '{}' (vhost=on), where no "
                               "filter is; leave vhost=on out",
                               object.origin, id));
    return network->backend;
  };
  const auto make_rate = [&](net::Backend& inner,
                             const net::RateOptions& options) -> Result<std::unique_ptr<net::Filter>> {
    if (options.rate == 0)
      return Error(ErrorKind::kInvalidArgument, "rate is missing: the bytes a second that may pass");
    return std::unique_ptr<net::Filter>(std::make_unique<net::RateFilter>(inner, loop_, options));
  };
  const bool dump = object.type == "filter-dump";
  TRY_ASSIGN(auto made, dump ? make_filter(object, net::dump_properties(), find_inner, make_dump)
                             : make_filter(object, net::rate_properties(), find_inner, make_rate));
  if (made == nullptr) return {};
  network->backend = made.get();
  network->filters.push_back(std::move(made));
  return {};
}

Result<std::unique_ptr<Networks>> Networks::create(const config::Machine& config, event::Loop& loop,
                                                   const TakeChardev& take_chardev) {
  std::unique_ptr<Networks> networks(new Networks(loop));
  for (const config::Netdev& each : config.netdevs) TRY(networks->open(each, take_chardev));
  for (const config::Object& each : config.filters) TRY(networks->filter(each));
  for (const Join& each : networks->joins_) {
    TRY_ASSIGN(net::Backend* const backend, networks->take(each.network, each.user));
    networks->hub(each.hub).join(*backend);
  }
  return networks;
}

}  // namespace ostler::machine
