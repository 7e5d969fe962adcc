// virtio-9p: a folder of the host in the guest, served by 9P2000.L in this process. Virtio numbers the device
// 9 and leaves its description to others: one queue whose chains are a request and room for its reply, and a
// configuration that is the mount tag, le16 length before bytes.
//
// Requests are taken on the thread that notifies and served on a few workers, so that a slow file system of
// the host delays neither vCPUs nor the event loop; only buffers of requests that are being served exist.
// Neither a reset nor the end of the device waits for the host: requests that are being served are abandoned,
// which means that they finish without touching the guest, the device's state or the device. A worker that
// outlives the device owns what it still uses, and finds by the `Link` that there is no device.
//
//     taken ──> pending_ ──worker──> served_ ──reply──> used
//                  │ Tflush: answered EINTR       │ Tflush: waits in flushes_ until it is answered
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "config/property.h"
#include "devices/virtio/device.h"
#include "devices/virtio/options.h"
#include "fs9p/server.h"
#include "fs9p/workers.h"

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
  };
  struct Flush {
    Chain chain;
    uint16_t tag, old_tag;
    uint64_t sequence;
  };
  // What a worker does for a request without the device.
  struct Task {
    uint64_t sequence = 0;
    std::shared_ptr<fs9p::Server> server;
    std::vector<std::byte> message;  // empty: it is not in RAM
    size_t room = 0;
  };
  // The device as its workers know it. Its lock comes before the device's.
  struct Link {
    std::mutex mutex;
    P9Device* device = nullptr;  // guarded by mutex; null when it is gone
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
  // Calls a worker for each request, if the host has the threads.
  void call_workers_locked(Queue& queue);
  static void serve(const std::shared_ptr<Link>& link);  // on a worker
  // The next request; false: none waits any more.
  bool begin(Task& task);
  void finish(const Task& task, std::span<const std::byte> reply);

  const std::shared_ptr<fs9p::Share> share_;
  const Options options_;
  // Guarded by mutex_.
  std::shared_ptr<fs9p::Server> server_;
  std::deque<Request> pending_;
  std::vector<Request> served_;  // at most kWorkers
  std::deque<Flush> flushes_;
  uint64_t next_sequence_ = 0;
  bool stalled_ = false;  // as many are taken as the queue is long; whoever completes one goes on
  size_t called_ = 0;     // workers that were called and have not come for a request
  const std::shared_ptr<Link> link_;
  fs9p::Workers workers_{kWorkers};
};

}  // namespace ostler::virtio::p9
