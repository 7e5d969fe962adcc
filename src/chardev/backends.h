// The kinds of back end that open() makes: constructors of each file of this folder.
#pragma once

#include "chardev/open.h"
#include "chardev/socket_address.h"

namespace ostler::chardev {

std::unique_ptr<CharBackend> make_null();
Result<std::unique_ptr<CharBackend>> make_stdio(event::Loop& loop, const Options& options);
Result<std::unique_ptr<CharBackend>> make_file(event::Loop& loop, const Options& options);
Result<std::unique_ptr<CharBackend>> make_pipe(event::Loop& loop, const Options& options);
Result<std::unique_ptr<CharBackend>> make_pty(event::Loop& loop);
Result<std::unique_ptr<CharBackend>> make_socket(event::Loop& loop, const Options& options);
// A client that never gives up, and need not find its server at the start.
std::unique_ptr<CharBackend> make_reconnecting_socket(event::Loop& loop, const SocketAddress& address,
                                                      unsigned seconds);
Result<std::unique_ptr<CharBackend>> make_udp(event::Loop& loop, const Options& options);
Result<std::unique_ptr<CharBackend>> make_ring(const Options& options);

// What open() made, below its log file.
CharBackend& without_log(CharBackend& backend);
const CharBackend& without_log(const CharBackend& backend);

}  // namespace ostler::chardev
