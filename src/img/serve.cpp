// serve: gives an image to NBD clients until it is interrupted, or until its last client has left.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <optional>

#include "block/nbd/protocol.h"
#include "block/nbd/remote.h"
#include "block/nbd/server.h"
#include "block/nbd/tls_objects.h"
#include "img/background.h"
#include "img/commands.h"
#include "img/served_disk.h"
#include "img/text.h"

namespace ostler::img {
namespace {

namespace nbd = block::nbd;

constexpr OptionName kOptions[] = {
    kObject,
    kImageOptions,
    kFormat,
    kQuiet,
    kForceShare,
    {"socket", 'k', "socket", true},
    {"port", 'p', "port", true},
    {"address", 'b', "address", true},
    {"address", 0, "bind", true},  // qemu-nbd's name of it
    {"read-only", 'r', "read-only"},
    {"export-name", 'x', "export-name", true},
    {"description", 'D', "description", true},
    {"persistent", 't', "persistent"},
    {"shared", 'e', "shared", true},
    {"tls-creds", 0, "tls-creds", true},
    {"tls-verify-peer", 0, "tls-verify-peer", true},
    {"tls-authz", 0, "tls-authz", true},
    {"bitmap", 'B', "bitmap", true},
    {"allocation-depth", 'A', "allocation-depth"},
    {"cache", 0, "cache", true},
    {"nocache", 'n', "nocache"},
    {"aio", 0, "aio", true},
    {"discard", 0, "discard", true},
    {"detect-zeroes", 0, "detect-zeroes", true},
    {"offset", 'o', "offset", true},
    {"snapshot", 's', "snapshot"},
    {"load-snapshot", 'l', "load-snapshot", true},
    {"fork", 0, "fork"},
    {"pid-file", 0, "pid-file", true},
    {"verbose", 'v', "verbose"},
};

// "--shared 0" is everybody, as far as descriptors reach in practice.
constexpr uint64_t kMostClients = 1024;

nbd::Server* signalled = nullptr;

// Makes SIGINT and SIGTERM stop `server` while it lives.
class StopOnSignals {
 public:
  explicit StopOnSignals(nbd::Server& server) {
    signalled = &server;
    struct sigaction action = {};
    action.sa_handler = [](int) { signalled->stop(); };
    sigaction(SIGINT, &action, &interrupt_);
    sigaction(SIGTERM, &action, &terminate_);
  }
  StopOnSignals(const StopOnSignals&) = delete;
  StopOnSignals& operator=(const StopOnSignals&) = delete;
  ~StopOnSignals() {
    sigaction(SIGINT, &interrupt_, nullptr);
    sigaction(SIGTERM, &terminate_, nullptr);
    signalled = nullptr;
  }

