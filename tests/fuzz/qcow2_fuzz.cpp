// Hostile qcow2 images: opened, read, checked, written and repaired, on a file in memory that cannot grow for
// ever.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "block/capabilities.h"
#include "block/driver.h"

namespace {

using namespace ostler;
using namespace ostler::block;

constexpr size_t kMostBytes = 4 << 20;

class MemoryFile final : public Node {
 public:
  explicit MemoryFile(std::vector<std::byte> content) : Node("file"), bytes(std::move(content)) {}
  Task<int> read(uint64_t offset, Buffers to) override {
    for (const iovec& piece : to) {
      if (piece.iov_len == 0)
        continue;  // Its address may be null, which memset() and memcpy() may not be given.
      std::memset(piece.iov_base, 0, piece.iov_len);
      if (offset < bytes.size())
        std::memcpy(piece.iov_base, bytes.data() + offset,
                    std::min<uint64_t>(piece.iov_len, bytes.size() - offset));
      offset += piece.iov_len;
    }
    co_return 0;
  }
  Task<int> write(uint64_t offset, Buffers from) override {
    const uint64_t end = offset + total_bytes(from);
    if (end < offset || end > kMostBytes) co_return -ENOSPC;
    if (bytes.size() < end) bytes.resize(end);
    copy_from(from, bytes.data() + offset);
    co_return 0;
  }
  Task<int> flush() override { co_return 0; }
  Task<int> write_zeroes(uint64_t, uint64_t, ZeroFlags) override { co_return -ENOTSUP; }
  Task<Result<void>> truncate(uint64_t size, Preallocation) override {
    if (size > kMostBytes) co_return errno_error("memory", ENOSPC);
    bytes.resize(size);
    co_return Result<void>();
  }
  uint64_t size() const override { return bytes.size(); }
  bool read_only() const override { return false; }
  bool is_protocol() const override { return true; }
  bool new_space_is_zero() const override { return true; }
  std::string filename() const override { return "memory"; }
  std::vector<std::byte> bytes;
};

nlohmann::json options(bool data_file, bool legacy) {
  nlohmann::json result = {{"driver", "qcow2"}, {"file", "image"}, {"backing", nullptr}};
  if (data_file) result["data-file"] = "data";
  // Any passphrase opens it; LUKS would take the time that the image asks for.
  if (legacy) result["encrypt"]["key-secret"] = "secret";
  return result;
}

void use(IoContext& context, Opener& opener, const std::shared_ptr<MemoryFile>& file, bool writable) {
  const bool data_file = file->bytes.size() > 80 && (file->bytes[79] & std::byte{4}) != std::byte{0};
  const bool legacy = file->bytes.size() > 80 && file->bytes[35] == std::byte{1};
  OpenFlags flags;
  flags.writable = writable;
  flags.check = !writable;
  auto opened = context.run_until(opener.open(options(data_file, legacy), flags));
  if (!opened) return;
  NodePtr node = *std::move(opened);
  std::vector<std::byte> buffer(70000);
  const uint64_t size = node->size();
  for (const uint64_t at : {uint64_t{0}, size / 2, size - std::min<uint64_t>(size, 70000)}) {
    static_cast<void>(context.run_until(read_bytes(*node, at, buffer.data(), buffer.size())));
    BlockStatus status;
    if (at < size)
      static_cast<void>(context.run_until(node->block_status(at, 1 << 20, StatusDetail::kPrecise, status)));
  }
  static_cast<void>(
      node->format_specific_info().dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  static_cast<void>(context.run_until(node->checker()->check({})));
  if (writable) {
    for (const uint64_t at : {uint64_t{0}, size / 2 / 512 * 512}) {
      if (at + 4096 > size) break;
      static_cast<void>(context.run_until(write_bytes(*node, at, buffer.data(), 4096)));
      static_cast<void>(context.run_until(node->discard(at, 65536)));
      static_cast<void>(context.run_until(node->write_zeroes(at, std::min<uint64_t>(size - at, 5120), {})));
    }
    static_cast<void>(context.run_until(node->amend({{"refcount_bits", size % 3 == 0 ? 64 : 8}})));
    SnapshotInfo info;
    info.name = "fuzz";
    if (context.run_until(node->snapshots()->create(info)))
      static_cast<void>(context.run_until(node->snapshots()->remove("fuzz")));
    if (size < 1 << 20)
      static_cast<void>(context.run_until(node->truncate(size / 2 / 512 * 512, Preallocation::kOff)));
    static_cast<void>(
        context.run_until(node->checker()->check({.repair_leaks = true, .repair_errors = true})));
  }
  static_cast<void>(context.run_until(close_chain(std::move(node))));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 1 << 16) return 0;
  static IoContext context(Aio::kThreads);
  for (const bool writable : {false, true}) {
    Opener opener;
    const auto* const first = reinterpret_cast<const std::byte*>(data);
    std::vector<std::byte> bytes(first, first + size);
    const auto file = std::make_shared<MemoryFile>(std::move(bytes));
    const auto data_file = std::make_shared<MemoryFile>(std::vector<std::byte>(4096));
    if (!opener.add(file, "image") || !opener.add(data_file, "data") || !opener.add_secret("secret", "x"))
      return 0;
    use(context, opener, file, writable);
  }
  return 0;
}
