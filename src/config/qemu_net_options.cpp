// -netdev, -nic and -net.

#include <fmt/format.h>

#include <utility>

#include "config/qemu_builder.h"

namespace ostler::config {
namespace {

constexpr KindHelp kNetworkKinds[] = {
    {"user", "the host's own connections, without privileges (libslirp)"},
    {"tap", "a tap device of the host: ifname=, or fd="},
    {"bridge", "a tap device on the bridge br="},
    {"socket", "TCP, listen= or connect=; UDP, udp= or mcast="},
    {"stream", "TCP or UNIX sockets: addr.type=, server=on"},
    {"dgram", "UDP or UNIX sockets: local.type=, remote.type="},
    {"hubport", "a port of the hub hubid="},
    {"vhost-user", "another process at chardev="},
};

// QMP's lists of strings, {"hostfwd":[{"str":"tcp::2222-:22"}]}, as the setting said several times.
std::string without_list(std::string_view key) {
  constexpr std::string_view kMember = ".str";
  if (!key.ends_with(kMember)) return std::string(key);
  const size_t dot = key.substr(0, key.size() - kMember.size()).rfind('.');
  if (dot == std::string_view::npos) return std::string(key);
  const std::string_view index = key.substr(dot + 1, key.size() - kMember.size() - dot - 1);
  const bool number = !index.empty() && index.find_first_not_of("0123456789") == std::string_view::npos;
  return std::string(number ? key.substr(0, dot) : key);
}

// -netdev help, -nic help, -net help.
bool told_kinds(QemuBuilder& b, std::string_view value) {
  if (!asks_for_help(value)) return false;
  tell_kinds(b, "Networks (-netdev KIND,id=NAME[,…]; docs/networks.md tells what each takes)", kNetworkKinds);
  return true;
}

// -nic user,model=help, -net nic,model=help.
bool told_models(QemuBuilder& b, const QemuBuilder::PendingNic& nic) {
  if (!asks_for_help(nic.model)) return false;
  b.out.action = CommandLine::Action::kNicHelp;
  return true;
}

// guestfwd=tcp:10.0.2.100:1234-unix:/x: the character device behind the dash is made here, and named there.
Result<void> make_forwarded_chardevs(QemuBuilder& b, Netdev& netdev) {
  if (netdev.type != "user") return {};
  for (KeyValue& property : netdev.properties) {
    const size_t dash = property.value.find('-');
    if (property.key != "guestfwd" || dash == std::string::npos) continue;
    const std::string target = property.value.substr(dash + 1);
    if (target.starts_with("cmd:")) continue;
    TRY_ASSIGN(const std::string id, short_chardev(b, netdev.origin + ": guestfwd:", target));
    if (id.empty())
      return Error(ErrorKind::kInvalidArgument, fmt::format("{}: guestfwd: '{}' leads nowhere; leave it out",
                                                            netdev.origin, property.value));
    property.value.replace(dash + 1, std::string::npos, "chardev:" + id);
  }
  return {};
}

// What `keys` says of the card itself.
void take_card_properties(KeyValues& keys, QemuBuilder::PendingNic& nic) {
  nic.origin = keys.origin();
  nic.model = keys.take("model").value_or("");
  for (const auto& [option, property] :
       {std::pair{"mac", "mac"}, {"macaddr", "mac"}, {"addr", "addr"}, {"vectors", "vectors"}})
    if (auto value = keys.take(option)) nic.device_properties.push_back({property, *std::move(value)});
}

}  // namespace

Result<void> option_netdev(QemuBuilder& b, std::string_view value) {
  if (told_kinds(b, value)) return {};
  TRY_ASSIGN(auto keys, KeyValues::parse_either("-netdev", value, "type"));
  Netdev netdev;
  netdev.origin = keys.origin();
  TRY_ASSIGN(netdev.type, keys.take_choice("type", names_of(kNetworkKinds)));
  const auto id = keys.take("id");
  if (!id) return keys.error("id", "is missing: no device could use this network");
  netdev.id = *id;
  netdev.properties = keys.take_rest();
  if (value.starts_with('{'))
    for (KeyValue& property : netdev.properties) property.key = without_list(property.key);
  TRY(make_forwarded_chardevs(b, netdev));
  b.machine().netdevs.push_back(std::move(netdev));
  return {};
}

Result<void> option_nic(QemuBuilder& b, std::string_view value) {
  if (told_kinds(b, value)) return {};
  TRY_ASSIGN(auto keys, KeyValues::parse("-nic", value, "type"));
  QemuBuilder::PendingNic nic;
  nic.netdev.origin = keys.origin();
  TRY_ASSIGN(nic.netdev.type, keys.take_choice("type", {"user", "none", "tap", "bridge", "socket", "stream",
                                                        "dgram", "hubport", "vhost-user"}));
  if (nic.netdev.type == "none") return keys.finish();
  nic.netdev.id = keys.take("id").value_or(b.anonymous_id("net"));
  take_card_properties(keys, nic);
  if (told_models(b, nic)) return {};
  if (nic.netdev.type == "hubport" && keys.take("netdev"))
    return keys.error("netdev", "joins a network to the hub, without a card; say -netdev hubport");
  nic.netdev.properties = keys.take_rest();
  TRY(make_forwarded_chardevs(b, nic.netdev));
  b.nics.push_back(std::move(nic));
  return {};
}

Result<void> option_net(QemuBuilder& b, std::string_view value) {
  if (told_kinds(b, value)) return {};
  TRY_ASSIGN(auto keys, KeyValues::parse("-net", value, "type"));
  TRY_ASSIGN(const std::string type,
             keys.take_choice("type", {"nic", "user", "none", "tap", "bridge", "socket", "vhost-user"}));
  if (type == "none") return keys.finish();
  if (type != "nic") {
    Netdev netdev{.id = {}, .type = type, .properties = {}, .origin = keys.origin()};
    auto id = keys.take("id");
    if (!id) id = keys.take("name");
    netdev.id = id.value_or(b.anonymous_id("net"));
    netdev.properties = keys.take_rest();
    TRY(make_forwarded_chardevs(b, netdev));
    b.hub_networks.push_back(std::move(netdev));
    return {};
  }
  QemuBuilder::PendingNic nic;
  nic.netdev.origin = keys.origin();
  take_card_properties(keys, nic);
  if (told_models(b, nic)) return {};
  static_cast<void>(keys.take("name"));
  const auto netdev = keys.take("netdev");
  TRY(keys.finish());
  if (netdev) {
    nic.netdev = {.id = *netdev, .type = "", .properties = {}, .origin = nic.netdev.origin};
    b.nics.push_back(std::move(nic));
  } else {
    b.hub_nics.push_back(std::move(nic));
  }
  return {};
}

// The card of a network, which is added too unless its type is empty: then it exists.
void QemuBuilder::add_nic(PendingNic nic) {
  Machine& m = machine();
  const char* const model = m.type == "microvm" ? "virtio-net-device" : "virtio-net-pci";
  Device device{.type = nic.model.empty() || nic.model == "virtio" ? model : nic.model,
                .id = {},
                .properties = std::move(nic.device_properties),
                .origin = nic.origin.empty() ? nic.netdev.origin : nic.origin};
  device.properties.push_back({"netdev", nic.netdev.id});
  m.devices.push_back(std::move(device));
  if (!nic.netdev.type.empty()) m.netdevs.push_back(std::move(nic.netdev));
}

void QemuBuilder::place_nics() {
  // One card and one network need no hub between them, which would cost them their offloads.
  if (hub_nics.size() == 1 && hub_networks.size() == 1) {
    hub_nics[0].netdev = std::move(hub_networks[0]);
  } else {
    const auto port = [&](const std::string& origin) {
      return Netdev{
          .id = anonymous_id("port"), .type = "hubport", .properties = {{"hubid", "0"}}, .origin = origin};
    };
    for (Netdev& network : hub_networks) {
      Netdev joined = port(network.origin);
      joined.properties.push_back({"netdev", network.id});
      machine().netdevs.push_back(std::move(network));
      machine().netdevs.push_back(std::move(joined));
    }
    for (PendingNic& nic : hub_nics) nic.netdev = port(nic.netdev.origin);
  }
  for (auto* const list : {&hub_nics, &nics})
    for (PendingNic& nic : *list) add_nic(std::move(nic));
}

}  // namespace ostler::config
