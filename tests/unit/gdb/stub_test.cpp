#include "gdb/stub.h"

#include <gtest/gtest.h>

#include "gdb/packet.h"
#include "unit/gdb/fake_target.h"

namespace ostler::gdb {
namespace {

using chardev::CharEvent;

// A client at the other end of a line that takes `room` bytes.
struct Line final : chardev::CharBackend {
  void attach(chardev::CharFrontend* to) override { frontend = to; }
  size_t write(std::span<const std::byte> bytes) override {
    const size_t taken = std::min(room, bytes.size());
    output.append(reinterpret_cast<const char*>(bytes.data()), taken);
    room -= taken;
    return taken;
  }
  void accept_input() override { ++accepted; }

  // As much as the stub takes; returns how many bytes.
  size_t type(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text)).first(std::min(text.size(), frontend->can_receive()));
    if (!bytes.empty()) frontend->receive(bytes);
    return bytes.size();
  }
  std::string said() { return std::exchange(output, {}); }

  chardev::CharFrontend* frontend = nullptr;
  size_t room = SIZE_MAX;
  std::string output;
  int accepted = 0;
};

struct StubTest : ::testing::Test {
  FakeTarget target;
  Line line;
  event::VirtualClock clock;
  event::Loop loop{clock};
  Stub stub{target, line, loop};

  size_t type(std::string_view text) {
    const size_t taken = line.type(text);
    settle();
    return taken;
  }
  void settle() {
    for (int turn = 0; turn < 200; ++turn) loop.run_due();
  }
  void connect() { line.frontend->event(CharEvent::kOpened); }
};

TEST_F(StubTest, AClientStopsTheGuestAndLetsItGo) {
  target.runs = true;
  connect();
  EXPECT_FALSE(target.runs);
  line.frontend->event(CharEvent::kClosed);
  EXPECT_TRUE(target.runs);
  EXPECT_EQ(stub.session(), nullptr);
}

TEST_F(StubTest, AcknowledgesUntilToldNotTo) {
  connect();
  type(frame("qC"));
  EXPECT_EQ(line.said(), "+" + frame("QC1"));
  type("+$qC#00");
  EXPECT_EQ(line.said(), "-");
  type(frame("QStartNoAckMode"));
  EXPECT_EQ(line.said(), "+" + frame("OK"));
  type(frame("qC"));
  EXPECT_EQ(line.said(), frame("QC1"));
  type("$qC#00");
  EXPECT_EQ(line.said(), "");
}

TEST_F(StubTest, SendsAgainWhatDidNotArrive) {
  connect();
  type(frame("qC"));
  line.said();
  type("-");
  EXPECT_EQ(line.said(), frame("QC1"));
}

TEST_F(StubTest, OtherWorkHasItsTurnBetweenRequests) {
  connect();
  line.type(frame("QStartNoAckMode") + frame("qC") + frame("qC") + "$q");
  EXPECT_EQ(line.said(), "+" + frame("OK"));
  loop.run_due();
  EXPECT_EQ(line.said(), frame("QC1"));
  loop.run_due();
  EXPECT_EQ(line.said(), frame("QC1"));
  EXPECT_EQ(line.accepted, 0);
  loop.run_due();
  EXPECT_EQ(line.accepted, 1);
}

TEST_F(StubTest, ControlCStops) {
  connect();
  type(frame("c"));
  EXPECT_TRUE(target.runs);
  type("\x03");
  EXPECT_FALSE(target.runs);
  EXPECT_EQ(line.said(), "+" + frame("T02thread:1;"));
}

TEST_F(StubTest, AClientThatDoesNotReadIsNotReadFrom) {
  connect();
  line.room = 3;
  std::string requests;
  for (int i = 0; i < 100; ++i) requests += frame("qC");
  EXPECT_EQ(type(requests), requests.size());
  EXPECT_EQ(type("more"), 0u);
  line.room = SIZE_MAX;
  line.frontend->writable();
  settle();
  EXPECT_GT(line.accepted, 0);
  const std::string reply = "+" + frame("QC1");
  EXPECT_EQ(line.said().size(), 100 * reply.size());
  EXPECT_EQ(type("+"), 1u);
}

TEST_F(StubTest, TheNextClientBeginsAnew) {
  connect();
  type(frame("QStartNoAckMode") + frame("Z0,1000,1") + "$m0,");
  line.frontend->event(CharEvent::kClosed);
  connect();
  line.said();
  type("4#00" + frame("vCont;c"));
  EXPECT_EQ(line.said(), "+");
  EXPECT_TRUE(target.breakpoints.empty());
}

TEST_F(StubTest, DetachAndKillInTheMiddleOfInput) {
  connect();
  type(frame("D") + frame("g") + frame("k"));
  EXPECT_EQ(line.said(), "+" + frame("OK") + "++");
  EXPECT_EQ(target.quits, 0);
}

}  // namespace
}  // namespace ostler::gdb
