#include "config/qemu_command_line.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/suggest.h"
#include "config/qemu_builder.h"
#include "config/qemu_nbd_options.h"
#include "config/qemu_set_option.h"

namespace ostler::config {
namespace {

struct Option {
  std::string_view name;
  std::string_view argument;  // empty: takes none
  std::string_view help;
  QemuHandler handler;
};

Result<void> ignore(QemuBuilder&, std::string_view) {
  return {};
}

Result<void> only_none(QemuBuilder&, std::string_view value) {
  if (value == "none") return {};
  return Error(ErrorKind::kUnsupported,
               fmt::format("'{}' is not available in this version; give 'none'", value));
}

constexpr Option kOptions[] = {
    {"help", "", "print this help",
     [](QemuBuilder& b, std::string_view) -> Result<void> {
       b.out.action = CommandLine::Action::kHelp;
       return {};
     }},
    {"h", "", "the same",
     [](QemuBuilder& b, std::string_view) -> Result<void> {
       b.out.action = CommandLine::Action::kHelp;
       return {};
     }},
    {"version", "", "print the version",
     [](QemuBuilder& b, std::string_view) -> Result<void> {
       b.out.action = CommandLine::Action::kVersion;
       return {};
     }},
    {"machine", "[type=]name[,prop=value…]", "machine type: pc or microvm; 'help' lists them",
     option_machine},
    {"M", "[type=]name[,prop=value…]", "the same as -machine", option_machine},
    {"no-acpi", "", "the same as -machine acpi=off",
     [](QemuBuilder& b, std::string_view) { return option_machine(b, "acpi=off"); }},
    {"no-hpet", "", "the same as -machine hpet=off",
     [](QemuBuilder& b, std::string_view) { return option_machine(b, "hpet=off"); }},
    {"accel", "name[,prop=value…]", "accelerator; may be given several times, in order of preference",
     option_accel},
    {"enable-kvm", "", "the same as -accel kvm",
     [](QemuBuilder& b, std::string_view) { return option_accel(b, "kvm"); }},
    {"cpu", "model[,+feature][,-feature][,feature=on|off]", "CPU model; 'help' lists them", option_cpu},
    {"smp", "[cpus=]n[,maxcpus=n][,sockets=n][,dies=n][,cores=n][,threads=n]",
     "number and topology of vCPUs, 1 to 64", option_smp},
    {"m", "[size=]megabytes", "guest memory; suffixes M and G are understood (default 128M)", option_memory},
    {"mem-path", "path", "guest memory from this file, or a file in this folder (of hugetlbfs, say)",
     [](QemuBuilder& b, std::string_view v) -> Result<void> {
       b.machine().memory_path = v;
       return {};
     }},
    {"mem-prealloc", "", "take all guest memory from the host before the guest starts",
     [](QemuBuilder& b, std::string_view) -> Result<void> {
       b.machine().memory_prealloc = true;
       return {};
     }},
    {"overcommit", "[mem-lock=on|off]", "keep guest memory out of the host's swap", option_overcommit},
    {"numa",
     "node[,nodeid=n][,cpus=a[-b]][,memdev=id] | dist,src=n,dst=n,val=n | cpu,node-id=n[,socket-id=n][,…]",
     "a NUMA node of the guest, a distance, or vCPUs of a node", option_numa},
    {"kernel", "file", "boot this bzImage, ELF (PVH) or multiboot kernel",
     [](QemuBuilder& b, std::string_view v) -> Result<void> {
       b.machine().kernel = v;
       return {};
     }},
    {"initrd", "file", "initial RAM disk for -kernel",
     [](QemuBuilder& b, std::string_view v) -> Result<void> {
       b.machine().initrd = v;
       return {};
     }},
    {"append", "text", "kernel command line for -kernel",
     [](QemuBuilder& b, std::string_view v) -> Result<void> {
       b.machine().append = v;
       return {};
     }},
    {"hda", "file", "the first IDE disk", option_hda},
    {"hdb", "file", "the second", option_hdb},
    {"hdc", "file", "the third", option_hdc},
    {"hdd", "file", "the fourth", option_hdd},
    {"nbd-server", "[addr.path=]path|addr.type=inet,addr.host=h[,addr.port=n]…",
     "give disks to NBD clients; also tls-creds=id, max-connections=n", option_nbd_server},
    {"export", "[type=]nbd,node-name=disk[,name=name][,writable=on]…",
     "a disk for them; also id, description, bitmap, allocation-depth", option_export},
    {"cdrom", "file", "a CD-ROM drive in the place of -hdc, with its medium", option_cdrom},
    {"drive",
     "[file=f][,if=ide|virtio|none][,media=disk|cdrom][,format=raw][,id=name][,snapshot=on][,read-only=on]"
     "[,cache=mode][,…]",
     "a disk with its image", option_drive},
    {"blockdev", "[driver=]raw|qcow2|file|…,node-name=n[,…]",
     "a node of the block graph; JSON is understood too", option_blockdev},
    {"object", "type,id=name[,prop=value…]",
     "what other options name by its id: a passphrase, a thread for disks, guest memory, …; 'help' lists the "
     "types, 'type,help' the properties",
     option_object},
    {"snapshot", "", "write to temporary files instead of the disk images",
     [](QemuBuilder& b, std::string_view) -> Result<void> {
       b.snapshot = true;
       return {};
     }},
    {"device", "driver[,prop=value…]", "add a device; 'help' lists them, 'driver,help' its properties",
     option_device},
    {"global", "driver.property=value", "a property of all devices of a type that do not have it written",
     option_global},
    {"set", "group.id.key=value", "one more setting for a -device, -drive, -netdev, … that was given before",
     ignore},
    {"netdev", "user|tap|bridge|socket|stream|dgram|hubport|vhost-user,id=name[,…]",
     "a network back end; 'help' lists the kinds", option_netdev},
    {"nic", "user|tap|bridge|socket|stream|dgram|hubport|vhost-user|none[,model=driver][,mac=addr][,…]",
     "a network card with its back end; 'model=help' lists the cards", option_nic},
    {"net", "nic|user|tap|bridge|socket|vhost-user|none[,model=driver][,macaddr=addr][,…]",
     "a card or a network on a hub that all of these share", option_net},
    {"fsdev",
     "local,id=name,path=dir,security_model=none|mapped-xattr|passthrough[,readonly=on][,fmode=m][,dmode=m]",
     "a folder of the host for a virtio-9p device", option_fsdev},
    {"virtfs", "local,path=dir,mount_tag=tag,security_model=…[,readonly=on][,id=name]…",
     "the same with its device, which the guest mounts by the tag", option_virtfs},
    {"chardev", "backend,id=name[,…]", "a character back end; 'help' lists the kinds", option_chardev},
    {"serial", "stdio|null|none|file:f|pipe:f|pty|unix:p|tcp:h:p|chardev:id", "connect the next serial port",
     [](QemuBuilder& b, std::string_view v) -> Result<void> {
       b.serial_options.emplace_back(v);
       return {};
     }},
    {"debugcon", "stdio|file:f|…", "connect the debug port (0x402)", option_debugcon},
    {"nographic", "", "no screen; the first serial port on the terminal",
     [](QemuBuilder& b, std::string_view) -> Result<void> {
       b.nographic = true;
       return {};
     }},
    {"display", "none", "where the screen goes", only_none},
    {"vga", "none", "graphics card", only_none},
    {"monitor", "none", "where the human monitor goes", only_none},
    {"parallel", "none", "connect the parallel port", only_none},
    {"rtc", "[base=utc|localtime|date][,clock=host|vm]", "the real-time clock", option_rtc},
    {"name", "[guest=]text", "name of the guest", option_name},
    {"uuid", "uuid", "the machine's identity, shown to the guest by SMBIOS", option_uuid},
    {"no-reboot", "", "end the program when the guest resets",
     [](QemuBuilder& b, std::string_view) -> Result<void> {
       b.machine().reboot = false;
       return {};
     }},
    {"no-shutdown", "", "keep the program when the guest powers off",
     [](QemuBuilder& b, std::string_view) -> Result<void> {
       b.machine().shutdown = false;
       return {};
     }},
    {"S", "", "start paused",
     [](QemuBuilder& b, std::string_view) -> Result<void> {
       b.machine().start_paused = true;
       return {};
     }},
    {"s", "", "the same as -gdb tcp::1234",
     [](QemuBuilder& b, std::string_view) { return option_gdb(b, "tcp::1234"); }},
    {"gdb", "tcp:host:port|unix:path|stdio|chardev:id|none", "serve a debugger (GDB's remote protocol)",
     option_gdb},
    {"nodefaults", "", "no default serial port",
     [](QemuBuilder& b, std::string_view) -> Result<void> {
       b.machine().defaults = false;
       return {};
     }},
    {"no-user-config", "", "accepted; there is no user configuration file", ignore},
    {"d", "subject[,…]", "log these subjects; 'help' lists them",
     [](QemuBuilder& b, std::string_view v) -> Result<void> {
       if (v == "help" || v == "?") b.out.action = CommandLine::Action::kLogHelp;
       b.machine().log_subjects = v;
       return {};
     }},
    {"D", "file", "write the log to a file",
     [](QemuBuilder& b, std::string_view v) -> Result<void> {
       b.machine().log_file = v;
       return {};
     }},
};

const Option* find_option(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kOptions), std::end(kOptions), [&](const Option& o) { return o.name == name; });
  return found == std::end(kOptions) ? nullptr : found;
}

}  // namespace

