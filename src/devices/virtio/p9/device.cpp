#include "devices/virtio/p9/device.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/bytes.h"
#include "fs9p/protocol.h"
#include "fs9p/reply.h"
#include "fs9p/request.h"

namespace ostler::virtio::p9 {

Result<std::unique_ptr<P9Device>> P9Device::create(memory::AddressSpace& memory,
                                                   std::shared_ptr<fs9p::Share> share,
                                                   const Options& options) {
  if (options.mount_tag.empty() || options.mount_tag.size() > kMostTag)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("the property 'mount_tag' must have 1 to {} bytes: the guest mounts by it", kMostTag));
  return std::unique_ptr<P9Device>(new P9Device(memory, std::move(share), options));
}

P9Device::P9Device(memory::AddressSpace& memory, std::shared_ptr<fs9p::Share> share, const Options& options)
    : Device(memory, options.id.empty() ? "virtio-9p" : options.id, {kQueueSize},
             options.withheld_features()),
      share_(std::move(share)),
      options_(options),
      server_(std::make_shared<fs9p::Server>(share_)) {}

P9Device::~P9Device() {
  reset();
  {
    const Lock lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool P9Device::mounted() {
  const Lock lock(mutex_);
  return server_->mounted() || taken_locked() != 0;
}

void P9Device::config_locked(std::vector<std::byte>& config) {
  config.resize(2 + options_.mount_tag.size());
  store_le(config.data(), static_cast<uint16_t>(options_.mount_tag.size()));
  std::memcpy(config.data() + 2, options_.mount_tag.data(), options_.mount_tag.size());
}

void P9Device::process(unsigned index, Lock&) {
  take_locked(*queue(index));
}

void P9Device::take_locked(Queue& queue) {
  // A driver may make one descriptor available again and again.
  const auto full = [&] { return stalled_ = taken_locked() >= queue.size(); };
  if (full()) return;
  serve_chains_locked(queue, [&](Chain&& chain) {
    if (take_one_locked(queue, std::move(chain))) return !full();
    fail_locked(queue, "a 9P request without room for header or reply");
    return false;
  });
  wake_workers_locked(queue);
  signal_locked(queue);
}

void P9Device::wake_workers_locked(Queue& queue) {
  if (pending_.size() > idle_ && workers_.size() < kWorkers) {
    // Signals are for the main thread.
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    try {
      for (size_t missing = pending_.size(); missing > idle_ && workers_.size() < kWorkers; --missing)
        workers_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      // Those that there are will do.
    }
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
  }
  for (; workers_.empty() && !pending_.empty(); pending_.pop_front())
    push_locked(queue, std::move(pending_.front()->chain),
                fs9p::Reply::failure(pending_.front()->tag, EAGAIN).finish());
  for (size_t i = std::min(pending_.size(), idle_); i != 0; --i) wake_.notify_one();
}

bool P9Device::take_one_locked(Queue& queue, Chain&& chain) {
  std::array<std::byte, fs9p::kHeaderBytes + 2> head{};
  if (chain.readable_bytes() < fs9p::kHeaderBytes || chain.writable_bytes() < fs9p::kErrorBytes) return false;
  const size_t size = std::min<uint64_t>(head.size(), chain.readable_bytes());
  if (!chain.read(queue.dma(), 0, std::span(head).first(size))) return false;
  const fs9p::Header header = fs9p::parse_header(head);
  const uint64_t sequence = next_sequence_++;
  request_started_locked(queue.index());
  if (header.type == static_cast<uint8_t>(fs9p::Type::kFlush) && header.size == head.size() &&
      size == head.size()) {
    flush_locked(queue, {.chain = std::move(chain),
                         .tag = header.tag,
                         .old_tag = load_le<uint16_t>(head.data() + fs9p::kHeaderBytes),
                         .sequence = sequence});
    return true;
  }
  pending_.push_back(std::make_shared<Request>(
      Request{.chain = std::move(chain), .tag = header.tag, .sequence = sequence, .abandoned = false}));
  return true;
}

// flush(5): whatever is still said of the old request is said before Rflush, so that its tag, and here its
// buffers, are free then.
void P9Device::flush_locked(Queue& queue, Flush flush) {
  for (auto at = pending_.begin(); at != pending_.end();) {
    if ((*at)->tag != flush.old_tag) {
      ++at;
      continue;
    }
    push_locked(queue, std::move((*at)->chain), fs9p::Reply::failure(flush.old_tag, EINTR).finish());
    at = pending_.erase(at);
  }
  flushes_.push_back(std::move(flush));
  answer_flushes_locked(queue);
}

void P9Device::answer_flushes_locked(Queue& queue) {
  for (auto at = flushes_.begin(); at != flushes_.end();) {
    const bool waits = std::ranges::any_of(served_, [&](const std::shared_ptr<Request>& request) {
      return request->tag == at->old_tag && request->sequence < at->sequence;
    });
    if (waits) {
      ++at;
      continue;
    }
    push_locked(queue, std::move(at->chain),
                fs9p::Reply(fs9p::Type::kFlush, at->tag, fs9p::kHeaderBytes).finish());
    at = flushes_.erase(at);
  }
}

void P9Device::push_locked(Queue& queue, Chain&& chain, std::span<const std::byte> reply) {
  if (chain.write(queue.dma(), 0, reply))
    queue.push(std::move(chain), static_cast<uint32_t>(reply.size()));
  else
    fail_locked(queue, "a 9P reply outside RAM");
  request_finished_locked(queue.index());
}

void P9Device::work() {
  pthread_setname_np(pthread_self(), "ostler-9p");
  Lock lock(mutex_);
  for (;;) {
    ++idle_;
    wake_.wait(lock, [this] { return stop_ || !pending_.empty() || !dropped_.empty(); });
    --idle_;
    if (!pending_.empty()) {
      serve_locked(lock);
    } else if (!dropped_.empty()) {
      auto dropped = std::move(dropped_.back());
      dropped_.pop_back();
      lock.unlock();
      dropped.reset();
      lock.lock();
    } else {
      return;
    }
  }
}

void P9Device::serve_locked(Lock& lock) {
  const auto request = pending_.front();
  pending_.pop_front();
  const auto place = served_.insert(served_.end(), request);
  Queue& queue = *this->queue(0);  // there: it goes away only after its requests are abandoned
  // Our own copy: the guest may change its buffers at any time. One byte more than a message may have is
  // enough to see that it is too long.
  std::vector<std::byte> message(std::min<uint64_t>(request->chain.readable_bytes(), fs9p::kMostMessage + 1));
  const bool readable = request->chain.read(queue.dma(), 0, message);
  const size_t room = std::min<uint64_t>(request->chain.writable_bytes(), fs9p::kMostMessage);
  const auto server = server_;
  lock.unlock();
  std::vector<std::byte> reply;
  if (readable) {
    // Buffers may be longer than the message in them.
    message.resize(std::clamp<size_t>(fs9p::parse_header(message).size, fs9p::kHeaderBytes, message.size()));
    reply = server->answer(message, room);
  }
  lock.lock();
  if (request->abandoned) return;
  served_.erase(place);
  if (readable) {
    push_locked(queue, std::move(request->chain), reply);
  } else {
    fail_locked(queue, "a 9P request outside RAM");
    request_finished_locked(queue.index());
  }
  answer_flushes_locked(queue);
  if (std::exchange(stalled_, false)) take_locked(queue);
  signal_locked(queue);
}

// What is being served stays with its worker, which may hang in the host's file system for as long as that
// does; there are never more of them than workers.
void P9Device::abandon_locked(unsigned index) {
  for (size_t taken = taken_locked(); taken != 0; --taken) request_finished_locked(index);
  for (const auto& request : served_) request->abandoned = true;
  served_.clear();
  pending_.clear();
  flushes_.clear();
  stalled_ = false;
}

// The guest's fids are forgotten. Closing what they stand for may wait for the host too. A guest that hangs
// all workers cannot make this list long: the share counts the fids in it.
void P9Device::stopped_locked() {
  auto old = std::exchange(server_, std::make_shared<fs9p::Server>(share_));
  if (!old->mounted()) return;
  dropped_.push_back(std::move(old));
  wake_.notify_one();
}

// Machine::save() refuses before when the guest has mounted the share; otherwise there is nothing to save.
void P9Device::device_state(state::Archive& archive) {
  archive.section("virtio-9p", 1);
}

}  // namespace ostler::virtio::p9
