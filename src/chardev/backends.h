// The kinds of back end that open() makes: constructors of each file of this folder.
#pragma once

#include "chardev/open.h"

namespace ostler::chardev {

std::unique_ptr<CharBackend> make_null();
Result<std::unique_ptr<CharBackend>> make_stdio(event::Loop& loop, const Options& options);
Result<std::unique_ptr<CharBackend>> make_file(event::Loop& loop, const Options& options);
Result<std::unique_ptr<CharBackend>> make_pipe(event::Loop& loop, const Options& options);
Result<std::unique_ptr<CharBackend>> make_pty(event::Loop& loop);
Result<std::unique_ptr<CharBackend>> make_socket(event::Loop& loop, const Options& options);
Result<std::unique_ptr<CharBackend>> make_ring(const Options& options);

}  // namespace ostler::chardev
