// The server's side of the NBD negotiation: every option, and every refusal.
#include <map>

#include "nbd_peer.h"

namespace ostler::block::test {
namespace {

using nbd::Option;
using nbd::OptionReply;

class NbdNegotiation : public NbdServerTest {
 protected:
  void SetUp() override {
    serve(make_file("disk", std::string(65536, 'x')), {.name = "disk", .description = "a disk"},
          {.most_clients = 4});
  }
  void TearDown() override { stop(); }
};

TEST_F(NbdNegotiation, ListsItsExport) {
  NbdPeer peer(socket());
  peer.greet();
  peer.option(Option::kList);
  std::string data;
  EXPECT_EQ(peer.reply(&data), OptionReply::kServer);
  EXPECT_EQ(data, NbdPeer::text("disk") + "a disk");
  EXPECT_EQ(peer.reply(), OptionReply::kAck);
}

TEST_F(NbdNegotiation, TellsSizeFlagsAndBlockSizes) {
  NbdPeer peer(socket());
  peer.greet();
  std::string request = NbdPeer::text("disk");
  for (const int each : {3, 0, 1, 2})
    nbd::append_be(request, static_cast<uint16_t>(each));  // a count, wishes
  peer.option(Option::kInfo, request);
  std::map<int, std::string> answers;
  std::string data;
  while (peer.reply(&data) == OptionReply::kInfo)
    answers[nbd::load_be<uint16_t>(data.data())] = data.substr(2);
  EXPECT_EQ(nbd::load_be<uint64_t>(answers[0].data()), 65536u);
  EXPECT_EQ(answers[1], "disk");
  EXPECT_EQ(answers[2], "a disk");
  EXPECT_EQ(nbd::load_be<uint32_t>(answers[3].data()), 1u);
  EXPECT_EQ(nbd::load_be<uint32_t>(answers[3].data() + 8), nbd::kMostTransfer);
}

TEST_F(NbdNegotiation, EmptyNameMeansTheFirstExport) {
  NbdPeer peer(socket());
  peer.go();
  EXPECT_EQ(peer.size, 65536u);
  EXPECT_EQ(peer.flags & (nbd::kHasFlags | nbd::kReadOnly | nbd::kSendFlush | nbd::kSendTrim),
            nbd::kHasFlags | nbd::kSendFlush | nbd::kSendTrim);
}

TEST_F(NbdNegotiation, UnknownExportsAreRefusedAndMayBeFollowedByOthers) {
  NbdPeer peer(socket());
  peer.greet();
  EXPECT_EQ(peer.ask(Option::kGo, NbdPeer::go_data("other")), OptionReply::kErrUnknown);
  EXPECT_EQ(peer.ask(Option::kSetMetaContext), OptionReply::kErrInvalid);
  EXPECT_EQ(peer.ask(Option::kStructuredReply), OptionReply::kAck);
  EXPECT_EQ(peer.ask(Option::kSetMetaContext, NbdPeer::query_data("other", {})), OptionReply::kErrUnknown);
  EXPECT_EQ(peer.ask(Option::kGo, NbdPeer::go_data("disk")), OptionReply::kInfo);
}

TEST_F(NbdNegotiation, ExportNameHasZeroesUnlessTheyAreDeclined) {
  for (const bool zeroes : {false, true}) {
    NbdPeer peer(socket());
    peer.greet(zeroes ? nbd::kFixedNewstyle : nbd::kFixedNewstyle | nbd::kNoZeroes);
    peer.option(Option::kExportName, "disk");
    EXPECT_EQ(peer.receive_be<uint64_t>(), 65536u);
    EXPECT_NE(peer.receive_be<uint16_t>() & nbd::kHasFlags, 0);
    EXPECT_EQ(peer.receive(zeroes ? 124 : 0), std::string(zeroes ? 124 : 0, 0));
    EXPECT_EQ(peer.ask(nbd::Command::kFlush, 0, 0), 0u);
  }
}

TEST_F(NbdNegotiation, ExportNameOfAnotherExportEndsTheConnection) {
  NbdPeer peer(socket());
  peer.greet();
  peer.option(Option::kExportName, "other");
  EXPECT_TRUE(peer.is_closed());
}

TEST_F(NbdNegotiation, AbortIsAcknowledged) {
  NbdPeer peer(socket());
  peer.greet();
  EXPECT_EQ(peer.ask(Option::kAbort), OptionReply::kAck);
  EXPECT_TRUE(peer.is_closed());
}

TEST_F(NbdNegotiation, UnknownClientFlagsEndTheConnection) {
  NbdPeer peer(socket());
  peer.greet(nbd::kFixedNewstyle | 4);
  EXPECT_TRUE(peer.is_closed());
}

TEST_F(NbdNegotiation, WrongMagicEndsTheConnection) {
  NbdPeer peer(socket());
  peer.greet();
  peer.send(std::string(16, 'x'));
  EXPECT_TRUE(peer.is_closed());
}

TEST_F(NbdNegotiation, UnknownOptionsAreRefused) {
  NbdPeer peer(socket());
  peer.greet();
  EXPECT_EQ(peer.ask(static_cast<Option>(77), "data"), OptionReply::kErrUnsupported);
  EXPECT_EQ(peer.ask(Option::kStartTls), OptionReply::kErrPolicy);
}

TEST_F(NbdNegotiation, OptionsWithoutDataRefuseIt) {
  NbdPeer peer(socket());
  peer.greet();
  for (const Option option : {Option::kList, Option::kStructuredReply, Option::kStartTls})
    EXPECT_EQ(peer.ask(option, "x"), OptionReply::kErrInvalid);
}

TEST_F(NbdNegotiation, LongOptionsAreSkippedAndVeryLongOnesEndTheConnection) {
  NbdPeer peer(socket());
  peer.greet();
  EXPECT_EQ(peer.ask(static_cast<Option>(77), std::string(70000, 'x')), OptionReply::kErrTooBig);
  EXPECT_EQ(peer.ask(Option::kStructuredReply), OptionReply::kAck);
  std::string head;
  nbd::append_be(head, nbd::kOptionMagic);
  nbd::append_be(head, uint32_t{6});
  nbd::append_be(head, uint32_t{0xffffffff});
  peer.send(head);
  EXPECT_TRUE(peer.is_closed());
}

TEST_F(NbdNegotiation, LengthsThatContradictAreRefused) {
  NbdPeer peer(socket());
  peer.greet();
  peer.ask(Option::kStructuredReply);
  std::string long_name;
  nbd::append_be(long_name, uint32_t{0xfffffff0});
  EXPECT_EQ(peer.ask(Option::kGo), OptionReply::kErrInvalid);
  EXPECT_EQ(peer.ask(Option::kGo, NbdPeer::go_data() + "x"), OptionReply::kErrInvalid);
  EXPECT_EQ(peer.ask(Option::kGo, long_name + "name"), OptionReply::kErrInvalid);
  EXPECT_EQ(peer.ask(Option::kListMetaContext, NbdPeer::query_data("", {"a", "b"}) + "x"),
            OptionReply::kErrInvalid);
  EXPECT_EQ(peer.ask(Option::kListMetaContext, NbdPeer::query_data("", {"abc"}).substr(0, 13)),
            OptionReply::kErrInvalid);
  EXPECT_EQ(peer.ask(Option::kListMetaContext, NbdPeer::query_data("", std::vector<std::string>(65))),
            OptionReply::kErrTooBig);
}

TEST_F(NbdNegotiation, MetaContextsAreListedAndChosen) {
  NbdPeer peer(socket());
  peer.greet();
  peer.ask(Option::kStructuredReply);
  for (const std::string query : {"base:", "base:allocation"}) {
    std::string data;
    peer.option(Option::kListMetaContext, NbdPeer::query_data("disk", {query}));
    EXPECT_EQ(peer.reply(&data), OptionReply::kMetaContext);
    EXPECT_EQ(data.substr(4), "base:allocation");
    EXPECT_EQ(peer.reply(), OptionReply::kAck);
  }
  EXPECT_EQ(peer.ask(Option::kSetMetaContext, NbdPeer::query_data("disk", {"base:", "qemu:x"})),
            OptionReply::kAck);
  EXPECT_EQ(peer.ask(Option::kListMetaContext, NbdPeer::query_data("disk", {})), OptionReply::kMetaContext);
  EXPECT_EQ(peer.reply(), OptionReply::kAck);
}

TEST_F(NbdNegotiation, ContextsOfAnotherNameAreForgotten) {
  NbdPeer peer(socket());
  peer.greet();
  peer.ask(Option::kStructuredReply);
  EXPECT_EQ(peer.ask(Option::kSetMetaContext, NbdPeer::query_data("disk", {"base:allocation"})),
            OptionReply::kMetaContext);
  EXPECT_EQ(peer.reply(), OptionReply::kAck);
  peer.option(Option::kGo, NbdPeer::go_data(""));
  while (peer.reply() == OptionReply::kInfo) {
  }
  peer.request(nbd::Command::kBlockStatus, 0, 512);
  EXPECT_EQ(peer.chunk().type, nbd::Chunk::kError);
}

class NbdClients : public NbdServerTest {};

TEST_F(NbdClients, SilentOnesAreNotWaitedForWithoutEnd) {
  serve(make_file("disk", std::string(512, 'x')), {}, {.negotiation_seconds = 0});
  NbdPeer silent(socket());
  silent.receive(18);
  EXPECT_TRUE(silent.is_closed());
}

TEST_F(NbdClients, MoreThanTheMostWaitForOthersToLeave) {
  serve(make_file("disk", std::string(512, 'x')), {}, {.most_clients = 1});
  NbdPeer first(socket()), second(socket());
  first.go();
  EXPECT_EQ(first.ask(nbd::Command::kFlush, 0, 0), 0u);
  first.request(nbd::Command::kDisconnect, 0, 0);
  second.go();
  EXPECT_EQ(second.ask(nbd::Command::kFlush, 0, 0), 0u);
}

TEST_F(NbdClients, ServerEndsWithItsLastClientUnlessItIsPersistent) {
  serve(make_file("disk", std::string(512, 'x')), {}, {.persistent = false});
  {
    NbdPeer undecided(socket());
    undecided.greet();
    undecided.ask(Option::kAbort);
  }
  NbdPeer peer(socket());
  peer.go();
  peer.request(nbd::Command::kDisconnect, 0, 0);
  wait();
  EXPECT_FALSE(std::filesystem::exists(socket()));
}

TEST_F(NbdClients, StopEndsConnections) {
  serve(make_file("disk", std::string(512, 'x')), {}, {.most_clients = 2});
  NbdPeer peer(socket()), silent(socket());
  peer.go();
  stop();
  EXPECT_TRUE(peer.is_closed());
}

TEST_F(NbdClients, SocketOfADeadServerIsTakenOverAndThatOfALivingOneIsNot) {
  serve(make_file("disk", std::string(512, 'x')));
  EXPECT_FALSE(nbd::listen_unix(socket()));
  const auto first = nbd::listen_unix(path("other.sock"));
  ASSERT_TRUE(first);
  ::shutdown(first->get(), SHUT_RDWR);
  EXPECT_TRUE(nbd::listen_unix(path("other.sock")));
  EXPECT_FALSE(nbd::listen_unix(make_file("no-socket", "text")));
}

}  // namespace
}  // namespace ostler::block::test
