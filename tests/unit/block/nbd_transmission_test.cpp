// The server's side of NBD transmission: every command, and what is refused.
#include "block/nbd/transmission.h"
#include "nbd_peer.h"

namespace ostler::block::test {
namespace {

using nbd::Chunk;
using nbd::Command;

constexpr uint32_t kMiB = 1u << 20;

class NbdTransmission : public NbdServerTest {
 protected:
  // 4 MiB, of which the second MiB has content.
  void SetUp() override {
    file = make_file("disk", "");
    std::filesystem::resize_file(file, 4 * kMiB);
    std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekp(kMiB);
    stream << std::string(kMiB, 'x');
  }
  void TearDown() override { stop(); }
  std::string file;
};

TEST_F(NbdTransmission, ReadsInSimpleReplies) {
  serve(file);
  NbdPeer peer(socket());
  peer.go();
  EXPECT_EQ(peer.ask(Command::kRead, kMiB - 2, 4), 0u);
  EXPECT_EQ(peer.receive(4), std::string("\0\0xx", 4));
}

TEST_F(NbdTransmission, ReadsInChunksWithHoles) {
  serve(file);
  NbdPeer peer(socket());
  peer.go(true);
  peer.request(Command::kRead, 0, 3 * kMiB);
  auto chunk = peer.chunk();
  EXPECT_EQ(chunk.type, Chunk::kOffsetHole);
  EXPECT_FALSE(chunk.done);
  EXPECT_EQ(nbd::load_be<uint32_t>(chunk.data.data() + 8), kMiB);
  chunk = peer.chunk();
  EXPECT_EQ(chunk.type, Chunk::kOffsetData);
  EXPECT_EQ(nbd::load_be<uint64_t>(chunk.data.data()), kMiB);
  EXPECT_EQ(chunk.data.substr(8), std::string(kMiB, 'x'));
  chunk = peer.chunk();
  EXPECT_EQ(chunk.type, Chunk::kOffsetHole);
  EXPECT_TRUE(chunk.done);
}

TEST_F(NbdTransmission, ReadIsOnePieceIfThatIsWanted) {
  serve(file);
  NbdPeer peer(socket());
  peer.go(true);
  EXPECT_NE(peer.flags & nbd::kSendDf, 0);
  peer.request(Command::kRead, 0, 2 * kMiB, nbd::kFlagDf);
  const auto chunk = peer.chunk();
  EXPECT_TRUE(chunk.done);
  EXPECT_EQ(chunk.data.substr(8), std::string(kMiB, '\0') + std::string(kMiB, 'x'));
}

TEST_F(NbdTransmission, WritesReachTheDisk) {
  serve(file);
  NbdPeer peer(socket());
  peer.go();
  EXPECT_EQ(peer.write(3, "hello"), 0u);
  EXPECT_EQ(peer.write(kMiB, "fua", nbd::kFlagFua), 0u);
  EXPECT_EQ(peer.ask(Command::kFlush, 0, 0), 0u);
  EXPECT_EQ(content_of(file).substr(3, 5), "hello");
  EXPECT_EQ(content_of(file).substr(kMiB, 4), "fuax");
}

TEST_F(NbdTransmission, ZeroesAndTrimsAndCaches) {
  serve(file);
  NbdPeer peer(socket());
  peer.go();
  EXPECT_EQ(peer.ask(Command::kCache, 0, 4 * kMiB), 0u);
  EXPECT_EQ(peer.ask(Command::kWriteZeroes, kMiB + 1, 3), 0u);
  EXPECT_EQ(peer.ask(Command::kWriteZeroes, kMiB + 8, 2, nbd::kFlagNoHole), 0u);
  EXPECT_EQ(content_of(file).substr(kMiB, 11), std::string("x\0\0\0xxxx\0\0x", 11));
  EXPECT_EQ(peer.ask(Command::kTrim, kMiB, kMiB / 2), 0u);
  EXPECT_EQ(content_of(file).substr(kMiB + kMiB / 2, 4), "xxxx");
}

TEST_F(NbdTransmission, ErrorsAreAnsweredAndTheConnectionGoesOn) {
  serve(file);
  NbdPeer peer(socket());
  peer.go();
  EXPECT_EQ(peer.ask(Command::kRead, 4 * kMiB, 1), nbd::kErrorInvalid);
  EXPECT_EQ(peer.ask(Command::kRead, ~uint64_t{0}, 2), nbd::kErrorInvalid);
  EXPECT_EQ(peer.ask(Command::kRead, 0, nbd::kMostTransfer + 1), nbd::kErrorInvalid);
  EXPECT_EQ(peer.ask(Command::kRead, 0, 1, nbd::kFlagDf), nbd::kErrorInvalid);
  EXPECT_EQ(peer.ask(Command::kRead, 0, 1, 0x8000), nbd::kErrorInvalid);
  EXPECT_EQ(peer.ask(static_cast<Command>(99), 0, 1), nbd::kErrorInvalid);
  EXPECT_EQ(peer.ask(Command::kBlockStatus, 0, 1), nbd::kErrorInvalid);
  EXPECT_EQ(peer.ask(Command::kFlush, 1, 0), nbd::kErrorInvalid);
  EXPECT_EQ(peer.write(4 * kMiB - 1, "xx"), nbd::kErrorNoSpace);
  EXPECT_EQ(peer.write(0, "xx", nbd::kFlagNoHole), nbd::kErrorInvalid);
  EXPECT_EQ(peer.ask(Command::kWriteZeroes, 0, 0xffffffff), nbd::kErrorNoSpace);
  EXPECT_EQ(peer.ask(Command::kRead, 0, 0), 0u);
  EXPECT_EQ(peer.write(0, ""), 0u);
  EXPECT_EQ(content_of(file)[0], '\0');
}

TEST_F(NbdTransmission, ErrorsOfStructuredRepliesHaveAText) {
  serve(file);
  NbdPeer peer(socket());
  peer.go(true);
  peer.request(Command::kRead, 4 * kMiB, 1);
  const auto chunk = peer.chunk();
  EXPECT_EQ(chunk.type, Chunk::kError);
  EXPECT_TRUE(chunk.done);
  EXPECT_EQ(nbd::load_be<uint32_t>(chunk.data.data()), nbd::kErrorInvalid);
  EXPECT_EQ(nbd::load_be<uint16_t>(chunk.data.data() + 4), chunk.data.size() - 6);
  peer.request(Command::kRead, 0, 0);
  EXPECT_EQ(peer.chunk().type, Chunk::kNone);
}

TEST_F(NbdTransmission, ReadOnlyDisksRefuseWrites) {
  serve(file, {.read_only = true});
  NbdPeer peer(socket());
  peer.go();
  EXPECT_EQ(peer.flags & (nbd::kReadOnly | nbd::kSendTrim | nbd::kSendWriteZeroes), nbd::kReadOnly);
  EXPECT_EQ(peer.write(0, "xx"), nbd::kErrorPerm);
  EXPECT_EQ(peer.ask(Command::kTrim, 0, 512), nbd::kErrorPerm);
  EXPECT_EQ(peer.ask(Command::kWriteZeroes, 0, 512), nbd::kErrorPerm);
  EXPECT_EQ(peer.ask(Command::kFlush, 0, 0), 0u);
}

TEST_F(NbdTransmission, BlockStatusTellsHolesAndContent) {
  serve(file);
  NbdPeer peer(socket());
  peer.go(true, {"base:allocation"});
  peer.request(Command::kBlockStatus, 0, 4 * kMiB);
  auto chunk = peer.chunk();
  ASSERT_EQ(chunk.type, Chunk::kBlockStatus);
  EXPECT_TRUE(chunk.done);
  std::string expected;
  for (const uint32_t each :
       {0u, kMiB, nbd::kStateHole | nbd::kStateZero, kMiB, 0u, 2 * kMiB, nbd::kStateHole | nbd::kStateZero})
    nbd::append_be(expected, each);
  EXPECT_EQ(chunk.data, expected);
  peer.request(Command::kBlockStatus, 4096, 3 * kMiB, nbd::kFlagReqOne);
  chunk = peer.chunk();
  ASSERT_EQ(chunk.data.size(), 12u);
  EXPECT_EQ(nbd::load_be<uint32_t>(chunk.data.data() + 4), kMiB - 4096);
  peer.request(Command::kBlockStatus, 0, 0);
  EXPECT_EQ(peer.chunk().type, Chunk::kError);
}

TEST_F(NbdTransmission, TooLongWritesAndWrongMagicEndTheConnection) {
  serve(file, {}, {.most_clients = 2});
  NbdPeer large(socket()), wrong(socket());
  large.go();
  large.request(Command::kWrite, 0, nbd::kMostTransfer + 1);
  EXPECT_TRUE(large.is_closed());
  wrong.go();
  wrong.send(std::string(28, 'x'));
  EXPECT_TRUE(wrong.is_closed());
}

TEST_F(NbdTransmission, ManyRequestsAreAnsweredEachByItsCookie) {
  serve(file);
  NbdPeer peer(socket());
  peer.go();
  for (uint64_t i = 0; i < 200; ++i) peer.request(Command::kRead, kMiB + i, 1, 0, i);
  std::vector<bool> seen(200);
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(peer.receive_be<uint32_t>(), nbd::kSimpleReplyMagic);
    EXPECT_EQ(peer.receive_be<uint32_t>(), 0u);
    const auto cookie = peer.receive_be<uint64_t>();
    EXPECT_EQ(peer.receive(1), "x");
    ASSERT_LT(cookie, seen.size());
    EXPECT_FALSE(seen[cookie]);
    seen[cookie] = true;
  }
}

// Counts what is in flight, and never answers before it is told to.
class CountingNode final : public Node {
 public:
  CountingNode() : Node("counting") {}
  Task<int> read(uint64_t, Buffers to) override {
    bytes += total_bytes(to);
    most = std::max(most.load(), bytes.load());
    fill_zeroes(to);
    const uint64_t until = IoContext::now() + 1'000'000;
    co_await IoContext::current()->sleep_until(until);
    bytes -= total_bytes(to);
    co_return 0;
  }
  Task<int> write(uint64_t, Buffers) override { co_return -EIO; }
  Task<int> flush() override { co_return 0; }
  Task<int> write_zeroes(uint64_t, uint64_t, ZeroFlags) override { co_return -ENOTSUP; }
  uint64_t size() const override { return uint64_t{1} << 30; }
  bool read_only() const override { return false; }
  bool is_protocol() const override { return true; }
  std::atomic<uint64_t> bytes = 0, most = 0;
};

TEST_F(NbdTransmission, ClientThatReadsNoRepliesIsBoundedAndHoldsUpNobody) {
  auto node = std::make_shared<CountingNode>();
  auto client = Client::attach(node, "server", {.used = kPermissionRead | kPermissionWrite});
  ASSERT_TRUE(client);
  serve(*client, {}, {.most_clients = 2});
  {
    NbdPeer greedy(socket()), other(socket());
    greedy.go();
    for (int i = 0; i < 150; ++i) greedy.request(Command::kRead, 0, 8 * kMiB);
    other.go();
    EXPECT_EQ(other.ask(Command::kFlush, 0, 0), 0u);
    EXPECT_EQ(other.write(0, "x"), nbd::kErrorIo);
    EXPECT_EQ(other.ask(Command::kWriteZeroes, 0, 512, nbd::kFlagFastZero), nbd::kErrorNotSupported);
  }
  stop();
  EXPECT_GT(node->most, 0u);
  EXPECT_LE(node->most, nbd::Transmission::kMostBytes);
}

}  // namespace
}  // namespace ostler::block::test
