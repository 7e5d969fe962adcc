#include "fs9p/request.h"

#include <gtest/gtest.h>

#include "unit/fs9p/client.h"

namespace ostler::fs9p {
namespace {

using test::Bytes;
using test::message;

TEST(Request, fields_are_read_in_the_order_of_the_message) {
  const Bytes bytes = message(Type::kLcreate, 7, 1u, "name", 0102u, 0644u, 1000u);
  const auto parsed = parse_request(bytes);
  ASSERT_TRUE(parsed.has_value());
  const auto& create = std::get<Create>(*parsed);
  EXPECT_EQ(create.fid, 1u);
  EXPECT_EQ(create.name, "name");
  EXPECT_EQ(create.flags, 0102u);
  EXPECT_EQ(create.mode, 0644u);
  EXPECT_EQ(create.gid, 1000u);
  EXPECT_EQ(parse_header(bytes).tag, 7);
}

TEST(Request, data_of_a_write_is_what_follows_its_count) {
  const Bytes bytes = message(Type::kWrite, 1, 5u, uint64_t{1} << 40, 3u, Bytes(3, std::byte{9}));
  const auto parsed = parse_request(bytes);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(std::get<Write>(*parsed).offset, uint64_t{1} << 40);
  EXPECT_EQ(std::get<Write>(*parsed).data.size(), 3u);
}

TEST(Request, every_cut_of_a_message_is_malformed) {
  const Bytes whole = message(Type::kWalk, 1, 0u, 1u, uint16_t{2}, "a", "bc");
  ASSERT_TRUE(parse_request(whole).has_value());
  for (size_t size = 0; size < whole.size(); ++size) {
    Bytes cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_FALSE(parse_request(cut).has_value()) << size;
    if (size < kHeaderBytes) continue;
    store_le(cut.data(), static_cast<uint32_t>(size));  // its size is right, what it holds is not
    EXPECT_FALSE(parse_request(cut).has_value()) << size;
  }
}

TEST(Request, bytes_that_are_left_over_are_malformed) {
  EXPECT_FALSE(parse_request(message(Type::kClunk, 1, 0u, uint8_t{0})).has_value());
}

TEST(Request, a_walk_has_at_most_16_names) {
  const auto walk = [](uint16_t count) {
    Bytes names;
    for (int i = 0; i < count; ++i) test::put(names, "d");
    return parse_request(message(Type::kWalk, 1, 0u, 1u, count, names)).has_value();
  };
  EXPECT_TRUE(walk(16));
  EXPECT_FALSE(walk(17));
}

TEST(Request, a_number_that_the_protocol_lacks_is_unknown_and_not_malformed) {
  const auto parsed = parse_request(message(Type{50 + 200}, 1, 0u));
  ASSERT_TRUE(parsed.has_value());
  EXPECT_TRUE(std::holds_alternative<Unknown>(*parsed));
}

}  // namespace
}  // namespace ostler::fs9p
