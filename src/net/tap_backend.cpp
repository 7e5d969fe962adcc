#include "net/tap_backend.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace ostler::net {
namespace {

constexpr int kReadsAtOnce = 64;  // then other descriptors get their turn

// Whether somebody who can finish `offloads` can finish what `header` asks for.
bool understood(const VnetHeader& header, Offloads offloads) {
  Offloads needed = 0;
  if ((header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0) needed |= kChecksum;
  switch (header.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_NONE:
      break;
    case VIRTIO_NET_HDR_GSO_TCPV4:
      needed |= kTso4;
      break;
    case VIRTIO_NET_HDR_GSO_TCPV6:
      needed |= kTso6;
      break;
    case VIRTIO_NET_HDR_GSO_UDP:
      needed |= kUfo;
      break;
    case VIRTIO_NET_HDR_GSO_UDP_L4:
      needed |= kUso;
      break;
    default:
      return false;
  }
  if ((header.gso_type & VIRTIO_NET_HDR_GSO_ECN) != 0) needed |= kTsoEcn;
  return (needed & ~offloads) == 0;
}

}  // namespace

Result<std::unique_ptr<TapBackend>> TapBackend::create(event::Loop& loop, const TapOptions& options) {
  TRY_ASSIGN(TapDevice device, TapDevice::open(options));
  return std::make_unique<TapBackend>(loop, std::move(device), options.id);
}

TapBackend::TapBackend(event::Loop& loop, TapDevice device, std::string id)
    : loop_(loop), device_(std::move(device)), id_(std::move(id)), update_task_(loop, [this] { update(); }) {
  for (unsigned i = 0; i < device_.queues.size(); ++i) {
    queues_.push_back(std::make_unique<Queue>(i));
    if (i != 0) set_tap_queue(device_.queues[i], false);
  }
  update();
}

TapBackend::~TapBackend() {
  for (const auto& queue : queues_)
    if (queue->watching) loop_.unwatch(device_.queues[queue->index].get());
  run_downscript(device_, id_);
}

void TapBackend::attach(Receiver* receiver) {
  const std::lock_guard lock(receiver_mutex_);
  receiver_ = receiver;
}

void TapBackend::set_active_queues(unsigned pairs) {
  const std::lock_guard lock(active_mutex_);
  pairs = std::clamp(pairs, 1u, queue_pairs());
  for (; active_ < pairs; ++active_) set_tap_queue(device_.queues[active_], true);
  for (; active_ > pairs; --active_) set_tap_queue(device_.queues[active_ - 1], false);
}

void TapBackend::set_receive_offloads(Offloads offloads) {
  if (device_.vnet_header) set_tap_offloads(device_.queues[0], offloads & device_.offloads);
}

bool TapBackend::send(const Frame& frame, unsigned queue) {
  if (queue >= queues_.size() || frame.bytes.size() > kMaxFrame ||
      !understood(frame.header, device_.offloads))
    return true;
  VnetHeader header = frame.header;
  const iovec pieces[] = {{&header, sizeof header},
                          {const_cast<std::byte*>(frame.bytes.data()), frame.bytes.size()}};
  const bool with = device_.vnet_header;
  // Errors other than EAGAIN: the interface is down or gone, or the guest's header makes no sense. Lost.
  if (::writev(device_.queues[queue].get(), with ? pieces : pieces + 1, with ? 2 : 1) >= 0 || errno != EAGAIN)
    return true;
  queues_[queue]->refused.store(true);
  update_task_.post();
  return false;
}

void TapBackend::receiver_ready(unsigned queue) {
  if (queue >= queues_.size()) return;
  queues_[queue]->asked.store(true);
  update_task_.post();
}

void TapBackend::wake_sender(unsigned queue) {
  if (queue >= queues_.size()) return;
  queues_[queue]->refused.store(true);
  update_task_.post();
}

// What the kernel has for a queue.
class TapBackend::Source final : public FrameSource {
 public:
  Source(TapBackend& backend, Queue& queue) : backend_(backend), queue_(queue) {}

  std::optional<Taken> take(std::span<const iovec> places) override;
  void put_back(std::span<const std::byte> frame) override;
  bool lost() const { return lost_; }

