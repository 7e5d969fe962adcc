// The NBD server of a running machine: its disks, by the names that users know, for clients on a socket. The
// operations are those of QMP's nbd-server-start, block-export-add, -del and nbd-server-stop. The machine's
// thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/nbd/live_server.h"
#include "config/qemu_nbd_options.h"
#include "machine/disks.h"

namespace ostler::machine {

class NbdExports {
 public:
  explicit NbdExports(Disks& disks) : disks_(disks) {}

  // What the command line asks for. Errors begin with the option.
  Result<void> begin(const std::vector<config::Object>& objects);

  // kState: it runs already. Errors name the address or the credentials.
  Result<void> start(const config::NbdServer& server);
  bool running() const { return server_.running(); }
  uint16_t port() const { return server_.port(); }  // 0: a unix socket, or none
  // Disconnects all clients and gives the disks back.
  void stop();

  // kState: no server runs; kNotFound: no such disk or bitmap; kBusy: the id or the name is taken, or the
  // device does not let others write (share-rw=on).
  Result<void> add(const config::NbdExport& disk);
  // By its id; its clients are disconnected. kNotFound.
  Result<void> remove(const std::string& id);
  const std::map<std::string, config::NbdExport>& list() const { return exports_; }  // by id

 private:
  // A user of the node that has this name now, whatever jobs do.
  Result<std::shared_ptr<block::Client>> attach(const config::NbdExport& disk,
                                                const block::nbd::Export::Settings& settings);
  Disks& disks_;
  std::map<std::string, config::NbdExport> exports_;
  block::nbd::LiveServer server_;
};

}  // namespace ostler::machine
