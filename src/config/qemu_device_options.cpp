// -device, -chardev, -serial, -debugcon, and what the whole command line decides.

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "config/property.h"
#include "config/qemu_builder.h"

namespace ostler::config {
namespace {

constexpr size_t kSerialPorts = 4;
constexpr auto kReplace = nlohmann::json::error_handler_t::replace;  // bytes that are not UTF-8

// "host:port" or ":port" of "tcp:host:port,server=on".
Result<void> split_address(std::string_view option, std::string_view address, Properties& out) {
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos)
    return Error(ErrorKind::kInvalidArgument, fmt::format("{}: '{}' is not host:port", option, address));
  out.push_back({"host", colon == 0 ? "127.0.0.1" : std::string(address.substr(0, colon))});
  out.push_back({"port", std::string(address.substr(colon + 1))});
  return {};
}

constexpr KindHelp kChardevKinds[] = {
    {"stdio", "this program's terminal, or its input and output"},
    {"null", "nothing"},
    {"file", "a file that what the guest writes is put in: path="},
    {"pipe", "a FIFO, or PATH.in and PATH.out: path="},
    {"pty", "a new terminal of the host, whose name is told"},
    {"socket", "a UNIX socket, path=, or TCP, host= and port=; server=on listens"},
    {"udp", "datagrams to host= and port=, from localaddr= and localport="},
    {"ringbuf", "memory that keeps the last of it: size="},
};

}  // namespace

void tell_kinds(QemuBuilder& b, std::string_view title, std::span<const KindHelp> kinds) {
  std::string text = fmt::format("{}:\n", title);
  for (const KindHelp& each : kinds) text += fmt::format("  {:<11} {}\n", each.name, each.help);
  b.out.action = CommandLine::Action::kText;
  b.out.subject = std::move(text);
}

std::vector<std::string_view> names_of(std::span<const KindHelp> kinds) {
  std::vector<std::string_view> names;
  for (const KindHelp& each : kinds) names.push_back(each.name);
  return names;
}

std::string QemuBuilder::anonymous_id(std::string_view kind) {
  return fmt::format("#{}{}", kind, next_anonymous++);
}

Result<void> option_device(QemuBuilder& b, std::string_view value) {
  if (asks_for_help(value)) {
    b.out.action = CommandLine::Action::kDeviceHelp;
    return {};
  }
  // Lists are properties as they are; their text is JSON.
  Properties lists;
  std::string rest(value);
  if (value.starts_with('{'))
    if (auto json = nlohmann::json::parse(value, nullptr, false); json.is_object()) {
      for (auto at = json.begin(); at != json.end();) {
        if (at->is_array()) lists.push_back({at.key(), at->dump(-1, ' ', false, kReplace)});
        at = at->is_array() ? json.erase(at) : std::next(at);
      }
      if (!lists.empty()) rest = json.dump(-1, ' ', false, kReplace);
    }
  TRY_ASSIGN(auto keys, KeyValues::parse_either("-device", rest, "driver"));
  Device device;
  device.origin = fmt::format("-device {}", value);
  const auto driver = keys.take("driver");
  if (!driver) return keys.error("driver", "is missing");
  device.type = *driver;
  if (keys.take("help") || keys.take("?")) {
    b.out.action = CommandLine::Action::kDeviceHelp;
    b.out.subject = device.type;
    return {};
  }
  device.id = keys.take("id").value_or("");
  device.properties = keys.take_rest();
  for (auto& list : lists) device.properties.push_back(std::move(list));
  b.machine().devices.push_back(std::move(device));
  return {};
}

