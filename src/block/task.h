// Task<T>: a coroutine of the block layer.
//
// It starts when it is awaited and runs on the thread that awaits it; it is resumed on the I/O context where
// it began, so that its frame needs no locks. A task which never has to wait costs a call: its caller is not
// suspended. Frames come from a small pool per thread. A task that has begun must be let run to its end.
#pragma once

#include <coroutine>
#include <cstddef>
#include <optional>
#include <utility>

#include "base/assert.h"

namespace ostler::block {

template <class T>
class Task;

namespace detail {

// Memory of coroutine frames: per-thread lists of a few sizes, bounded in length.
void* allocate_frame(size_t bytes);
void free_frame(void* frame, size_t bytes) noexcept;

struct PromiseBase {
  static void* operator new(size_t bytes) { return allocate_frame(bytes); }
  static void operator delete(void* frame, size_t bytes) noexcept { free_frame(frame, bytes); }

  struct Final {
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) const noexcept {
      PromiseBase& promise = self.promise();
      promise.finished = true;
      // While the caller is still inside its await_suspend(), it sees `finished` and just goes on.
      return promise.starting ? std::noop_coroutine() : promise.caller;
    }
    void await_resume() const noexcept {}
  };
  std::suspend_always initial_suspend() const noexcept { return {}; }
  Final final_suspend() const noexcept { return {}; }
  void unhandled_exception() const noexcept { ASSERT(false, "tasks report errors by value"); }

  std::coroutine_handle<> caller;
  bool starting = false;
  bool finished = false;
};

template <class T>
struct Promise : PromiseBase {
  Task<T> get_return_object() noexcept;
  void return_value(T result) { value.emplace(std::move(result)); }
  T take() { return std::move(*value); }
  std::optional<T> value;
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object() noexcept;
  void return_void() const noexcept {}
  void take() const noexcept {}
};

}  // namespace detail

template <class T>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::Promise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  Task() = default;
  explicit Task(Handle handle) noexcept : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> caller) noexcept {
    promise_type& promise = handle_.promise();
    promise.caller = caller;
    promise.starting = true;
    handle_.resume();
    promise.starting = false;
    return !promise.finished;
  }
  T await_resume() { return handle_.promise().take(); }

 private:
  Handle handle_;
};

namespace detail {

template <class T>
Task<T> Promise<T>::get_return_object() noexcept {
  return Task<T>(std::coroutine_handle<Promise>::from_promise(*this));
}
inline Task<void> Promise<void>::get_return_object() noexcept {
  return Task<void>(std::coroutine_handle<Promise>::from_promise(*this));
}

// A coroutine nobody awaits; its frame goes when it ends.
struct Detached {
  struct promise_type {  // NOLINT(readability-identifier-naming): the language's name
    static void* operator new(size_t bytes) { return allocate_frame(bytes); }
    static void operator delete(void* frame, size_t bytes) noexcept { free_frame(frame, bytes); }
    Detached get_return_object() noexcept {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_always initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { ASSERT(false, "tasks report errors by value"); }
  };
  std::coroutine_handle<> handle;
};

inline Detached detach(Task<void> task) {
  co_await task;
}

}  // namespace detail

// Runs `task` on this thread's context until it first waits; it finishes by itself.
inline void spawn(Task<void> task) {
  detail::detach(std::move(task)).handle.resume();
}

}  // namespace ostler::block

// TRY() and TRY_ASSIGN() of base/result.h for coroutines that return a Result. The expression is awaited by
// its writer: CO_TRY(co_await node.open()).
#define CO_TRY(expression)                                    \
  do {                                                        \
    auto try_result = (expression);                           \
    if (!try_result) co_return std::move(try_result).error(); \
  } while (false)
#define CO_TRY_ASSIGN(target, expression) \
  CO_TRY_ASSIGN_IMPL(OSTLER_CONCAT(try_result_, __LINE__), target, expression)
#define CO_TRY_ASSIGN_IMPL(temporary, target, expression) \
  auto temporary = (expression);                          \
  if (!temporary) co_return std::move(temporary).error(); \
  target = *std::move(temporary)
