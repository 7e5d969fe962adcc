#include "devices/virtio/fs/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/bytes.h"

namespace ostler::virtio::fs {
namespace {

// The head of each request and of each answer (Virtio 1.2 §5.11.6.1; linux/fuse.h).
struct FuseIn {
  uint32_t length, opcode;
  uint64_t unique;
};
struct FuseOut {
  uint32_t length;
  int32_t error;
  uint64_t unique;
};
static_assert(sizeof(FuseIn) == 16 && sizeof(FuseOut) == 16);

}  // namespace

Result<std::unique_ptr<FsDevice>> FsDevice::create(memory::AddressSpace& memory, event::Loop& loop,
                                                   const Options& options,
                                                   const vhost_user::Address& address) {
  if (options.tag.empty() || options.tag.size() > kMostTag)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("the property 'tag' must have 1 to {} bytes: the guest mounts by it", kMostTag));
  if (!std::has_single_bit(options.queue_size))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("queue-size: {} is not a power of two", options.queue_size));
  TRY_ASSIGN(Parts parts, prepare(address, 1u + options.num_request_queues, 1u + options.num_request_queues));
  return std::unique_ptr<FsDevice>(new FsDevice(memory, loop, options, std::move(parts)));
}

// Queue 0 is for urgent requests (§5.11.2).
FsDevice::FsDevice(memory::AddressSpace& memory, event::Loop& loop, const Options& options, Parts parts)
    : VhostUserDevice(memory, loop, options.id.empty() ? "vhost-user-fs" : options.id,
                      std::vector<uint16_t>(1u + options.num_request_queues, options.queue_size),
                      options.withheld_features(), std::move(parts)),
      options_(options) {}

void FsDevice::config_locked(std::vector<std::byte>& config) {
  config.assign(kMostTag + 4, std::byte{0});
  std::memcpy(config.data(), options_.tag.data(), options_.tag.size());
  store_le<uint32_t>(config.data() + kMostTag, options_.num_request_queues);
}

// Programs in the guest see ENOTCONN, as they do when a FUSE server has died.
void FsDevice::refuse_locked(Queue& queue, Chain chain) {
  uint32_t written = 0;
  FuseIn in{};
  if (chain.read_object(queue.dma(), 0, in)) {
    const FuseOut out{sizeof out, -ENOTCONN, in.unique};
    if (chain.write_object(queue.dma(), 0, out)) written = sizeof out;  // no room: none is wanted (FORGET)
  }
  queue.push(std::move(chain), written);
}

// Machine::save() refuses before: virtiofsd alone knows which files are open.
void FsDevice::device_state(state::Archive& archive) {
  archive.section("vhost-user-fs", 1);
}

}  // namespace ostler::virtio::fs
