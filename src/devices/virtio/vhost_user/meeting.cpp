#include "devices/virtio/vhost_user/meeting.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "devices/virtio/vhost_user/user_session.h"

namespace ostler::virtio::vhost_user {
namespace {

Result<void> negotiate(Fd socket, uint32_t config_bytes, Meeting::Met& met) {
  TRY_ASSIGN(met.session, UserSession::open(std::move(socket)));
  if (config_bytes != 0 && met.session->has_config()) {
    TRY_ASSIGN(met.config, met.session->config(config_bytes));
  }
  return {};
}

}  // namespace

// The thread writes before it posts, the loop's thread reads after that.
struct Meeting::Outcome {
  Met met;
  Result<void> done;
};

Result<void> Meeting::start(Fd socket, uint32_t config_bytes) {
  Fd same(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!same) return errno_error("no descriptor for the connection", errno);
  outcome_ = std::make_shared<Outcome>();
  // Signals are for the main thread.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int error = 0;
  try {
    thread_ = std::thread(
        [this, &loop = loop_, config_bytes, outcome = outcome_, theirs = std::move(socket)]() mutable {
          pthread_setname_np(pthread_self(), "ostler-meeting");
          outcome->done = negotiate(std::move(theirs), config_bytes, outcome->met);
          loop.post([this, weak = std::weak_ptr(outcome)] {
            if (!weak.expired()) finish();
          });
          outcome.reset();
        });
  } catch (const std::system_error& failure) {
    error = failure.code().value();
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  if (error != 0) return errno_error("no thread for the connection", error);
  socket_ = std::move(same);
  return {};
}

void Meeting::finish() {
  thread_.join();
  socket_.reset();
  const auto outcome = std::exchange(outcome_, nullptr);
  if (outcome->done)
    met_(std::move(outcome->met));
  else
    met_(std::move(outcome->done).error());
}

void Meeting::end() {
  if (idle()) return;
  ::shutdown(socket_.get(), SHUT_RDWR);
  thread_.join();
  socket_.reset();
  outcome_.reset();
}

}  // namespace ostler::virtio::vhost_user
