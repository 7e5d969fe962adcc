#include "chardev/fd_channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>

#include "base/fd.h"
#include "fixtures.h"

namespace ostler::chardev {
namespace {

class Channel final : public FdChannel {
 public:
  Channel(event::Loop& loop, int in, int out) : FdChannel(loop) { connect(in, out); }
  ~Channel() override { disconnect(); }
};

struct FdChannelTest : ::testing::Test {
  static constexpr size_t kQueueSize = 64 * 1024;  // FdChannel's
  event::VirtualClock clock;
  event::Loop loop{clock};
  FakeFrontend frontend;
  Fd ours, theirs;

  FdChannelTest() {
    std::array<int, 2> pair;
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair.data()), 0);
    ours = Fd(pair[0]);
    theirs = Fd(pair[1]);
  }
  void send(std::string_view text) {
    EXPECT_EQ(::write(theirs.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // What has arrived at the other end so far.
  std::string& arrived() {
    std::array<char, 65536> buffer;
    for (ssize_t got = 0; (got = ::read(theirs.get(), buffer.data(), buffer.size())) > 0;)
      arrived_.append(buffer.data(), static_cast<size_t>(got));
    return arrived_;
  }

 private:
  std::string arrived_;
};

TEST_F(FdChannelTest, CarriesBothDirections) {
  Channel channel(loop, ours.get(), ours.get());
  channel.attach(&frontend);
  EXPECT_EQ(frontend.opened, 1);
  EXPECT_EQ(channel.write(bytes_of("out")), 3u);
  send("in");
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "in" && arrived() == "out"; }));
}

TEST_F(FdChannelTest, TakesNoMoreThanTheDeviceHasRoomFor) {
  Channel channel(loop, ours.get(), ours.get());
  frontend.room = 3;
  channel.attach(&frontend);
  send("abcdef");
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "abc"; }));
  for (int turn = 0; turn < 5; ++turn) run_until(loop, [turns = 0]() mutable { return ++turns > 1; });
  EXPECT_EQ(frontend.input, "abc");
  frontend.room = 10;
  channel.accept_input();
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "abcdef"; }));
}

TEST_F(FdChannelTest, ShortWriteIsFollowedByWritable) {
  Channel channel(loop, ours.get(), ours.get());
  channel.attach(&frontend);
  const std::string block(16384, 'x');
  size_t sent = 0, taken = 0;
  while ((taken = channel.write(bytes_of(block))) == block.size()) sent += taken;
  sent += taken;
  EXPECT_LE(sent, 65536u);
  EXPECT_TRUE(run_until(loop, [&] { return arrived().size() == sent && frontend.writables == 1; }));
}

// The output goes to a file, which takes all of it. Beyond what is queued at once, the guest gets rid of no
// byte but by the loop's work, between whose parts other tasks have their turn.
TEST_F(FdChannelTest, AGuestThatKeepsWritingDoesNotKeepTheLoop) {
  constexpr size_t kMost = 64u << 20;
  const Fd file(::memfd_create("output", MFD_CLOEXEC));
  Channel channel(loop, -1, file.get());
  const std::string block(16384, 'x');
  std::atomic<bool> others_ran = false;
  size_t sent = channel.write(bytes_of(block));
  std::jthread guest([&] {
    bool asked = false;
    while (sent < kMost && !others_ran) {
      sent += channel.write(bytes_of(block));
      // Once the loop has begun.
      if (!asked && sent > 2 * kQueueSize) loop.post([&] { others_ran = true; });
      asked = asked || sent > 2 * kQueueSize;
    }
    loop.post([&] { loop.stop(); });
  });
  loop.run();
  guest.join();
  EXPECT_LT(sent, kMost);
}

TEST_F(FdChannelTest, OutputSurvivesAFullDescriptor) {
  Channel channel(loop, ours.get(), ours.get());
  channel.attach(&frontend);
  std::string want;
  for (int i = 0; i < 200'000; ++i) want += static_cast<char>('a' + i % 26);
  size_t sent = 0;
  EXPECT_TRUE(run_until(loop, [&] {
    sent += channel.write(bytes_of(std::string_view(want).substr(sent)));
    return arrived().size() == want.size();
  }));
  EXPECT_TRUE(arrived() == want);
}

TEST_F(FdChannelTest, WritesOfOtherThreadsArriveWhole) {
  Channel channel(loop, ours.get(), ours.get());
  channel.attach(&frontend);
  constexpr int kThreads = 4, kEach = 1000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) channel.write(bytes_of("12345678"));
    });
  EXPECT_TRUE(run_until(loop, [&] { return arrived().size() == size_t{kThreads} * kEach * 8; }));
  for (auto& thread : threads) thread.join();
}

TEST_F(FdChannelTest, PeerThatLeavesIsAnnouncedAndOutputDropped) {
  Channel channel(loop, ours.get(), ours.get());
  channel.attach(&frontend);
  theirs.reset();
  EXPECT_TRUE(run_until(loop, [&] { return frontend.closed == 1; }));
  EXPECT_FALSE(channel.connected());
  EXPECT_EQ(channel.write(bytes_of("gone")), 4u);
}

TEST_F(FdChannelTest, ReadsARegularFileToItsEnd) {
  const Fd file(memfd_create("input", MFD_CLOEXEC));
  const std::string text(10'000, 'f');
  ASSERT_EQ(::write(file.get(), text.data(), text.size()), 10'000);
  ASSERT_EQ(::lseek(file.get(), 0, SEEK_SET), 0);
  Channel channel(loop, file.get(), ours.get());
  frontend.changed = [&] {
    frontend.room = 16;  // as a FIFO that is emptied at once
    channel.accept_input();
  };
  frontend.room = 16;
  channel.attach(&frontend);
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input.size() == text.size(); }));
}

TEST_F(FdChannelTest, DestructionWritesWhatIsQueued) {
  {
    Channel channel(loop, ours.get(), ours.get());
    channel.write(bytes_of("last words"));
  }
  EXPECT_EQ(arrived(), "last words");
  run_until(loop, [turns = 0]() mutable { return ++turns > 2; });  // its tasks do nothing
}

}  // namespace
}  // namespace ostler::chardev
