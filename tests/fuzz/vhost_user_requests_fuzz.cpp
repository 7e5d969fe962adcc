// What a vhost-user back end says by itself: the input is all that it sends, in pieces of the sizes that its
// first bytes tell.
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "devices/virtio/vhost_user/back_end_requests.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ostler;
  int ends[2];
  if (size < 4 || size > 4096 || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 0;
  const Fd back_end(ends[1]);
  virtio::vhost_user::BackEndRequests requests{Fd(ends[0])};
  const auto pieces = std::span(data, 4);
  auto rest = std::span(data, size).subspan(4);
  for (size_t turn = 0; !rest.empty() && requests.open(); ++turn) {
    const size_t piece = std::min<size_t>(rest.size(), 1u + pieces[turn % pieces.size()]);
    if (::send(back_end.get(), rest.data(), piece, MSG_NOSIGNAL) != static_cast<ssize_t>(piece)) std::abort();
    rest = rest.subspan(piece);
    if (!requests.serve() && requests.open()) std::abort();
    (void)requests.take_config_change();
  }
  return 0;
}
