#include "chardev/mux.h"

#include <gtest/gtest.h>

#include "fixtures.h"

namespace ostler::chardev {
namespace {

struct Terminal final : CharBackend {
  CharFrontend* frontend = nullptr;
  std::string output;
  void attach(CharFrontend* to) override { frontend = to; }
  size_t write(std::span<const std::byte> bytes) override {
    for (const std::byte byte : bytes) output += static_cast<char>(byte);
    return bytes.size();
  }
  void accept_input() override {}
  void type(std::string_view keys) { frontend->receive(bytes_of(keys)); }
};

struct MuxTest : ::testing::Test {
  event::VirtualClock clock;
  event::Loop loop{clock};
  int quits = 0;
  Terminal* terminal = new Terminal;  // owned by mux
  Mux mux{loop, std::unique_ptr<CharBackend>(terminal), [this] { ++quits; }};
  FakeFrontend console, monitor;
  CharBackend& console_port = mux.add_port();
  CharBackend& monitor_port = mux.add_port();

  MuxTest() {
    console_port.attach(&console);
    monitor_port.attach(&monitor);
  }
};

TEST_F(MuxTest, FirstPortHasTheKeyboardAndAllMayWrite) {
  terminal->type("ls");
  EXPECT_EQ(console.input, "ls");
  EXPECT_EQ(monitor.input, "");
  console_port.write(bytes_of("c"));
  monitor_port.write(bytes_of("m"));
  EXPECT_EQ(terminal->output, "cm");
}

TEST_F(MuxTest, EscapeCMovesTheKeyboard) {
  terminal->type(
      "a\x01"
      "cb\x01"
      "cc");
  EXPECT_EQ(console.input, "ac");
  EXPECT_EQ(monitor.input, "b");
}

TEST_F(MuxTest, EscapeXQuits) {
  terminal->type(
      "\x01"
      "x");
  EXPECT_EQ(quits, 1);
  EXPECT_EQ(console.input, "");
}

TEST_F(MuxTest, EscapeHShowsHelp) {
  terminal->type(
      "\x01"
      "h");
  EXPECT_NE(terminal->output.find("Ctrl-A x"), std::string::npos);
}

TEST_F(MuxTest, EscapeTwiceIsOneEscape) {
  terminal->type("\x01\x01");
  EXPECT_EQ(console.input, "\x01");
}

TEST_F(MuxTest, EscapeBSendsABreak) {
  terminal->type(
      "\x01"
      "b");
  EXPECT_EQ(console.breaks, 1);
}

TEST_F(MuxTest, KeysWaitForRoomAndEscapesOvertakeThem) {
  console.room = 1;
  terminal->type("abc");
  EXPECT_EQ(console.input, "a");
  terminal->type(
      "\x01"
      "x");
  EXPECT_EQ(quits, 1);
  console.room = 10;
  console_port.accept_input();
  EXPECT_TRUE(run_until(loop, [&] { return console.input == "abc"; }));
}

}  // namespace
}  // namespace ostler::chardev
