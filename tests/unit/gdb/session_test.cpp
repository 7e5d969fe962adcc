#include "gdb/session.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/bytes.h"
#include "gdb/packet.h"
#include "unit/gdb/fake_target.h"

namespace ostler::gdb {
namespace {

using accel::BreakpointKind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct SessionTest : ::testing::Test {
  FakeTarget target;
  std::vector<std::string> sent;
  std::optional<Session> session;

  SessionTest() { begin(); }
  void begin() {
    session.emplace(target, [this](const std::string& data) { sent.push_back(data); });
  }
  // The one reply to `packet`; "(none)" when it is silent.
  std::string ask(std::string_view packet) {
    sent.clear();
    session->handle(packet);
    return sent.empty() ? "(none)" : sent.back();
  }
  void understand_everything() { ask("qSupported:multiprocess+;swbreak+;hwbreak+"); }
};

TEST_F(SessionTest, TellsItsFeatures) {
  const std::string features = ask("qSupported:xmlRegisters=i386");
  for (const char* feature : {"PacketSize=4000", "multiprocess+", "swbreak+", "hwbreak+", "vContSupported+",
                              "QStartNoAckMode+", "qXfer:features:read+"})
    EXPECT_THAT(features, HasSubstr(feature));
}

TEST_F(SessionTest, DoesNotKnowOtherPackets) {
  for (const char* packet : {"!", "vMustReplyEmpty", "qTStatus", "QNonStop:1", "j", "vAttach;1"})
    EXPECT_EQ(ask(packet), "") << packet;
}

TEST_F(SessionTest, NamesThreadsAsTheClientDoes) {
  EXPECT_EQ(ask("qfThreadInfo"), "m1,2");
  understand_everything();
  EXPECT_EQ(ask("qfThreadInfo"), "mp1.1,p1.2");
  EXPECT_EQ(ask("qsThreadInfo"), "l");
  EXPECT_EQ(ask("qC"), "QCp1.1");
  EXPECT_EQ(ask("?"), "T05thread:p1.1;");
  EXPECT_EQ(ask("Tp1.2"), "OK");
  EXPECT_EQ(ask("Tp1.3"), "E22");
  EXPECT_EQ(ask("Tp1.2x"), "E22");
  target.states[1].activity = x86::Activity::kHalted;
  EXPECT_EQ(ask("qThreadExtraInfo,p1.2"), to_hex("vCPU 1 [halted]"));
}

TEST_F(SessionTest, GivesTheDescriptionInParts) {
  std::string text;
  for (;;) {
    const std::string part =
        ask("qXfer:features:read:target.xml:" + fmt::format("{:x}", text.size()) + ",100");
    ASSERT_FALSE(part.empty());
    text += part.substr(1);
    if (part.front() == 'l') break;
    ASSERT_EQ(part.front(), 'm');
    ASSERT_LE(part.size(), 0x101u);
  }
  EXPECT_THAT(text, StartsWith("<?xml"));
  EXPECT_THAT(text, HasSubstr("</target>"));
  EXPECT_EQ(ask("qXfer:features:read:target.xml:ffffffffffffffff,10"), "l");
  EXPECT_EQ(ask("qXfer:features:read:other.xml:0,10"), "E00");
  EXPECT_EQ(ask("qXfer:features:read:target.xml:0"), "E22");
  EXPECT_EQ(ask("qXfer:memory-map:read::0,10"), "");
  EXPECT_THAT(ask("qXfer:threads:read::0,1000"), HasSubstr("name=\"vCPU 1\""));
}

TEST_F(SessionTest, ReadsAndWritesRegistersOfTheSelectedThread) {
  target.states[1].gpr[x86::kRax] = 0x1122;
  EXPECT_EQ(ask("Hg2"), "OK");
  EXPECT_THAT(ask("g"), StartsWith("2211000000000000"));
  EXPECT_EQ(ask("p0"), "2211000000000000");
  EXPECT_EQ(ask("P0=0100000000000000"), "OK");
  EXPECT_EQ(target.states[1].gpr[x86::kRax], 1u);
  EXPECT_EQ(target.states[0].gpr[x86::kRax], 0u);
  EXPECT_EQ(target.changes, 1);
  std::string all = ask("g");
  all.replace(0, 16, "0500000000000000");
  EXPECT_EQ(ask("G" + all), "OK");
  EXPECT_EQ(target.states[1].gpr[x86::kRax], 5u);
}

TEST_F(SessionTest, RefusesRegistersThatAreNone) {
  for (const char* packet : {"p", "pffff", "p0x", "P0", "P0=", "P0=01", "P0=0g00000000000000", "Pffff=00",
                             "G0", "Gzz", "P12=00000000", "Hg3", "Hx1", "Hg"})
    EXPECT_EQ(ask(packet), "E22") << packet;
  EXPECT_EQ(ask("G"), "OK") << "the rest keeps its values";
}

TEST_F(SessionTest, ReadsAndWritesMemory) {
  EXPECT_EQ(ask("M100,3:61237d"), "OK");
  EXPECT_EQ(ask("m100,4"), "61237d00");
  EXPECT_EQ(ask("x100,3"), "ba}\x03}]");
  EXPECT_EQ(ask(std::string_view("X200,2:\0\xff", 9)), "OK");
  EXPECT_EQ(ask("m200,2"), "00ff");
  EXPECT_EQ(ask("X200,0:"), "OK");
  EXPECT_EQ(ask("m0,0"), "");
}

TEST_F(SessionTest, TellsWhereMemoryEnds) {
  EXPECT_EQ(ask("mfffe,10"), "0000");
  EXPECT_EQ(ask("m10000,1"), "E14");
  EXPECT_EQ(ask("x10000,1"), "E14");
  EXPECT_EQ(ask("Mffff,2:0000"), "E14");
}

TEST_F(SessionTest, RepliesFitIntoAPacket) {
  for (std::byte& byte : target.memory) byte = std::byte{'#'};
  for (const char* packet :
       {"m0,ffffffffffffffff", "x0,ffffffff", "qXfer:features:read:target.xml:0,ffffffff"})
    EXPECT_LE(ask(packet).size(), kMostPacket) << packet;
}

TEST_F(SessionTest, RefusesMemoryPacketsThatAreBroken) {
  for (const char* packet : {"m", "m0", "m0,", "m0,1x", "M0,1:", "M0,2:00", "M0,1:0", "M0,1",
                             "X0,1:", "X0,1:aa", "m00000000000000001,1"})
    EXPECT_EQ(ask(packet), "E22") << packet;
}

TEST_F(SessionTest, BreakpointsGoToTheTargetWhenItRuns) {
  for (const char* packet : {"Z0,1000,1", "Z0,1000,1", "Z1,2000,1", "Z2,3000,4", "Z3,4000,8", "Z4,5000,2"})
    EXPECT_EQ(ask(packet), "OK");
  EXPECT_EQ(ask("z3,4000,8"), "OK");
  EXPECT_EQ(ask("z3,4000,8"), "OK");
  EXPECT_EQ(ask("vCont;c"), "(none)");
  EXPECT_THAT(target.breakpoints, ElementsAre(accel::Breakpoint{BreakpointKind::kSoftware, 0x1000, 1},
                                              accel::Breakpoint{BreakpointKind::kHardware, 0x2000, 1},
                                              accel::Breakpoint{BreakpointKind::kWrite, 0x3000, 4},
                                              accel::Breakpoint{BreakpointKind::kAccess, 0x5000, 2}));
}

TEST_F(SessionTest, RefusesBreakpointsThatAreNone) {
  for (const char* packet :
       {"Z", "Z5,0,1", "Z0", "Z0,0", "Z2,0,0", "Z2,ffffffffffffffff,2", "Z0,0,1;X1,00", "z9,0,1"})
    EXPECT_EQ(ask(packet), "E22") << packet;
  EXPECT_EQ(ask("Z2,ffffffffffffffff,1"), "OK");
}

TEST_F(SessionTest, KeepsABoundedNumberOfBreakpoints) {
  for (size_t i = 0; i < Session::kMostBreakpoints; ++i) ASSERT_EQ(ask(fmt::format("Z0,{:x},1", i)), "OK");
  EXPECT_EQ(ask("Z0,ffffff,1"), "E28");
  EXPECT_EQ(ask("z0,0,1"), "OK");
  EXPECT_EQ(ask("Z0,ffffff,1"), "OK");
}

TEST_F(SessionTest, EachThreadTakesTheFirstActionThatNamesIt) {
  EXPECT_EQ(ask("vCont?"), "vCont;c;C;s;S;t");
  ask("vCont;s:2;c");
  EXPECT_THAT(target.resumed, ElementsAre(Run::kContinue, Run::kStep));
  session->interrupt();
  ask("vCont;s:p1.1");
  EXPECT_THAT(target.resumed, ElementsAre(Run::kStep, Run::kStay));
  session->interrupt();
  ask("vCont;t:1;C05:2");
  EXPECT_THAT(target.resumed, ElementsAre(Run::kStay, Run::kContinue));
  session->interrupt();
  ask("vCont;S05:-1");
  EXPECT_THAT(target.resumed, ElementsAre(Run::kStep, Run::kStep));
}

TEST_F(SessionTest, RefusesActionsThatAreNone) {
  for (const char* packet : {"vCont;x", "vCont;c:", "vCont;c:x", "vCont;C", "vCont;s1", "vCont;;"})
    EXPECT_EQ(ask(packet), "E22") << packet;
  EXPECT_FALSE(target.runs);
  EXPECT_EQ(ask("vCont;t"), "T00thread:1;") << "nobody runs, so nobody will stop";
  EXPECT_EQ(ask("vCont;c:7"), "T00thread:1;");
}

TEST_F(SessionTest, OldStepsMoveOneThread) {
  ask("Hc2");
  ask("s1234");
  EXPECT_THAT(target.resumed, ElementsAre(Run::kStay, Run::kStep));
  EXPECT_EQ(target.states[1].rip, 0x1234u);
  session->stopped(1, {});
  ask("C05;99");
  EXPECT_THAT(target.resumed, ElementsAre(Run::kContinue, Run::kContinue));
  EXPECT_EQ(target.states[1].rip, 0x99u);
  session->interrupt();
  for (const char* packet : {"cx", "C", "C5x", "s12345678901234567"}) EXPECT_EQ(ask(packet), "E22") << packet;
}

TEST_F(SessionTest, TellsWhyItStopped) {
  understand_everything();
  const auto reply = [&](std::optional<BreakpointKind> kind) {
    ask("vCont;c");
    session->stopped(1, {.hit = kind, .address = 0xffff800000001000});
    EXPECT_FALSE(target.runs);
    return sent.back();
  };
  EXPECT_EQ(reply({}), "T05thread:p1.2;");
  EXPECT_EQ(reply(BreakpointKind::kSoftware), "T05swbreak:;thread:p1.2;");
  EXPECT_EQ(reply(BreakpointKind::kHardware), "T05hwbreak:;thread:p1.2;");
  EXPECT_EQ(reply(BreakpointKind::kWrite), "T05watch:ffff800000001000;thread:p1.2;");
  EXPECT_EQ(reply(BreakpointKind::kRead), "T05rwatch:ffff800000001000;thread:p1.2;");
  EXPECT_EQ(reply(BreakpointKind::kAccess), "T05awatch:ffff800000001000;thread:p1.2;");
  EXPECT_EQ(ask("?"), "T05awatch:ffff800000001000;thread:p1.2;");
  EXPECT_EQ(ask("qC"), "QCp1.2");
}

TEST_F(SessionTest, AClientThatDoesNotKnowBreakpointReasonsIsNotTold) {
  ask("vCont;c");
  session->stopped(0, {.hit = BreakpointKind::kSoftware, .address = 1});
  EXPECT_EQ(sent.back(), "T05thread:1;");
}

TEST_F(SessionTest, ControlCStopsARunningGuestOnly) {
  session->interrupt();
  EXPECT_TRUE(sent.empty());
  ask("c");
  session->interrupt();
  EXPECT_EQ(sent.back(), "T02thread:1;");
  EXPECT_FALSE(target.runs);
}

TEST_F(SessionTest, ASecondWatchpointIsToldAtTheNextResume) {
  ask("Z2,1000,8");
  ask("Z0,2000,1");
  ask("vCont;c");
  session->stopped(0, {.hit = BreakpointKind::kSoftware, .address = 0x2000});
  session->stopped(1, {.hit = BreakpointKind::kWrite, .address = 0x1004});
  EXPECT_EQ(sent.size(), 1u);
  EXPECT_EQ(ask("vCont;c"), "T05watch:1004;thread:2;");
  EXPECT_FALSE(target.runs);
  EXPECT_EQ(ask("vCont;c"), "(none)");
}

TEST_F(SessionTest, ASecondWatchpointThatWasRemovedIsForgotten) {
  ask("Z2,1000,8");
  ask("vCont;c");
  session->stopped(0, {.hit = BreakpointKind::kWrite, .address = 0x1000});
  session->stopped(1, {.hit = BreakpointKind::kWrite, .address = 0x1004});
  ask("z2,1000,8");
  EXPECT_EQ(ask("vCont;c"), "(none)");
  EXPECT_TRUE(target.runs);
}

TEST_F(SessionTest, WhileTheGuestRunsNothingIsAnswered) {
  ask("c");
  for (const char* packet : {"g", "m0,4", "M0,1:ff", "k", "D", "c"}) EXPECT_EQ(ask(packet), "(none)");
  EXPECT_EQ(target.memory[0], std::byte{0});
  EXPECT_EQ(target.quits, 0);
}

TEST_F(SessionTest, KillEndsTheProgram) {
  ask("k");
  EXPECT_EQ(target.quits, 1);
  EXPECT_EQ(ask("vKill;1"), "OK");
  EXPECT_EQ(target.quits, 2);
}

TEST_F(SessionTest, DetachLetsTheGuestGo) {
  ask("Z0,1000,1");
  EXPECT_EQ(ask("D;1"), "OK");
  EXPECT_TRUE(target.runs);
  EXPECT_TRUE(target.breakpoints.empty());
}

TEST_F(SessionTest, AGuestThatRanBeforeRunsAfterwards) {
  session.reset();
  EXPECT_FALSE(target.runs) << "it did not run";
  target.runs = true;
  begin();
  EXPECT_FALSE(target.runs);
  session.reset();
  EXPECT_TRUE(target.runs);
}

TEST_F(SessionTest, AGuestThatTheClientStartedRunsAfterwards) {
  ask("c");
  session->interrupt();
  session.reset();
  EXPECT_TRUE(target.runs);
}

TEST_F(SessionTest, WhatOthersDoToTheGuestIsTold) {
  ask("c");
  session->paused_by_others();
  EXPECT_EQ(sent.back(), "T02thread:1;");
  session.reset();
  EXPECT_FALSE(target.runs) << "a guest that is off stays off";
  begin();
  ask("c");
  session->program_ends(3);
  EXPECT_EQ(sent.back(), "W03");
}

TEST_F(SessionTest, MonitorCommands) {
  EXPECT_EQ(ask("qRcmd," + to_hex("reset")), "OK");
  EXPECT_EQ(target.resets, 1);
  EXPECT_THAT(ask("qRcmd," + to_hex("help")), HasSubstr(to_hex("reset")));
  EXPECT_THAT(ask("qRcmd," + to_hex("dance")), HasSubstr(to_hex("no such command")));
  EXPECT_EQ(ask("qRcmd,0"), "E22");
}

}  // namespace
}  // namespace ostler::gdb
