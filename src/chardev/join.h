// Two back ends joined back to back: what comes from one is written to the other. A side that is not there,
// or does not read, makes the other one wait. The event loop's thread.
#pragma once

#include <vector>

#include "chardev/char_backend.h"

namespace ostler::chardev {

class Join {
 public:
  // Both outlive it.
  Join(CharBackend& a, CharBackend& b);
  ~Join();
  Join(const Join&) = delete;
  Join& operator=(const Join&) = delete;

 private:
  // The front end of one of them.
  class Half final : public CharFrontend {
   public:
    Half(CharBackend& own, CharBackend& other) : own_(own), other_(other) {}
    void pair_with(Half& half) { half_ = &half; }
    size_t can_receive() override;
    void receive(std::span<const std::byte> bytes) override;
    void event(CharEvent event) override;
    void writable() override { half_->write_kept(); }

   private:
    void write_kept();

    CharBackend& own_;
    CharBackend& other_;
    Half* half_ = nullptr;
    std::vector<std::byte> kept_;  // for the other one, which had no room
  };
  CharBackend& a_;
  CharBackend& b_;
  Half of_a_, of_b_;
};

}  // namespace ostler::chardev
