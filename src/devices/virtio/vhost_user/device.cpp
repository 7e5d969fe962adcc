#include "devices/virtio/vhost_user/device.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "base/log.h"

namespace ostler::virtio::vhost_user {
namespace {

// Where the rings lie for those who look guest addresses up: above all that a guest can have.
constexpr uint64_t kRingsAddress = uint64_t{1} << 52;

void signal_event(const Fd& event) {
  const uint64_t one = 1;
  // Full means that a wake-up is on its way.
  [[maybe_unused]] const ssize_t written = ::write(event.get(), &one, sizeof one);
}

void clear_event(const Fd& event) {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(event.get(), &count, sizeof count);
}

}  // namespace

Result<VhostUserDevice::Parts> VhostUserDevice::prepare(const Address& address, unsigned queues) {
  Parts parts;
  parts.address = address;
  TRY_ASSIGN(Fd socket, connect_to(address));
  auto session = Session::open(std::move(socket));
  if (!session) return std::move(session).error().with_context("the back end at " + address.path);
  parts.session = *std::move(session);
  if (parts.session->queues() < queues)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("the back end at {} has {} queues, and {} are asked for", address.path,
                             parts.session->queues(), queues));
  TRY_ASSIGN(parts.rings, memory::RamBlock::create({.name = "vhost-user-rings",
                                                    .size = queues * ShadowRing::kBytes,
                                                    .backing = memory::Backing::kMemfd,
                                                    .share = true}));
  for (unsigned i = 0; i < queues; ++i) {
    parts.kicks.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    parts.calls.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!parts.kicks.back() || !parts.calls.back()) return errno_error("eventfd", errno);
  }
  return parts;
}

VhostUserDevice::VhostUserDevice(memory::AddressSpace& memory, event::Loop& loop, std::string name,
                                 std::vector<uint16_t> queue_sizes, uint64_t withheld, Parts parts)
    : Device(memory, std::move(name), std::move(queue_sizes), withheld),
      loop_(loop),
      address_(std::move(parts.address)),
      rings_memory_(std::move(parts.rings)),
      session_(std::move(parts.session)),
      reader_(memory),
      timer_(loop, [this] { reconnect(); }) {
  rings_.resize(queue_count());
  for (unsigned i = 0; i < queue_count(); ++i) {
    rings_[i].kick = std::move(parts.kicks[i]);
    rings_[i].call = std::move(parts.calls[i]);
    rings_[i].shadow = std::make_unique<ShadowRing>(rings_memory_->host() + i * ShadowRing::kBytes);
    loop_.watch(rings_[i].call.get(), EPOLLIN, [this, i](uint32_t) { collect(i); });
  }
  watch();
}

VhostUserDevice::~VhostUserDevice() {
  for (const Ring& ring : rings_) loop_.unwatch(ring.call.get());
  if (session_ != nullptr) loop_.unwatch(session_->fd());
}

bool VhostUserDevice::connected() {
  const Lock lock(mutex_);
  return session_locked() != nullptr;
}

// Its end shows as a hang-up, also when we shut the connection down on another thread.
void VhostUserDevice::watch() {
  loop_.watch(session_->fd(), EPOLLRDHUP, [this](uint32_t) { hung_up(); });
}

// --- the life of a connection ---------------------------------------------------------------------------

void VhostUserDevice::lose_locked(const std::string& why) {
  if (session_locked() != nullptr) session_->end();
  log::warning(fmt::format("{}: the back end at {} is lost: {}{}", name(), address_.path, why,
                           address_.reconnect == 0 ? "" : "; a new one is looked for"));
  for (unsigned i = 0; i < queue_count(); ++i) {
    Ring& ring = rings_[i];
    if (!ring.started) continue;
    ring.started = false;
    if (ring.shadow->fault().empty()) collect_locked(i);  // what it finished before
    auto rest = ring.shadow->give_back();
    if (!running() || queue(i) == nullptr) continue;
    Queue& guest = *queue(i);
    if (keeps_requests() && address_.reconnect != 0) {
      ring.kept = std::move(rest);
      continue;
    }
    for (Chain& chain : rest) refuse_locked(guest, std::move(chain));
    refuse_all_locked(i);
  }
}