namespace {

// The command line with what -set adds. Mistakes in other options are told when these are read.
Result<std::vector<std::string>> with_settings(std::span<const std::string> given) {
  std::vector<std::string> arguments(given.begin(), given.end());
  std::vector<WrittenOption> before;
  for (size_t i = 0; i + 1 < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (!word.starts_with('-')) continue;
    const Option* const option = find_option(std::string_view(word).substr(word.starts_with("--") ? 2 : 1));
    if (option == nullptr || option->argument.empty()) continue;
    std::string& value = arguments[++i];
    if (option->name == "set") {
      TRY(add_setting(before, value));
    } else {
      before.push_back({option->name, &value});
    }
  }
  return arguments;
}

}  // namespace

Result<CommandLine> parse_qemu_command_line(std::span<const std::string> given) {
  TRY_ASSIGN(const std::vector<std::string> arguments, with_settings(given));
  QemuBuilder builder;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word.size() < 2 || word[0] != '-') {
      TRY(option_disk_image(builder, word));
      continue;
    }
    const std::string_view name = std::string_view(word).substr(word.starts_with("--") ? 2 : 1);
    const Option* option = find_option(name);
    if (option == nullptr) {
      std::vector<std::string_view> known;
      for (const Option& candidate : kOptions) known.push_back(candidate.name);
      const std::string_view near = nearest(name, known);
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: there is no such option{}; -help lists them all", word,
                               near.empty() ? std::string() : fmt::format("; did you mean '-{}'?", near)));
    }
    std::string_view value;
    if (!option->argument.empty()) {
      if (i + 1 >= arguments.size())
        return Error(ErrorKind::kInvalidArgument,
                     fmt::format("{} needs a value: {}", word, option->argument));
      value = arguments[++i];
    }
    if (auto done = option->handler(builder, value); !done) {
      // Handlers that parse key=value name the option themselves.
      if (done.error().message().starts_with('-')) return std::move(done).error();
      return std::move(done).error().with_context(value.empty() ? word : fmt::format("{} {}", word, value));
    }
    if (builder.out.action != CommandLine::Action::kRun) return std::move(builder.out);
  }
  TRY(builder.finish());
  return std::move(builder.out);
}

std::string qemu_help() {
  std::string text = "usage: ostler-system-x86_64 [options]\n\n";
  for (const Option& option : kOptions) {
    const std::string left =
        fmt::format("-{}{}{}", option.name, option.argument.empty() ? "" : " ", option.argument);
    text += left.size() < 30 ? fmt::format("  {:<30} {}\n", left, option.help)
                             : fmt::format("  {}\n  {:<30} {}\n", left, "", option.help);
  }
  return text;
}

}  // namespace ostler::config
