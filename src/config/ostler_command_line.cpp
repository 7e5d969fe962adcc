#include "config/ostler_command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "base/suggest.h"
#include "config/key_values.h"
#include "config/property.h"
#include "config/qemu_builder.h"
#include "config/qemu_nbd_options.h"

namespace ostler::config {
namespace {

struct RunOptions {
  std::vector<std::string> disks, more_disks, cdroms, objects, nbd_servers, exports, forwards, shares,
      devices, vsocks;
  std::string kernel, initrd, append, memory = "1G", net = "user", accel, machine = "pc", cpu, name, log,
                                      log_file, share_as = "auto";
  unsigned cpus = 1;
  std::string gdb;
  bool huge_pages = false, prealloc = false;
  bool paused = false, snapshot = false, no_reboot = false, no_rng = false;
};

// "PATH[,readonly][,snapshot][,id=ID]": the short form of a disk.
Result<void> add_disk(QemuBuilder& b, const std::string& text, bool snapshot) {
  TRY_ASSIGN(auto keys, KeyValues::parse("--disk", text, "file"));
  QemuBuilder::PendingDrive drive;
  drive.drive.origin = "--disk " + text;
  drive.drive.id = b.anonymous_id("disk");
  drive.drive.options = "{}";
  drive.interface = "virtio";
  const auto file = keys.take("file");
  if (!file || file->empty()) return keys.error("file", "is missing");
  if (const auto id = keys.take("id")) drive.drive.id = *id;
  drive.drive.file = *file;
  TRY_ASSIGN(const auto read_only, keys.take_bool("readonly"));
  TRY_ASSIGN(const auto temporary, keys.take_bool("snapshot"));
  drive.drive.read_only = read_only.value_or(false);
  drive.drive.snapshot = temporary.value_or(false) || snapshot;
  TRY(keys.finish());
  b.drives.push_back(std::move(drive));
  return {};
}

Result<void> add_cdrom(QemuBuilder& b, const std::string& file) {
  if (b.machine().type == "microvm")
    return Error(ErrorKind::kUnsupported,
                 fmt::format("--cdrom {}: the microvm machine has no CD drive; leave --machine out", file));
  QemuBuilder::PendingDrive drive;
  drive.drive.origin = "--cdrom " + file;
  drive.drive.id = b.anonymous_id("cd");
  drive.drive.options = "{}";
  drive.drive.file = file;
  drive.drive.read_only = drive.drive.cdrom = true;
  drive.interface = "ide";
  b.drives.push_back(std::move(drive));
  return {};
}

// "2222:22", "tcp:2222:22", "udp:5353:53": host port to guest port on the loopback address.
Result<std::string> forward_rule(const std::string& text) {
  std::string rest = text;
  std::string protocol = "tcp";
  if (rest.starts_with("tcp:") || rest.starts_with("udp:")) {
    protocol = rest.substr(0, 3);
    rest = rest.substr(4);
  }
  const size_t colon = rest.find(':');
  const auto port = [](std::string_view digits) {
    const auto value = parse_number(digits);
    return value && *value >= 1 && *value <= 65535;
  };
  if (colon == std::string::npos || !port(std::string_view(rest).substr(0, colon)) ||
      !port(std::string_view(rest).substr(colon + 1)))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("--forward {}: write it as HOSTPORT:GUESTPORT, for example 2222:22", text));
  return fmt::format("{}:127.0.0.1:{}-:{}", protocol, rest.substr(0, colon), rest.substr(colon + 1));
}

// "user", "none", "tap=NAME", "bridge=NAME", "peer=SOCKET".
Result<void> add_network(QemuBuilder& b, const RunOptions& options) {
  const size_t equals = options.net.find('=');
  const std::string kind = options.net.substr(0, equals);
  const std::string value = equals == std::string::npos ? "" : options.net.substr(equals + 1);
  if (kind != "user" && !options.forwards.empty())
    return Error(ErrorKind::kInvalidArgument, "--forward: only goes with --net user");
  if (options.net == "none") return {};
  QemuBuilder::PendingNic nic;
  nic.netdev = {
      .id = b.anonymous_id("net"), .type = kind, .properties = {}, .origin = "--net " + options.net};
  if (options.net == "user") {
    for (const std::string& forward : options.forwards) {
      nic.netdev.origin += " --forward " + forward;
      TRY_ASSIGN(auto rule, forward_rule(forward));
      nic.netdev.properties.push_back({"hostfwd", std::move(rule)});
    }
  } else if (value.empty()) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("--net {}: known are user, none, tap=NAME, bridge=NAME[,nat], peer=SOCKET and "
                             "vhost-user=SOCKET",
                             options.net));
  } else if (kind == "tap") {
    nic.netdev.properties = {{"ifname", value}, {"script", "no"}, {"downscript", "no"}};
  } else if (kind == "bridge") {
    // NAME[,nat][,address=ADDRESS/BITS]
    const size_t comma = value.find(',');
    nic.netdev.properties = {{"br", value.substr(0, comma)}, {"managed", "on"}};
    if (comma != std::string::npos)
      for (KeyValue& each : split_options(value.substr(comma + 1)))
        nic.netdev.properties.push_back(std::move(each));
  } else if (kind == "peer") {
    nic.netdev.properties = {{"path", value}};
  } else if (kind == "vhost-user") {
    // SOCKET[,server=on][,reconnect=SECONDS][,queues=N]
    TRY_ASSIGN(auto keys, KeyValues::parse("--net vhost-user", value, "path"));
    const auto queues = keys.take("queues");
    const std::string id = b.anonymous_id("net");
    nic.netdev.properties = {{"chardev", id}};
    if (queues) {
      nic.netdev.properties.push_back({"queues", *queues});
      nic.device_properties.push_back({"mq", "on"});
    }
    b.machine().chardevs.push_back(
        {.id = id, .backend = "socket", .properties = keys.take_rest(), .origin = nic.netdev.origin});
    b.machine().memory_shared = true;
  } else {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("--net {}: known are user, none, tap=NAME, bridge=NAME[,nat], peer=SOCKET and "
                             "vhost-user=SOCKET",
                             options.net));
  }
  b.nics.push_back(std::move(nic));
  return {};
}

