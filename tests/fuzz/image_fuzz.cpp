// A disk image as an attacker made it: opened, read, checked and written as OSTLER_FORMAT.
//
// The first byte says whether it is opened for writing; then comes a list of pieces of a sparse file: offset
// (4 bytes, little-endian), length (2), content. image_pieces.py makes it from an image. Checksums are made
// right where a format has them.
#include <algorithm>
#include <cstring>
#include <map>

#include "base/bytes.h"
#include "block/capabilities.h"
#include "block/driver.h"
#include "block/open.h"
#include "image_checksums.h"

using namespace ostler;
using namespace ostler::block;

namespace {

constexpr uint64_t kMostBytes = 256u << 20;  // what images may grow to

// A sparse file in memory.
class MemoryNode final : public Node {
 public:
  MemoryNode(const uint8_t* data, size_t size) : Node("memory") {
    while (size >= 6) {
      const uint64_t at = load_le<uint32_t>(data);
      const size_t length = std::min<size_t>(load_le<uint16_t>(data + 4), size - 6);
      put(std::min(at, kMostBytes - 65536), data + 6, length);
      data += 6 + length;
      size -= 6 + length;
    }
  }
  Task<int> read(uint64_t offset, Buffers to) override {
    for (const iovec& piece : to) {
      get(offset, piece.iov_base, piece.iov_len);
      offset += piece.iov_len;
    }
    co_return 0;
  }
  Task<int> write(uint64_t offset, Buffers from) override {
    const uint64_t bytes = total_bytes(from);
    if (offset > kMostBytes || bytes > kMostBytes - offset) co_return -ENOSPC;
    for (const iovec& piece : from) {
      put(offset, piece.iov_base, piece.iov_len);
      offset += piece.iov_len;
    }
    co_return 0;
  }
  Task<int> flush() override { co_return 0; }
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags) override {
    if (offset > kMostBytes || bytes > kMostBytes - offset) co_return -ENOSPC;
    for (auto page = pages_.lower_bound(offset / kPage); page != pages_.end();) {
      if (page->first * kPage >= offset && (page->first + 1) * kPage <= offset + bytes) {
        page = pages_.erase(page);
        continue;
      }
      if (page->first * kPage >= offset + bytes) break;
      const uint64_t from = std::max(offset, page->first * kPage);
      const uint64_t until = std::min(offset + bytes, (page->first + 1) * kPage);
      std::fill_n(page->second.begin() + static_cast<ptrdiff_t>(from % kPage), until - from, uint8_t{0});
      ++page;
    }
    size_ = std::max(size_, offset + bytes);
    co_return 0;
  }
  Task<Result<void>> truncate(uint64_t size, Preallocation) override {
    size_ = std::min(size, kMostBytes);
    co_return Result<void>();
  }
  uint64_t size() const override { return size_; }
  bool read_only() const override { return false; }
  bool is_protocol() const override { return true; }
  std::string filename() const override { return "image"; }

  void get(uint64_t offset, void* to, size_t bytes) {
    auto* target = static_cast<uint8_t*>(to);
    while (bytes != 0) {
      const size_t piece = std::min<size_t>(bytes, kPage - offset % kPage);
      if (const auto page = pages_.find(offset / kPage); page != pages_.end())
        std::memcpy(target, page->second.data() + offset % kPage, piece);
      else
        std::memset(target, 0, piece);
      offset += piece;
      target += piece;
      bytes -= piece;
    }
  }
  void put(uint64_t offset, const void* from, size_t bytes) {
    const auto* source = static_cast<const uint8_t*>(from);
    size_ = std::max(size_, offset + bytes);
    while (bytes != 0) {
      const size_t piece = std::min<size_t>(bytes, kPage - offset % kPage);
      std::memcpy(pages_[offset / kPage].data() + offset % kPage, source, piece);
      offset += piece;
      source += piece;
      bytes -= piece;
    }
  }

 private:
  static constexpr uint64_t kPage = 4096;
  std::map<uint64_t, std::array<uint8_t, kPage>> pages_;
  uint64_t size_ = 0;
};

Task<int> use(Opener& opener, NodePtr file, bool writable) {
  nlohmann::json options;
  options["driver"] = OSTLER_FORMAT;
  options["file"] = file->name();
  options["key-secret"] = "secret";
  if (std::string_view(OSTLER_FORMAT) != "luks" || !writable) options.erase("key-secret");
  OpenFlags flags;
  flags.writable = writable;
  flags.no_backing = true;
  auto opened = co_await opener.open(options, flags);
  if (!opened) co_return 0;
  const NodePtr node = *opened;
  const uint64_t size = node->size();
  std::vector<char> buffer(70000, 'x');
  const uint64_t offsets[] = {0, size / 2, size - std::min<uint64_t>(size, buffer.size())};
  for (const uint64_t offset : offsets) {
    const size_t bytes = std::min<uint64_t>(buffer.size(), size - offset);
    static_cast<void>(co_await read_bytes(*node, offset, buffer.data(), bytes));
    BlockStatus status;
    static_cast<void>(co_await node->block_status(offset, size - offset, StatusDetail::kPrecise, status));
  }
  static_cast<void>(node->format_specific_info());
  if (node->checker() != nullptr && size <= (uint64_t{1} << 32))
    static_cast<void>(co_await node->checker()->check({}));
  if (writable)
    for (const uint64_t offset : offsets) {
      const size_t bytes = std::min<uint64_t>(buffer.size(), size - offset);
      static_cast<void>(co_await write_bytes(*node, offset, buffer.data(), bytes));
      static_cast<void>(co_await node->write_zeroes(offset, bytes, {}));
    }
  static_cast<void>(co_await node->flush());
  auto closed = co_await close_chain(std::move(opened).value());
  co_return closed ? 0 : 1;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  bool writable = size != 0 && (data[0] & 1) != 0;
  static IoContext context(Aio::kThreads);
  Opener opener;
  auto file = std::make_shared<MemoryNode>(data + (size != 0), size - (size != 0));
  correct_checksums(OSTLER_FORMAT, *file);
  if (!opener.add(file, "file") || !opener.add_secret("secret", "passphrase")) return 0;
  std::array<std::byte, 512> head{}, tail{};
  file->get(0, head.data(), head.size());
  file->get(file->size() - std::min<uint64_t>(file->size(), 512), tail.data(), tail.size());
  for (const Driver* driver : drivers())
    if (driver->probe != nullptr) driver->probe(head, tail, file->size(), "image");
  // A descriptor may name files of the host.
  if (std::string_view(OSTLER_FORMAT) == "vmdk" && std::memcmp(head.data(), "KDMV", 4) != 0) writable = false;
  context.run_until(use(opener, file, writable));
  return 0;
}
