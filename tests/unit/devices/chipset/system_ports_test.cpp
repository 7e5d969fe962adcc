#include "devices/chipset/system_ports.h"

#include <gtest/gtest.h>

#include "bench.h"

namespace ostler::chipset {
namespace {

TEST(Port92, ResetsOnTheRisingEdge) {
  FakeRequests requests;
  Port92 port(requests);
  EXPECT_EQ(port.io_read(0, 1), 2u);
  port.io_write(0, 1, 2);
  EXPECT_EQ(requests.resets, 0);
  port.io_write(0, 1, 3);
  port.io_write(0, 1, 3);
  EXPECT_EQ(requests.resets, 1);
}

TEST(ResetControl, ResetsOnTheRisingEdge) {
  FakeRequests requests;
  ResetControl port(requests);
  port.io_write(0, 1, 2);
  EXPECT_EQ(requests.resets, 0);
  EXPECT_EQ(port.io_read(0, 1), 2u);
  port.io_write(0, 1, 6);
  EXPECT_EQ(requests.resets, 1);
}

TEST(DebugPort, PassesTextOnAndReadsAsE9) {
  FakeBackend backend;
  DebugPort port(backend);
  for (const char c : std::string_view("hi")) port.io_write(0, 1, static_cast<uint8_t>(c));
  EXPECT_EQ(backend.output, "hi");
  EXPECT_EQ(port.io_read(0, 1), 0xe9u);
}

TEST(DebugExit, GivesTheExitCode) {
  FakeRequests requests;
  DebugExit port(requests);
  port.io_write(0, 4, 0x10);
  EXPECT_EQ(requests.exits, std::vector<int>{0x21});
}

TEST(PvPanic, ReportsAPanic) {
  FakeRequests requests;
  PvPanic port(requests);
  EXPECT_EQ(port.io_read(0, 1), 1u);
  port.io_write(0, 1, 2);
  EXPECT_EQ(requests.panics, 0);
  port.io_write(0, 1, 1);
  EXPECT_EQ(requests.panics, 1);
}

}  // namespace
}  // namespace ostler::chipset
