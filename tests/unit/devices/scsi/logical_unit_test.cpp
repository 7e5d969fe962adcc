// What all logical units answer alike, and what a target answers without one.
#include "devices/scsi/disk.h"
#include "fixture.h"

namespace ostler::scsi::test {
namespace {

class LogicalUnitTest : public UnitTest {
 protected:
  void start() { plug(std::make_unique<Disk>(node, options)); }
};

TEST_F(LogicalUnitTest, inquiry) {
  options.vendor = "ACME";
  options.product = "Disk";
  options.version = "7";
  start();
  const std::string data = answer({0x12, 0, 0, 0, 255, 0});
  ASSERT_EQ(data.size(), 36u);
  EXPECT_EQ(data[0], 0);
  EXPECT_EQ(data[1], 0);
  EXPECT_EQ(data[2], 6);
  EXPECT_EQ(data[4], 31);
  EXPECT_EQ(data[7], 2);
  EXPECT_EQ(data.substr(8), "ACME    Disk            7   ");
}

TEST_F(LogicalUnitTest, inquiry_is_cut_to_what_was_asked) {
  start();
  EXPECT_EQ(answer({0x12, 0, 0, 0, 5, 0}).size(), 5u);
  EXPECT_EQ(answer({0x12, 0, 0, 0, 0, 0}).size(), 0u);
}

TEST_F(LogicalUnitTest, answer_without_room_is_an_overrun) {
  start();
  const auto asked = begin({0x12, 0, 0, 0, 36, 0}, {}, 20);
  EXPECT_TRUE(asked->overrun);
  EXPECT_EQ(asked->ends, 1);
}

TEST_F(LogicalUnitTest, page_without_its_bit_is_refused) {
  start();
  EXPECT_EQ(sense({0x12, 0, 0x80, 0, 255, 0}, {}, 255), sense::kInvalidField);
}

TEST_F(LogicalUnitTest, pages_of_product_data) {
  start();
  EXPECT_EQ(answer({0x12, 1, 0, 0, 255, 0}), std::string("\0\0\0\x05\x00\x83\xb0\xb1\xb2", 9));
  EXPECT_EQ(sense({0x12, 1, 0x80, 0, 255, 0}, {}, 255), sense::kInvalidField);
  EXPECT_EQ(sense({0x12, 1, 0xc0, 0, 255, 0}, {}, 255), sense::kInvalidField);
}

TEST_F(LogicalUnitTest, serial_number) {
  options.serial = "S123";
  start();
  EXPECT_EQ(answer({0x12, 1, 0, 0, 255, 0}), std::string("\0\0\0\x06\x00\x80\x83\xb0\xb1\xb2", 10));
  EXPECT_EQ(answer({0x12, 1, 0x80, 0, 255, 0}), std::string("\0\x80\0\x04S123", 8));
}

TEST_F(LogicalUnitTest, identification) {
  options.vendor = "ACME";
  options.drive = "d0";
  options.wwn = 0x5000c50015ea71ac;
  start();
  const std::string data = answer({0x12, 1, 0x83, 0, 255, 0});
  EXPECT_EQ(data.substr(4, 14), std::string("\x02\x01\0\x0a", 4) + "ACME    d0");
  EXPECT_EQ(number(data, 18, 4), 0x01030008u);
  EXPECT_EQ(number(data, 22, 8), options.wwn);
  EXPECT_EQ(number(data, 2, 2), data.size() - 4);
}

TEST_F(LogicalUnitTest, identification_prefers_what_the_user_says) {
  options.drive = "d0";
  options.serial = "S";
  start();
  EXPECT_EQ(answer({0x12, 1, 0x83, 0, 255, 0}).substr(16), "S");
  unit->connect(nullptr);
  options.device_id = "ID";
  start();
  EXPECT_EQ(answer({0x12, 1, 0x83, 0, 255, 0}).substr(16), "ID");
}

TEST_F(LogicalUnitTest, attention_is_told_once_and_not_to_inquiry) {
  unit = std::make_unique<Disk>(node, options);
  EXPECT_EQ(sense({0x12, 0, 0, 0, 36, 0}, {}, 36), sense::kNone);
  EXPECT_EQ(sense({0x00}), sense::kReset);
  EXPECT_EQ(sense({0x00}), sense::kNone);
  unit->reset();
  EXPECT_EQ(sense({0x00}), sense::kReset);
}

TEST_F(LogicalUnitTest, request_sense_takes_the_attention) {
  unit = std::make_unique<Disk>(node, options);
  const std::string data = answer({0x03, 0, 0, 0, 252, 0});
  ASSERT_EQ(data.size(), 18u);
  EXPECT_EQ(data[0], 0x70);
  EXPECT_EQ(data[2], 6);
  EXPECT_EQ(data[7], 10);
  EXPECT_EQ(data[12], 0x29);
  EXPECT_EQ(sense({0x00}), sense::kNone);
  EXPECT_EQ(answer({0x03, 1, 0, 0, 252, 0}), std::string("\x72\0\0\0\0\0\0\0", 8));
}

TEST_F(LogicalUnitTest, naca_is_refused) {
  start();
  EXPECT_EQ(sense({0x00, 0, 0, 0, 0, 4}), sense::kInvalidField);
  Cdb read = ten(0x28, 0, 1);
  read[9] = 4;
  EXPECT_EQ(sense(read, {}, 512), sense::kInvalidField);
  Cdb read16 = sixteen(0x88, 0, 1);
  read16[15] = 4;
  EXPECT_EQ(sense(read16, {}, 512), sense::kInvalidField);
}

TEST_F(LogicalUnitTest, unknown_command) {
  start();
  EXPECT_EQ(sense({0xff}), sense::kInvalidOpcode);
}

class NoUnit : public testing::Test {
 protected:
  std::shared_ptr<Asked> ask(const Cdb& cdb) {
    auto asked = std::make_shared<Asked>();
    std::copy(cdb.begin(), cdb.end(), asked->cdb.begin());
    asked->room.resize(64);
    asked->in = {{asked->room.data(), asked->room.size()}};
    asked->in_bytes = asked->room.size();
    execute_without_unit(asked);
    return asked;
  }
};

TEST_F(NoUnit, inquiry_tells_so) {
  const auto asked = ask({0x12, 0, 0, 0, 36, 0});
  EXPECT_EQ(asked->status, Status::kGood);
  EXPECT_EQ(asked->transferred, 36u);
  EXPECT_EQ(asked->room[0], 0x7f);
  EXPECT_EQ(ask({0x12, 1, 0x83, 0, 36, 0})->sense, sense::kInvalidField);
}

TEST_F(NoUnit, other_commands_fail) {
  EXPECT_EQ(ask({0x00})->sense, sense::kNoSuchUnit);
  const auto asked = ask({0x03, 0, 0, 0, 18, 0});
  EXPECT_EQ(asked->status, Status::kGood);
  EXPECT_EQ(asked->room[12], 0x25);
}

std::string luns(uint8_t select, uint32_t allowed, const std::vector<uint16_t>& all, Sense expected = {}) {
  auto asked = std::make_shared<Asked>();
  asked->cdb[0] = kReportLuns;
  asked->cdb[2] = select;
  for (size_t i = 0; i < 4; ++i) asked->cdb[6 + i] = static_cast<uint8_t>(allowed >> 8 * (3 - i));
  asked->room.resize(256);
  asked->in = {{asked->room.data(), asked->room.size()}};
  asked->in_bytes = asked->room.size();
  report_luns(asked, all);
  EXPECT_EQ(asked->sense, expected);
  return asked->room.substr(0, asked->transferred);
}

TEST(ReportLuns, of_both_formats) {
  EXPECT_EQ(luns(0, 256, {0, 5, 300}), std::string("\0\0\0\x18\0\0\0\0"
                                                   "\0\0\0\0\0\0\0\0"
                                                   "\0\x05\0\0\0\0\0\0"
                                                   "\x41\x2c\0\0\0\0\0\0",
                                                   32));
}

TEST(ReportLuns, well_known_ones) {
  EXPECT_EQ(luns(1, 256, {0}), std::string("\0\0\0\x08\0\0\0\0\xc1\x01\0\0\0\0\0\0", 16));
  EXPECT_EQ(luns(2, 256, {0}).size(), 24u);
}

TEST(ReportLuns, of_unknown_kind_or_little_room) {
  luns(3, 256, {0}, sense::kInvalidField);
  luns(0, 15, {0}, sense::kInvalidField);
  EXPECT_EQ(luns(0, 16, {0, 1}).size(), 16u);
}

}  // namespace
}  // namespace ostler::scsi::test