// "PATH[,cid=N]"
Result<void> add_vsock(QemuBuilder& b, const std::string& text) {
  TRY_ASSIGN(auto keys, KeyValues::parse("--vsock", text, "path"));
  const auto path = keys.take("path");
  if (!path || path->empty()) return keys.error("path", "is missing");
  const std::string cid = keys.take("cid").value_or("3");
  TRY(keys.finish());
  b.machine().devices.push_back(
      {.type = b.machine().type == "microvm" ? "virtio-vsock-device" : "virtio-vsock-pci",
       .id = {},
       .properties = {{"uds-path", *path}, {"guest-cid", cid}},
       .origin = "--vsock " + text});
  return {};
}

// "DIR[:TAG]"; the tag is the folder's own name if there is none.
Result<void> add_share(QemuBuilder& b, const std::string& text, Share::As as) {
  constexpr size_t kMostTag = 36;
  const std::string origin = "--share " + text;
  std::string folder = text, tag;
  if (const size_t colon = text.rfind(':');
      colon != std::string::npos && text.find('/', colon) == std::string::npos) {
    folder = text.substr(0, colon);
    tag = text.substr(colon + 1);
  } else {
    tag = std::filesystem::path(text + "/.").lexically_normal().parent_path().filename();
    if (tag.empty() || tag == "." || tag == ".." || tag.size() > kMostTag) tag = "share";
  }
  if (folder.empty() || tag.empty() || tag.size() > kMostTag || tag.find(',') != std::string::npos)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: write it as DIR or DIR:TAG, with a tag of at most {} bytes without a comma",
                             origin, kMostTag));
  auto& shares = b.machine().shares;
  if (std::ranges::any_of(shares, [&](const Share& other) { return other.tag == tag; }))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: two folders have the tag '{}'; say --share DIR:TAG", origin, tag));
  shares.push_back({.path = folder, .tag = tag, .as = as, .origin = origin});
  return {};
}

Result<Share::As> share_as(const std::string& text) {
  if (text == "auto") return Share::As::kAuto;
  if (text == "virtiofs") return Share::As::kVirtiofs;
  if (text == "9p") return Share::As::k9p;
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("--share-as {}: it is not one of auto, virtiofs, 9p", text));
}

