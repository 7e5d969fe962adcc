// A log that the filter blklogwrites is to continue, and writes after it.
#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "block/filters/log_writes_node.h"
#include "block/null/null_node.h"

using namespace ostler;
using namespace ostler::block;

namespace {

class MemoryNode final : public Node {
 public:
  MemoryNode(const uint8_t* data, size_t size) : Node("memory"), bytes_(data, data + size) {}
  Task<int> read(uint64_t offset, Buffers to) override {
    fill_zeroes(to);
    for (const iovec& piece : to) {
      const uint64_t from = std::min<uint64_t>(offset, bytes_.size());
      const uint64_t there = std::min<uint64_t>(piece.iov_len, bytes_.size() - from);
      if (there != 0) std::memcpy(piece.iov_base, bytes_.data() + from, there);
      offset += piece.iov_len;
    }
    co_return 0;
  }
  Task<int> write(uint64_t offset, Buffers from) override {
    const uint64_t bytes = total_bytes(from);
    if (offset > kMostBytes || bytes > kMostBytes - offset) co_return -ENOSPC;
    if (bytes_.size() < offset + bytes) bytes_.resize(offset + bytes);
    copy_from(from, reinterpret_cast<std::byte*>(bytes_.data() + offset));
    co_return 0;
  }
  Task<int> flush() override { co_return 0; }
  Task<int> write_zeroes(uint64_t, uint64_t, ZeroFlags) override { co_return -ENOTSUP; }
  uint64_t size() const override { return bytes_.size(); }
  bool read_only() const override { return false; }
  std::string filename() const override { return "log"; }

 private:
  static constexpr uint64_t kMostBytes = 32u << 20;
  std::vector<uint8_t> bytes_;
};

Task<int> use(NodePtr log) {
  auto node = std::make_shared<LogWritesNode>(512, 4096);
  const Permissions all = {.used = kPermissionRead | kPermissionWrite, .shared = kPermissionsAll};
  if (!node->connect(std::make_shared<NullNode>(1 << 20), all)) co_return -EINVAL;
  if (!node->connect_log(std::move(log), all)) co_return -EINVAL;
  const auto begun = co_await node->continue_log();
  if (!begun) co_return 0;
  std::array<char, 1000> bytes{};
  static_cast<void>(co_await write_bytes(*node, 300, bytes.data(), bytes.size()));
  static_cast<void>(co_await node->discard(4096, 8192));
  static_cast<void>(co_await node->flush());
  const auto closed = co_await node->close();
  co_return closed ? 0 : -EIO;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static IoContext& context = *new IoContext();
  static_cast<void>(context.run_until(use(std::make_shared<MemoryNode>(data, size))));
  return 0;
}