void VhostUserDevice::hung_up() {
  const Lock lock(mutex_);
  if (session_ == nullptr) return;
  if (session_->alive()) lose_locked("it has closed the connection");
  loop_.unwatch(session_->fd());
  session_.reset();
  if (address_.reconnect != 0) timer_.set(loop_.clock().now() + int64_t{address_.reconnect} * 1'000'000'000);
}

void VhostUserDevice::reconnect() {
  const Lock lock(mutex_);
  if (session_ != nullptr) return;
  const auto again = [this] {
    session_.reset();
    timer_.set(loop_.clock().now() + int64_t{address_.reconnect} * 1'000'000'000);
  };
  auto socket = connect_to(address_);
  if (!socket) return again();
  auto opened = Session::open(*std::move(socket));
  const auto unfit = [&](const std::string& why) {
    log::warning(fmt::format("{}: the new back end at {} is of no use: {}", name(), address_.path, why));
    again();
  };
  if (!opened) return unfit(opened.error().message());
  session_ = *std::move(opened);
  if (session_->queues() < queue_count()) return unfit("it has fewer queues");
  if ((back_end_features() & ~session_->features()) != 0) return unfit("it lacks features of the last one");
  if (auto accepted = accept_locked(*session_); !accepted) return unfit(accepted.error().message());
  watch();
  if (running()) started_locked();
}

Result<void> VhostUserDevice::share_memory_locked() {
  const memory::FlatView& view = reader_.view();
  if (shared_view_ == reader_.current()) return {};
  MemoryTable table(view);
  const bool same = shared_view_ != nullptr && table == table_;
  shared_view_ = reader_.current();
  if (same) return {};
  table_ = std::move(table);
  const memory::HostMemory& memory = rings_memory_->memory();
  return session_->set_memory(table_, {{.guest_address = kRingsAddress,
                                        .size = rings_memory_->size(),
                                        .user_address = reinterpret_cast<uint64_t>(memory.data()),
                                        .mmap_offset = memory.file_offset()},
                                       rings_memory_});
}

Result<void> VhostUserDevice::start_ring_locked(unsigned index) {
  Ring& ring = rings_[index];
  if (ring.started) return {};
  ring.shadow->reset();
  clear_event(ring.kick);
  const auto base = reinterpret_cast<uint64_t>(rings_memory_->host()) + index * ShadowRing::kBytes;
  TRY(session_->start_ring(index,
                           {.size = ShadowRing::kSize,
                            .descriptors = base + ShadowRing::kDescriptors,
                            .available = base + ShadowRing::kAvailable,
                            .used = base + ShadowRing::kUsed},
                           ring.kick.get(), ring.call.get()));
  ring.started = true;
  return {};
}

Result<void> VhostUserDevice::set_up_locked() {
  TRY(session_->set_features(back_end_features() | feature(VIRTIO_F_VERSION_1)));
  shared_view_.reset();
  TRY(share_memory_locked());
  for (unsigned i = 0; i < queue_count(); ++i)
    if (queue(i) != nullptr) TRY(start_ring_locked(i));
  return {};
}

// --- the device -----------------------------------------------------------------------------------------

void VhostUserDevice::started_locked() {
  if (session_locked() == nullptr) return;
  if (auto done = set_up_locked(); !done) return lose_locked(done.error().message());
  for (unsigned i = 0; i < queue_count(); ++i) {
    if (queue(i) == nullptr) continue;
    submit_kept_locked(i);
    submit_locked(i);
  }
}

void VhostUserDevice::loaded_locked() {
  started_locked();
}

void VhostUserDevice::stopped_locked() {
  for (unsigned i = 0; i < queue_count(); ++i) queue_stopped_locked(i);
}

void VhostUserDevice::queue_stopped_locked(unsigned index) {
  Ring& ring = rings_[index];
  ring.kept.clear();
  if (!ring.started) return;
  if (session_locked() != nullptr)
    if (auto done = session_->stop_ring(index); !done) lose_locked(done.error().message());
  ring.started = false;
  ring.shadow->reset();
}

void VhostUserDevice::process(unsigned index, Lock&) {
  submit_locked(index);
}

// Requests that the last back end did not finish, before those that came since.
void VhostUserDevice::submit_kept_locked(unsigned index) {
  Ring& ring = rings_[index];
  if (!ring.started) return;
  for (Chain& chain : ring.kept) ring.shadow->add(std::move(chain));
  ring.kept.clear();
  if (ring.shadow->publish()) signal_event(ring.kick);
}

void VhostUserDevice::submit_locked(unsigned index) {
  Queue& guest = *queue(index);
  if (session_locked() == nullptr) {
    if (!keeps_requests() || address_.reconnect == 0) refuse_all_locked(index);
    return;
  }
  if (auto shared = share_memory_locked(); !shared) return lose_locked(shared.error().message());
  if (auto started = start_ring_locked(index); !started) return lose_locked(started.error().message());
  Ring& ring = rings_[index];
  while (auto chain = guest.pop()) {
    if (!ring.shadow->fits(*chain)) {
      guest.unpop(*std::move(chain));  // until others are done
      break;
    }
    for (const auto part : {chain->readable(), chain->writable()})
      for (const Segment& segment : part)
        if (!table_.covers(segment.address, segment.length))
          return fail_locked(guest, "a buffer in memory that the back end cannot map");
    ring.shadow->add(*std::move(chain));
  }
  if (ring.shadow->publish()) signal_event(ring.kick);
}

void VhostUserDevice::refuse_all_locked(unsigned index) {
  Queue& guest = *queue(index);
  // As many as the ring can have at once: the driver cannot keep us here.
  for (unsigned left = guest.size(); left != 0; --left) {
    auto chain = guest.pop();
    if (!chain) break;
    refuse_locked(guest, *std::move(chain));
  }
  signal_locked(guest);
}

void VhostUserDevice::collect(unsigned index) {
  const Lock lock(mutex_);
  clear_event(rings_[index].call);
  if (!running() || queue(index) == nullptr || !rings_[index].started) return;
  collect_locked(index);
  if (const auto fault = rings_[index].shadow->fault(); !fault.empty())
    return lose_locked(std::string(fault));
  submit_locked(index);
}

void VhostUserDevice::collect_locked(unsigned index) {
  if (!running() || queue(index) == nullptr) return;
  Queue& guest = *queue(index);
  ShadowRing& shadow = *rings_[index].shadow;
  while (auto done = shadow.take()) {
    // All of the writable part, whatever length it tells.
    memory::Mapping mapping;
    if (done->chain.map_writable(guest.dma(), 0, done->chain.writable_bytes(), mapping))
      guest.dma().written(mapping, mapping.bytes);
    guest.push(std::move(done->chain), done->written);
  }
  signal_locked(guest);
}

}  // namespace ostler::virtio::vhost_user
