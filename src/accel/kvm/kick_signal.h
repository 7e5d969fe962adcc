// The signal that makes a thread leave KVM_RUN.
#pragma once

#include "base/result.h"

namespace ostler::accel::kvm {

Result<void> install_kick_signal();  // once or more; any thread
int kernel_thread_id();              // of the calling thread
void send_kick(int thread);          // any thread; nothing when it has ended

// Kicks the calling thread each time that so much time has passed, until destroyed.
class DelayedKick {
 public:
  explicit DelayedKick(int64_t nanoseconds);
  ~DelayedKick();
  DelayedKick(const DelayedKick&) = delete;
  DelayedKick& operator=(const DelayedKick&) = delete;

 private:
  void* timer_ = nullptr;
  bool made_ = false;
};

}  // namespace ostler::accel::kvm
