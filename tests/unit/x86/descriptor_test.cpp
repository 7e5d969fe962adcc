// Descriptor formats and the rules of who may load what (SDM 3A §3.4, §5).
#include "x86/descriptor.h"

#include <gtest/gtest.h>

namespace ostler::x86 {
namespace {

constexpr uint64_t kCode = 0x00cf9a000000ffff, kData = 0x00cf92000000ffff, kConforming = 0x00cf9e000000ffff;
constexpr uint64_t kCode3 = 0x00cffa000000ffff, kData3 = 0x00cff2000000ffff, kCode64 = 0x00af9a000000ffff;
constexpr uint64_t kPresent = uint64_t{1} << 47, kBig = uint64_t{1} << 54;

TEST(Descriptor, fields_are_put_together) {
  const Descriptor d{0x12'd5'9a'345678'abcd, 0};
  EXPECT_EQ(d.base(), 0x12345678u);
  EXPECT_EQ(d.limit(), 0x5abcd'fffu & 0xffffffff);
  EXPECT_EQ(d.attributes(), 0xd09au);
}

TEST(Descriptor, limit_without_granularity_is_in_bytes) {
  EXPECT_EQ((Descriptor{0x004f9a000000ffff, 0}).limit(), 0xfffffu);
}

TEST(Descriptor, sixteen_byte_form_has_a_64_bit_base) {
  EXPECT_EQ((Descriptor{0x0000890010000067, 0xffff8880}).base(), 0xffff888000001000u);
}

TEST(Gate, offsets_by_width) {
  const Gate gate{{0x89ab'ee07'0008'cdef, 0x01234567}};
  EXPECT_EQ(gate.offset16(), 0xcdefu);
  EXPECT_EQ(gate.offset32(), 0x89abcdefu);
  EXPECT_EQ(gate.offset64(), 0x0123456789abcdefu);
  EXPECT_EQ(gate.selector().value, 8);
  EXPECT_EQ(gate.ist(), 7u);
}

TEST(DataSegment, rules) {
  EXPECT_EQ(check_data_segment({0x10}, {kData, 0}, 0), Check::kOk);
  EXPECT_EQ(check_data_segment({0x10}, {kData, 0}, 3), Check::kGp);
  EXPECT_EQ(check_data_segment({0x13}, {kData, 0}, 0), Check::kGp);
  EXPECT_EQ(check_data_segment({0x13}, {kConforming, 0}, 3), Check::kOk);
  EXPECT_EQ(check_data_segment({0x10}, {kData & ~kPresent, 0}, 0), Check::kNp);
}

TEST(StackSegment, not_present_is_ss_and_from_a_tss_the_rest_is_ts) {
  EXPECT_EQ(check_stack_segment({0x10}, {kData, 0}, 0), Check::kOk);
  EXPECT_EQ(check_stack_segment({0x10}, {kCode, 0}, 0), Check::kGp);
  EXPECT_EQ(check_stack_segment({0x10}, {kData & ~kPresent, 0}, 0), Check::kSs);
  EXPECT_EQ(check_stack_segment({0x10}, {kData3, 0}, 0, Check::kTs), Check::kTs);
}

TEST(DirectCode, conforming_needs_dpl_at_most_cpl_others_equality) {
  EXPECT_EQ(check_direct_code({8}, {kCode, 0}, 0, false), Check::kOk);
  EXPECT_EQ(check_direct_code({8}, {kCode, 0}, 3, false), Check::kGp);
  EXPECT_EQ(check_direct_code({0xb}, {kConforming, 0}, 3, false), Check::kOk);
  EXPECT_EQ(check_direct_code({0x1b}, {kCode3, 0}, 0, false), Check::kGp);
}

TEST(DirectCode, long_and_big_exclude_each_other_in_long_mode) {
  EXPECT_EQ(check_direct_code({8}, {kCode64 | kBig, 0}, 0, true), Check::kGp);
  EXPECT_EQ(check_direct_code({8}, {kCode64 | kBig, 0}, 0, false), Check::kOk);
}

TEST(GateCode, jump_keeps_the_ring_and_long_gates_lead_to_64_bit_code) {
  EXPECT_EQ(check_gate_code({kCode, 0}, 3, false, false), Check::kOk);
  EXPECT_EQ(check_gate_code({kCode, 0}, 3, true, false), Check::kGp);
  EXPECT_EQ(check_gate_code({kConforming, 0}, 3, true, false), Check::kOk);
  EXPECT_EQ(check_gate_code({kCode3, 0}, 0, false, false), Check::kGp);
  EXPECT_EQ(check_gate_code({kCode, 0}, 3, false, true), Check::kGp);
  EXPECT_EQ(check_gate_code({kCode64, 0}, 3, false, true), Check::kOk);
}

TEST(ReturnCode, never_inwards) {
  EXPECT_EQ(check_return_code({0x1b}, {kCode3, 0}, 0, false), Check::kOk);
  EXPECT_EQ(check_return_code({8}, {kCode, 0}, 3, false), Check::kGp);
  EXPECT_EQ(check_return_code({0x1b}, {kConforming, 0}, 0, false), Check::kOk);
  EXPECT_EQ(check_return_code({0x1b}, {kCode, 0}, 0, false), Check::kGp);
}

TEST(Limit, expand_down_allows_what_is_above) {
  const Segment down{0, 0xfff, 0x4097, 0};  // 32-bit
  EXPECT_FALSE(within_limit(down, 0xfff, 1));
  EXPECT_TRUE(within_limit(down, 0x1000, 4));
  EXPECT_TRUE(within_limit(down, 0xfffffffc, 4));
  EXPECT_FALSE(within_limit(down, 0xfffffffd, 4));
  const Segment small{0, 0xfff, 0x97, 0};  // 16-bit
  EXPECT_FALSE(within_limit(small, 0xffff, 2));
}

TEST(Limit, expand_up_includes_the_limit) {
  const Segment up{0, 0xff, 0x93, 0};
  EXPECT_TRUE(within_limit(up, 0xfe, 2));
  EXPECT_FALSE(within_limit(up, 0xff, 2));
}

TEST(Questions, lar_and_lsl_know_fewer_types_in_long_mode) {
  const Descriptor tss16{0x0000810000000067, 0}, gate32{0x0000ec0000080000, 0},
      interrupt{0x0000ee0000080000, 0};
  EXPECT_TRUE(lar_answers({0x10}, tss16, 0, false));
  EXPECT_FALSE(lar_answers({0x10}, tss16, 0, true));
  EXPECT_TRUE(lar_answers({0x10}, gate32, 0, true));
  EXPECT_FALSE(lsl_answers({0x10}, gate32, 0, true));
  EXPECT_FALSE(lar_answers({0x10}, interrupt, 0, false));
}

}  // namespace
}  // namespace ostler::x86
