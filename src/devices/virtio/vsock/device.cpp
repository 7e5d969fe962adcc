#include "devices/virtio/vsock/device.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace ostler::virtio::vsock {
namespace {

constexpr uint16_t kQueueSize = 128;
// Beyond so many replies that the guest does not take, nothing is taken from it (§5.10.6.2).
constexpr size_t kMostReplies = 256;
// Descriptors whose connection is gone and that the loop has not closed yet.
constexpr size_t kMostUnclosed = 64;

}  // namespace

SocketDevice::SocketDevice(memory::AddressSpace& memory, event::Loop& loop, std::unique_ptr<Host> host,
                           const Options& options)
    : Device(memory, options.id.empty() ? "virtio-vsock" : options.id, {kQueueSize, kQueueSize, kQueueSize},
             options.withheld_features()),
      loop_(loop),
      options_(options),
      host_(std::move(host)),
      timer_(loop, [this] { deadline_passed(); }) {
  host_->listen([this](Fd peer) { accept(std::move(peer)); });
}

SocketDevice::~SocketDevice() {
  reset();
  const Lock lock(mutex_);
  settle_connections_locked();
}

size_t SocketDevice::connections() {
  const Lock lock(mutex_);
  return open_.size() + greetings_.size() + draining_.size();
}

void SocketDevice::config_locked(std::vector<std::byte>& config) {
  const auto view = std::as_bytes(std::span(&options_.guest_cid, 1));
  config.assign(view.begin(), view.end());
}

void SocketDevice::process(unsigned, Lock&) {
  work_locked();
}

void SocketDevice::work_locked() {
  if (!running()) return;
  tell_reset_locked();
  const bool more_from_guest = transmit_locked();
  const bool more_to_guest = deliver_locked();
  if (more_from_guest || more_to_guest) post_locked();
}