Result<CommandLine> build(const RunOptions& options) {
  QemuBuilder b;
  TRY(option_machine(b, options.machine));
  if (!options.accel.empty()) {
    auto chosen = option_accel(b, options.accel);
    if (!chosen) return std::move(chosen).error().with_context("--accel " + options.accel);
  }
  TRY(option_memory(b, options.memory));
  // In QEMU's words that is the usual size.
  if (!b.memory_given)
    return Error(ErrorKind::kInvalidArgument,
                 "--memory 0: a guest needs memory; leave it out for the usual 1G");
  TRY(option_smp(b, std::to_string(options.cpus)));
  Machine& m = b.machine();
  m.memory_huge = options.huge_pages;
  m.memory_prealloc = options.prealloc;
  m.cpu_model = options.cpu;
  m.kernel = options.kernel;
  m.initrd = options.initrd;
  m.append = options.append;
  m.name = options.name;
  m.reboot = !options.no_reboot;
  m.log_subjects = options.log;
  m.log_file = options.log_file;
  m.start_paused = options.paused;
  if (!options.gdb.empty()) {
    if (auto done = option_gdb(b, options.gdb); !done) {
      if (done.error().message().starts_with('-')) return std::move(done).error();
      return std::move(done).error().with_context("--gdb " + options.gdb);
    }
  }
  for (const auto* list : {&options.disks, &options.more_disks})
    for (const std::string& disk : *list) TRY(add_disk(b, disk, options.snapshot));

  for (const std::string& file : options.cdroms) TRY(add_cdrom(b, file));
  for (const std::string& object : options.objects) TRY(option_object(b, object));
  for (const std::string& server : options.nbd_servers) TRY(option_nbd_server(b, server));
  for (const std::string& disk : options.exports) TRY(option_export(b, disk));

  TRY(add_network(b, options));
  if (!options.no_rng)
    m.devices.push_back({.type = m.type == "microvm" ? "virtio-rng-device" : "virtio-rng-pci",
                         .id = {},
                         .properties = {},
                         .origin = "the default random number device (--no-rng leaves it out)"});
  for (const std::string& vsock : options.vsocks) TRY(add_vsock(b, vsock));
  TRY_ASSIGN(const Share::As as, share_as(options.share_as));
  for (const std::string& share : options.shares) TRY(add_share(b, share, as));
  for (const std::string& device : options.devices) TRY(option_device(b, device));
  b.nographic = true;
  TRY(b.finish());
  return std::move(b.out);
}

constexpr std::pair<std::string_view, std::string_view> kOtherNames[] = {
    {"-m", "--memory"},        {"-smp", "--cpus"},      {"-d", "--log"},
    {"-D", "--log-file"},      {"-drive", "--disk"},    {"-kernel", "--kernel"},
    {"-cpu", "--cpu"},         {"-initrd", "--initrd"}, {"-append", "--append"},
    {"-machine", "--machine"}, {"-accel", "--accel"},   {"-device", "--device"},
    {"-name", "--name"},       {"-gdb", "--gdb"},       {"-S", "--paused"},
    {"-cdrom", "--cdrom"},     {"-export", "--export"}, {"-nbd-server", "--nbd-server"},
    {"-object", "--object"},
};

std::vector<std::string_view> option_names(const CLI::App& app, std::vector<std::string>& storage) {
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) storage.push_back("--" + name);
  return {storage.begin(), storage.end()};
}

}  // namespace

std::string in_ostler_options(std::string_view sentence) {
  std::string out;
  bool command = false;  // "sudo setfacl -m …": another program's options
  while (!sentence.empty()) {
    const size_t end = std::min(sentence.find(' '), sentence.size());
    const std::string_view word = sentence.substr(0, end);
    if (word.ends_with("sudo")) command = true;
    const std::string_view name = word.substr(0, word.find_last_not_of(":,;") + 1);
    const auto* found = std::find_if(std::begin(kOtherNames), std::end(kOtherNames),
                                     [&](const auto& pair) { return pair.first == name; });
    if (!command && found != std::end(kOtherNames))
      out.append(found->second).append(word.substr(name.size()));
    else
      out += word;
    if (word.find_last_of(",;)'") + 1 == word.size()) command = false;
    sentence.remove_prefix(end);
    const size_t text = std::min(sentence.find_first_not_of(' '), sentence.size());
    out += sentence.substr(0, text);
    sentence.remove_prefix(text);
  }
  return out;
}

