// Opens a character back end from plain options.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "chardev/char_backend.h"
#include "event/loop.h"

namespace ostler::chardev {

enum class Kind : uint8_t { kNull, kStdio, kFile, kPipe, kPty, kUnixSocket, kTcpSocket, kUdp, kRingBuffer };

struct Options {
  Kind kind = Kind::kNull;
  std::string path = {};             // file, pipe, unix socket
  std::string host = {}, port = {};  // TCP, UDP; empty host: any address for a server, else localhost
  std::string local_host = {}, local_port = {};  // UDP: what it is sent from; empty: the host chooses
  bool server = false;                           // sockets: listen, one client at a time
  bool wait = false;                             // server: do not start before the first client is there
  unsigned reconnect_seconds = 0;                // client: how long after a failure it tries again; 0: never
  bool append = false;                           // file
  bool signals = true;                           // stdio: Ctrl-C ends the program
  size_t ring_size = 64 * 1024;                  // ring buffer, bytes
  std::string log_path = {};                     // of all: a file that gets the output too; empty: none
  bool log_append = false;
};

// On the loop's thread or before it runs. Errors name the path or address.
Result<std::unique_ptr<CharBackend>> open(event::Loop& loop, const Options& options);

// The slave's path of a pty, for the user to be told; empty for other kinds.
std::string pty_path(const CharBackend& backend);

// At most `most` of the oldest bytes of a ring buffer, which are then gone; empty for other kinds. Any
// thread.
std::string read_ring(CharBackend& backend, size_t most);

}  // namespace ostler::chardev
