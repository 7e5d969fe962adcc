#include "devices/virtio/vhost_user/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/bytes.h"
#include "base/log.h"
#include "devices/virtio/block/request.h"

namespace ostler::virtio::vhost_user {
namespace {

// Virtio 1.2 §5.2.4: the configuration up to what version 1.2 knows, and places in it.
constexpr uint32_t kConfigBytes = 60;
constexpr uint64_t kWriteback = 32, kNumQueues = 34;
constexpr unsigned VIRTIO_BLK_F_SIZE_MAX = 1, VIRTIO_BLK_F_GEOMETRY = 4;
constexpr uint8_t VIRTIO_BLK_S_IOERR = 1;

// What a driver may make use of without our knowing more.
constexpr uint64_t kPassedOn =
    feature(VIRTIO_BLK_F_SIZE_MAX) | feature(block::VIRTIO_BLK_F_SEG_MAX) | feature(VIRTIO_BLK_F_GEOMETRY) |
    feature(block::VIRTIO_BLK_F_RO) | feature(block::VIRTIO_BLK_F_BLK_SIZE) |
    feature(block::VIRTIO_BLK_F_FLUSH) | feature(block::VIRTIO_BLK_F_TOPOLOGY) |
    feature(block::VIRTIO_BLK_F_CONFIG_WCE) | feature(block::VIRTIO_BLK_F_MQ) |
    feature(block::VIRTIO_BLK_F_DISCARD) | feature(block::VIRTIO_BLK_F_WRITE_ZEROES);

std::vector<config::Property<BlockOptions>> own() {
  using namespace config;
  using Options = BlockOptions;
  return {
      reference<Options>("chardev", "character back end", &Options::chardev,
                         "the socket of the disk's process: -chardev socket,path=…"),
      number_or_unset<Options, uint32_t>("bootindex", &Options::bootindex, 0, 0xffffffff, 0,
                                         "place in the boot order"),
      number<Options, uint16_t>("queue-size", &Options::queue_size, 2, Device::kMaxQueueSize,
                                "descriptors in a queue, a power of two"),
      queues_or_auto<Options>("num-queues", &Options::num_queues, Device::kMaxQueues, 0xffff),
      boolean<Options>("config-wce", &Options::config_wce, "let the guest turn the write cache off and on"),
      boolean<Options>("discard", &Options::discard, "pass on that the disk takes discards"),
      boolean<Options>("write-zeroes", &Options::write_zeroes, "pass on that it writes zeros by itself"),
  };
}

}  // namespace

const config::PropertyTable<BlockOptions>& block_pci_properties() {
  static const config::PropertyTable<BlockOptions> table("vhost-user-blk-pci",
                                                         with_bus_properties(own(), true));
  return table;
}

const config::PropertyTable<BlockOptions>& block_mmio_properties() {
  static const config::PropertyTable<BlockOptions> table("vhost-user-blk-device",
                                                         with_bus_properties(own(), false));
  return table;
}

Result<std::unique_ptr<BlockDevice>> BlockDevice::create(memory::AddressSpace& memory, event::Loop& loop,
                                                         const BlockOptions& asked, const Address& address) {
  BlockOptions options = asked;
  if (!std::has_single_bit(options.queue_size))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("queue-size: {} is not a power of two", options.queue_size));
  TRY_ASSIGN(Parts parts, meet(address));
  const auto named = [&](Error error) {
    return std::move(error).with_context("the back end at " + address.path);
  };
  if (!parts.session->has_config())
    return named(Error(ErrorKind::kUnsupported, "it does not tell the size of its disk (no CONFIG)"));
  auto config = parts.session->config(kConfigBytes);
  if (!config) return named(std::move(config).error());
  uint64_t offered = parts.session->features() & kPassedOn;
  const auto withhold = [&](bool wanted, unsigned bit) {
    if (!wanted) offered &= ~feature(bit);
  };
  withhold(options.config_wce, block::VIRTIO_BLK_F_CONFIG_WCE);
  withhold(options.discard, block::VIRTIO_BLK_F_DISCARD);
  withhold(options.write_zeroes, block::VIRTIO_BLK_F_WRITE_ZEROES);
  const bool several = (offered & feature(block::VIRTIO_BLK_F_MQ)) != 0;
  const uint64_t fitting = several ? std::min<uint64_t>(options.auto_queues, parts.session->queues()) : 1;
  if (!options.num_queues) options.num_queues = static_cast<uint16_t>(std::max<uint64_t>(1, fitting));
  const unsigned queues = *options.num_queues;
  withhold(queues > 1, block::VIRTIO_BLK_F_MQ);
  if (queues > 1 && !several)
    return named(Error(ErrorKind::kUnsupported, "it serves one queue alone; leave num-queues out"));
  TRY(add_rings(parts, queues, queues));
  return std::unique_ptr<BlockDevice>(
      new BlockDevice(memory, loop, options, offered, *std::move(config), std::move(parts)));
}

