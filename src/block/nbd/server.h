// An NBD server: listens, and gives disks to its clients. It runs on one I/O context, all clients together;
// slow ones hold up nobody else.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block/mutex.h"
#include "block/nbd/negotiation.h"

namespace ostler::block::nbd {

class Server {
 public:
  struct Settings {
    ExportList exports = {};                         // the first is also the one without a name
    std::shared_ptr<const TlsCredentials> tls = {};  // null: clients are not encrypted
    unsigned most_clients = 1;                       // at a time; others wait in the sockets' queues
    bool persistent = true;                          // false: it ends when its last client has left
    unsigned negotiation_seconds = 10;               // to get through the negotiation
  };
  explicit Server(Settings settings);
  ~Server();  // not while run() runs
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Before run(). The path is removed by the destructor.
  Result<void> listen_on_path(std::string path);
  Result<void> listen_on_address(const std::string& host, uint16_t port);
  uint16_t port() const;  // of TCP; 0: none

  // Serves until stop(), or until the last client has left; then every request is done.
  Task<void> run();
  // Any thread, also a signal handler. Connections end at once.
  void stop();

  // On the context of run(). Clients that connect from now on find the export; kBusy: its name is taken.
  Result<void> add(std::shared_ptr<const Export> disk);
  // Its clients are disconnected, and it is not used any more when it is done. kNotFound: no such name.
  Task<Result<void>> remove(std::string name);

 private:
  struct Client;
  Task<void> accept_on(int listener);
  Task<void> serve(Client* client);
  Task<void> watch();
  void arm_timer();
  bool is_full() const { return clients_.size() >= settings_.most_clients; }

  const Settings settings_;
  const Fd stop_event_, timer_;
  std::vector<Fd> listeners_;
  std::string path_;
  ExportList exports_;
  std::list<std::unique_ptr<Client>> clients_;  // of the context's thread, as all below
  unsigned running_ = 0;                        // coroutines besides run()
  bool stopping_ = false;
  std::mutex mutex_;
  WaitQueue room_, idle_, left_;
};

}  // namespace ostler::block::nbd