 private:
  struct sigaction interrupt_ = {}, terminate_ = {};
};

Result<uint64_t> number_of(const Arguments& arguments, const char* name, uint64_t otherwise, uint64_t most) {
  if (!arguments.has(name)) return otherwise;
  return number_of_option(name, arguments.value(name), 0, most);
}

Result<std::shared_ptr<const nbd::TlsCredentials>> tls_credentials(const block::Opener& opener,
                                                                   const Arguments& arguments) {
  const std::string name = arguments.value("tls-creds");
  if (name.empty())
    return Error(ErrorKind::kInvalidArgument, "--tls-creds: the id of a TLS object, or a folder, is missing");
  const bool object = opener.tls(name) != nullptr;
  if (object && arguments.has("tls-verify-peer"))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("--tls-verify-peer is for a folder; say verify-peer={} in the object '{}'",
                             arguments.value("tls-verify-peer"), name));
  auto found = nbd::find_tls(opener, name, nbd::TlsEndpoint::kServer,
                             arguments.value("tls-verify-peer", "on") == "on");
  if (!found) return std::move(found).error().with_context("--tls-creds");
  return found;
}

Result<nbd::Server::Settings> server_settings(const block::Opener& opener, const Arguments& arguments) {
  nbd::Server::Settings settings;
  settings.persistent = arguments.has("persistent");
  TRY_ASSIGN(const uint64_t shared, number_of(arguments, "shared", 1, kMostClients));
  settings.most_clients = static_cast<unsigned>(shared == 0 ? kMostClients : shared);
  const std::string verify = arguments.value("tls-verify-peer", "on");
  if (verify != "on" && verify != "off")
    return Error(ErrorKind::kInvalidArgument, "--tls-verify-peer must be on or off");
  if (arguments.has("tls-authz"))
    return Error(
        ErrorKind::kUnsupported,
        "--tls-authz: lists of clients' names are not available; leave it out, and let ca-cert.pem be "
        "of an authority that signs for these clients alone");
  if (arguments.has("tls-creds")) {
    TRY_ASSIGN(settings.tls, tls_credentials(opener, arguments));
  }
  return settings;
}

// The address as clients name it.
Result<std::string> listen(nbd::Server& server, const Arguments& arguments) {
  nbd::Remote shown;
  shown.export_name = arguments.value("export-name");
  shown.tls = arguments.has("tls-creds");
  if (arguments.has("socket")) {
    if (arguments.has("port") || arguments.has("address"))
      return Error(ErrorKind::kInvalidArgument, "--socket excludes --port and --address");
    shown.path = arguments.value("socket");
    TRY(server.listen_on_path(shown.path));
    return shown.uri();
  }
  const std::string address = arguments.value("address");
  TRY_ASSIGN(const uint64_t port, number_of(arguments, "port", nbd::kDefaultPort, 65535));
  TRY(server.listen_on_address(address, static_cast<uint16_t>(port)));
  shown.host = address.empty() || address == "*" ? "localhost" : address;
  shown.port = std::to_string(server.port());
  return shown.uri();
}

// `readiness`: of the process that waits; null: nobody does.
Result<int> serve_now(Tool& tool, Words words, Readiness* readiness) {
  TRY_ASSIGN(const Arguments arguments, read_arguments(tool, kOptions, words));
  TRY_ASSIGN(nbd::Server::Settings settings, server_settings(tool.opener, arguments));
  TRY_ASSIGN(ServedDisk disk, ServedDisk::open(tool, arguments));
  const nbd::Export::Settings shown = {.name = arguments.value("export-name"),
                                       .description = arguments.value("description"),
                                       .read_only = disk.read_only(),
                                       .multi_conn = settings.most_clients > 1,
                                       .bitmaps = arguments.values("bitmap"),
                                       .allocation_depth = arguments.has("allocation-depth")};
  {
    // The disk owns the client and outlives the server.
    std::shared_ptr<block::Client> client(std::shared_ptr<void>(), &disk.client());
    TRY_ASSIGN(auto made, nbd::Export::create(std::move(client), shown));
    settings.exports.push_back(std::move(made));
    nbd::Server server(std::move(settings));
    TRY_ASSIGN(const std::string uri, listen(server, arguments));
    std::optional<PidFile> pid_file;
    if (arguments.has("pid-file")) {
      TRY_ASSIGN(PidFile file, PidFile::create(arguments.value("pid-file")));
      pid_file.emplace(std::move(file));
    }
    const StopOnSignals signals(server);
    if (readiness != nullptr) {
      TRY(readiness->tell(uri + "\n", arguments.has("verbose")));
    } else {
      tool.say(uri + "\n");
      std::fflush(stdout);
    }
    tool.run(server.run());
  }
  TRY(disk.close());
  return 0;
}

}  // namespace

Result<int> serve(Tool& tool, Words words) {
  TRY_ASSIGN(const Arguments arguments, parse_arguments(kOptions, words));
  if (!arguments.has("fork")) return serve_now(tool, words, nullptr);
  tool.quiet = arguments.has("q");
  return run_in_background(
      [&](Readiness& readiness) {
        Tool own(tool.style);  // an I/O context is not shared with another process
        return serve_now(own, words, &readiness);
      },
      [&](const std::string& address) { tool.say(address); });
}

}  // namespace ostler::img
