#include "devices/virtio/p9/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
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
      server_(std::make_shared<fs9p::Server>(share_)),
      link_(std::make_shared<Link>()) {
  link_->device = this;
}

P9Device::~P9Device() {
  reset();
  const std::lock_guard lock(link_->mutex);
  link_->device = nullptr;
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
  call_workers_locked(queue);
  signal_locked(queue);
}

void P9Device::call_workers_locked(Queue& queue) {
  // A request that was flushed leaves its worker to the next one: a guest that sends and flushes while all
  // workers hang calls no more of them than it may have requests.
  for (; called_ < pending_.size(); ++called_)
    if (!workers_.run([link = link_] { serve(link); })) break;
  if (called_ != 0) return;
  for (; !pending_.empty(); pending_.pop_front())
    push_locked(queue, std::move(pending_.front().chain),
                fs9p::Reply::failure(pending_.front().tag, EAGAIN).finish());
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
  pending_.push_back({.chain = std::move(chain), .tag = header.tag, .sequence = sequence});
  return true;
}

// flush(5): whatever is still said of the old request is said before Rflush, so that its tag, and here its
// buffers, are free then.
void P9Device::flush_locked(Queue& queue, Flush flush) {
  for (auto at = pending_.begin(); at != pending_.end();) {
    if (at->tag != flush.old_tag) {
      ++at;
      continue;
    }
    push_locked(queue, std::move(at->chain), fs9p::Reply::failure(flush.old_tag, EINTR).finish());
    at = pending_.erase(at);
  }
  flushes_.push_back(std::move(flush));
  answer_flushes_locked(queue);
}

void P9Device::answer_flushes_locked(Queue& queue) {
  for (auto at = flushes_.begin(); at != flushes_.end();) {
    const bool waits = std::ranges::any_of(served_, [&](const Request& request) {
      return request.tag == at->old_tag && request.sequence < at->sequence;
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

void P9Device::serve(const std::shared_ptr<Link>& link) {
  Task task;
  {
    const std::lock_guard lock(link->mutex);
    if (link->device == nullptr || !link->device->begin(task)) return;
  }
  std::vector<std::byte> reply;
  if (!task.message.empty()) reply = task.server->answer(task.message, task.room);
  const std::lock_guard lock(link->mutex);
  if (link->device != nullptr) link->device->finish(task, reply);
}

bool P9Device::begin(Task& task) {
  const Lock lock(mutex_);
  --called_;
  if (pending_.empty()) return false;
  Request& request = served_.emplace_back(std::move(pending_.front()));
  pending_.pop_front();
  task.sequence = request.sequence;
  task.server = server_;
  task.room = std::min<uint64_t>(request.chain.writable_bytes(), fs9p::kMostMessage);
  // Our own copy: the guest may change its buffers at any time. One byte more than a message may have is
  // enough to see that it is too long.
  task.message.resize(std::min<uint64_t>(request.chain.readable_bytes(), fs9p::kMostMessage + 1));
  if (!request.chain.read(queue(0)->dma(), 0, task.message)) {
    task.message.clear();
    return true;
  }
  // Buffers may be longer than the message in them.
  task.message.resize(
      std::clamp<size_t>(fs9p::parse_header(task.message).size, fs9p::kHeaderBytes, task.message.size()));
  return true;
}

void P9Device::finish(const Task& task, std::span<const std::byte> reply) {
  const Lock lock(mutex_);
  const auto at = std::ranges::find(served_, task.sequence, &Request::sequence);
  if (at == served_.end()) return;  // abandoned
  Request request = std::move(*at);
  served_.erase(at);
  Queue& queue = *this->queue(0);  // there: it goes away only after its requests are abandoned
  if (reply.empty()) {
    fail_locked(queue, "a 9P request outside RAM");
    request_finished_locked(queue.index());
  } else {
    push_locked(queue, std::move(request.chain), reply);
  }
  answer_flushes_locked(queue);
  if (std::exchange(stalled_, false)) take_locked(queue);
  signal_locked(queue);
}

// What is being served stays with its worker, which may hang in the host's file system for as long as that
// does, and finds nothing under its number then.
void P9Device::abandon_locked(unsigned index) {
  for (size_t taken = taken_locked(); taken != 0; --taken) request_finished_locked(index);
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
  // Without a worker nothing was mounted.
  (void)workers_.run([last = std::move(old)] {});
}

// Machine::save() refuses before when the guest has mounted the share; otherwise there is nothing to save.
void P9Device::device_state(state::Archive& archive) {
  archive.section("virtio-9p", 1);
}

}  // namespace ostler::virtio::p9
