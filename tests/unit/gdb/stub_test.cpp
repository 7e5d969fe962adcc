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
  Stub stub{target, line};

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
  line.type(frame("qC"));
  EXPECT_EQ(line.said(), "+" + frame("QC1"));
  line.type("+$qC#00");
  EXPECT_EQ(line.said(), "-");
  line.type(frame("QStartNoAckMode"));
  EXPECT_EQ(line.said(), "+" + frame("OK"));
  line.type(frame("qC"));
  EXPECT_EQ(line.said(), frame("QC1"));
  line.type("$qC#00");
  EXPECT_EQ(line.said(), "");
}

TEST_F(StubTest, SendsAgainWhatDidNotArrive) {
  connect();
  line.type(frame("qC"));
  line.said();
  line.type("-");
  EXPECT_EQ(line.said(), frame("QC1"));
}

TEST_F(StubTest, ControlCStops) {
  connect();
  line.type(frame("c"));
  EXPECT_TRUE(target.runs);
  line.type("\x03");
  EXPECT_FALSE(target.runs);
  EXPECT_EQ(line.said(), "+" + frame("T02thread:1;"));
}

TEST_F(StubTest, AClientThatDoesNotReadIsNotReadFrom) {
  connect();
  line.room = 3;
  std::string requests;
  for (int i = 0; i < 100; ++i) requests += frame("qC");
  EXPECT_EQ(line.type(requests), requests.size());
  EXPECT_EQ(line.type("more"), 0u);
  line.room = SIZE_MAX;
  line.frontend->writable();
  EXPECT_GT(line.accepted, 0);
  const std::string reply = "+" + frame("QC1");
  EXPECT_EQ(line.said().size(), 100 * reply.size());
  EXPECT_EQ(line.type("+"), 1u);
}

TEST_F(StubTest, TheNextClientBeginsAnew) {
  connect();
  line.type(frame("QStartNoAckMode") + frame("Z0,1000,1") + "$m0,");
  line.frontend->event(CharEvent::kClosed);
  connect();
  line.said();
  line.type("4#00" + frame("vCont;c"));
  EXPECT_EQ(line.said(), "+");
  EXPECT_TRUE(target.breakpoints.empty());
}

TEST_F(StubTest, DetachAndKillInTheMiddleOfInput) {
  connect();
  line.type(frame("D") + frame("g") + frame("k"));
  EXPECT_EQ(line.said(), "+" + frame("OK") + "++");
  EXPECT_EQ(target.quits, 0);
}

}  // namespace
}  // namespace ostler::gdb
