#include "devices/virtio/vhost_user/device.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <optional>
#include <utility>

#include "base/log.h"
#include "devices/virtio/vhost_user/user_session.h"

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

// What is told of connections, at most one line a second for all devices: a back end that comes to our socket
// and leaves, again and again, must not fill the host's disk.
class Warnings {
 public:
  void tell(const std::string& line) {
    using std::chrono::steady_clock;
    const std::lock_guard lock(mutex_);
    const auto now = steady_clock::now();
    if (last_ && now - *last_ < std::chrono::seconds(1)) {
      ++untold_;
      return;
    }
    last_ = now;
    const unsigned more = std::exchange(untold_, 0u);
    log::warning(more == 0 ? line : fmt::format("{}; {} more such events", line, more));
  }

 private:
  std::mutex mutex_;
  std::optional<std::chrono::steady_clock::time_point> last_;
  unsigned untold_ = 0;
};

Warnings of_lost, of_unfit;

}  // namespace

Result<VhostUserDevice::Parts> VhostUserDevice::prepare(const Address& address, unsigned rings,
                                                        uint64_t least) {
  TRY_ASSIGN(Parts parts, meet(address));
  TRY(add_rings(parts, rings, least));
  return parts;
}

Result<VhostUserDevice::Parts> VhostUserDevice::meet(const Address& address) {
  Parts parts;
  parts.address = address;
  Fd socket;
  if (address.listener != nullptr) {
    std::fprintf(stderr, "ostler: waiting for a back end at %s\n", address.path.c_str());
    TRY_ASSIGN(socket, address.listener->wait());
  } else {
    TRY_ASSIGN(socket, connect_to(address));
  }
  auto session = UserSession::open(std::move(socket));
  if (!session) return std::move(session).error().with_context("the back end at " + address.path);
  parts.session = *std::move(session);
  return parts;
}

Result<void> VhostUserDevice::add_rings(Parts& parts, unsigned rings, uint64_t least) {
  parts.least_queues = least;
  if (parts.session->queues() < least)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("the back end at {} has {} queues, and {} are asked for", parts.address.path,
                             parts.session->queues(), least));
  TRY_ASSIGN(parts.rings, memory::RamBlock::create({.name = "vhost-user-rings",
                                                    .size = rings * ShadowRing::kBytes,
                                                    .backing = memory::Backing::kMemfd,
                                                    .share = true}));
  parts.wake = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!parts.wake) return errno_error("eventfd", errno);
  for (unsigned i = 0; i < rings; ++i) {
    parts.kicks.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    parts.calls.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!parts.kicks.back() || !parts.calls.back()) return errno_error("eventfd", errno);
  }
  return {};
}

VhostUserDevice::VhostUserDevice(memory::AddressSpace& memory, event::Loop& loop, std::string name,
                                 std::vector<uint16_t> queue_sizes, uint64_t withheld, Parts parts)
    : Device(memory, std::move(name), std::move(queue_sizes), withheld),
      loop_(loop),
      address_(std::move(parts.address)),
      least_queues_(parts.least_queues),
      rings_memory_(std::move(parts.rings)),
      wake_(std::move(parts.wake)),
      session_(std::move(parts.session)),
      reader_(memory),
      meeting_(loop, [this](Result<Meeting::Met> met) { meet_new(std::move(met)); }),
      acceptor_(loop, fmt::format("vhost-user at {}", address_.path), [this] { reconnect(); }),
      timer_(loop, [this] { reconnect(); }) {
  rings_.resize(parts.kicks.size());
  for (unsigned i = 0; i < rings_.size(); ++i) {
    rings_[i].kick = std::move(parts.kicks[i]);
    rings_[i].call = std::move(parts.calls[i]);
    const uint64_t offset = i * ShadowRing::kBytes;
    rings_[i].shadow = std::make_unique<ShadowRing>(rings_memory_->host() + offset, kRingsAddress + offset);
    watch_call(i);
  }
  loop_.watch(wake_.get(), EPOLLIN, [this](uint32_t) { go_on(); });
  watch();
}