// DRIVER.PROPERTY=VALUE, or driver=…,property=…,value=… for names with a dot.
Result<void> option_global(QemuBuilder& b, std::string_view value) {
  GlobalProperty global;
  global.origin = fmt::format("-global {}", value);
  const size_t equals = value.find('='), dot = value.substr(0, equals).find('.');
  if (equals != std::string_view::npos && dot != std::string_view::npos && dot != 0 && dot + 1 < equals) {
    global.driver = value.substr(0, dot);
    global.property = {std::string(value.substr(dot + 1, equals - dot - 1)),
                       std::string(value.substr(equals + 1))};
  } else {
    TRY_ASSIGN(auto keys, KeyValues::parse("-global", value, ""));
    const auto driver = keys.take("driver"), property = keys.take("property"), set = keys.take("value");
    if (!driver || !property || !set)
      return Error(
          ErrorKind::kInvalidArgument,
          fmt::format("{}: is not DRIVER.PROPERTY=VALUE (example: virtio-net-pci.mq=on)", global.origin));
    TRY(keys.finish());
    global.driver = *driver;
    global.property = {*property, *set};
  }
  b.machine().globals.push_back(std::move(global));
  return {};
}

Result<void> option_chardev(QemuBuilder& b, std::string_view value) {
  if (asks_for_help(value)) {
    tell_kinds(b, "Character back ends (-chardev KIND,id=NAME[,…])", kChardevKinds);
    return {};
  }
  TRY_ASSIGN(auto keys, KeyValues::parse("-chardev", value, "backend"));
  Chardev chardev;
  chardev.origin = keys.origin();
  TRY_ASSIGN(chardev.backend, keys.take_choice("backend", names_of(kChardevKinds)));
  const auto id = keys.take("id");
  if (!id) return keys.error("id", "is missing: no device could use it");
  chardev.id = *id;
  TRY_ASSIGN(const auto mux, keys.take_bool("mux"));
  chardev.mux = mux.value_or(false);
  chardev.properties = keys.take_rest();
  b.machine().chardevs.push_back(std::move(chardev));
  return {};
}

Result<std::string> short_chardev(QemuBuilder& b, std::string_view option, std::string_view value) {
  if (value == "none") return std::string();
  if (value.starts_with("chardev:")) return std::string(value.substr(8));
  Chardev chardev;
  chardev.origin = fmt::format("{} {}", option, value);
  chardev.id = b.anonymous_id("char");
  if (value.starts_with("mon:")) {
    chardev.mux = true;
    value.remove_prefix(4);
  }
  if (value == "stdio" || value == "null" || value == "pty") {
    chardev.backend = value;
  } else if (value.starts_with("file:")) {
    chardev.backend = "file";
    chardev.properties.push_back({"path", std::string(value.substr(5))});
  } else if (value.starts_with("pipe:")) {
    chardev.backend = "pipe";
    chardev.properties.push_back({"path", std::string(value.substr(5))});
  } else if (value.starts_with("unix:") || value.starts_with("tcp:")) {
    const bool tcp = value.starts_with("tcp:");
    value.remove_prefix(tcp ? 4 : 5);
    const size_t comma = value.find(',');
    const std::string_view address = value.substr(0, comma);
    chardev.backend = "socket";
    if (tcp) {
      TRY(split_address(option, address, chardev.properties));
    } else {
      chardev.properties.push_back({"path", std::string(address)});
    }
    if (comma != std::string_view::npos) {
      TRY_ASSIGN(auto keys, KeyValues::parse(std::string(option), value.substr(comma + 1), ""));
      for (auto& property : keys.take_rest()) chardev.properties.push_back(std::move(property));
    }
  } else {
    return Error(ErrorKind::kInvalidArgument, fmt::format("{} {}: not a character back end; known are stdio, "
                                                          "null, none, pty, file:PATH, pipe:PATH, unix:PATH, "
                                                          "tcp:HOST:PORT, chardev:ID",
                                                          option, value));
  }
  b.machine().chardevs.push_back(chardev);
  return chardev.id;
}

Result<void> option_debugcon(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto id, short_chardev(b, "-debugcon", value));
  b.machine().debug_chardev = std::move(id);
  return {};
}

