// What a stranger sends to the NBD server. The first byte chooses between the negotiation and transmission,
// and whether replies are structured; then come the client's bytes. No input may make it grow or write
// outside the disk.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "block/io_context.h"
#include "block/nbd/negotiation.h"
#include "block/nbd/transmission.h"
#include "block/null/null_node.h"

using namespace ostler;
using namespace ostler::block;

namespace {

constexpr uint64_t kDiskBytes = 1u << 20;

class Script final : public nbd::Channel {
 public:
  Script(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  Task<int> receive(void* to, size_t most) override {
    const size_t piece = std::min({most, size_, size_t{1} + size_ % 97});
    if (piece != 0) std::memcpy(to, data_, piece);
    data_ += piece;
    size_ -= piece;
    co_return static_cast<int>(piece);
  }
  Task<int> send(Buffers from) override {
    for (const iovec& piece : from)  // reads all of it, for the sanitizer
      if (piece.iov_len != 0 && std::memchr(piece.iov_base, 0x5a, piece.iov_len) != nullptr) sum_ = sum_ + 1;
    co_return 0;
  }
  void shutdown() override { size_ = 0; }
  int fd() const override { return -1; }

 private:
  const uint8_t* data_;
  size_t size_;
  volatile unsigned sum_ = 0;
};

Task<void> play(std::shared_ptr<const nbd::Export> disk, uint8_t choice, const uint8_t* data, size_t size) {
  const nbd::ExportList exports(1, disk);
  std::unique_ptr<nbd::Channel> channel = std::make_unique<Script>(data, size);
  nbd::Receiver receiver(*channel);
  nbd::Session session;
  if ((choice & 1) != 0) {
    nbd::Negotiation negotiation(channel, receiver, exports, nullptr);
    const bool agreed = co_await negotiation.run();
    if (!agreed) co_return;
    session = negotiation.take_session();
  } else {
    session.disk = disk;
    session.structured = (choice & 2) != 0;
    if (session.structured) session.contexts.push_back(0);
  }
  nbd::Transmission transmission(*channel, receiver, session);
  co_await transmission.run();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static IoContext context(Aio::kThreads);
  auto node = std::make_shared<NullNode>(kDiskBytes, false, true, 0, "null-co");
  auto client = Client::attach(node, "fuzz", {.used = kPermissionRead | kPermissionWrite});
  if (!client) std::abort();
  nbd::Export::Settings settings;
  settings.name = "disk";
  settings.description = "a disk";
  settings.read_only = (data[0] & 4) != 0;
  settings.allocation_depth = (data[0] & 8) != 0;
  auto disk = nbd::Export::create(*client, settings);
  if (!disk) std::abort();
  context.run_until(play(*disk, data[0], data + 1, size - 1));
  return 0;
}