VhostUserDevice::~VhostUserDevice() {
  loop_.unwatch(wake_.get());
  for (const Ring& ring : rings_)
    if (ring.watched) loop_.unwatch(ring.call.get());
  unwatch_own_requests();
  if (session_ != nullptr) loop_.unwatch(session_->fd());
}

void VhostUserDevice::leave() {
  meeting_.end();
  {
    const Lock lock(mutex_);
    if (session_locked() != nullptr) session_->end();
  }
  reset();
}

bool VhostUserDevice::connected() {
  const Lock lock(mutex_);
  return session_locked() != nullptr;
}

void VhostUserDevice::watch() {
  loop_.watch(session_->fd(), session_->end_events(), [this](uint32_t) { hung_up(); });
  session_->on_config_change([this] { signal_event(wake_); });
  watched_requests_ = session_->back_end_fd();
  if (watched_requests_ >= 0) loop_.watch(watched_requests_, EPOLLIN, [this](uint32_t) { hear_back_end(); });
}

void VhostUserDevice::unwatch_own_requests() {
  if (watched_requests_ >= 0) loop_.unwatch(std::exchange(watched_requests_, -1));
}

void VhostUserDevice::hear_back_end() {
  const Lock lock(mutex_);
  // Closed, or lost: then hung_up() comes.
  if (session_locked() == nullptr || session_->back_end_fd() < 0) return unwatch_own_requests();
  if (auto more = session_->serve_back_end(); !more)
    lose_locked(more.error().message());
  else if (!*more)
    unwatch_own_requests();
}

// --- the life of a connection ---------------------------------------------------------------------------

void VhostUserDevice::lose_locked(const std::string& why) {
  if (session_locked() != nullptr) session_->end();
  of_lost.tell(fmt::format("{}: the back end at {} is lost: {}{}", name(), address_.path, why,
                           reconnects() ? "; a new one is looked for" : ""));
  for (unsigned i = 0; i < rings_.size(); ++i)
    if (rings_[i].started)
      dispose_locked(i, Rest::kAsUsual);
    else
      refuse_kept_locked(i);
  connection_changed_locked();
}

// What is left in a ring that the back end serves no more.
void VhostUserDevice::dispose_locked(unsigned index, Rest rest) {
  Ring& ring = rings_[index];
  ring.started = false;
  take_call_back_locked(index);
  if (ring.shadow->fault().empty()) collect_locked(index);  // what it finished before
  std::deque<Chain> kept;
  for (Chain& chain : ring.shadow->give_back()) kept.push_back(std::move(chain));
  if (!running() || queue(index) == nullptr) return;
  for (Chain& chain : ring.kept) kept.push_back(std::move(chain));
  ring.kept = std::move(kept);
  if (rest == Rest::kAsUsual) refuse_kept_locked(index);
}

// What will not get to a back end, in a queue that does not wait for one.
void VhostUserDevice::refuse_kept_locked(unsigned index) {
  if (!running() || queue(index) == nullptr || keeps_requests(index)) return;
  for (Chain& chain : std::exchange(rings_[index].kept, {})) refuse_locked(*queue(index), std::move(chain));
  refuse_all_locked(index);
}

void VhostUserDevice::hung_up() {
  const Lock lock(mutex_);
  if (session_ == nullptr) return;
  if (session_->alive()) lose_locked(std::string(session_->why_ended()));
  loop_.unwatch(session_->fd());
  unwatch_own_requests();
  session_.reset();
  look_for_another();
}

