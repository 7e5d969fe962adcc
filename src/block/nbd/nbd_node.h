// A disk that an NBD server gives: the protocol node "nbd". Options: server {type, path | host, port} or a
// name; export, tls-creds (as find_tls() takes it), tls-hostname, reconnect-delay (seconds).
#pragma once

#include <memory>

#include "block/mutex.h"
#include "block/nbd/link.h"
#include "block/node.h"

namespace ostler::block::nbd {

class NbdNode final : public Node {
 public:
  NbdNode(std::unique_ptr<Link> link, bool read_only, uint64_t reconnect_seconds);

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> flush() override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  Task<Result<void>> close() override;
  void cancel() override { link_->cancel(); }

  uint64_t size() const override { return link_->disk().size; }
  bool read_only() const override { return read_only_; }
  Limits limits() const override;
  std::string filename() const override { return link_->remote().uri(); }
  nlohmann::json options() const override;
  bool is_protocol() const override { return true; }

 private:
  bool is_aligned(uint64_t offset, uint64_t bytes) const;
  Task<int> transfer(Link::Request::Kind kind, uint64_t offset, std::byte* data, uint64_t bytes);
  Task<int> write_unaligned(uint64_t offset, Buffers from);

  const std::unique_ptr<Link> link_;
  const bool read_only_;
  const uint64_t reconnect_seconds_;
  // Of a server with blocks larger than a byte: exclusive while a part of one is replaced.
  SharedMutex blocks_;
};

}  // namespace ostler::block::nbd
