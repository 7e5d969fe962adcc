#include "rigs/virtqueue_run.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "memory/ram_block.h"
#include "rigs/p9_requests.h"
#include "rigs/virtio_backends.h"
#include "rigs/virtqueue_driver.h"

namespace ostler::rigs {
namespace {

constexpr unsigned kMostQueues = 8;
constexpr uint64_t kBuffers = 0x1000, kBuffersEnd = 128 * 1024;
// In pages whose numbers no buffer can name (all its bytes are small): a driver that puts its own rings into
// a balloon may not expect to find them there.
constexpr uint64_t kRings = 0x80000;
constexpr uint64_t kRam = kRings + kMostQueues * VirtqueueDriver::kBytes;

// What is left of the choices; zeros at the end.
class Choices {
 public:
  explicit Choices(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  bool none() const { return bytes_.empty(); }
  uint8_t byte() {
    if (none()) return 0;
    const uint8_t value = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return value;
  }
  uint32_t word() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value = value << 8 | byte();
    return value;
  }

 private:
  std::span<const uint8_t> bytes_;
};

struct Status final : virtio::Transport {
  void interrupt_queue(unsigned) override {}
  void interrupt_config() override {}
  void needs_reset() override { broken = true; }
  std::atomic<bool> broken = false;
};

class Run {
 public:
  Run(const std::string& kind, std::span<const uint8_t> steps) : kind_(kind), choices_(steps) {
    {
      memory::Transaction change(memory_);
      change.add(memory_.root(), 0, region_);
    }
    make();
  }

  std::string run() {
    restart();
    for (unsigned left = 4000; left != 0 && !choices_.none(); --left)
      if (const auto wrong = step(); !wrong.empty()) return wrong;
    return "";
  }

 private:
  void make() {
    device_ = back_ends_.make(kind_, memory_);
    device_->connect(status_);
    queues_ = std::min(device_->queue_count(), kMostQueues);
  }

  // Negotiates anew.
  void restart() {
    device_->reset();
    const uint32_t choice = choices_.word();
    using namespace virtio;
    features_ = device_->features();
    // Of what belongs to the device, all or some; of the rings each kind.
    if ((choice & 1) != 0) features_ &= choice | 0xffffffff00000000u | choice >> 8;
    for (const auto& [bit, wanted] : {std::pair{VIRTIO_F_RING_PACKED, choice >> 1 & 1},
                                      {VIRTIO_F_IN_ORDER, choice >> 2 & 1},
                                      {VIRTIO_F_EVENT_IDX, choice >> 3 & 1},
                                      {VIRTIO_F_INDIRECT_DESC, choice >> 4 & 1}})
      if (wanted == 0)
        features_ &= ~feature(bit);
      else
        features_ |= feature(bit);
    if ((choice >> 30) == 0) {  // a legacy driver
      features_ = (features_ & 0xffffffff) | feature(VIRTIO_F_NOTIFY_ON_EMPTY) | feature(VIRTIO_F_ANY_LAYOUT);
    }
    drivers_.clear();
    drivers_.resize(queues_);
    setups_.assign(device_->queue_count(), QueueSetup{});
    for (unsigned i = 0; i < queues_; ++i) begin_queue(i, choice >> 5);
    status_.broken = false;
    running_ = device_->activate(features_, setups_);
  }

  void begin_queue(unsigned index, uint32_t choice) {
    const bool packed = (features_ & virtio::feature(virtio::VIRTIO_F_RING_PACKED)) != 0;
    const auto size = static_cast<uint16_t>(packed ? 3 + choice % 14 : 4u << choice % 3);
    const auto limited = std::min(size, device_->queue_max_size(index));
    drivers_[index].emplace(std::span(ram_->host(), kRam), kRings + index * VirtqueueDriver::kBytes, limited,
                            features_);
    setups_[index] = drivers_[index]->setup();
  }

  std::string step() {
    const uint8_t what = choices_.byte();
    const unsigned index = choices_.byte() % queues_;
    switch (what % 16) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
      case 5:
        offer(index);
        return "";
      case 6:
        drivers_[index]->suppress(choices_.word());
        return "";
      case 7:
        back_ends_.stimulate(choices_.word());
        return judge();
      case 8:
        if (what == 8 || status_.broken) restart();
        return "";
      case 9:
        if (what < 64) drivers_[index]->garble(choices_.word());
        return "";
      case 10:
        return what < 128 ? reset_queue(index) : "";
      case 11:
        return what < 64 ? save_and_load() : "";
      default:
        device_->notify(index);
        return judge();
    }
  }

