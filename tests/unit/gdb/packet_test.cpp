#include "gdb/packet.h"

#include <gtest/gtest.h>

#include "gdb/fields.h"

namespace ostler::gdb {
namespace {

using Event = PacketReader::Event;

// The events of all bytes but those that mean nothing.
std::vector<Event> events(PacketReader& reader, std::string_view bytes) {
  std::vector<Event> out;
  for (const char byte : bytes)
    if (const Event event = reader.feed(byte); event != Event::kNothing) out.push_back(event);
  return out;
}

TEST(Packet, IsFramedWithItsChecksum) {
  EXPECT_EQ(frame("OK"), "$OK#9a");
  EXPECT_EQ(frame(""), "$#00");
}

TEST(Packet, IsRead) {
  PacketReader reader;
  EXPECT_EQ(events(reader, "$OK#9a"), std::vector{Event::kPacket});
  EXPECT_EQ(reader.packet(), "OK");
  EXPECT_EQ(events(reader, "garbage$OK#9A"), std::vector{Event::kPacket});
}

TEST(Packet, WithAWrongChecksumIsDamaged) {
  PacketReader reader;
  EXPECT_EQ(events(reader, "$OK#9b"), std::vector{Event::kDamaged});
  EXPECT_EQ(events(reader, "$OK#zz"), std::vector{Event::kDamaged});
  EXPECT_EQ(events(reader, "$OK#9a"), std::vector{Event::kPacket});
}

TEST(Packet, EscapesAreUndone) {
  const std::string data("a#$*}\x03z", 7);
  PacketReader reader;
  EXPECT_EQ(events(reader, frame(escape(data))), std::vector{Event::kPacket});
  EXPECT_EQ(reader.packet(), data);
}

TEST(Packet, ThatIsCutShortIsForgottenAtTheNext) {
  PacketReader reader;
  EXPECT_EQ(events(reader, "$m12$OK#9a"), std::vector{Event::kPacket});
  EXPECT_EQ(reader.packet(), "OK");
}

TEST(Packet, ThatIsTooLongIsDamagedAndNotKept) {
  PacketReader reader;
  std::string data(kMostPacket + 1, 'a');
  EXPECT_EQ(events(reader, frame(data)), std::vector{Event::kDamaged});
  EXPECT_LE(reader.packet().size(), kMostPacket);
  data.pop_back();
  EXPECT_EQ(events(reader, frame(data)), std::vector{Event::kPacket});
}

TEST(Packet, AcknowledgementsAndControlCStandBetweenPackets) {
  PacketReader reader;
  EXPECT_EQ(events(reader, "+-\x03"), (std::vector{Event::kAck, Event::kNak, Event::kInterrupt}));
  EXPECT_EQ(events(reader, frame("+-\x03")), std::vector{Event::kPacket});
}

TEST(Fields, NumbersHaveOneToSixteenDigits) {
  EXPECT_EQ(Fields("1f").number(), 0x1fu);
  EXPECT_EQ(Fields("FFFFFFFFFFFFFFFF").number(), ~uint64_t{0});
  EXPECT_EQ(Fields("00000000000000001").number(), std::nullopt);
  EXPECT_EQ(Fields("").number(), std::nullopt);
  EXPECT_EQ(Fields("x").number(), std::nullopt);
}

TEST(Fields, ThreadsAreOfTheOneProcess) {
  const auto cpus = [](std::string_view text) {
    const auto id = Fields(text).thread_id();
    std::string out;
    for (size_t cpu = 0; id && cpu < 3; ++cpu)
      if (id->includes(cpu)) out += static_cast<char>('0' + cpu);
    return id ? out : "bad";
  };
  EXPECT_EQ(cpus("1"), "0");
  EXPECT_EQ(cpus("p1.3"), "2");
  EXPECT_EQ(cpus("p1"), "012");
  EXPECT_EQ(cpus("-1"), "012");
  EXPECT_EQ(cpus("0"), "012");
  EXPECT_EQ(cpus("p-1.-1"), "012");
  EXPECT_EQ(cpus("p2.1"), "");
  EXPECT_EQ(cpus("4"), "");
  for (const char* bad : {"", "p", "p1.", "-2", "p.1", "x", "ffffffffffffffff"})
    EXPECT_EQ(cpus(bad), "bad") << bad;
}

TEST(Fields, HexadecimalBytesComeInPairs) {
  EXPECT_EQ(to_hex(*from_hex("00ffA5")), "00ffa5");
  EXPECT_FALSE(from_hex("0"));
  EXPECT_FALSE(from_hex("0g"));
}

}  // namespace
}  // namespace ostler::gdb
