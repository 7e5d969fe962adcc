// Which frames a card takes.
#include "devices/virtio/net/filter.h"

#include <gtest/gtest.h>

namespace ostler::virtio::net {
namespace {

constexpr config::MacAddress kOwn = {2, 0, 0, 0, 0, 1};

std::vector<std::byte> to(std::string_view address, std::string_view rest = "\x08\x06") {
  std::string frame = std::string(address) + "\x02sende" + std::string(rest);
  frame.resize(60);
  const auto view = std::as_bytes(std::span(frame));
  return {view.begin(), view.end()};
}
const std::string kUs("\x02\0\0\0\0\x01", 6), kOther("\x02\0\0\0\0\x07", 6);
const std::string kAll(6, '\xff'), kGroup("\x33\x33\0\0\0\x01", 6), kOtherGroup("\x33\x33\0\0\0\x02", 6);

class FilterTest : public testing::Test {
 protected:
  void SetUp() override {
    filter.reset(false);
    filter.set_mode(Filter::kPromiscuous, false);
  }
  bool takes(const std::string& address) const { return filter.accepts(to(address), kOwn); }
  bool set_addresses(const std::string& tables) {
    return filter.set_addresses(std::as_bytes(std::span(tables)));
  }
  Filter filter;
};

std::string table(const std::vector<std::string>& addresses) {
  std::string bytes = {static_cast<char>(addresses.size()), 0, 0, 0};
  for (const auto& each : addresses) bytes += each;
  return bytes;
}

TEST_F(FilterTest, new_card_takes_everything) {
  filter.reset(false);
  for (const auto& address : {kUs, kOther, kAll, kGroup}) EXPECT_TRUE(takes(address));
}

TEST_F(FilterTest, own_address_and_broadcast) {
  EXPECT_TRUE(takes(kUs));
  EXPECT_TRUE(takes(kAll));
  EXPECT_FALSE(takes(kOther));
  EXPECT_FALSE(takes(kGroup));
}

TEST_F(FilterTest, modes) {
  filter.set_mode(Filter::kAllMulticast, true);
  EXPECT_TRUE(takes(kGroup));
  filter.set_mode(Filter::kNoMulticast, true);
  EXPECT_FALSE(takes(kGroup));
  filter.set_mode(Filter::kAllUnicast, true);
  EXPECT_TRUE(takes(kOther));
  filter.set_mode(Filter::kNoUnicast, true);
  EXPECT_FALSE(takes(kUs));
  filter.set_mode(Filter::kNoBroadcast, true);
  EXPECT_FALSE(takes(kAll));
}

TEST_F(FilterTest, tables) {
  EXPECT_TRUE(set_addresses(table({kOther}) + table({kGroup})));
  EXPECT_TRUE(takes(kOther));
  EXPECT_TRUE(takes(kGroup));
  EXPECT_FALSE(takes(kOtherGroup));
  EXPECT_TRUE(set_addresses(table({}) + table({})));
  EXPECT_FALSE(takes(kOther));
}

TEST_F(FilterTest, more_addresses_than_fit_mean_all) {
  EXPECT_TRUE(set_addresses(table({}) + table(std::vector<std::string>(Filter::kMostAddresses + 1, kGroup))));
  EXPECT_TRUE(takes(kOtherGroup));
  EXPECT_FALSE(takes(kOther));
}

TEST_F(FilterTest, malformed_tables_change_nothing) {
  EXPECT_TRUE(set_addresses(table({kOther}) + table({})));
  for (const std::string& bad : {std::string(), table({}), table({}) + "\x01", table({}) + table({}) + "x",
                                 std::string("\xff\xff\xff\xff", 4) + table({}),
                                 table({kOther}) + std::string("\x02\0\0\0", 4) + kGroup})
    EXPECT_FALSE(set_addresses(bad));
  EXPECT_TRUE(takes(kOther));
}

TEST_F(FilterTest, vlans_when_the_driver_names_them) {
  filter.reset(true);
  const std::string tag("\x81\x00\x20\x05\x08\x06", 6);
  EXPECT_FALSE(filter.accepts(to(kUs, tag), kOwn));
  EXPECT_TRUE(filter.accepts(to(kUs), kOwn));
  EXPECT_TRUE(filter.set_vlan(5, true));
  EXPECT_TRUE(filter.accepts(to(kUs, tag), kOwn));
  EXPECT_TRUE(filter.set_vlan(5, false));
  EXPECT_FALSE(filter.accepts(to(kUs, tag), kOwn));
  EXPECT_FALSE(filter.set_vlan(4096, true));
}

TEST_F(FilterTest, state) {
  set_addresses(table({kOther}) + table({kGroup}));
  filter.set_vlan(4095, true);
  state::Saver saver;
  saver.section("filter", 1);
  filter.state(saver);
  const auto bytes = saver.take();
  Filter other;
  state::Loader loader(bytes);
  loader.section("filter", 1);
  other.state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_TRUE(other.accepts(to(kOther), kOwn));
  EXPECT_TRUE(other.accepts(to(kGroup), kOwn));
  EXPECT_FALSE(other.accepts(to(kOtherGroup), kOwn));
}

}  // namespace
}  // namespace ostler::virtio::net