  // A few buffers of sizes and contents that drivers use, or that one byte changed.
  void offer(unsigned index) {
    const uint32_t shape = choices_.word();
    std::vector<VirtqueueDriver::Buffer> buffers;
    static constexpr uint32_t kSizes[] = {1, 2, 6, 8, 10, 12, 14, 16, 20, 60, 512, 1024, 1526, 4096, 32, 255};
    unsigned readable = shape & 3, writable = shape >> 2 & 3;
    uint32_t least = 1;
    if (kind_ == "vsock" && (shape >> 24 & 15) != 0) {
      // A device that breaks at each second packet is not looked at for long.
      least = sizeof(virtio::vsock::Header) + 1;
      (index == 1 ? readable : writable) |= 1;
    }
    if (kind_ == "9p" && (shape >> 24 & 15) != 0) {
      least = 255;
      readable |= 1;
      writable |= 1;
    }
    const bool scsi_request = kind_ == "scsi" && index >= virtio::scsi::kFirstRequestQueue;
    if (kind_ == "scsi" && (shape >> 24 & 15) != 0) {
      least = scsi_request ? 128 : 24;
      if (index != virtio::scsi::kEventQueue) readable |= 1;
      writable |= 1;
    }
    for (unsigned i = 0; i < readable + writable; ++i) {
      const uint64_t at = kBuffers + (choices_.byte() * 0x100u) % (kBuffersEnd - kBuffers - 0x1000);
      buffers.push_back({at, std::max(least, kSizes[choices_.byte() % 16]), i >= readable});
    }
    // Headers of all devices begin with a small number.
    for (unsigned i = 0; i < readable; ++i)
      for (unsigned at = 0; at < 16; ++at)
        if ((shape >> (8 + at) & 1) != 0)
          ram_->host()[buffers[i].address + at] = static_cast<std::byte>(choices_.byte() & 0x1f);
    if (kind_ == "vsock" && readable != 0) put_vsock_header(buffers[0], choices_.word());
    if (kind_ == "9p" && readable != 0) put_p9_request(buffers[0]);
    if (scsi_request && readable != 0) put_scsi_request(buffers[0], choices_.word(), choices_.word());
    if (kind_ == "scsi" && index == virtio::scsi::kControlQueue && readable != 0)
      put_scsi_task(buffers[0], choices_.word());
    const bool indirect =
        (features_ & virtio::feature(virtio::VIRTIO_F_INDIRECT_DESC)) != 0 && (shape >> 30) == 0;
    drivers_[index]->offer(buffers, indirect);
  }

  // Mostly of few ports and operations, so that connections come about.
  void put_vsock_header(const VirtqueueDriver::Buffer& buffer, uint32_t choice) {
    virtio::vsock::Header header{};
    header.src_cid = VirtioBackends::kGuestCid;
    header.dst_cid = virtio::vsock::kHostCid;
    header.src_port = 0;
    header.dst_port = choice >> 2 & 1;
    if ((choice >> 5 & 3) == 0)  // one that the host opened
      header.dst_port = virtio::vsock::SocketDevice::kFirstHostPort + (choice >> 1 & 7);
    static constexpr uint16_t kOps[] = {1, 5, 5, 5, 6, 5, 5, 4, 5, 5, 7, 5, 5, 1, 5, 5};
    static constexpr uint16_t kEnds[] = {0, 2, 3, 2};
    header.type = 1;
    header.op = (choice >> 27 & 15) == 0 ? kEnds[choice >> 11 & 3] : kOps[choice >> 7 & 15];
    header.flags = choice >> 11 & 3;
    header.len = (choice >> 13 & 1) != 0 && buffer.length > sizeof header
                     ? buffer.length - static_cast<uint32_t>(sizeof header)
                     : 0;
    header.buf_alloc = choice >> 14 & 0xffff;
    header.fwd_cnt = (choice >> 30) != 0 ? 0 : choice >> 16 & 0xff;
    std::memcpy(ram_->host() + buffer.address, &header, std::min<size_t>(buffer.length, sizeof header));
  }