Result<CommandLine> parse_ostler_command_line(std::span<const std::string> arguments) {
  CLI::App app("Ostler runs virtual machines.", "ostler");
  app.set_help_flag("--help,-h", "show this help");
  bool version_flag = false;
  app.add_flag("--version", version_flag, "print the version");
  RunOptions options;
  CLI::App* run =
      app.add_subcommand("run", "run a guest on this terminal; Ctrl-A x ends it, Ctrl-A h lists more keys");
  app.add_subcommand("image",
                     "make, copy, check and change disk images; `ostler image --help` tells its commands");
  app.add_subcommand("doctor", "tell what this host can do for guests; `ostler doctor --json` for programs");
  app.add_subcommand("ps",
                     "list the guests that run here, with the memory they take; `ostler ps --json` too");
  CLI::App* version = app.add_subcommand("version", "print the version");
  run->add_option("disk", options.disks, "disk image: PATH[,readonly][,snapshot][,id=ID]");
  run->add_option("--kernel", options.kernel, "kernel to boot: bzImage, ELF with a PVH note, or multiboot");
  run->add_option("--initrd", options.initrd, "initial RAM disk for the kernel");
  run->add_option("--append", options.append, "kernel command line");
  run->add_option("--memory,-m", options.memory, "guest memory, like 512M or 4G")->capture_default_str();
  run->add_flag("--huge-pages", options.huge_pages, "guest memory in huge pages that the host has reserved");
  run->add_flag("--prealloc", options.prealloc,
                "take all guest memory from the host before the guest starts");
  run->add_option("--cpus,-c", options.cpus, "number of vCPUs, 1 to 64")->capture_default_str();
  run->add_option("--disk", options.more_disks, "a disk; may be given several times");
  run->add_option("--cdrom", options.cdroms, "an image in a CD drive; may be given several times");
  run->add_option("--object", options.objects,
                  "what disks and --nbd-server name by its id: secret, tls-creds-x509, tls-creds-psk, …");
  run->add_option("--nbd-server", options.nbd_servers,
                  "give disks to NBD clients: addr.path=SOCKET, or addr.type=inet,addr.host=H,addr.port=N");
  run->add_option("--export", options.exports, "a disk for them: nbd,node-name=ID[,name=NAME][,writable=on]");
  run->add_flag("--snapshot", options.snapshot,
                "keep all disk images unchanged: writes are thrown away at the end");
  run->add_option("--share", options.shares,
                  "a folder of the host for the guest: DIR[:TAG], which mounts it by its tag; several times");
  run->add_option("--share-as", options.share_as,
                  "how the guest mounts such folders: auto, virtiofs (served by virtiofsd) or 9p")
      ->capture_default_str();
  run->add_option(
         "--net", options.net,
         "network: user (no privileges needed), tap=NAME (a tap device), bridge=NAME[,nat], peer=SOCKET "
         "(another guest that says the same), vhost-user=SOCKET (where a switch in another process listens), "
         "none")
      ->capture_default_str();
  run->add_option("--forward,-p", options.forwards, "forward a host port to the guest: HOSTPORT:GUESTPORT");
  run->add_option(
      "--vsock", options.vsocks,
      "sockets between guest and host: PATH[,cid=N]; programs connect to PATH, PATH_N serves port N");
  run->add_option("--accel", options.accel,
                  "accelerator: auto (kvm where it runs code at speed, else bt), kvm, bt (a translator) or "
                  "interp[,property=value…]");
  run->add_option("--machine", options.machine, "machine type: pc, microvm")->capture_default_str();
  run->add_option("--cpu", options.cpu, "CPU model[,+feature][,-feature]");
  run->add_option("--device", options.devices,
                  "a further device, as -device of ostler-system-x86_64 takes it");
  run->add_option("--name", options.name, "name of the guest");
  run->add_flag("--no-reboot", options.no_reboot, "end when the guest resets");
  run->add_flag("--no-rng", options.no_rng, "no virtio random number device");
  run->add_option("--gdb", options.gdb, "serve a debugger: tcp:HOST:PORT, tcp::PORT, unix:PATH or stdio");
  run->add_flag("--paused", options.paused, "do not start the guest: a debugger will");
  run->add_option("--log", options.log, "log these subjects to the terminal or --log-file");
  run->add_option("--log-file", options.log_file, "file for the log");
  run->allow_extras();
  app.allow_extras();

  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants it
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    return CommandLine{.action = CommandLine::Action::kHelp, .subject = app.help(), .machine = {}};
  } catch (const CLI::ParseError& error) {
    return Error(ErrorKind::kInvalidArgument, error.what());
  }
  std::vector<std::string> extras = app.remaining(true);
  if (!extras.empty()) {
    const std::string word = extras.front().substr(0, extras.front().find('='));
    std::vector<std::string> storage;
    std::vector<std::string_view> known;
    if (run->parsed()) {
      known = option_names(*run, storage);
    } else {
      known = {"run", "image", "doctor", "ps", "version", "--help", "--version"};
    }
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: there is no such {}{}; 'ostler {}--help' lists them all", extras.front(),
                             run->parsed() ? "option" : "command", suggestion(word, known),
                             run->parsed() ? "run " : ""));
  }
  if (version->parsed() || version_flag)
    return CommandLine{.action = CommandLine::Action::kVersion, .subject = {}, .machine = {}};
  if (!run->parsed())
    return CommandLine{.action = CommandLine::Action::kHelp, .subject = app.help(), .machine = {}};
  return build(options);
}

}  // namespace ostler::config
