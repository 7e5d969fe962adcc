// -nbd-server and -export, with the keys of qemu-storage-daemon's options of these names. Both become objects
// of the machine, of types that -object does not have.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "config/machine.h"

namespace ostler::config {

struct QemuBuilder;

inline constexpr std::string_view kNbdServer = "nbd server", kNbdExport = "nbd export";

struct NbdServer {
  std::string path = {};  // of a unix socket; empty: host and port
  std::string host = {};  // empty: all of this machine's
  uint16_t port = 10809;
  std::string tls_credentials = {};  // the id of a TLS object, or a folder; empty: clients are not encrypted
  unsigned most_clients = 100;       // at a time; 0: as many as come
};

// A disk that NBD clients get.
struct NbdExport {
  std::string id;
  std::string node;  // a drive, a device or a node
  std::string name;
  std::string description = {};
  bool writable = false;
  std::vector<std::string> bitmaps = {};
  bool allocation_depth = false;
};

// From objects of the two types. Errors begin with the option.
Result<NbdServer> nbd_server(const Object& object);
Result<NbdExport> nbd_export(const Object& object);

Result<void> option_nbd_server(QemuBuilder& b, std::string_view value);
Result<void> option_export(QemuBuilder& b, std::string_view value);

}  // namespace ostler::config
