// The NBD server of a running machine: exports come and go while a device writes to their node.
#include "block/nbd/live_server.h"

#include <atomic>
#include <future>
#include <thread>

#include "block/backend.h"
#include "nbd_peer.h"

namespace ostler::block::test {
namespace {

using nbd::Command;
using nbd::LiveServer;

constexpr uint32_t kMiB = 1u << 20, kBlock = 4096;

class NbdLiveServer : public BlockTest {
 protected:
  void SetUp() override {
    const std::string file = make_file("disk", "");
    std::filesystem::resize_file(file, kMiB);
    node = open(file, "raw");
    auto client = Client::attach(node, "a disk", {.used = kPermissionRead | kPermissionWrite});
    ASSERT_TRUE(client);
    device = std::make_unique<NodeBackend>(*client, disks.context());
  }
  void TearDown() override {
    server.stop();
    device = nullptr;
    if (node) close(node);
  }
  std::string socket() const { return path("nbd.sock"); }
  void start() { ASSERT_TRUE(server.start({.path = socket()}, nullptr, 0)); }
  void add(const std::string& name, bool read_only = false) {
    const auto added = server.add(node, {.name = name, .read_only = read_only});
    ASSERT_TRUE(added) << added.error().message();
  }
  template <class T>
  static std::string message(const Result<T>& result) {
    return result ? "" : result.error().message();
  }
  // As a device does, and waits.
  int device_write(uint64_t offset, std::string bytes) {
    std::promise<int> done;
    device->write(offset, {{bytes.data(), bytes.size()}}, [&done](int error) { done.set_value(error); });
    return done.get_future().get();
  }

  IoThread disks;
  NodePtr node;
  std::unique_ptr<NodeBackend> device;
  LiveServer server;
};

TEST_F(NbdLiveServer, ClientsSeeWhatADeviceHasWrittenMeanwhile) {
  start();
  add("disk", true);
  NbdPeer peer(socket());
  peer.go();
  constexpr int kRounds = 200;
  std::atomic<int> written{0};
  std::jthread writer([&] {
    for (int round = 1; round <= kRounds; ++round) {
      std::string stamp(kBlock, '\0');
      nbd::append_be(stamp, static_cast<uint32_t>(round));
      if (device_write(8 * kBlock, stamp.substr(4)) != 0) return;
      written = round;
    }
  });
  for (int last = 0; last != kRounds;) {
    const int before = written;
    ASSERT_EQ(peer.ask(Command::kRead, 9 * kBlock - 4, 4), 0u);
    last = static_cast<int>(peer.receive_be<uint32_t>());
    ASSERT_GE(last, before);
    ASSERT_TRUE(before != kRounds || last == kRounds);
  }
}

TEST_F(NbdLiveServer, DevicesSeeWhatClientsWrite) {
  start();
  add("disk");
  NbdPeer peer(socket());
  peer.go();
  ASSERT_EQ(peer.write(kBlock, std::string(kBlock, 'n')), 0u);
  std::string bytes(kBlock, '\0');
  std::promise<int> done;
  device->read(kBlock, {{bytes.data(), bytes.size()}}, [&done](int error) { done.set_value(error); });
  EXPECT_EQ(done.get_future().get(), 0);
  EXPECT_EQ(bytes, std::string(kBlock, 'n'));
}

TEST_F(NbdLiveServer, ReadOnlyExportsRefuseWrites) {
  start();
  add("disk", true);
  NbdPeer peer(socket());
  peer.go();
  EXPECT_EQ(peer.write(0, "x"), nbd::kErrorPerm);
}

TEST_F(NbdLiveServer, RemovalDisconnectsTheClientsOfThatExportOnly) {
  start();
  add("one");
  add("two");
  NbdPeer first(socket()), second(socket());
  first.greet();
  first.option(nbd::Option::kGo, NbdPeer::go_data("one"));
  while (first.reply() == nbd::OptionReply::kInfo) continue;
  second.greet();
  second.option(nbd::Option::kGo, NbdPeer::go_data("two"));
  while (second.reply() == nbd::OptionReply::kInfo) continue;
  ASSERT_TRUE(server.remove("one"));
  EXPECT_TRUE(first.is_closed());
  EXPECT_EQ(second.write(0, "y"), 0u);
  NbdPeer third(socket());
  third.greet();
  EXPECT_EQ(third.ask(nbd::Option::kGo, NbdPeer::go_data("one")), nbd::OptionReply::kErrUnknown);
}

TEST_F(NbdLiveServer, NobodyHoldsTheNodeAfterRemoval) {
  start();
  for (int round = 0; round < 20; ++round) {
    add("disk");
    NbdPeer peer(socket());
    peer.go();
    const long users = node.use_count();
    ASSERT_TRUE(server.remove("disk"));
    EXPECT_LT(node.use_count(), users);
  }
  device = nullptr;
  close(node);
}

TEST_F(NbdLiveServer, StoppingDisconnectsEverybodyAndItStartsAgain) {
  start();
  add("disk");
  NbdPeer peer(socket());
  peer.go();
  server.stop();
  EXPECT_TRUE(peer.is_closed());
  EXPECT_FALSE(std::filesystem::exists(socket()));
  start();
  add("disk");
  NbdPeer again(socket());
  again.go();
  EXPECT_EQ(again.size, kMiB);
}

TEST_F(NbdLiveServer, MistakesAreExplained) {
  EXPECT_EQ(message(server.add(node, {.name = "disk"})), "the NBD server does not run; start it first");
  EXPECT_EQ(message(server.remove("disk")), "the NBD server does not run; start it first");
  start();
  EXPECT_EQ(message(server.start({.path = socket()}, nullptr, 0)), "the NBD server runs already");
  add("disk");
  EXPECT_EQ(message(server.add(node, {.name = "disk"})), "the NBD server has an export 'disk' already");
  EXPECT_EQ(message(server.remove("other")), "the NBD server has no export 'other'");
}

TEST_F(NbdLiveServer, ListensOnAPort) {
  ASSERT_TRUE(server.start({.host = "127.0.0.1", .port = 0}, nullptr, 1));
  EXPECT_NE(server.port(), 0);
}

}  // namespace
}  // namespace ostler::block::test