void SocketDevice::tell_reset_locked() {
  Queue* const queue = enabled_queue(kEvent);
  if (!reset_due_ || queue == nullptr) return;
  auto chain = queue->pop();
  if (!chain) return;
  if (!chain->write_object(queue->dma(), 0, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET))
    return fail_locked(*queue, "an event buffer that is too small");
  reset_due_ = false;
  queue->push(*std::move(chain), sizeof VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
  signal_locked(*queue);
}

bool SocketDevice::transmit_locked() {
  Queue* const queue = enabled_queue(kTransmit);
  if (queue == nullptr) return false;
  bool more = false;
  for (unsigned left = 2u * queue->size(); replies_.size() < kMostReplies; --left) {
    // A flood costs the guest's own time, and no more of it than its share.
    if (left == 0) {
      more = !queue->empty();
      break;
    }
    auto chain = queue->pop();
    if (!chain) break;
    if (!packet_locked(*queue, *chain)) return false;
    queue->push(*std::move(chain), 0);
  }
  signal_locked(*queue);
  return more;
}

bool SocketDevice::packet_locked(Queue& queue, const Chain& chain) {
  Header header;
  const bool whole = chain.read_object(queue.dma(), 0, header);
  if (!whole || header.len > chain.readable_bytes() - sizeof header) {
    fail_locked(queue, whole ? "a packet that is shorter than it says" : "a packet without a header");
    return false;
  }
  if (header.src_cid != options_.guest_cid) {
    log::guest_error("{}: a packet from another CID, {}", name(), uint64_t{header.src_cid});
    return true;
  }
  if (header.dst_cid != kHostCid || header.type != VIRTIO_VSOCK_TYPE_STREAM) {
    reply_reset_locked(header);
    return true;
  }
  const auto found = open_.find({.guest = header.src_port, .host = header.dst_port});
  if (found != open_.end()) {
    const Handle connection = found->second;
    packet_of_locked(connection, header, queue.dma(), chain);
  } else if (header.op == VIRTIO_VSOCK_OP_REQUEST) {
    connect_locked(header);
  } else {
    reply_reset_locked(header);
  }
  return true;
}

void SocketDevice::connect_locked(const Header& header) {
  Fd fd = make_room_locked() ? host_->connect(header.dst_port) : Fd();
  if (!fd) return reply_reset_locked(header);
  const Ports ports{.guest = header.src_port, .host = header.dst_port};
  const Handle connection = add_locked(std::move(fd), Connection::State::kOpen, ports);
  open_.emplace(ports, connection);
  connection->peer_credit(header);
  connection->respond();
  changed_locked(connection);
}

void SocketDevice::packet_of_locked(const Handle& connection, const Header& header, memory::Dma& dma,
                                    const Chain& chain) {
  connection->peer_credit(header);
  const bool open = connection->state() == Connection::State::kOpen;
  bool good = false;
  switch (header.op) {
    case VIRTIO_VSOCK_OP_RESPONSE:
      good = connection->requested() && connection->accepted();
      break;
    case VIRTIO_VSOCK_OP_RST:
      return drop_locked(connection);
    case VIRTIO_VSOCK_OP_SHUTDOWN:
      good = open;
      if (!open || !connection->shut(header.flags)) break;
      reply_reset_locked(header);
      if (connection->drained()) return drop_locked(connection);
      forget_locked(connection);
      connection->set_state(Connection::State::kDraining);
      draining_.push_back(connection);
      return;
    case VIRTIO_VSOCK_OP_RW:
      good = open && connection->take(dma, chain, header.len);
      break;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
      good = open;
      connection->credit_requested();
      break;
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
      good = open;
      break;
    default:
      break;
  }
  if (!good) {
    log::guest_error("{}: a packet of kind {} that its connection does not allow", name(),
                     uint16_t{header.op});
    return reset_locked(connection);
  }
  changed_locked(connection);
}

bool SocketDevice::deliver_locked() {
  Queue* const queue = enabled_queue(kReceive);
  if (queue == nullptr) return false;
  const bool was_full = replies_.size() >= kMostReplies;
  bool more = false;
  for (unsigned left = 2u * queue->size(); !replies_.empty() || !ready_.empty(); --left) {
    if (left == 0) {
      more = !queue->empty();
      break;
    }
    auto chain = queue->pop();
    if (!chain) break;
    if (chain->writable_bytes() <= sizeof(Header)) {
      fail_locked(*queue, "a receive buffer without room for data");
      return false;
    }
    const uint32_t length = next_packet_locked(queue->dma(), *chain);
    if (length == 0) {
      queue->unpop(*std::move(chain));
      break;
    }
    queue->push(*std::move(chain), length);
  }
  signal_locked(*queue);
  return more || (was_full && replies_.size() < kMostReplies);
}

uint32_t SocketDevice::next_packet_locked(memory::Dma& dma, const Chain& chain) {
  std::optional<Header> header;
  if (!replies_.empty()) {
    header = replies_.front();
    replies_.pop_front();
  }
  while (!header && !ready_.empty()) {
    const Handle connection = ready_.front();
    ready_.pop_front();
    connection->ready = false;
    header = connection->next_packet(dma, chain);
    if (header) header = addressed(*header, connection->ports());
    if (header && header->op == VIRTIO_VSOCK_OP_RST)
      drop_locked(connection);
    else
      changed_locked(connection);
  }
  if (!header || !chain.write_object(dma, 0, *header)) return 0;
  return static_cast<uint32_t>(sizeof(Header)) + header->len;
}

// --- what the host does ---

void SocketDevice::accept(Fd peer) {
  const Lock lock(mutex_);
  if (!make_room_locked()) return;
  greetings_.push_back(add_locked(std::move(peer), Connection::State::kGreeting, {}));
}

void SocketDevice::happened(const Handle& connection, uint32_t events) {
  using State = Connection::State;
  const Lock lock(mutex_);
  connection->happened(events);
  switch (connection->state()) {
    case State::kGone:
      return;
    case State::kGreeting:
      greet_locked(connection);
      break;
    case State::kRequested:
      if (connection->hung_up()) reset_locked(connection);
      break;
    case State::kOpen:
      changed_locked(connection);
      break;
    case State::kDraining:
      if (connection->drained()) drop_locked(connection);
      break;
  }
  work_locked();
}

void SocketDevice::greet_locked(const Handle& connection) {
  Ports ports;
  switch (connection->read_greeting(ports.guest)) {
    case Connection::Greeting::kMore:
      if (connection->hung_up()) drop_locked(connection);
      return;
    case Connection::Greeting::kBad:
      return drop_locked(connection);
    case Connection::Greeting::kWhole:
      break;
  }
  if (enabled_queue(kReceive) == nullptr || connection->hung_up()) return drop_locked(connection);
  // There are far fewer connections than ports.
  do {
    ports.host = next_port_;
    next_port_ = next_port_ == UINT32_MAX - 1 ? kFirstHostPort : next_port_ + 1;
  } while (open_.contains(ports));
  std::erase(greetings_, connection);
  connection->request(ports);
  open_.emplace(ports, connection);
  changed_locked(connection);
}

// --- the life of connections ---

SocketDevice::Handle SocketDevice::add_locked(Fd fd, Connection::State state, Ports ports) {
  auto connection = std::make_shared<Connection>(std::move(fd), state, ports);
  ++descriptors_;
  settle_soon_locked(connection);
  return connection;
}

// Those whose guest has gone, and programs that do not say what they want, make room for others.
bool SocketDevice::make_room_locked() {
  if (open_.size() + greetings_.size() + draining_.size() >= kMostConnections) {
    if (!draining_.empty())
      drop_locked(Handle(draining_.front()));
    else if (!greetings_.empty())
      drop_locked(Handle(greetings_.front()));
    else
      return false;
  }
  return descriptors_ < kMostConnections + kMostUnclosed;
}

void SocketDevice::changed_locked(const Handle& connection) {
  if (!connection->ready && connection->has_packet()) {
    connection->ready = true;
    ready_.push_back(connection);
  }
  if (!connection->closing() || connection->deadline >= 0) return;
  connection->deadline = loop_.clock().now() + kCloseNs;
  if (!timer_.armed()) timer_.set(connection->deadline);
}

void SocketDevice::deadline_passed() {
  const Lock lock(mutex_);
  std::vector<Handle> late;
  int64_t next = INT64_MAX;
  for (const auto& [ports, connection] : open_) {
    if (connection->deadline < 0) continue;
    if (connection->deadline <= loop_.clock().now())
      late.push_back(connection);
    else
      next = std::min(next, connection->deadline);
  }
  for (const Handle& connection : late) reset_locked(connection);
  if (next != INT64_MAX) timer_.set(next);
  work_locked();
}

void SocketDevice::forget_locked(const Handle& connection) {
  switch (connection->state()) {
    case Connection::State::kGreeting:
      std::erase(greetings_, connection);
      break;
    case Connection::State::kDraining:
      std::erase(draining_, connection);
      break;
    default:
      open_.erase(connection->ports());
  }
  if (connection->ready) std::erase(ready_, connection);
  connection->ready = false;
}

void SocketDevice::drop_locked(const Handle& connection) {
  forget_locked(connection);
  connection->set_state(Connection::State::kGone);
  settle_soon_locked(connection);
}

void SocketDevice::reset_locked(const Handle& connection) {
  using State = Connection::State;
  // A guest that was not asked yet need not hear of it.
  if (connection->state() == State::kRequested && !connection->requested()) return drop_locked(connection);
  Header header{};
  header.type = VIRTIO_VSOCK_TYPE_STREAM;
  header.op = VIRTIO_VSOCK_OP_RST;
  replies_.push_back(addressed(header, connection->ports()));
  drop_locked(connection);
}

void SocketDevice::drop_all_locked() {
  const auto drop = [this](Handle connection) { drop_locked(connection); };
  while (!open_.empty()) drop(open_.begin()->second);
  while (!greetings_.empty()) drop(greetings_.front());
  while (!draining_.empty()) drop(draining_.front());
  replies_.clear();
}

void SocketDevice::reply_reset_locked(const Header& header) {
  if (header.op == VIRTIO_VSOCK_OP_RST) return;  // or two ends would answer each other for ever
  Header reply{};
  reply.src_cid = header.dst_cid;
  reply.dst_cid = header.src_cid;
  reply.src_port = header.dst_port;
  reply.dst_port = header.src_port;
  reply.type = header.type;
  reply.op = VIRTIO_VSOCK_OP_RST;
  replies_.push_back(reply);
}

Header SocketDevice::addressed(Header header, Ports ports) const {
  header.src_cid = kHostCid;
  header.dst_cid = options_.guest_cid;
  header.src_port = ports.host;
  header.dst_port = ports.guest;
  return header;
}

void SocketDevice::stopped_locked() {
  drop_all_locked();
  reset_due_ = false;
}

// --- the loop's part: only its thread may watch descriptors, and a watched one is not closed ---

void SocketDevice::settle_soon_locked(const Handle& connection) {
  if (!connection->unsettled) unsettled_.push_back(connection);
  connection->unsettled = true;
  post_locked();
}

void SocketDevice::post_locked() {
  if (posted_) return;
  posted_ = true;
  loop_.post([this, weak = std::weak_ptr<char>(alive_)] {
    if (!weak.expired()) settle();
  });
}

void SocketDevice::settle() {
  const Lock lock(mutex_);
  posted_ = false;
  settle_connections_locked();
  work_locked();
}

void SocketDevice::settle_connections_locked() {
  const std::vector<Handle> all = std::exchange(unsettled_, {});
  for (const Handle& connection : all) {
    connection->unsettled = false;
    if (connection->state() == Connection::State::kGone) {
      if (connection->watched) loop_.unwatch(connection->fd());
      connection->close();
      --descriptors_;
    } else if (!connection->watched) {
      connection->watched =
          loop_.watch(connection->fd(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                      [this, connection](uint32_t events) { happened(connection, events); });
    }
  }
}

// --- saved state ---

void SocketDevice::device_state(state::Archive& archive) {
  archive.section("virtio-vsock", 1);
  archive.field("next_port", next_port_);
  archive.check(next_port_ >= kFirstHostPort && next_port_ != UINT32_MAX, "next_port");
}

void SocketDevice::loaded_locked() {
  reset_due_ = true;
  post_locked();  // buffers may wait on either side
}

}  // namespace ostler::virtio::vsock
