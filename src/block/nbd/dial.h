// A client's connected socket.
#pragma once

#include <functional>

#include "base/fd.h"
#include "base/result.h"
#include "block/nbd/remote.h"

namespace ostler::block::nbd {

// Asked about ten times a second while a call waits; an error ends the wait and is the call's.
using MayWait = std::function<Result<void>()>;

// The socket, which does not block. Waits on the caller's thread; looking a name up is not interrupted.
Result<Fd> dial(const Remote& remote, const MayWait& may_wait);

// Waits until `fd` is ready for `events` of poll(2), or something is wrong with it.
Result<void> wait_for(int fd, short events, const MayWait& may_wait);

}  // namespace ostler::block::nbd
