// A back end whose output goes to a file as well (-chardev …,logfile=FILE): all that it takes from the guest,
// whether somebody listens or not. The file is written by the event loop's thread. Where it cannot be written
// (a full disk, a pipe that nobody reads) that part is missing there, which is told once; the back end goes
// on.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "chardev/char_backend.h"
#include "event/loop.h"

namespace ostler::chardev {

class Logged final : public CharBackend {
 public:
  // Made, and emptied unless `append`. Errors name the path.
  static Result<Fd> open_file(const std::string& path, bool append);

  // `path`: of `file`, for messages. On the loop's thread or before it runs, as is destruction.
  Logged(event::Loop& loop, std::unique_ptr<CharBackend> inner, Fd file, std::string path);
  ~Logged() override;
  Logged(const Logged&) = delete;
  Logged& operator=(const Logged&) = delete;

  void attach(CharFrontend* frontend) override;
  size_t write(std::span<const std::byte> bytes) override;
  void accept_input() override { inner_->accept_input(); }
  bool connected() const override { return inner_->connected(); }
  CharBackend& inner() const { return *inner_; }

 private:
  void flush();
  void put(std::span<const std::byte> bytes);

  event::Loop& loop_;
  std::unique_ptr<CharBackend> inner_;
  const Fd file_;
  const std::string path_;
  CharFrontend* frontend_ = nullptr;
  bool told_ = false;  // that the file cannot be written

  std::mutex mutex_;  // guards what follows, and keeps the file's order that of inner_
  std::vector<std::byte> queue_;
  bool flush_posted_ = false, short_ = false;

  std::shared_ptr<char> alive_ = std::make_shared<char>();  // tasks that outlive the object do nothing
};

}  // namespace ostler::chardev