 private:
  TapBackend& backend_;
  Queue& queue_;
  bool lost_ = false;
};

std::optional<FrameSource::Taken> TapBackend::Source::take(std::span<const iovec> places) {
  std::array<iovec, kMostPlaces + 2> pieces;
  size_t count = 0, room = 0;
  const size_t skip = backend_.device_.vnet_header ? sizeof queue_.header : 0;
  if (skip != 0) pieces[count++] = {&queue_.header, skip};
  for (const iovec& place : places.first(std::min(places.size(), kMostPlaces))) {
    pieces[count++] = place;
    room += place.iov_len;
  }
  pieces[count++] = {queue_.buffer.data(), queue_.buffer.size()};
  const ssize_t got =
      ::readv(backend_.device_.queues[queue_.index].get(), pieces.data(), static_cast<int>(count));
  // EFAULT: a place lost its memory, and the kernel the frame.
  lost_ = got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR && errno != EFAULT);
  if (got < static_cast<ssize_t>(skip + kMinFrame)) return std::nullopt;
  const size_t bytes = static_cast<size_t>(got) - skip;
  return Taken{queue_.header, bytes, std::span(queue_.buffer).first(bytes - std::min(bytes, room))};
}

void TapBackend::Source::put_back(std::span<const std::byte> frame) {
  queue_.filled = std::min(frame.size(), queue_.buffer.size());
  std::memmove(queue_.buffer.data(), frame.data(), queue_.filled);
}

bool TapBackend::deliver_held(Queue& queue) {
  if (queue.filled == 0) return true;
  const std::lock_guard lock(receiver_mutex_);
  if (receiver_ != nullptr &&
      !receiver_->receive({std::span(queue.buffer).first(queue.filled), queue.header}, queue.index))
    return false;
  queue.filled = 0;
  return true;
}

Receiver::Receipt TapBackend::take_one(Queue& queue) {
  Source source(*this, queue);
  auto receipt = Receiver::Receipt::kNothing;
  {
    const std::lock_guard lock(receiver_mutex_);
    if (receiver_ != nullptr)
      receipt = receiver_->receive_from(source, queue.index);
    else if (source.take({}))
      receipt = Receiver::Receipt::kFrame;
  }
  if (source.lost()) lost();
  return receipt;
}

void TapBackend::read(Queue& queue) {
  if (queue.held && !deliver_held(queue)) return;
  bool any = std::exchange(queue.held, false);
  for (int left = kReadsAtOnce; left != 0; --left) {
    const auto receipt = take_one(queue);
    any = any || receipt == Receiver::Receipt::kFrame;
    queue.held = receipt == Receiver::Receipt::kNoRoom;
    if (receipt != Receiver::Receipt::kFrame) break;
  }
  if (!any) return;
  const std::lock_guard lock(receiver_mutex_);
  if (receiver_ != nullptr) receiver_->received_all(queue.index);
}

// The interface was removed: its descriptors say nothing but errors from now on.
void TapBackend::lost() {
  if (!up_.exchange(false)) return;
  log::warning(
      fmt::format("network '{}': the interface {} was removed; the link is down", id_, device_.name));
  const std::lock_guard lock(receiver_mutex_);
  if (receiver_ != nullptr) receiver_->link_changed(false);
}

void TapBackend::ready(Queue& queue, uint32_t events) {
  if ((events & EPOLLERR) != 0 && queue.held) lost();
  if ((events & (EPOLLIN | EPOLLERR)) != 0) read(queue);
  update();
}

void TapBackend::update() {
  for (const auto& each : queues_) {
    Queue& queue = *each;
    const Fd& fd = device_.queues[queue.index];
    if (queue.asked.exchange(false) && queue.held) read(queue);
    if (queue.refused.load()) {
      pollfd writable = {.fd = fd.get(), .events = POLLOUT, .revents = 0};
      if (!up_.load() || ::poll(&writable, 1, 0) == 1) {
        queue.refused.store(false);
        const std::lock_guard lock(receiver_mutex_);
        if (receiver_ != nullptr) receiver_->sendable(queue.index);
      }
    }
    if (!up_.load()) {
      if (queue.watching) loop_.unwatch(fd.get());
      queue.watching = false;
      continue;
    }
    const uint32_t events =
        (queue.held ? 0u : uint32_t{EPOLLIN}) | (queue.refused.load() ? uint32_t{EPOLLOUT} : 0u);
    if (!queue.watching)
      loop_.watch(fd.get(), events, [this, &queue](uint32_t now) { ready(queue, now); });
    else if (events != queue.watched)
      loop_.rewatch(fd.get(), events);
    queue.watching = true;
    queue.watched = events;
  }
}

}  // namespace ostler::net
