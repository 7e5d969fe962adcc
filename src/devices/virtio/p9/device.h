// virtio-9p: a folder of the host in the guest, served by 9P2000.L in this process. Virtio numbers the device
// 9 and leaves its description to others: one queue whose chains are a request and room for its reply, and a
// configuration that is the mount tag, le16 length before bytes.
//
// Requests are taken on the thread that notifies and served on a few workers, so that a slow file system of
// the host delays neither vCPUs nor the event loop; only buffers of requests that are being served exist.
// A reset does not wait for the host: requests that are being served are abandoned, which means that they
// finish without touching the guest or the device's state.
//
//     taken ──> pending_ ──worker──> served_ ──reply──> used
//                  │ Tflush: answered EINTR       │ Tflush: waits in flushes_ until it is answered
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "config/property.h"
#include "devices/virtio/device.h"
#include "devices/virtio/options.h"
#include "fs9p/server.h"

namespace ostler::virtio::p9 {

inline constexpr unsigned VIRTIO_9P_MOUNT_TAG = 0;
inline constexpr size_t kMostTag = 36;  // bytes; as virtio-fs has it

struct Options : DeviceOptions {
  std::string fsdev;
  std::string mount_tag;
};

const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

class P9Device final : public Device {
 public:
  static constexpr uint16_t kQueueSize = 128;
  static constexpr unsigned kWorkers = 4;

  // Error: the tag.
  static Result<std::unique_ptr<P9Device>> create(memory::AddressSpace& memory,
                                                  std::shared_ptr<fs9p::Share> share, const Options& options);
  ~P9Device() override;
  uint16_t type() const override { return kType9p; }
  // The guest has objects of the share open or named, which a saved state cannot hold. Any thread.
  bool mounted();

 private:
  struct Request {
    Chain chain;
    uint16_t tag;
    uint64_t sequence;
    bool abandoned = false;
  };
  struct Flush {
    Chain chain;
    uint16_t tag, old_tag;
    uint64_t sequence;
  };
  P9Device(memory::AddressSpace& memory, std::shared_ptr<fs9p::Share> share, const Options& options);

  uint64_t device_features() const override { return feature(VIRTIO_9P_MOUNT_TAG); }
  void config_locked(std::vector<std::byte>& config) override;
  void process(unsigned queue, Lock& lock) override;
  void abandon_locked(unsigned queue) override;
  void stopped_locked() override;
  void device_state(state::Archive& archive) override;

  size_t taken_locked() const { return pending_.size() + served_.size() + flushes_.size(); }
  void take_locked(Queue& queue);
  // False: the chain cannot hold a request and its reply.
  bool take_one_locked(Queue& queue, Chain&& chain);
  void flush_locked(Queue& queue, Flush flush);
  void answer_flushes_locked(Queue& queue);
  void push_locked(Queue& queue, Chain&& chain, std::span<const std::byte> reply);
  // As many workers as there is work for, if the host has the threads.
  void wake_workers_locked(Queue& queue);
  void work();  // a worker's life
  void serve_locked(Lock& lock);

  const std::shared_ptr<fs9p::Share> share_;
  const Options options_;
  // Guarded by mutex_.
  std::shared_ptr<fs9p::Server> server_;
  std::deque<std::shared_ptr<Request>> pending_;
  std::list<std::shared_ptr<Request>> served_;
  std::deque<Flush> flushes_;
  uint64_t next_sequence_ = 0;
  bool stalled_ = false;  // as many are taken as the queue is long; whoever completes one goes on
  std::vector<std::shared_ptr<fs9p::Server>> dropped_;  // a worker closes what guests before a reset had open
  std::vector<std::thread> workers_;
  size_t idle_ = 0;
  bool stop_ = false;
  std::condition_variable wake_;
};

}  // namespace ostler::virtio::p9
