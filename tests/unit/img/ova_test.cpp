#include "img/ova.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>

namespace ostler::img {
namespace {

using Header = std::array<std::byte, kTarBlock>;

void put(Header& header, size_t at, const std::string& text) {
  std::memcpy(header.data() + at, text.data(), text.size());
}
void set_checksum(Header& header) {
  put(header, 148, "        ");
  unsigned sum = 0;
  for (const std::byte b : header) sum += std::to_integer<unsigned>(b);
  put(header, 148, fmt::format("{:06o}", sum) + std::string(1, '\0'));
}
Header make(const std::string& name, const std::string& size_field, char type = '0') {
  Header header = {};
  put(header, 0, name);
  put(header, 124, size_field);
  header[156] = static_cast<std::byte>(type);
  put(header, 257, "ustar");
  set_checksum(header);
  return header;
}

TEST(Ova, AMemberLiesBehindItsHeaderAndTheNextAfterWholeBlocks) {
  const auto member = read_tar_header(make("disk.vmdk", "00000001751"), 1024, 1 << 20);
  ASSERT_TRUE(member);
  ASSERT_TRUE(*member);
  EXPECT_EQ((*member)->name, "disk.vmdk");
  EXPECT_EQ((*member)->offset, 1536u);
  EXPECT_EQ((*member)->bytes, 01751u);
  EXPECT_EQ((*member)->next, 1536u + 1024u);
}

TEST(Ova, ZerosAreTheEnd) {
  const auto member = read_tar_header(Header{}, 0, 1 << 20);
  ASSERT_TRUE(member);
  EXPECT_FALSE(*member);
}

TEST(Ova, LargeSizesAreBinary) {
  std::string size(12, '\0');
  size[0] = '\x80';
  size[6] = 4;  // 4 << 40
  const auto member = read_tar_header(make("disk.vmdk", size), 0, uint64_t{1} << 50);
  ASSERT_TRUE(member);
  EXPECT_EQ((*member)->bytes, uint64_t{4} << 40);
}

TEST(Ova, AWrongChecksumIsNoHeader) {
  Header header = make("disk.vmdk", "00000000001");
  header[5] = std::byte{'X'};
  const auto member = read_tar_header(header, 512, 1 << 20);
  ASSERT_FALSE(member);
  EXPECT_NE(member.error().message().find("offset 512"), std::string::npos);
}

TEST(Ova, AMemberBeyondTheEndIsRefused) {
  EXPECT_FALSE(read_tar_header(make("disk.vmdk", "00000001001"), 0, 1024));
  EXPECT_TRUE(read_tar_header(make("disk.vmdk", "00000001000"), 0, 1024));
  EXPECT_FALSE(read_tar_header(make("disk.vmdk", std::string(12, '\xff')), 0, 1 << 20));
  EXPECT_FALSE(read_tar_header(make("disk.vmdk", "0000000000x"), 0, 1 << 20));
}

TEST(Ova, FoldersAndLinksHaveNoName) {
  EXPECT_EQ((**read_tar_header(make("disk.vmdk", "00000000000", '5'), 0, 1 << 20)).name, "");
}

}  // namespace
}  // namespace ostler::img
