// A file on a web server, read-only: the protocol nodes "http" and "https", through libcurl. Range requests
// (RFC 9110 §14) on worker threads, a few connections at a time; what was read ahead is kept.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block/node.h"

namespace ostler::block::http {

struct Settings {
  std::string url;
  uint64_t read_ahead = 256 << 10;  // bytes of one request at least
  uint64_t timeout = 5;             // seconds without any progress
  std::string cookie;               // "name=value; …"
  std::string username, password;
  bool verify = true;  // the server's certificate
};

// The size of a file that a Content-Range field tells ("bytes 0-0/1000", "bytes */0"); false: none.
bool parse_content_range(std::string_view value, uint64_t& first, uint64_t& last, uint64_t& size);

class HttpNode final : public Node {
 public:
  // Asks for the size. Waits: on a worker thread. The error says what the server lacks.
  static Result<std::shared_ptr<HttpNode>> open(Settings settings, std::string driver);
  HttpNode(Settings settings, std::string driver);
  ~HttpNode() override;

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t, Buffers) override { co_return -EROFS; }
  Task<int> flush() override { co_return 0; }
  Task<int> write_zeroes(uint64_t, uint64_t, ZeroFlags) override { co_return -EROFS; }
  Task<int> discard(uint64_t, uint64_t) override { co_return -EROFS; }
  void cancel() override { cancels_.fetch_add(1); }

  uint64_t size() const override { return size_; }
  bool read_only() const override { return true; }
  std::string filename() const override { return settings_.url; }
  nlohmann::json options() const override;
  bool is_protocol() const override { return true; }

 private:
  struct Transfer;
  // A run of the file, as it was read.
  struct Run {
    uint64_t offset;
    std::shared_ptr<const std::vector<std::byte>> bytes;
  };
  static constexpr size_t kMostRuns = 4, kMostIdle = 4;
  static constexpr uint64_t kMostPiece = 8u << 20;  // bytes of one request

  Result<void> find_size();
  int fetch(Transfer& transfer);
  void* take_handle();
  void give_handle(void* handle);
  bool look_up(uint64_t offset, std::byte* to, uint64_t bytes);

  const Settings settings_;
  uint64_t size_ = 0;
  std::atomic<unsigned> cancels_{0};
  std::mutex mutex_;
  std::vector<void*> idle_;  // handles of libcurl, with their connections
  std::list<Run> runs_;      // the latest first
};

}  // namespace ostler::block::http
