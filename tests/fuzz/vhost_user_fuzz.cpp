// What a vhost-user back end answers: the input is all that it ever sends.
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "devices/virtio/features.h"
#include "devices/virtio/vhost_user/user_session.h"

namespace {

using namespace ostler;
using virtio::vhost_user::MemoryTable;
using virtio::vhost_user::Session;
using virtio::vhost_user::UserSession;

Result<void> use(Session& session, const std::shared_ptr<memory::RamBlock>& ram) {
  TRY(session.set_features(virtio::feature(virtio::VIRTIO_F_VERSION_1)));
  const MemoryTable::Entry rings{{.guest_address = 0,
                                  .size = ram->size(),
                                  .user_address = reinterpret_cast<uint64_t>(ram->host()),
                                  .mmap_offset = 0},
                                 ram};
  TRY(session.set_memory({}, rings));
  for (unsigned ring = 0; ring < 3; ++ring) {
    TRY(session.start_ring(ring, {.size = 8, .descriptors = 0, .available = 128, .used = 256}, 0, 0, true));
    TRY_ASSIGN(const auto config, session.config(60));
    if (config.size() != 60) std::abort();
    TRY(session.set_config(0, config));
    TRY(session.stop_ring(ring));
  }
  return {};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto ram = *memory::RamBlock::create(
      {.name = "fuzz", .size = 4096, .backing = memory::Backing::kMemfd, .share = true});
  int ends[2];
  if (size > 16384 || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 0;
  const Fd back_end(ends[1]);
  Fd front_end(ends[0]);
  if (::send(back_end.get(), data, size, 0) != static_cast<ssize_t>(size)) std::abort();
  ::shutdown(back_end.get(), SHUT_WR);
  const auto session = UserSession::open(std::move(front_end));
  if (!session) return 0;
  const auto done = use(**session, ram);
  if (done && !(*session)->alive()) std::abort();
  return 0;
}