  // Mostly a command that the disk knows.
  void put_scsi_request(const VirtqueueDriver::Buffer& buffer, uint32_t choice, uint32_t more) {
    static constexpr uint8_t kOpcodes[] = {0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x25, 0x28, 0x2a,
                                           0x2f, 0x35, 0x41, 0x42, 0x55, 0x5a, 0x88, 0x8a, 0x8f, 0x91, 0x93,
                                           0x9e, 0xa0, 0xa8, 0xaa, 0xaf, 0x28, 0x2a, 0x42, 0x93, 0xff};
    std::array<uint8_t, sizeof(virtio::scsi::RequestHeader) + virtio::scsi::kDefaultCdbBytes> bytes{};
    bytes[0] = 1;
    bytes[1] = (choice & 15) == 0 ? 0 : VirtioBackends::kScsiTarget;
    bytes[3] = (choice >> 4 & 15) == 0 ? 2 : choice >> 6 & choice >> 7 & 1;
    bytes[8] = choice >> 8 & 3;
    uint8_t* const cdb = bytes.data() + sizeof(virtio::scsi::RequestHeader);
    cdb[0] = kOpcodes[choice >> 10 & 31];
    cdb[1] = (choice >> 15 & 3) == 0 ? static_cast<uint8_t>(choice >> 17) : 0;
    // Small numbers where fields end, whichever length the command has.
    for (const unsigned at : {2u, 4u, 5u, 8u, 9u, 13u})
      cdb[at] = (more >> at & 1) != 0 ? static_cast<uint8_t>(more >> (at + 8) & 0x3f) : 0;
    if ((choice >> 25 & 1) != 0) cdb[1] |= 0x10;
    std::memcpy(ram_->host() + buffer.address, bytes.data(), std::min<size_t>(buffer.length, bytes.size()));
  }

  void put_p9_request(const VirtqueueDriver::Buffer& buffer) {
    P9Requests requests([this] { return choices_.byte(); });
    const auto request = requests.next();
    std::memcpy(ram_->host() + buffer.address, request.data(),
                std::min<size_t>(buffer.length, request.size()));
  }

  void put_scsi_task(const VirtqueueDriver::Buffer& buffer, uint32_t choice) {
    virtio::scsi::TaskRequest task{
        .type = (choice & 7) == 0 ? choice >> 3 & 3 : 0,
        .subtype = choice >> 5 & 7,
        .lun = {1, VirtioBackends::kScsiTarget, 0, static_cast<uint8_t>(choice >> 10 & 1)},
        .id = choice >> 8 & 3};
    if (task.type != 0) task.subtype = 0x201 | choice >> 11 << 16;  // of a notification: the same place
    std::memcpy(ram_->host() + buffer.address, &task, std::min<size_t>(buffer.length, sizeof task));
  }

  std::string judge() {
    for (auto& driver : drivers_)
      if (const auto wrong = driver->collect(); !wrong.empty()) return wrong;
    return "";
  }

  std::string reset_queue(unsigned index) {
    if (!running_) return "";
    device_->reset_queue(index);
    begin_queue(index, choices_.byte());
    device_->enable_queue(index, setups_[index]);
    return "";
  }

  std::string save_and_load() {
    device_->quiesce();
    if (const auto wrong = judge(); !wrong.empty()) return wrong;
    state::Saver saver;
    device_->state(saver, running_, features_, setups_);
    const auto stream = saver.take();
    device_.reset();
    make();
    state::Loader loader(stream);
    device_->state(loader, running_, features_, setups_);
    return loader.finish() ? judge() : "a state that the device reached is refused";
  }

  const std::string kind_;
  Choices choices_;
  memory::AddressSpace memory_{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> ram_ = *memory::RamBlock::create({.name = "ram", .size = kRam});
  memory::RamRegion region_{"ram", ram_};
  VirtioBackends back_ends_;
  Status status_;
  std::unique_ptr<virtio::Device> device_;
  unsigned queues_ = 0;
  uint64_t features_ = 0;
  bool running_ = false;
  std::vector<std::optional<VirtqueueDriver>> drivers_;
  std::vector<virtio::QueueSetup> setups_;
};

}  // namespace

std::string run_virtqueues(const std::string& kind, std::span<const uint8_t> steps) {
  return Run(kind, steps).run();
}

}  // namespace ostler::rigs
