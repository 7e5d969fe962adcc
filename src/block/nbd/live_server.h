// The NBD server of a running machine: nodes of its block graph, on a unix socket or a port, while devices
// use them too.
#pragma once

#include <future>
#include <memory>
#include <optional>
#include <string>

#include "block/io_context.h"
#include "block/nbd/protocol.h"
#include "block/nbd/server.h"

namespace ostler::block::nbd {

// All members from one thread, which is not the server's own.
class LiveServer {
 public:
  struct Address {
    std::string path = {};         // of a unix socket; empty: host and port
    std::string host = {};         // empty: all of this machine's
    uint16_t port = kDefaultPort;  // 0: a free one
  };
  LiveServer() = default;
  ~LiveServer();
  LiveServer(const LiveServer&) = delete;
  LiveServer& operator=(const LiveServer&) = delete;

  // kState: it runs already. `most_clients` at a time, 0: as many as there are descriptors for.
  Result<void> start(const Address& address, std::shared_ptr<const TlsCredentials> tls,
                     unsigned most_clients);
  bool running() const { return server_ != nullptr; }
  uint16_t port() const { return server_ == nullptr ? uint16_t{0} : server_->port(); }
  // Disconnects every client and gives every node back. Nothing happens if it does not run.
  void stop();

  // kState: it does not run; kBusy: the name is taken, or another user of the node does not share what the
  // export needs. Clients see what the node holds at each moment; without settings.read_only they write.
  Result<void> add(const NodePtr& node, Export::Settings settings);
  // The same in two steps: while the caller holds graph_mutex() over finding the node and attach(), no job
  // can put another one in its place between.
  static Result<std::shared_ptr<Client>> attach(const NodePtr& node, const Export::Settings& settings);
  Result<void> add(std::shared_ptr<Client> client, Export::Settings settings);
  // Its clients are disconnected. kNotFound, kState.
  Result<void> remove(const std::string& name);

 private:
  std::optional<IoThread> thread_;
  std::unique_ptr<Server> server_;
  std::promise<void> ended_;
};

}  // namespace ostler::block::nbd
