#include "mmu/vcpu_group.h"

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/assert.h"

namespace ostler::mmu {
namespace {

// More pages than this to make unwritable at once, and all are.
constexpr size_t kMostPages = 64;

// The participant whose thread this is, while it is running.
thread_local Participant* current = nullptr;

// A kick may get lost when the run loop clears its own flag late; waiters kick again after this.
constexpr auto kKickAgain = std::chrono::milliseconds(2);

// vCPUs that run answer within a few microseconds, sooner than a thread falls asleep and is woken.
constexpr unsigned kLooks = 40, kPauses = 20;  // of some 40 ns each

}  // namespace

VcpuGroup::VcpuGroup() = default;
VcpuGroup::~VcpuGroup() {
  ASSERT(std::all_of(participants_.begin(), participants_.end(), [](auto* p) { return p == nullptr; }),
         "vCPUs leave before their group goes");
}

Participant::Participant(VcpuGroup& group, Coherent& coherent) : group_(group), coherent_(coherent) {
  const std::lock_guard lock(group_.mutex_);
  auto& all = group_.participants_;
  const auto gap = std::find(all.begin(), all.end(), nullptr);
  index_ = static_cast<unsigned>(gap - all.begin());
  if (gap == all.end())
    all.push_back(this);
  else
    *gap = this;
}

Participant::~Participant() {
  const std::lock_guard lock(group_.mutex_);
  ASSERT(!running_.load(), "a vCPU is destroyed after its thread has left");
  group_.participants_[index_] = nullptr;
}

void Participant::set_kick(std::function<void()> kick) {
  const std::lock_guard lock(group_.mutex_);
  kick_ = std::move(kick);
}

void Participant::request_locked() {
  pending_.store(true, std::memory_order_seq_cst);
  if (kick_) kick_();
}

void Participant::leave_running() {
  current = nullptr;
  running_.store(false, std::memory_order_seq_cst);
  group_.notify_if_waited();
}

void Participant::enter_running() {
  current = this;
  running_.store(true, std::memory_order_seq_cst);
  if (!pending_.load(std::memory_order_seq_cst)) [[likely]]
    return;
  std::unique_lock lock(group_.mutex_);
  enter_locked(lock);
}

// Waits while another vCPU has stopped this one, and serves the requests that others may be waiting for.
// Stale code is left for service(): guest code that is in the middle of a block keeps it until the next.
void Participant::enter_locked(std::unique_lock<std::mutex>& lock) {
  for (;;) {
    if (group_.exclusive_ != nullptr && group_.exclusive_ != this) {
      running_.store(false, std::memory_order_seq_cst);
      group_.changed_.notify_all();
      group_.changed_.wait(lock, [&] { return group_.exclusive_ == nullptr || group_.exclusive_ == this; });
      running_.store(true, std::memory_order_seq_cst);
      continue;
    }
    const bool translations = std::exchange(drop_translations_, false);
    const bool writes = std::exchange(drop_all_writes_, false);
    const std::vector<const std::byte*> pages = std::exchange(drop_writes_, {});
    const uint64_t asked = asked_;
    if (translations)
      coherent_.drop_translations();
    else if (writes)
      coherent_.drop_write_access(nullptr);
    else
      for (const std::byte* page : pages) coherent_.drop_write_access(page);
    served_ = asked;
    pending_.store(!stale_code_.empty(), std::memory_order_seq_cst);
    if (group_.waiting_.load(std::memory_order_relaxed) != 0) group_.changed_.notify_all();
    return;
  }
}

void Participant::service() {
  std::vector<StaleCode> stale;
  {
    std::unique_lock lock(group_.mutex_);
    enter_locked(lock);
    stale = std::exchange(stale_code_, {});
    pending_.store(false, std::memory_order_seq_cst);
  }
  for (const StaleCode& code : stale) coherent_.code_stale(code.page, code.first, code.last);
}

void VcpuGroup::notify_if_waited() {
  if (waiting_.load(std::memory_order_seq_cst) == 0) return;
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

template <class Done>
void VcpuGroup::wait(std::unique_lock<std::mutex>& lock, Done&& done) {
  for (unsigned i = 0; i < kLooks; ++i) {
    if (done()) return;
    lock.unlock();
    for (unsigned n = 0; n < kPauses; ++n) _mm_pause();
    lock.lock();
  }
  while (!changed_.wait_for(lock, kKickAgain, done)) {
    for (Participant* p : participants_)
      if (p != nullptr && p != exclusive_ && p->pending() && p->kick_) p->kick_();
  }
}

template <class Ask>
void VcpuGroup::ask_all(Ask&& ask) {
  std::unique_lock lock(mutex_);
  Participant* self = current;
  if (self != nullptr && &self->group_ != this) self = nullptr;
  if (self != nullptr) self->running_.store(false, std::memory_order_seq_cst);
  waiting_.fetch_add(1, std::memory_order_seq_cst);
  if (self != nullptr) changed_.notify_all();

  std::vector<std::pair<unsigned, uint64_t>> wanted;  // index, request number
  for (Participant* p : participants_) {
    if (p == nullptr) continue;
    ask(*p);
    wanted.emplace_back(p->index_, ++p->asked_);
    p->request_locked();
  }
  const auto done = [&] {
    return std::all_of(wanted.begin(), wanted.end(), [&](const auto& one) {
      const Participant* p = participants_[one.first];
      return p == nullptr || p->served_ >= one.second || !p->running_.load(std::memory_order_seq_cst);
    });
  };
  wait(lock, done);
  waiting_.fetch_sub(1, std::memory_order_seq_cst);
  if (self != nullptr) {
    self->running_.store(true, std::memory_order_seq_cst);
    self->enter_locked(lock);
  }
}

void VcpuGroup::drop_translations() {
  ask_all([](Participant& p) { p.drop_translations_ = true; });
}

void VcpuGroup::drop_write_access(const std::byte* host_page) {
  ask_all([&](Participant& p) {
    if (host_page == nullptr || p.drop_writes_.size() >= kMostPages)
      p.drop_all_writes_ = true;
    else
      p.drop_writes_.push_back(host_page);
  });
}

void VcpuGroup::post_stale_code(unsigned index, GuestPhys page, unsigned first, unsigned last) {
  const std::lock_guard lock(mutex_);
  Participant* p = index < participants_.size() ? participants_[index] : nullptr;
  if (p == nullptr) return;
  p->stale_code_.push_back({page, static_cast<uint16_t>(first), static_cast<uint16_t>(last)});
  p->request_locked();
}

void VcpuGroup::begin_exclusive(Participant& self) {
  std::unique_lock lock(mutex_);
  ASSERT(exclusive_ != &self, "an exclusive section does not begin another");
  self.running_.store(false, std::memory_order_seq_cst);
  waiting_.fetch_add(1, std::memory_order_seq_cst);
  changed_.notify_all();
  changed_.wait(lock, [&] { return exclusive_ == nullptr; });
  exclusive_ = &self;
  for (Participant* p : participants_)
    if (p != nullptr && p != &self) p->request_locked();
  const auto stopped = [&] {
    return std::all_of(participants_.begin(), participants_.end(), [&](const Participant* p) {
      return p == nullptr || p == &self || !p->running_.load(std::memory_order_seq_cst);
    });
  };
  wait(lock, stopped);
  waiting_.fetch_sub(1, std::memory_order_seq_cst);
  current = &self;
  self.running_.store(true, std::memory_order_seq_cst);
  self.enter_locked(lock);
}

void VcpuGroup::end_exclusive() {
  const std::lock_guard lock(mutex_);
  exclusive_ = nullptr;
  changed_.notify_all();
}

}  // namespace ostler::mmu