Result<void> option_gdb(QemuBuilder& b, std::string_view value) {
  if (b.machine().gdb_chardev)
    return Error(ErrorKind::kInvalidArgument, "there is one debugger's port; -s and -gdb give it once");
  TRY_ASSIGN(auto id, short_chardev(b, "-gdb", value));
  if (id.empty()) return {};
  // Debuggers come to us, and the guest need not wait for one.
  const bool socket = value.starts_with("tcp:") || value.starts_with("unix:");
  if (socket) {
    Properties& properties = b.machine().chardevs.back().properties;
    const auto has = [&](std::string_view key) {
      return std::any_of(properties.begin(), properties.end(), [&](const auto& p) { return p.key == key; });
    };
    if (!has("server")) properties.push_back({"server", "on"});
    if (!has("wait")) properties.push_back({"wait", "off"});
  }
  b.machine().gdb_chardev = std::move(id);
  return {};
}

// -drive if=scsi needs one; the first of the user's own will do.
void QemuBuilder::place_scsi_controller() {
  const auto wants = [](const PendingDrive& drive) { return drive.interface == "scsi"; };
  const auto is_one = [](const Device& device) { return device.type.starts_with("virtio-scsi"); };
  const auto drive = std::find_if(drives.begin(), drives.end(), wants);
  auto& devices = machine().devices;
  if (drive == drives.end() || std::any_of(devices.begin(), devices.end(), is_one)) return;
  devices.push_back({.type = machine().type == "microvm" ? "virtio-scsi-device" : "virtio-scsi-pci",
                     .id = {},
                     .properties = {},
                     .origin = drive->drive.origin});
}

Result<void> QemuBuilder::finish() {
  TRY(size_memory());
  Machine& m = machine();
  const std::string suffix = m.type == "microvm" ? "-device" : "-pci";
  TRY(place_ide_drives());
  place_scsi_controller();
  for (auto& drive : drives) {
    if (drive.interface == "virtio") {
      Device device{.type = "virtio-blk" + suffix,
                    .id = {},
                    .properties = std::move(drive.device_properties),
                    .origin = drive.drive.origin};
      device.properties.push_back({"drive", drive.drive.id});
      m.devices.push_back(std::move(device));
    } else if (drive.interface == "scsi") {
      Device device{.type = drive.drive.cdrom ? "scsi-cd" : "scsi-hd",
                    .id = {},
                    .properties = std::move(drive.device_properties),
                    .origin = drive.drive.origin};
      if (drive.index) device.properties.push_back({"scsi-id", std::to_string(*drive.index)});
      device.properties.push_back({"drive", drive.drive.id});
      m.devices.push_back(std::move(device));
    }
    if (snapshot && !drive.drive.cdrom) drive.drive.snapshot = true;
    m.drives.push_back(std::move(drive.drive));
  }
  place_nics();
  place_virtfs_devices();
  if (serial_options.empty() && (nographic || m.defaults))
    serial_options.emplace_back(nographic ? "mon:stdio" : "null");
  if (serial_options.size() > kSerialPorts)
    return Error(ErrorKind::kInvalidArgument, fmt::format("-serial: given {} times, the machine has {} ports",
                                                          serial_options.size(), kSerialPorts));
  for (const std::string& option : serial_options) {
    TRY_ASSIGN(auto id, short_chardev(*this, "-serial", option));
    m.serials.push_back(std::move(id));
  }
  if (snapshot && !m.block_nodes.empty())
    return Error(
        ErrorKind::kInvalidArgument,
        "-snapshot: nodes of -blockdev would be written all the same; say snapshot=on for each -drive");
  for (const auto& [set, needs] : {std::pair{&m.initrd, "-initrd"}, std::pair{&m.append, "-append"}})
    if (!set->empty() && m.kernel.empty())
      return Error(ErrorKind::kInvalidArgument, fmt::format("{}: only goes with -kernel", needs));
  return {};
}

}  // namespace ostler::config
