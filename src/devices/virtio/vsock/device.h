// virtio-vsock (Virtio 1.2 §5.10): stream sockets between programs of the guest and of the host.
//
// What the guest sends goes into the host's socket on the thread that notifies; what the host sends is read
// on the event loop's thread when it comes, and on the notifying thread when the guest had no room before.
// The loop watches sockets by edges, so that neither thread tells it of each change.
//
// A connection does not survive a load of saved state: the driver is told by TRANSPORT_RESET.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config/property.h"
#include "devices/virtio/device.h"
#include "devices/virtio/options.h"
#include "devices/virtio/vsock/connection.h"
#include "devices/virtio/vsock/host.h"
#include "event/loop.h"

namespace ostler::virtio::vsock {

inline constexpr uint16_t kTypeSocket = 19;

// §5.10.3
inline constexpr unsigned VIRTIO_VSOCK_F_STREAM = 0;

struct Options : DeviceOptions {
  uint64_t guest_cid = 0;  // 0: not given
  std::string uds_path;
  static constexpr uint64_t kFirstCid = 3, kLastCid = 0xfffffffe;  // the others are reserved (§5.10.4)
};

const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

class SocketDevice final : public Device {
 public:
  // At once, those of which the guest has not been asked yet included.
  static constexpr size_t kMostConnections = 512;
  // The first port of the host that a connection from there gets.
  static constexpr uint32_t kFirstHostPort = 1u << 30;
  // How long the guest may take to confirm that a connection is closed.
  static constexpr int64_t kCloseNs = 8'000'000'000;

  // Before the loop runs or on its thread; so the destructor.
  SocketDevice(memory::AddressSpace& memory, event::Loop& loop, std::unique_ptr<Host> host,
               const Options& options);
  ~SocketDevice() override;
  uint16_t type() const override { return kTypeSocket; }

  // Connections now, for tests and statistics. Any thread.
  size_t connections();

 private:
  using Handle = std::shared_ptr<Connection>;
  enum : unsigned { kReceive, kTransmit, kEvent };

  uint64_t device_features() const override { return feature(VIRTIO_VSOCK_F_STREAM); }
  void config_locked(std::vector<std::byte>& config) override;
  void process(unsigned queue, Lock& lock) override;
  void stopped_locked() override;
  void device_state(state::Archive& archive) override;
  void loaded_locked() override;
  Queue* enabled_queue(unsigned index) { return running() ? queue(index) : nullptr; }

  // Everything that can be done now.
  void work_locked();
  void tell_reset_locked();
  // True: more could be done at once.
  bool transmit_locked();
  bool deliver_locked();
  // Writes the next packet into `chain`; its length, 0: there is none.
  uint32_t next_packet_locked(memory::Dma& dma, const Chain& chain);
  // False: the queue broke.
  bool packet_locked(Queue& queue, const Chain& chain);
  void connect_locked(const Header& header);
  void packet_of_locked(const Handle& connection, const Header& header, memory::Dma& dma, const Chain& chain);

  void accept(Fd peer);
  void happened(const Handle& connection, uint32_t events);
  void greet_locked(const Handle& connection);

  Handle add_locked(Fd fd, Connection::State state, Ports ports);
  bool make_room_locked();
  // Looks at what changed: packets to be sent, an end to be confirmed.
  void changed_locked(const Handle& connection);
  // The guest has no such connection any more.
  void forget_locked(const Handle& connection);
  void drop_locked(const Handle& connection);   // forgotten, and closed soon
  void reset_locked(const Handle& connection);  // dropped, and the guest hears of it
  void drop_all_locked();
  void reply_reset_locked(const Header& header);
  Header addressed(Header header, Ports ports) const;

  void settle_soon_locked(const Handle& connection);
  void post_locked();
  void settle();
  void settle_connections_locked();
  void deadline_passed();

  event::Loop& loop_;
  const Options options_;
  const std::unique_ptr<Host> host_;
  // Guarded by mutex_.
  std::map<Ports, Handle> open_;                            // kRequested, kOpen
  std::list<Handle> greetings_;                             // kGreeting, oldest first
  std::list<Handle> draining_;                              // kDraining, oldest first
  std::deque<Handle> ready_;                                // take turns
  std::deque<Header> replies_;                              // RST
  std::vector<Handle> unsettled_;                           // to be watched, or closed
  size_t descriptors_ = 0;                                  // not closed yet
  uint32_t next_port_ = kFirstHostPort;                     // of the host
  bool reset_due_ = false;                                  // TRANSPORT_RESET is to be told
  bool posted_ = false;                                     // settle()
  std::shared_ptr<char> alive_ = std::make_shared<char>();  // tasks that outlive the device do nothing
  event::Timer timer_;                                      // last: its destructor waits for the callback
};

}  // namespace ostler::virtio::vsock
