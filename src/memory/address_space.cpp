#include "memory/address_space.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/bytes.h"
#include "memory/flattener.h"
#include "memory/guest_access.h"

namespace ostler::memory {
namespace {

// How much of an access of `wanted` bytes at `address` lies in the range.
unsigned bytes_within(const FlatRange& range, GuestPhys address, unsigned wanted) {
  const uint64_t after_first = range.last - address;
  return after_first >= wanted ? wanted : static_cast<unsigned>(after_first) + 1;
}

uint64_t read_ram(const std::byte* host, unsigned size) {
  switch (size) {
    case 1:
      return guest_load<uint8_t>(host);
    case 2:
      return guest_load<uint16_t>(host);
    case 4:
      return guest_load<uint32_t>(host);
    case 8:
      return guest_load<uint64_t>(host);
    default:
      break;
  }
  uint64_t value = 0;
  guest_copy(&value, host, size);
  return value;
}

void write_ram(std::byte* host, unsigned size, uint64_t value) {
  switch (size) {
    case 1:
      guest_store(host, static_cast<uint8_t>(value));
      break;
    case 2:
      guest_store(host, static_cast<uint16_t>(value));
      break;
    case 4:
      guest_store(host, static_cast<uint32_t>(value));
      break;
    case 8:
      guest_store(host, value);
      break;
    default:
      guest_copy(host, &value, size);
      break;
  }
}

}  // namespace

AddressSpace::AddressSpace(std::string name, uint64_t size)
    : name_(std::move(name)), view_(std::make_shared<FlatView>()), root_(name_, size) {
  root_.space_ = this;
}

AddressSpace::~AddressSpace() {
  ASSERT(listeners_.empty(), "listeners go before the space they listen to");
}

std::shared_ptr<const FlatView> AddressSpace::view() const {
  const std::lock_guard lock(view_mutex_);
  return view_;
}

void AddressSpace::add_listener(Listener& listener) {
  const std::lock_guard lock(mutex_);
  listeners_.push_back(&listener);
  const std::shared_ptr<const FlatView> now = view();
  listener.view_changed({.removed = {}, .added = now->ranges(), .view = *now});
}

void AddressSpace::remove_listener(Listener& listener) {
  const std::lock_guard lock(mutex_);
  std::erase(listeners_, &listener);
}

void AddressSpace::ram_written(RamBlock& ram, uint64_t offset, uint64_t length) const {
  if (length == 0) return;
  for (uint64_t at = offset, end = offset + length; at < end;) {
    const uint64_t page_end = std::min(end, align_down(at, kPageSize) + kPageSize);
    const uint8_t flags = ram.flags_after_write(at);
    if ((flags & page_flag::kTracked) != 0) ram.note_dirty(at);
    if ((flags & page_flag::kCode) != 0) {
      if (CodeListener* listener = code_listener_.load(std::memory_order_acquire))
        listener->code_written(ram, at, page_end - at);
    }
    at = page_end;
  }
}

// Called with mutex_ held, at the end of each transaction.
void AddressSpace::commit_locked() {
  auto next = std::make_shared<const FlatView>(Flattener::flatten(root_));
  const std::shared_ptr<const FlatView> before = view();
  // Both lists are sorted: what is only in the old one goes, what is only in the new one comes.
  std::vector<FlatRange> removed, added;
  auto a = before->ranges().begin(), b = next->ranges().begin();
  const auto a_end = before->ranges().end(), b_end = next->ranges().end();
  while (a != a_end || b != b_end) {
    if (b == b_end || (a != a_end && a->first < b->first)) {
      removed.push_back(*a++);
    } else if (a == a_end || b->first < a->first) {
      added.push_back(*b++);
    } else {
      if (*a != *b) {
        removed.push_back(*a);
        added.push_back(*b);
      }
      ++a, ++b;
    }
  }
  if (removed.empty() && added.empty()) return;
  {
    const std::lock_guard lock(view_mutex_);
    view_ = next;
    generation_.store(generation_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
  for (Listener* listener : listeners_)
    listener->view_changed({.removed = removed, .added = added, .view = *next});
}

void AddressSpace::Reader::refresh() {
  const std::lock_guard lock(space_.view_mutex_);
  view_ = space_.view_;
  generation_ = space_.generation_.load(std::memory_order_relaxed);
  last_ = nullptr;
}

uint64_t AddressSpace::Reader::read(GuestPhys address, unsigned size) {
  uint64_t value = 0;
  for (unsigned done = 0; done < size && done < sizeof value;) {
    const GuestPhys at = address + done;
    unsigned step = 1;
    uint64_t piece = 0xff;
    if (const FlatRange* range = find(at)) {
      step = bytes_within(*range, at, size - done);
      piece = range->is_ram() ? read_ram(range->ram->host() + range->offset_of(at), step)
                              : read_handler(*range, at, step);
    }
    value |= piece << (done * 8);
    done += step;
  }
  return value;
}

void AddressSpace::Reader::write(GuestPhys address, unsigned size, uint64_t value) {
  for (unsigned done = 0; done < size;) {
    const GuestPhys at = address + done;
    unsigned step = 1;
    if (const FlatRange* range = find(at)) {
      step = bytes_within(*range, at, size - done);
      const uint64_t piece = (value >> (done * 8)) & size_mask(step);
      if (range->is_writable_ram()) {
        const uint64_t offset = range->offset_of(at);
        write_ram(range->ram->host() + offset, step, piece);
        space_.ram_written(*range->ram, offset, step);
      } else if (range->handler != nullptr) {
        write_handler(*range, at, step, piece);
      }
    }
    done += step;
  }
}

void Transaction::detach(Region& child) {
  if (child.parent_ == nullptr) return;
  std::erase(child.parent_->children_, &child);
  child.parent_ = nullptr;
}

void Transaction::add(Region& parent, uint64_t offset, Region& child, int priority) {
  ASSERT(child.parent_ == nullptr, "a region is in one place of one tree; aliases show it elsewhere");
  child.space_ = &space_;
  child.parent_ = &parent;
  child.offset_ = offset;
  child.priority_ = priority;
  const auto where = std::find_if(parent.children_.begin(), parent.children_.end(),
                                  [&](const Region* other) { return other->priority_ <= priority; });
  parent.children_.insert(where, &child);
}

void Transaction::remove(Region& child) {
  detach(child);
}

void Transaction::move(Region& child, uint64_t offset) {
  child.offset_ = offset;
}

void Transaction::set_enabled(Region& child, bool enabled) {
  child.enabled_ = enabled;
}

}  // namespace ostler::memory