BlockDevice::BlockDevice(memory::AddressSpace& memory, event::Loop& loop, const BlockOptions& options,
                         uint64_t offered, std::vector<std::byte> config, Parts parts)
    : VhostUserDevice(memory, loop, options.id.empty() ? "vhost-user-blk" : options.id,
                      std::vector<uint16_t>(*options.num_queues, options.queue_size),
                      options.withheld_features(), std::move(parts)),
      num_queues_(static_cast<uint16_t>(queue_count())),
      offered_(offered),
      config_(std::move(config)) {
  store_le<uint16_t>(config_.data() + kNumQueues, num_queues_);
}

uint64_t BlockDevice::back_end_features() const {
  return driver_features() & offered_;
}

uint32_t BlockDevice::wanted_config() const {
  return kConfigBytes;
}

// A guest may rely on all that it was ever offered.
Result<void> BlockDevice::accept_locked(Session& session, std::vector<std::byte> config) {
  if ((offered_ & ~session.features()) != 0 || !session.has_config())
    return Error(ErrorKind::kUnsupported, "it lacks features of the last one");
  take_config_locked(std::move(config));
  return {};
}

Result<void> BlockDevice::config_told_locked(Session& session) {
  TRY_ASSIGN(auto config, session.config(kConfigBytes));
  take_config_locked(std::move(config));
  return {};
}

void BlockDevice::take_config_locked(std::vector<std::byte> config) {
  store_le<uint16_t>(config.data() + kNumQueues, num_queues_);
  if (config == config_) return;
  config_ = std::move(config);
  config_changed_locked();
}

void BlockDevice::config_written_locked(uint64_t offset, std::span<const std::byte> from) {
  if (offset != kWriteback || from.size() != 1 || !has_feature(block::VIRTIO_BLK_F_CONFIG_WCE)) {
    log::guest_error("{}: write to the configuration at {}", name(), offset);
    return;
  }
  const std::byte on = from[0] & std::byte{1};
  config_[kWriteback] = on;
  Session* const session = session_locked();
  if (session == nullptr) return;
  if (auto done = session->set_config(kWriteback, {&on, 1}); !done) lose_locked(done.error().message());
}

// §5.2.6: the status is the last byte that the device writes.
void BlockDevice::refuse_locked(Queue& queue, Chain chain) {
  const uint64_t room = chain.writable_bytes();
  const bool told = room != 0 && chain.write_object(queue.dma(), room - 1, VIRTIO_BLK_S_IOERR);
  queue.push(std::move(chain), told ? 1 : 0);
}

void BlockDevice::device_state(state::Archive& archive) {
  archive.section("vhost-user-blk", 1);
  auto size = load_le<uint64_t>(config_.data());
  archive.field("size", size);
  archive.check(size == load_le<uint64_t>(config_.data()), "size of the disk");
  auto writeback = std::to_integer<uint8_t>(config_[kWriteback]);
  archive.field("writeback", writeback);
  config_[kWriteback] = std::byte{writeback};
  rings_state(archive);
}

// The write cache as the guest has set it.
void BlockDevice::restored_locked() {
  if (!has_feature(block::VIRTIO_BLK_F_CONFIG_WCE)) return;
  if (auto done = session_locked()->set_config(kWriteback, {&config_[kWriteback], 1}); !done)
    lose_locked(done.error().message());
}

}  // namespace ostler::virtio::vhost_user
