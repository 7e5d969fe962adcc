#include "net/user_options.h"

#include <arpa/inet.h>

#include <charconv>
#include <utility>

namespace ostler::net {
namespace {

bool parse_ipv4(std::string_view text, in_addr& address) {
  return inet_pton(AF_INET, std::string(text).c_str(), &address) == 1;
}

bool parse_port(std::string_view text, uint16_t& port) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size();
}

// "address:port"; the address may be empty.
bool parse_endpoint(std::string_view text, in_addr& address, uint16_t& port) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return false;
  if (colon != 0 && !parse_ipv4(text.substr(0, colon), address)) return false;
  return parse_port(text.substr(colon + 1), port);
}

config::Property<UserOptions> list_property(std::string name, std::string type, std::string help,
                                            std::function<Result<void>(UserOptions&, std::string_view)> add) {
  return {{std::move(name), std::move(type), std::move(help)}, std::move(add), [](const UserOptions&) {
            return std::string();
          }};
}

}  // namespace

Result<HostForward> parse_host_forward(std::string_view text) {
  const auto wrong = [&] {
    return Error(ErrorKind::kInvalidArgument,
                 "'" + std::string(text) +
                     "' is not [tcp|udp]:[address]:port-[address]:port (example: tcp::2222-:22)");
  };
  HostForward forward;
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) return wrong();
  const std::string_view protocol = text.substr(0, colon);
  if (protocol != "tcp" && protocol != "udp" && !protocol.empty()) return wrong();
  forward.udp = protocol == "udp";
  const std::string_view rest = text.substr(colon + 1);
  const size_t dash = rest.find('-');
  if (dash == std::string_view::npos) return wrong();
  if (!parse_endpoint(rest.substr(0, dash), forward.host, forward.host_port)) return wrong();
  if (!parse_endpoint(rest.substr(dash + 1), forward.guest, forward.guest_port) || forward.guest_port == 0)
    return wrong();
  return forward;
}

Result<GuestForward> parse_guest_forward(std::string_view text) {
  const auto wrong = [&] {
    return Error(ErrorKind::kInvalidArgument,
                 "'" + std::string(text) +
                     "' is not tcp:address:port-TARGET (examples: tcp:10.0.2.100:80-cmd:cat, "
                     "tcp:10.0.2.100:1234-tcp:127.0.0.1:80)");
  };
  GuestForward forward;
  std::string_view rest = text;
  // libslirp forwards TCP alone; the name may be left out, with its colon or without.
  for (const std::string_view head : {"tcp:", ":"})
    if (rest.starts_with(head)) {
      rest.remove_prefix(head.size());
      break;
    }
  const size_t dash = rest.find('-');
  if (dash == std::string_view::npos) return wrong();
  if (!parse_endpoint(rest.substr(0, dash), forward.server, forward.port) || forward.port == 0)
    return wrong();
  rest.remove_prefix(dash + 1);
  for (const auto& [kind, place] :
       {std::pair{std::string_view("cmd:"), &forward.command}, {"chardev:", &forward.chardev}})
    if (rest.starts_with(kind)) *place = rest.substr(kind.size());
  if (forward.command.empty() && forward.chardev.empty()) return wrong();
  return forward;
}

const config::PropertyTable<UserOptions>& user_properties() {
  using namespace config;
  using Options = UserOptions;
  static const PropertyTable<Options> table(
      "user",
      {
          text<Options>("id", &Options::id, "the name that a device's netdev= uses"),
          boolean<Options>("ipv4", &Options::ipv4, "IPv4"),
          boolean<Options>("ipv6", &Options::ipv6, "IPv6"),
          boolean<Options>("restrict", &Options::restrict_access,
                           "keep the guest from the host and the world, but for forwarded ports"),
          text<Options>("net", &Options::net, "IPv4 network, address/bits or address/mask"),
          text<Options>("host", &Options::host, "the host's address as the guest sees it"),
          text<Options>("dhcpstart", &Options::dhcpstart, "first of the 16 addresses that DHCP gives"),
          text<Options>("dns", &Options::dns, "the name server's address as the guest sees it"),
          text<Options>("hostname", &Options::hostname, "the name that DHCP gives the guest"),
          text<Options>("domainname", &Options::domainname, "the domain that DHCP gives the guest"),
          text<Options>("tftp", &Options::tftp, "folder to serve by TFTP"),
          text<Options>("bootfile", &Options::bootfile, "file that DHCP tells the guest to boot"),
          text<Options>("ipv6-prefix", &Options::ipv6_prefix, "IPv6 network"),
          number<Options, uint8_t>("ipv6-prefixlen", &Options::ipv6_prefix_length, 1, 126, "its length"),
          text<Options>("ipv6-host", &Options::ipv6_host, "the host's IPv6 address as the guest sees it"),
          text<Options>("ipv6-dns", &Options::ipv6_dns, "the name server's IPv6 address"),
          list_property("dnssearch", "str", "domain to search for names; may be repeated",
                        [](Options& options, std::string_view value) -> Result<void> {
                          options.dnssearch.emplace_back(value);
                          return {};
                        }),
          list_property("hostfwd", "[tcp|udp]:[addr]:port-[addr]:port",
                        "forward a host port to the guest; may be repeated",
                        [](Options& options, std::string_view value) -> Result<void> {
                          TRY_ASSIGN(HostForward forward, parse_host_forward(value));
                          options.host_forwards.push_back(forward);
                          return {};
                        }),
          list_property(
              "guestfwd", "tcp:addr:port-cmd:command or a character device",
              "give the guest's connections to an address to a command each, or to a device; may be "
              "repeated",
              [](Options& options, std::string_view value) -> Result<void> {
                TRY_ASSIGN(GuestForward forward, parse_guest_forward(value));
                options.guest_forwards.push_back(std::move(forward));
                return {};
              }),
      });
  return table;
}

Result<UserOptions> UserOptions::parse(std::span<const config::KeyValue> values) {
  return user_properties().parse(values);
}

}  // namespace ostler::net