void VhostUserDevice::look_for_another() {
  if (address_.listener != nullptr)
    acceptor_.start(address_.listener->fd());
  else if (address_.reconnect != 0)
    timer_.start(int64_t{address_.reconnect} * 1'000'000'000);
}

void VhostUserDevice::reconnect() {
  {
    const Lock lock(mutex_);
    if (session_ != nullptr || !meeting_.idle()) return;
  }
  Fd socket;
  if (address_.listener != nullptr) {
    socket = acceptor_.accept();
    if (!socket) return;
    acceptor_.stop();
  } else {
    auto connected = connect_to(address_);
    if (!connected) return look_for_another();
    socket = *std::move(connected);
  }
  if (auto started = meeting_.start(std::move(socket), wanted_config()); !started)
    meet_new(std::move(started).error());
}

void VhostUserDevice::meet_new(Result<Meeting::Met> met) {
  const Lock lock(mutex_);
  const auto unfit = [&](const std::string& why) {
    of_unfit.tell(fmt::format("{}: the new back end at {} is of no use: {}", name(), address_.path, why));
    session_.reset();
    look_for_another();
  };
  if (!met) return unfit(met.error().message());
  session_ = std::move(met->session);
  if (session_->queues() < least_queues_) return unfit("it has fewer queues");
  if ((back_end_features() & ~session_->features()) != 0) return unfit("it lacks features of the last one");
  if (auto accepted = accept_locked(*session_, std::move(met->config)); !accepted)
    return unfit(accepted.error().message());
  watch();
  if (running()) set_up_and_submit_locked();
  if (session_locked() != nullptr) connection_changed_locked();
  signal_event(wake_);  // for what a load has left to do
}

Result<void> VhostUserDevice::share_memory_locked() {
  const memory::FlatView& view = reader_.view();
  if (shared_view_ == reader_.current()) return {};
  MemoryTable table(view, session_->memory());
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
  const bool enabled = enables_ring(index);
  if (ring.started && ring.enabled != enabled) TRY(session_->enable_ring(index, enabled));
  ring.enabled = enabled;
  if (ring.started) return {};
  ring.shadow->reset(lend_used_locked(index));
  clear_event(ring.kick);
  const auto base = reinterpret_cast<uint64_t>(rings_memory_->host()) + index * ShadowRing::kBytes;
  TRY(session_->start_ring(index,
                           {.size = ring.shadow->size(),
                            .descriptors = base + ShadowRing::kDescriptors,
                            .available = base + ShadowRing::kAvailable,
                            .used = reinterpret_cast<uint64_t>(ring.shadow->used()),
                            .base = ring.shadow->index()},
                           ring.kick.get(), ring.call.get(), enabled));
  ring.started = true;
  if (ring.shadow->lent()) signal_event(wake_);  // for move_calls_locked()
  return {};
}

// Nothing where the used ring stays ours to write.
ShadowRing::Lent VhostUserDevice::lend_used_locked(unsigned index) {
  if (transport() == nullptr || !transport()->can_lend_interrupt(index) || legacy_driver() ||
      (session_->features() & feature(VIRTIO_F_INDIRECT_DESC)) == 0)
    return {};
  const auto lent = queue(index)->lend_used();
  if (!lent) return {};
  auto place = table_.find(lent->address, lent->bytes);
  if (place.host == nullptr || reinterpret_cast<uintptr_t>(place.host) % 4 != 0) return {};
  rings_[index].used = lent->address;
  return {
      .ram = std::move(place.ram), .used = place.host, .size = queue(index)->size(), .index = lent->index};
}

// The memory behind the lent used ring is the same still.
bool VhostUserDevice::follow_used_ring_locked(unsigned index) {
  const Ring& ring = rings_[index];
  return !ring.shadow->lent() ||
         table_.find(ring.used, 4 + 8 * uint64_t{ring.shadow->size()}).host == ring.shadow->used();
}

// --- who hears the back end's calls -------------------------------------------------------------------

void VhostUserDevice::watch_call(unsigned index) {
  rings_[index].watched = true;
  loop_.watch(rings_[index].call.get(), EPOLLIN, [this, index](uint32_t) { collect(index); });
}

// On the loop's thread. What was called meanwhile waits in the eventfd for whoever has it next.
void VhostUserDevice::move_calls_locked() {
  std::vector<Transport::LentInterrupt> lend;
  for (unsigned i = 0; i < rings_.size(); ++i) {
    Ring& ring = rings_[i];
    const bool wanted =
        ring.started && ring.shadow->lent() && !ring.crowded && transport()->can_lend_interrupt(i);
    if (!wanted) take_call_back_locked(i);
    if (!wanted || ring.kernels) continue;
    if (std::exchange(ring.watched, false)) loop_.unwatch(ring.call.get());
    lend.push_back({.queue = i, .fd = ring.call.get()});
  }
  if (!lend.empty()) transport()->lend_interrupts(lend);
  for (const auto& each : lend) rings_[each.queue].kernels = each.lent;
  for (unsigned i = 0; i < rings_.size(); ++i)
    if (!rings_[i].kernels && !rings_[i].watched) watch_call(i);
}

// Any thread: the loop watches it some time later.
void VhostUserDevice::take_call_back_locked(unsigned index) {
  if (!std::exchange(rings_[index].kernels, false)) return;
  transport()->take_interrupt_back(index);
  signal_event(wake_);
}

void VhostUserDevice::interrupts_changed() {
  signal_event(wake_);
}

Result<void> VhostUserDevice::set_up_locked() {
  // Indirect tables are for lent rings.
  TRY(session_->set_features(back_end_features() | (modern_requests() ? feature(VIRTIO_F_VERSION_1) : 0) |
                             (session_->features() & feature(VIRTIO_F_INDIRECT_DESC))));
  shared_view_.reset();
  TRY(share_memory_locked());
  for (unsigned i = 0; wants_rings() && i < rings_.size(); ++i)
    if (has_ring(i) && queue(i) != nullptr) TRY(start_ring_locked(i));
  return {};
}

void VhostUserDevice::halt_ring_locked(unsigned index, Rest rest) {
  if (!rings_[index].started || session_locked() == nullptr) return;
  if (auto done = session_->stop_ring(index); !done) return lose_locked(done.error().message());
  dispose_locked(index, rest);
}

void VhostUserDevice::update_rings_locked() {
  for (unsigned i = 0; running() && i < rings_.size(); ++i) {
    if (session_locked() == nullptr) return;
    if (!has_ring(i) || queue(i) == nullptr) continue;
    if (!wants_rings()) {
      halt_ring_locked(i, Rest::kAsUsual);
      continue;
    }
    submit_locked(i);
  }
}

// --- the device -----------------------------------------------------------------------------------------

void VhostUserDevice::started_locked() {
  set_up_and_submit_locked();
}

void VhostUserDevice::set_up_and_submit_locked() {
  if (session_locked() == nullptr) return;
  if (auto done = set_up_locked(); !done) return lose_locked(done.error().message());
  update_rings_locked();
}

void VhostUserDevice::loaded_locked() {
  for (unsigned i = 0; i < rings_.size(); ++i)
    for (const ChainRecord& record : std::exchange(rings_[i].records, {})) {
      auto chain = queue(i) != nullptr ? queue(i)->take_again(record) : std::nullopt;
      if (!chain) break;
      rings_[i].kept.push_back(*std::move(chain));
    }
  set_up_and_submit_locked();
  restored_ = true;
  signal_event(wake_);
}

// The machine copies the guest's memory before its loop runs again.
void VhostUserDevice::quiesced_locked() {
  for (unsigned i = 0; i < rings_.size(); ++i) halt_ring_locked(i, Rest::kKeep);
  signal_event(wake_);
}

void VhostUserDevice::go_on() {
  const Lock lock(mutex_);
  clear_event(wake_);
  if (session_locked() != nullptr && session_->take_config_change())
    if (auto done = config_told_locked(*session_); !done) lose_locked(done.error().message());
  move_calls_locked();
  if (!running()) return;
  if (session_locked() == nullptr)
    for (unsigned i = 0; i < rings_.size(); ++i) refuse_kept_locked(i);
  else
    update_rings_locked();
  if (session_locked() != nullptr && std::exchange(restored_, false)) restored_locked();
}

void VhostUserDevice::rings_state(state::Archive& archive) {
  for (unsigned i = 0; i < rings_.size(); ++i) {
    Ring& ring = rings_[i];
    ring.records.clear();
    for (const Chain& chain : ring.kept) ring.records.push_back(chain.record());
    auto count = static_cast<uint16_t>(ring.records.size());
    archive.field("kept", count);
    archive.check(count <= queue_max_size(i), "kept");
    if (archive.failed()) return;
    ring.records.resize(count);
    for (ChainRecord& record : ring.records) record.state(archive);
    if (!archive.loading()) ring.records.clear();
  }
}

void VhostUserDevice::stopped_locked() {
  restored_ = false;
  for (unsigned i = 0; i < rings_.size(); ++i) queue_stopped_locked(i);
}

void VhostUserDevice::queue_stopped_locked(unsigned index) {
  if (index >= rings_.size()) return;
  Ring& ring = rings_[index];
  ring.kept.clear();
  ring.records.clear();
  if (!ring.started) return;
  take_call_back_locked(index);
  if (session_locked() != nullptr)
    if (auto done = session_->stop_ring(index); !done) lose_locked(done.error().message());
  ring.started = false;
  ring.shadow->reset();
  clear_event(ring.call);
}

void VhostUserDevice::process(unsigned index, Lock&) {
  if (has_ring(index))
    submit_locked(index);
  else
    serve_locked(*queue(index));
}

void VhostUserDevice::submit_locked(unsigned index) {
  Queue& guest = *queue(index);
  if (session_locked() == nullptr || !wants_rings()) {
    if (!keeps_requests(index)) refuse_all_locked(index);
    return;
  }
  if (auto shared = share_memory_locked(); !shared) return lose_locked(shared.error().message());
  if (auto started = start_ring_locked(index); !started) return lose_locked(started.error().message());
  Ring& ring = rings_[index];
  if (!follow_used_ring_locked(index)) return fail_locked(guest, "its used ring has moved");
  if (ring.shadow->lent()) take_used_locked(index);
  const bool crowded = std::exchange(ring.crowded, false);
  for (unsigned left = 2u * guest.size();; --left) {
    if (left == 0) {
      // A driver that adds chains and, in a lent ring, uses them itself: others want the lock too.
      signal_event(wake_);
      break;
    }
    const bool kept = !ring.kept.empty();
    auto chain = kept ? std::optional(std::move(ring.kept.front())) : guest.pop();
    if (kept) ring.kept.pop_front();
    if (!chain) break;
    if (!ring.shadow->takes(chain->head())) take_used_locked(index);  // used since we last looked
    if (!ring.shadow->takes(chain->head()) && ring.shadow->fault().empty())
      return fail_locked(guest, "a chain is made available that is in use");
    if (!ring.shadow->fits(*chain) && ring.kernels) {
      // Calls must come to us again. Those that KVM had may have told of room.
      take_call_back_locked(index);
      take_used_locked(index);
    }
    const bool faulty = !ring.shadow->fault().empty();
    if (faulty || !ring.shadow->fits(*chain)) {  // until others are done
      if (kept)
        ring.kept.push_front(*std::move(chain));
      else
        guest.unpop(*std::move(chain));
      if (faulty) return lose_locked(std::string(ring.shadow->fault()));
      ring.crowded = true;
      break;
    }
    for (const auto part : {chain->readable(), chain->writable()})
      for (const Segment& segment : part)
        if (!table_.covers(segment.address, segment.length))
          return fail_locked(guest, "a buffer in memory that the back end cannot map");
    ring.shadow->add(*std::move(chain));
  }
  if (crowded && !ring.crowded) signal_event(wake_);  // for move_calls_locked()
  if (ring.shadow->publish()) signal_event(ring.kick);
}

void VhostUserDevice::refuse_all_locked(unsigned index) {
  Queue& guest = *queue(index);
  serve_chains_locked(guest, [&](Chain&& chain) {
    refuse_locked(guest, std::move(chain));
    return true;
  });
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
  take_used_locked(index);
  signal_locked(*queue(index));
}

void VhostUserDevice::take_used_locked(unsigned index) {
  Queue& guest = *queue(index);
  ShadowRing& shadow = *rings_[index].shadow;
  uint16_t seen = 0;  // elements that the driver has before us
  while (auto done = shadow.take()) {
    // All of the writable part, whatever length it tells.
    memory::Mapping mapping;
    if (done->chain.map_writable(guest.dma(), 0, done->chain.writable_bytes(), mapping))
      guest.dma().written(mapping, mapping.bytes);
    if (shadow.lent())
      ++seen;
    else
      guest.stage(std::move(done->chain), done->written);
  }
  // The driver sees what is staged at once: some belong together (mergeable buffers of a network).
  if (shadow.lent())
    guest.used_elsewhere(seen);
  else
    guest.publish();
}

}  // namespace ostler::virtio::vhost_user
