// Receive-side scaling: published examples of the hash, and commands.
#include "devices/virtio/net/rss.h"

#include <gtest/gtest.h>

#include "packets.h"

namespace ostler::virtio::net {
namespace {

using namespace test;

// The key and the flows of "Verifying the RSS Hash Calculation" in Windows' driver documentation, which
// everybody uses.
const std::string kKey =
    "\x6d\x5a\x56\xda\x25\x5b\x0e\xc2\x41\x67\x25\x3d\x43\xa3\x8f\xb0\xd0\xca\x2b\xcb\xae\x7b\x30\xb4\x77\xcb"
    "\x2d\xa3\x80\x30"
    "\xf2\x0c\x6a\x42\xb7\x3b\xbe\xac\x01\xfa";

std::string le16(unsigned value) {
  return {static_cast<char>(value), static_cast<char>(value >> 8)};
}
std::string rss_command(unsigned types, const std::vector<uint16_t>& table, unsigned unclassified,
                        unsigned transmit, const std::string& key = kKey) {
  std::string bytes =
      le16(types) + le16(0) + le16(static_cast<unsigned>(table.size()) - 1) + le16(unclassified);
  for (const uint16_t entry : table) bytes += le16(entry);
  return bytes + le16(transmit) + static_cast<char>(key.size()) + key;
}
bool configure(Rss& rss, const std::string& command, unsigned most = 4) {
  uint16_t pairs = 0;
  return rss.configure(std::as_bytes(std::span(command)), most, pairs);
}
Rss::Hash hash(const Rss& rss, const std::string& frame) {
  return rss.hash(std::as_bytes(std::span(frame)));
}

std::string flow4(bool tcp) {
  std::string b = packet(tcp, false, 4).bytes;
  b.replace(26, 8, std::string("\x42\x09\x95\xbb\xa1\x8e\x64\x50", 8));
  put16(b, 34, 2794);
  put16(b, 36, 1766);
  return b;
}
std::string flow6() {
  std::string b = packet(true, true, 4).bytes;
  b.replace(22, 32,
            std::string("\x3f\xfe\x25\x01\x02\x00\x1f\xff\0\0\0\0\0\0\0\x07"
                        "\x3f\xfe\x25\x01\x02\x00\x00\x03\0\0\0\0\0\0\0\x01",
                        32));
  put16(b, 54, 2794);
  put16(b, 56, 1766);
  return b;
}

TEST(Rss, published_hashes) {
  Rss rss;
  ASSERT_TRUE(configure(rss, rss_command(0x3f, {0}, 0, 1)));
  EXPECT_EQ(hash(rss, flow4(true)).value, 0x51ccc178u);
  EXPECT_EQ(hash(rss, flow4(true)).report, 2);
  EXPECT_EQ(hash(rss, flow4(false)).value, 0x51ccc178u);
  EXPECT_EQ(hash(rss, flow4(false)).report, 3);
  EXPECT_EQ(hash(rss, flow6()).value, 0x40207d3du);
  EXPECT_EQ(hash(rss, flow6()).report, 5);
  ASSERT_TRUE(configure(rss, rss_command(0x09, {0}, 0, 1)));
  EXPECT_EQ(hash(rss, flow4(true)).value, 0x323e8fc2u);
  EXPECT_EQ(hash(rss, flow4(true)).report, 1);
  EXPECT_EQ(hash(rss, flow6()).value, 0x2cc18cd5u);
  EXPECT_EQ(hash(rss, flow6()).report, 4);
}

TEST(Rss, table_gives_the_queue) {
  Rss rss;
  ASSERT_TRUE(configure(rss, rss_command(0x3f, {3, 1}, 2, 4)));
  EXPECT_EQ(rss.queue({.value = 4, .report = 1}), 3u);
  EXPECT_EQ(rss.queue({.value = 5, .report = 1}), 1u);
  EXPECT_EQ(rss.queue({.value = 5, .report = 0}), 2u);
}

TEST(Rss, frames_without_a_flow_have_no_hash) {
  Rss rss;
  ASSERT_TRUE(configure(rss, rss_command(0x3f, {0}, 0, 1)));
  EXPECT_EQ(hash(rss, std::string(12, 'm') + "\x08\x06" + std::string(46, 0)).report, 0);
  for (size_t length = 14; length < 34; ++length)
    EXPECT_EQ(hash(rss, flow4(true).substr(0, length)).report, 0);
}

TEST(Rss, fragments_are_hashed_by_address) {
  Rss rss;
  ASSERT_TRUE(configure(rss, rss_command(0x3f, {0}, 0, 1)));
  std::string frame = flow4(true);
  put16(frame, 20, 0x2000);  // more fragments
  EXPECT_EQ(hash(rss, frame).report, 1);
}

TEST(Rss, malformed_commands_are_refused) {
  const std::string good = rss_command(0x3f, {0, 1}, 0, 2);
  Rss rss;
  ASSERT_TRUE(configure(rss, good));
  rss.reset();
  for (size_t length = 0; length < good.size(); ++length)
    EXPECT_FALSE(configure(rss, good.substr(0, length)));
  EXPECT_FALSE(configure(rss, good + "x"));
  EXPECT_FALSE(configure(rss, rss_command(0x40, {0}, 0, 1)));  // a hash that is not offered
  EXPECT_FALSE(configure(rss, rss_command(0x3f, {4}, 0, 1)));  // a queue that is not there
  EXPECT_FALSE(configure(rss, rss_command(0x3f, {0}, 4, 1)));
  EXPECT_FALSE(configure(rss, rss_command(0x3f, {0}, 0, 5)));
  EXPECT_FALSE(configure(rss, rss_command(0x3f, {0}, 0, 0)));
  EXPECT_FALSE(configure(rss, rss_command(0x3f, {0, 1, 2}, 0, 1)));  // no power of two
  EXPECT_FALSE(configure(rss, rss_command(0x3f, std::vector<uint16_t>(256), 0, 1)));
  EXPECT_FALSE(configure(rss, rss_command(0x3f, {0}, 0, 1, kKey + "x")));
  EXPECT_FALSE(rss.steers());
}

}  // namespace
}  // namespace ostler::virtio::net
