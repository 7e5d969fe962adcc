#include "chardev/join.h"

#include <cstddef>

namespace ostler::chardev {
namespace {

constexpr size_t kMost = 4096;

}  // namespace

Join::Join(CharBackend& a, CharBackend& b) : a_(a), b_(b), of_a_(a, b), of_b_(b, a) {
  of_a_.pair_with(of_b_);
  of_b_.pair_with(of_a_);
  a_.attach(&of_a_);
  b_.attach(&of_b_);
}

Join::~Join() {
  a_.attach(nullptr);
  b_.attach(nullptr);
}

size_t Join::Half::can_receive() {
  return other_.connected() && kept_.empty() ? kMost : 0;
}

void Join::Half::receive(std::span<const std::byte> bytes) {
  const size_t taken = other_.write(bytes);
  kept_.assign(bytes.begin() + static_cast<std::ptrdiff_t>(taken), bytes.end());
}

void Join::Half::write_kept() {
  const size_t taken = other_.write(kept_);
  kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(taken));
  if (kept_.empty()) own_.accept_input();
}

void Join::Half::event(CharEvent event) {
  if (event == CharEvent::kClosed) half_->kept_.clear();  // nobody is there for it
  if (event == CharEvent::kOpened) other_.accept_input();
}

}  // namespace ostler::chardev
