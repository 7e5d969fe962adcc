// Machines under a debugger: one lost interrupt would stop the guest for good, so that what it does
// afterwards tells whether it was disturbed.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <optional>

#include "base/bytes.h"
#include "base/fd.h"
#include "gdb/fields.h"
#include "gdb/packet.h"
#include "machine/clockwork_guest.h"

namespace ostler::machine {
namespace {

using ::testing::ElementsAreArray;
using ::testing::StartsWith;
using Kind = std::tuple<std::string, unsigned>;  // machine, vCPUs

constexpr uint64_t kSteps = 0x70000;  // clockwork.S
constexpr uint64_t kTokenGate = 0x71000 + 0x40 * 8;
constexpr unsigned kRip = 16;  // register number

// A debugger that does not trust its own eyes: every reply has to come within ten seconds.
class Client {
 public:
  explicit Client(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    EXPECT_EQ(::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(ask("QStartNoAckMode"), "OK");
    EXPECT_THAT(ask("qSupported:multiprocess+;swbreak+;hwbreak+"), StartsWith("PacketSize="));
  }
  void send(std::string_view bytes) {
    EXPECT_EQ(::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  std::string reply() {
    for (;;) {
      pollfd wait{fd_.get(), POLLIN, 0};
      char byte = 0;
      if (::poll(&wait, 1, 10'000) != 1 || ::read(fd_.get(), &byte, 1) != 1) return "(nothing)";
      if (reader_.feed(byte) == gdb::PacketReader::Event::kPacket) return reader_.packet();
    }
  }
  std::string ask(std::string_view packet) {
    send(gdb::frame(packet));
    return reply();
  }
  uint64_t number(std::string_view packet) {
    auto bytes = gdb::from_hex(ask(packet));
    if (!bytes || bytes->empty() || bytes->size() > 8) {
      ADD_FAILURE() << packet;
      return 0;
    }
    bytes->resize(8);
    return load_le<uint64_t>(bytes->data());
  }
  uint32_t word(uint64_t address) { return static_cast<uint32_t>(number(fmt::format("m{:x},4", address))); }
  uint64_t rip(unsigned thread) {
    EXPECT_EQ(ask(fmt::format("Hgp1.{:x}", thread)), "OK");
    return number(fmt::format("p{:x}", kRip));
  }
  // The thread of a stop reply.
  static unsigned thread_of(const std::string& stop) {
    const size_t at = stop.find("thread:p1.");
    EXPECT_NE(at, std::string::npos) << stop;
    return at == std::string::npos ? 1 : static_cast<unsigned>(std::stoul(stop.substr(at + 10), nullptr, 16));
  }

 private:
  Fd fd_;
  gdb::PacketReader reader_;
};

class UnderDebugger : public ::testing::TestWithParam<Kind> {
 protected:
  UnderDebugger() {
    options_.machine = std::get<0>(GetParam());
    options_.cpus = std::get<1>(GetParam());
    options_.gdb_socket = folder_ / "gdb.sock";
  }
  // That it goes on, and has not lost or repeated anything.
  static void expect_undisturbed(ClockworkGuest& guest) {
    guest.wait_for_steps(20);
    guest.pause();
    const std::vector<uint8_t> output = guest.output();
    EXPECT_THAT(output, ElementsAreArray(expected_output(output.size())));
    EXPECT_EQ(guest.word(ClockworkGuest::kTscErrors), 0u);
    EXPECT_EQ(guest.word(ClockworkGuest::kStray), 0u);
    guest.on_loop([&] { guest.machine().resume(); });
  }
  static uint64_t token_handler(Client& client) {
    const uint64_t low = client.word(kTokenGate), high = client.word(kTokenGate + 4);
    return (low & 0xffff) | (high & 0xffff0000);
  }
  const test::TempFolder folder_;
  Clockwork options_;
};

TEST_P(UnderDebugger, BreakpointsInAnInterruptHandler) {
  ClockworkGuest guest(options_);
  guest.start();
  guest.wait_for_steps(2);
  {
    Client client(options_.gdb_socket);
    const uint64_t handler = token_handler(client);
    const std::string breakpoint = fmt::format("0,{:x},1", handler);
    std::vector<bool> seen(options_.cpus + 1);
    for (int round = 0; round < 30; ++round) {
      ASSERT_EQ(client.ask("Z" + breakpoint), "OK");
      const std::string stop = client.ask("vCont;c");
      ASSERT_THAT(stop, StartsWith("T05swbreak:;"));
      const unsigned thread = Client::thread_of(stop);
      seen.at(thread) = true;
      ASSERT_EQ(client.rip(thread), handler);
      ASSERT_EQ(client.ask("z" + breakpoint), "OK");
      ASSERT_EQ(client.ask(fmt::format("vCont;s:p1.{:x}", thread)),
                fmt::format("T05thread:p1.{:x};", thread));
      ASSERT_NE(client.rip(thread), handler);
    }
    for (unsigned thread = 1; thread <= options_.cpus; ++thread) EXPECT_TRUE(seen[thread]) << thread;
    ASSERT_EQ(client.ask("Z" + breakpoint), "OK");
    EXPECT_EQ(client.ask("D;1"), "OK");
    expect_undisturbed(guest);
  }
}

TEST_P(UnderDebugger, AWatchpointSeesEachStep) {
  ClockworkGuest guest(options_);
  guest.start();
  guest.wait_for_steps(2);
  Client client(options_.gdb_socket);
  ASSERT_EQ(client.ask(fmt::format("Z2,{:x},4", kSteps)), "OK");
  uint32_t steps = client.word(kSteps);
  for (int round = 0; round < 30; ++round) {
    const std::string stop = client.ask("vCont;c");
    ASSERT_THAT(stop, StartsWith(fmt::format("T05watch:{:x};", kSteps)));
    const uint32_t now = client.word(kSteps);
    ASSERT_EQ(now, steps + 1);
    steps = now;
  }
  EXPECT_EQ(client.ask("D;1"), "OK");
  expect_undisturbed(guest);
}

TEST_P(UnderDebugger, EachKindOfWatchpointIsTold) {
  ClockworkGuest guest(options_);
  guest.start();
  guest.wait_for_steps(2);
  Client client(options_.gdb_socket);
  // The guest reads and writes the word in one instruction.
  for (const auto& [packet, reason] :
       {std::pair("2", "watch"), std::pair("3", "rwatch"), std::pair("4", "awatch")}) {
    const std::string watchpoint = fmt::format("{},{:x},2", packet, kSteps + 1);
    ASSERT_EQ(client.ask("Z" + watchpoint), "OK");
    ASSERT_THAT(client.ask("vCont;c"), StartsWith(fmt::format("T05{}:{:x};", reason, kSteps + 1)));
    ASSERT_EQ(client.ask("z" + watchpoint), "OK");
  }
  EXPECT_EQ(client.ask("D;1"), "OK");
  expect_undisturbed(guest);
}

// On the machine whose timers cannot be missed: time goes on between two steps.
TEST_P(UnderDebugger, StepsOfAllThreads) {
  options_.machine = "microvm";
  ClockworkGuest guest(options_);
  guest.start();
  guest.wait_for_steps(2);
  Client client(options_.gdb_socket);
  for (int round = 0; round < 200; ++round) ASSERT_THAT(client.ask("vCont;s"), StartsWith("T05thread:p1."));
  EXPECT_EQ(client.ask("D;1"), "OK");
  expect_undisturbed(guest);
}

TEST_P(UnderDebugger, RegistersAndMemoryWrittenBack) {
  ClockworkGuest guest(options_);
  guest.start();
  guest.wait_for_steps(2);
  Client client(options_.gdb_socket);
  for (unsigned thread = 1; thread <= options_.cpus; ++thread) {
    ASSERT_EQ(client.ask(fmt::format("Hgp1.{:x}", thread)), "OK");
    ASSERT_EQ(client.ask("G" + client.ask("g")), "OK");
  }
  // The code too, which drops what was decoded of it.
  const std::string code = client.ask("m100000,1000");
  ASSERT_EQ(client.ask("M100000,1000:" + code), "OK");
  EXPECT_EQ(client.ask("D;1"), "OK");
  expect_undisturbed(guest);
}

TEST_P(UnderDebugger, ControlC) {
  ClockworkGuest guest(options_);
  guest.start();
  guest.wait_for_steps(2);
  Client client(options_.gdb_socket);
  for (int round = 0; round < 30; ++round) {
    client.send(gdb::frame("vCont;c") + '\x03');
    ASSERT_THAT(client.reply(), StartsWith("T02thread:p1."));
    EXPECT_TRUE(guest.machine().paused());
  }
  EXPECT_EQ(client.ask("D;1"), "OK");
  expect_undisturbed(guest);
}

TEST_P(UnderDebugger, AClientThatLeavesAtAnyPoint) {
  ClockworkGuest guest(options_);
  guest.start();
  guest.wait_for_steps(2);
  for (const std::string& last :
       {std::string(), std::string("$m70000,"), gdb::frame("vCont;c"), gdb::frame("vCont;s:p1.1"),
        gdb::frame("Z2,70000,4") + gdb::frame("Z0,100000,1") + gdb::frame("vCont;c")}) {
    SCOPED_TRACE(last);
    Client(options_.gdb_socket).send(last);
    expect_undisturbed(guest);
  }
}

TEST_P(UnderDebugger, AGuestThatStoodStandsAgain) {
  options_.paused = true;
  ClockworkGuest guest(options_);
  guest.start();
  { Client(options_.gdb_socket).ask("g"); }
  {
    Client client(options_.gdb_socket);
    EXPECT_EQ(guest.machine().instructions(), 0u);
    EXPECT_EQ(client.ask("vCont;s:p1.1"), "T05thread:p1.1;");
    EXPECT_EQ(guest.machine().instructions(), 1u);
    EXPECT_EQ(client.ask("D"), "OK");
  }
  guest.wait_for_steps(5);
  expect_undisturbed(guest);
}

TEST_P(UnderDebugger, AResetKeepsBreakpoints) {
  ClockworkGuest guest(options_);
  guest.start();
  guest.wait_for_steps(2);
  Client client(options_.gdb_socket);
  ASSERT_EQ(client.ask("qRcmd," + gdb::to_hex("reset")), "OK");
  const uint64_t entry = client.rip(1);
  ASSERT_THAT(client.ask("vCont;s:p1.1"), StartsWith("T05thread:p1.1"));
  ASSERT_EQ(client.ask(fmt::format("Z1,{:x},1", entry)), "OK");
  client.send(gdb::frame("vCont;c"));
  guest.wait_for_steps(2);
  guest.on_loop([&] { EXPECT_TRUE(guest.machine().reset()); });
  EXPECT_EQ(client.reply(), "T05hwbreak:;thread:p1.1;");
  EXPECT_EQ(client.rip(1), entry);
}

TEST_P(UnderDebugger, TheEndIsTold) {
  options_.at_step_50 = 't';
  options_.reboot = false;
  std::optional<ClockworkGuest> guest(options_);
  guest->start();
  Client client(options_.gdb_socket);
  client.send(gdb::frame("vCont;c"));
  EXPECT_EQ(guest->wait_for_end(), 0);
  guest.reset();
  EXPECT_EQ(client.reply(), "W00;process:1");
}

INSTANTIATE_TEST_SUITE_P(Machines, UnderDebugger,
                         ::testing::Combine(::testing::Values("pc", "microvm"), ::testing::Values(1u, 4u)),
                         [](const auto& instance) {
                           return std::get<0>(instance.param) + std::to_string(std::get<1>(instance.param));
                         });

}  // namespace
}  // namespace ostler::machine
