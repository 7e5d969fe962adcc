#include "net/managed_bridge.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <thread>
#include <vector>

#include "base/log.h"
#include "net/interface.h"
#include "net/ipv4_network.h"
#include "net/run_program.h"

namespace ostler::net {
namespace {

constexpr const char* kForwarding = "/proc/sys/net/ipv4/ip_forward";
constexpr std::string_view kForwardingNote = "forwarding";
constexpr const char *kPidFile = ".pid", *kLeases = ".leases";  // after the path of the notes

// While it lives, no other process looks at or changes the notes.
class Turn {
 public:
  explicit Turn(const Fd& file) : file_(file) { set(F_WRLCK); }
  ~Turn() { set(F_UNLCK); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  void set(short type) {
    struct flock whole {};
    whole.l_type = type;
    whole.l_whence = SEEK_SET;
    while (::fcntl(file_.get(), F_OFD_SETLKW, &whole) != 0 && errno == EINTR) {
    }
  }
  const Fd& file_;
};

// While it lives, no other process turns forwarding on or off for a bridge whose notes lie beside `notes`.
// Taken last.
class TurnOfForwarding {
 public:
  explicit TurnOfForwarding(const std::string& notes)
      : folder_(
            ::open(std::filesystem::path(notes).parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    while (::flock(folder_.get(), LOCK_EX) != 0 && errno == EINTR) {
    }
  }

 private:
  const Fd folder_;
};

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::string read_line(const std::string& path) {
  std::string line;
  std::getline(std::ifstream(path), line);
  return line;
}

bool write_line(const std::string& path, std::string_view line) {
  std::ofstream file(path);
  file << line << std::flush;
  return file.good();
}

// Local, for one interface.
std::string random_hardware_address() {
  std::array<uint8_t, 5> bytes{};
  static_cast<void>(::getrandom(bytes.data(), bytes.size(), 0));
  return fmt::format("52:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2], bytes[3],
                     bytes[4]);
}

// /run/ostler, or without the right to that (root of a user namespace has none), the user's own.
Result<std::string> notes_folder(const std::string& wish) {
  std::vector<std::string> all = {wish};
  if (wish.empty()) {
    const char* const own = ::secure_getenv("XDG_RUNTIME_DIR");
    all = {"/run/ostler", (own != nullptr && *own != '\0' ? own : fmt::format("/run/user/{}", ::getuid())) +
                              std::string("/ostler")};
  }
  std::error_code error;
  for (const std::string& each : all) {
    std::filesystem::create_directories(each, error);
    if (!error && ::access(each.c_str(), W_OK) == 0) return each;
  }
  return Error(ErrorKind::kPermission,
               fmt::format("there is no folder to note in what is made for a bridge: {} cannot be written",
                           fmt::join(all, ", ")));
}

// What the names of all notes begin with: those of bridges repeat in other network namespaces.
std::string notes_prefix() {
  std::error_code error;
  const auto space = std::filesystem::read_symlink("/proc/self/ns/net", error).string();
  const auto digits = space.find('[') + 1;
  return fmt::format("bridge-{}-", space.substr(digits, space.find(']') - digits));
}

// The notes of all bridges of this network namespace but those at `mine`, by the bridges' names.
std::map<std::string, std::string> other_notes(const std::string& mine) {
  std::map<std::string, std::string> found;
  const std::string prefix = notes_prefix();
  std::error_code error;
  for (const auto& each :
       std::filesystem::directory_iterator(std::filesystem::path(mine).parent_path(), error)) {
    const std::string name = each.path().filename();
    if (!name.starts_with(prefix) || name.ends_with(kPidFile) || name.ends_with(kLeases)) continue;
    const std::string bridge = name.substr(prefix.size());
    if (each.path() != mine && valid_interface_name(bridge)) found.emplace(bridge, each.path());
  }
  return found;
}

std::string table_of(const std::string& bridge) {
  return fmt::format("ostler_{:016x}", std::hash<std::string>()(bridge));
}

// Ends the dnsmasq that wrote `pid_file`, if it still runs.
void end_dnsmasq(const std::string& pid_file) {
  const std::string pid = read_line(pid_file);
  if (pid.empty() || pid.find_first_not_of("0123456789") != std::string::npos) return;
  // Empty once it has ended, also when nobody has asked for its status yet.
  const auto is_ours = [&] {
    return read_file("/proc/" + pid + "/cmdline").find("--pid-file=" + pid_file) != std::string::npos;
  };
  if (!is_ours()) return;  // its number is another's now
  ::kill(std::stoi(pid), SIGTERM);
  for (int tries = 0; tries < 200 && is_ours(); ++tries)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

}  // namespace

Result<std::unique_ptr<ManagedBridge>> ManagedBridge::use(const ManagedBridgeOptions& options) {
  if (!valid_interface_name(options.name))
    return Error(ErrorKind::kInvalidArgument, fmt::format("'{}' is not a bridge's name", options.name));
  TRY_ASSIGN(const std::string folder, notes_folder(options.folder));
  const std::string path = folder + "/" + notes_prefix() + options.name;
  remove_leftovers(path);
  Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return errno_error(fmt::format("{} cannot be opened", path), errno);
  std::unique_ptr<ManagedBridge> bridge(new ManagedBridge(options.name, path, std::move(file)));
  const Turn turn(bridge->file_);
  if (::flock(bridge->file_.get(), LOCK_EX | LOCK_NB) != 0) {
    ::flock(bridge->file_.get(), LOCK_SH);  // others are at it
    return bridge;
  }
  bridge->undo();  // what killed processes left
  if (interface_index(options.name) != 0) {
    ::flock(bridge->file_.get(), LOCK_UN);
    bridge->file_.reset();
    if (!is_bridge(options.name))
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{} is an interface and no bridge; choose another name", options.name));
    if (options.nat || !options.address.empty())
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("nat and address go with a bridge that is made here, and {} is already "
                               "there; leave them out, or choose another name",
                               options.name));
    return std::unique_ptr<ManagedBridge>();
  }
  if (auto made = bridge->make(options); !made) {
    bridge->undo();
    bridge->file_.reset();
    return std::move(made).error();
  }
  ::flock(bridge->file_.get(), LOCK_SH);
  return bridge;
}

// One that nobody uses is removed as its last user would have removed it.
void ManagedBridge::remove_leftovers(const std::string& mine) {
  std::error_code gone;
  for (const auto& [bridge, notes] : other_notes(mine)) {
    if (std::filesystem::file_size(notes, gone) == 0 || gone) continue;
    Fd file(::open(notes.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (file) ManagedBridge(bridge, notes, std::move(file));
  }
}

ManagedBridge::~ManagedBridge() {
  if (!file_) return;
  const Turn turn(file_);
  if (::flock(file_.get(), LOCK_EX | LOCK_NB) == 0) undo();
}

Result<void> ManagedBridge::note(const std::string& line) {
  const std::string text = line + "\n";
  if (::lseek(file_.get(), 0, SEEK_END) < 0 ||
      ::write(file_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return errno_error(fmt::format("{} cannot be written", notes_), errno);
  return {};
}

Result<void> ManagedBridge::make(const ManagedBridgeOptions& options) {
  std::string address = options.address;
  if (address.empty()) {
    TRY_ASSIGN(address, free_network(std::hash<std::string>()(name_)));
  }
  TRY_ASSIGN(const Ipv4Network network, Ipv4Network::parse(address));
  const std::string hardware = random_hardware_address();
  TRY(note("bridge " + hardware));
  TRY(run_program({"ip", "link", "add", name_, "address", hardware, "type", "bridge"}));
  TRY(set_address(name_, address));
  TRY(set_up(name_, true));
  if (options.nat) TRY(make_nat(network.text()));
  serve_dhcp(address);
  log::write(fmt::format("made the bridge {} with the address {}{}", name_, address,
                         options.nat ? " and a way to the world" : ""));
  return {};
}

Result<void> ManagedBridge::make_nat(const std::string& network) {
  const std::string table = table_of(name_);
  TRY(note("nat " + table));
  auto done = run_program(
      {"nft", fmt::format("add table ip {0}; add chain ip {0} out {{ type nat hook postrouting priority "
                          "100; }}; add rule ip {0} out ip saddr {1} oifname != \"{2}\" masquerade",
                          table, network, name_)});
  if (!done)
    return std::move(done).error().with_context(
        fmt::format("nat (it needs the package nftables) for the bridge {}", name_));
  // Who turned it on notes it, and so does whoever needs it to stay on when that one has ended.
  const TurnOfForwarding turn(notes_);
  if (read_line(kForwarding) == "1" && !others_forward()) return {};
  TRY(note(std::string(kForwardingNote)));
  if (!write_line(kForwarding, "1"))
    return Error(ErrorKind::kPermission, fmt::format("nat: {0} cannot be set to 1: sudo sysctl "
                                                     "net.ipv4.ip_forward=1",
                                                     kForwarding));
  return {};
}

bool ManagedBridge::others_forward() const {
  return std::ranges::any_of(other_notes(notes_), [](const auto& other) {
    return ("\n" + read_file(other.second)).find(fmt::format("\n{}\n", kForwardingNote)) != std::string::npos;
  });
}

// Guests do without when it cannot be had.
void ManagedBridge::serve_dhcp(const std::string& address) {
  const auto network = Ipv4Network::parse(address);
  const std::string pid_file = notes_ + kPidFile;
  if (!network || !note("dhcp")) return;
  std::error_code ignored;
  std::filesystem::remove(pid_file, ignored);
  const auto done = run_program(
      {"dnsmasq", "--conf-file=/dev/null", "--interface=" + name_, "--except-interface=lo",
       "--bind-interfaces", fmt::format("--dhcp-range={},{},12h", network->first(), network->last()),
       "--dhcp-leasefile=" + notes_ + kLeases, "--dhcp-authoritative", "--pid-file=" + pid_file});
  if (!done)
    log::warning(
        fmt::format("the guests on {} get no addresses from us ({}): sudo apt install "
                    "dnsmasq-base, or give them some of {}",
                    name_, done.error().message(), network->text()));
}

// Tells nobody of failures: what is not there any more was removed by somebody else.
void ManagedBridge::undo() {
  std::istringstream text(read_file(notes_));
  std::vector<std::string> lines;  // the last thing made is the first removed
  for (std::string line; std::getline(text, line);) lines.insert(lines.begin(), line);
  std::error_code ignored;
  bool forwarded = false;
  for (const std::string& line : lines) {
    const size_t space = line.find(' ');
    const std::string what = line.substr(0, space);
    const std::string value = space == std::string::npos ? "" : line.substr(space + 1);
    if (what == "dhcp") {
      end_dnsmasq(notes_ + kPidFile);
      std::filesystem::remove(notes_ + kPidFile, ignored);
      std::filesystem::remove(notes_ + kLeases, ignored);
    } else if (what == kForwardingNote) {
      forwarded = true;
    } else if (what == "nat" && value.find_first_not_of("ostler_0123456789abcdef") == std::string::npos) {
      static_cast<void>(run_program({"nft", "delete table ip " + value}));
    } else if (what == "bridge" && interface_index(name_) != 0 && hardware_address(name_) == value) {
      static_cast<void>(remove_bridge(name_));
    }
  }
  const TurnOfForwarding turn(notes_);
  if (forwarded && !others_forward()) write_line(kForwarding, "0");
  if (::ftruncate(file_.get(), 0) != 0) log::warning(fmt::format("{} cannot be emptied", notes_));
}

}  // namespace ostler::net
