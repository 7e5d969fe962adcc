// A disk that finishes everything at once, so that a run repeats.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "block/backend.h"

namespace ostler::rigs {

class PromptDisk final : public block::Backend {
 public:
  const std::string& name() const override { return name_; }
  uint64_t size() const override { return 1 << 20; }
  bool read_only() const override { return false; }
  void read(uint64_t offset, std::vector<iovec> iov, block::Done done) override {
    check(offset, iov);
    for (const iovec& piece : iov)
      if (piece.iov_len != 0) std::memset(piece.iov_base, 0x5a, piece.iov_len);
    done(error_);
  }
  void write(uint64_t offset, std::vector<iovec> iov, block::Done done) override {
    check(offset, iov);
    done(error_);
  }
  void flush(block::Done done) override { done(error_); }
  void discard(uint64_t offset, uint64_t length, block::Done done) override {
    check_range(offset, length);
    done(EIO);
  }
  void write_zeroes(uint64_t, uint64_t, bool, block::Done done) override { done(EIO); }
  // The caller holds no lock, so that its own thread is as good as another.
  void defer(std::function<void()> task) override { task(); }

  // While it is full, requests fail, to be made again when the guest goes on.
  void set_full(bool full) { error_ = full ? ENOSPC : 0; }
  block::Verdict judge(bool, int) override {
    return error_ != 0 ? block::Verdict::kKeep : block::Verdict::kReport;
  }
  void on_resume(std::function<void()> handler) override { resume_ = std::move(handler); }
  void go_on() const {
    if (resume_) resume_();
  }

 private:
  // Devices check what their guest asks for.
  void check_range(uint64_t offset, uint64_t length) const {
    if (offset > size() || length > size() - offset || offset % 512 != 0) std::abort();
  }
  void check(uint64_t offset, const std::vector<iovec>& iov) const {
    uint64_t length = 0;
    for (const iovec& piece : iov) length += piece.iov_len;
    check_range(offset, length);
  }
  const std::string name_ = "prompt";
  int error_ = 0;
  std::function<void()> resume_;
};

}  // namespace ostler::rigs
