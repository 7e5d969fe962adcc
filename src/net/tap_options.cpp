#include "net/tap_options.h"

#include <unistd.h>

#include <algorithm>

namespace ostler::net {
namespace {

using namespace config;

constexpr const char* kDefaultScript = "/etc/qemu-ifup";
constexpr const char* kDefaultDownScript = "/etc/qemu-ifdown";
constexpr const char* kDefaultHelper = "/usr/lib/qemu/qemu-bridge-helper";

struct Words : TapOptions {
  std::string fd, descriptors, script_word, downscript_word, helper_word, vhost_fd, vhost_descriptors;
  uint32_t queue_count = 0;
  OnOffAuto vhost_word = OnOffAuto::kAuto;
};

Error invalid(std::string sentence) {
  return Error(ErrorKind::kInvalidArgument, std::move(sentence));
}

const PropertyTable<Words>& tap_properties() {
  static const PropertyTable<Words> table(
      "tap",
      {
          text<Words>("id", &Words::id, "the name that a device's netdev= uses"),
          text<Words>("ifname", &Words::ifname, "name of the tap device; made if it is not there"),
          text<Words>("fd", &Words::fd, "an open tap device that this program inherited"),
          text<Words>("fds", &Words::descriptors, "several, with ':' between, one for each queue pair"),
          text<Words>("script", &Words::script_word,
                      "program to run with the device's name at the start; no: none"),
          text<Words>("downscript", &Words::downscript_word, "the same at the end"),
          text<Words>("br", &Words::bridge, "bridge for the helper to join"),
          text<Words>("helper", &Words::helper_word, "program that makes a tap device on a bridge"),
          number<Words, uint32_t>("queues", &Words::queue_count, 1, kMaxTapQueues, "queue pairs"),
          on_off_auto<Words>("vnet_hdr", &Words::vnet_hdr, "offloads"),
          size<Words, uint64_t>("sndbuf", &Words::sndbuf, INT32_MAX,
                                "bytes that may wait in the kernel; 0: no limit"),
          on_off_auto<Words>(
              "vhost", &Words::vhost_word,
              "the kernel carries a virtio-net card's frames by itself (vhost-net), where it can"),
          boolean<Words>("vhostforce", &Words::vhost_force, "the same, and an error where it cannot"),
          text<Words>("vhostfd", &Words::vhost_fd, "an open /dev/vhost-net that this program inherited"),
          text<Words>("vhostfds", &Words::vhost_descriptors,
                      "several, with ':' between, one for each queue pair"),
          number<Words, uint32_t>("poll-us", &Words::poll_us, 0, INT32_MAX,
                                  "microseconds that vhost-net looks for more work before it sleeps"),
      });
  return table;
}

const PropertyTable<Words>& bridge_properties() {
  static const PropertyTable<Words> table(
      "bridge", {
                    text<Words>("id", &Words::id, "the name that a device's netdev= uses"),
                    text<Words>("br", &Words::bridge, "bridge to join (br0)"),
                    text<Words>("helper", &Words::helper_word, "program that makes a tap device on it"),
                    boolean<Words>("managed", &Words::managed,
                                   "make the bridge if it is not there, with DHCP, and remove it at the end"),
                    text<Words>("address", &Words::address,
                                "the host's address on a managed bridge, such as 10.10.0.1/24"),
                    boolean<Words>("nat", &Words::nat, "guests on a managed bridge reach the world"),
                });
  return table;
}

Result<std::vector<int>> parse_descriptors(std::string_view words) {
  std::vector<int> fds;
  while (true) {
    const size_t colon = words.find(':');
    TRY_ASSIGN(const uint64_t fd, parse_number_between(words.substr(0, colon), 0, INT32_MAX));
    fds.push_back(static_cast<int>(fd));
    if (colon == std::string_view::npos) break;
    words.remove_prefix(colon + 1);
  }
  if (fds.size() > kMaxTapQueues) return invalid("more descriptors than queue pairs can be");
  return fds;
}

// Those of vhost-net.
Result<std::vector<int>> parse_vhost(const Words& words) {
  const bool none = words.vhost_fd.empty() && words.vhost_descriptors.empty();
  if (words.vhost_word == OnOffAuto::kOff && (words.vhost_force || !none))
    return invalid("vhostforce, vhostfd and vhostfds do not go with vhost=off");
  if (none) return std::vector<int>();
  if (!words.vhost_fd.empty() && !words.vhost_descriptors.empty()) return invalid("give vhostfd or vhostfds");
  auto fds = parse_descriptors(words.vhost_fd.empty() ? words.vhost_descriptors : words.vhost_fd);
  if (!fds) return std::move(fds).error().with_context(words.vhost_fd.empty() ? "vhostfds" : "vhostfd");
  return fds;
}

// What was written; else the usual program, when it is there; "no" is none.
std::string script(const std::string& word, const char* preset) {
  if (word == "no") return {};
  if (!word.empty()) return word;
  return ::access(preset, X_OK) == 0 ? preset : std::string();
}

}  // namespace

Result<TapOptions> parse_tap(std::span<const config::KeyValue> values) {
  TRY_ASSIGN(const Words words, tap_properties().parse(values));
  TapOptions options = words;
  TRY_ASSIGN(options.vhost_fds, parse_vhost(words));
  options.vhost = words.vhost_word == OnOffAuto::kOn || words.vhost_force || !options.vhost_fds.empty();
  const bool inherited = !words.fd.empty() || !words.descriptors.empty();
  const bool helped = !words.helper_word.empty() || !words.bridge.empty();
  if (!words.fd.empty() && !words.descriptors.empty()) return invalid("give fd or fds");
  if (inherited) {
    if (!words.ifname.empty() || !words.script_word.empty() || !words.downscript_word.empty() || helped ||
        words.queue_count != 0)
      return invalid("ifname, script, downscript, queues, br and helper do not go with fd and fds");
    auto fds = parse_descriptors(words.fd.empty() ? words.descriptors : words.fd);
    if (!fds) return std::move(fds).error().with_context(words.fd.empty() ? "fds" : "fd");
    options.fds = *std::move(fds);
    for (const int fd : options.vhost_fds)
      if (std::find(options.fds.begin(), options.fds.end(), fd) != options.fds.end())
        return invalid("a descriptor is a tap device or of vhost-net, not both: look at fd and vhostfd");
    options.queues = static_cast<unsigned>(options.fds.size());
    return options;
  }
  options.queues = words.queue_count == 0 ? 1 : words.queue_count;
  if (helped) {
    if (!words.ifname.empty() || !words.script_word.empty() || !words.downscript_word.empty() ||
        options.queues != 1)
      return invalid("ifname, script, downscript and queues do not go with br and helper");
    options.bridge = words.bridge.empty() ? "br0" : words.bridge;
    options.helper = script(words.helper_word, kDefaultHelper);
    return options;
  }
  options.script = script(words.script_word, kDefaultScript);
  options.downscript = script(words.downscript_word, kDefaultDownScript);
  return options;
}

Result<TapOptions> parse_bridge(std::span<const config::KeyValue> values) {
  TRY_ASSIGN(const Words words, bridge_properties().parse(values));
  TapOptions options = words;
  if (options.bridge.empty()) options.bridge = "br0";
  if ((options.nat || !options.address.empty()) && !options.managed)
    return invalid("nat and address go with managed=on");
  options.helper = script(words.helper_word, kDefaultHelper);
  return options;
}

}  // namespace ostler::net
