// VHDX images: layout, log, power cuts.
#include <nlohmann/json.hpp>

#include "block/formats/vhdx/crc32c.h"
#include "power_cut.h"

namespace ostler::block {
namespace {

using namespace std::string_literals;

class VhdxTest : public test::PowerCutTest {
 protected:
  static constexpr uint64_t kMegabyte = 1 << 20;
  static constexpr uint64_t kTable = 2 << 20, kRegions = 192 << 10, kMetadata = 3 << 20;

  // Puts `value` at `offset` of a structure of `bytes` at `begin` and makes its checksum right.
  void patch_checked(const std::string& file, uint64_t begin, size_t bytes, uint64_t offset,
                     const std::string& value) {
    std::string part = part_of(file, begin, bytes);
    part.replace(offset, value.size(), value);
    part.replace(4, 4, std::string(4, '\0'));
    const uint32_t sum = crc32c(part.data(), part.size());
    part.replace(4, 4, std::string(reinterpret_cast<const char*>(&sum), 4));
    patch(file, begin, part);
  }
  template <class T>
  static std::string bytes_of(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static constexpr uint64_t kHeaders[2] = {64 << 10, 128 << 10};
  void patch_headers(const std::string& file, uint64_t offset, const std::string& value) {
    for (const uint64_t header : kHeaders) patch_checked(file, header, 4096, offset, value);
  }
  // An image of qemu-img's as if it had not been closed: entries in its log, what they say not yet in its
  // place.
  std::string make_unclosed() {
    const std::string file = path("unclosed.vhdx"), original = path("original.vhdx");
    if (!std::filesystem::exists(original)) {
      expect_success("qemu-img create -f vhdx -o block_size=1M " + original + " 8M");
      expect_success("qemu-io -f vhdx -c 'write -P 65 0 4k' -c 'write -P 66 3M 4k' " + original);
    }
    std::filesystem::copy_file(original, file, std::filesystem::copy_options::overwrite_existing);
    const std::string log = part_of(file, kMegabyte, 16384);
    EXPECT_EQ(log.substr(0x2000, 4), "loge");
    // The second entry is a log of its own; its table's sector is wiped.
    patch_headers(file, 48, log.substr(0x2000 + 32, 16));
    patch(file, kTable, std::string(4096, '\0'));
    return file;
  }
};

TEST_F(VhdxTest, vhdx_written_at_random_agrees_with_a_model_and_with_qemu_img) {
  for (const char* subformat : {"dynamic", "fixed"}) {
    for (const char* zero_state : {"on", "off"}) {
      const std::string file = path("disk.vhdx");
      create(file, "vhdx",
             {{"size", (5 << 20) + 512},
              {"subformat", subformat},
              {"block_size", "1M"},
              {"block_state_zero", zero_state}});
      std::string model((5 << 20) + 512, '\0');
      NodePtr node = open(file, "", fast());
      ASSERT_NE(node, nullptr);
      ASSERT_EQ(node->driver(), "vhdx");
      churn(*node, model, 1, 60);
      close(node);
      expect_success("qemu-img check -f vhdx " + file);
      expect_content(file, "vhdx", model);
      expect_ours(file, "vhdx", model);
      EXPECT_EQ(check(file, "vhdx").corruptions, 0u);
    }
  }
}

TEST_F(VhdxTest, vhdx_of_qemu_img_reads_and_writes) {
  std::string content = random_content(5 << 20, 2);
  content.replace(1 << 20, 2 << 20, std::string(2 << 20, '\0'));
  const std::string raw = make_file("raw", content);
  for (const std::string options : {"subformat=dynamic", "subformat=fixed", "block_size=1M,log_size=3M",
                                    "block_size=2M,block_state_zero=off"}) {
    SCOPED_TRACE(options);
    const std::string file = path("disk.vhdx");
    expect_success("qemu-img convert -f raw -O vhdx -o " + options + " " + raw + " " + file);
    expect_ours(file, "", content);
    std::string model = content;
    NodePtr node = open(file, "vhdx", fast());
    churn(*node, model, 3, 40);
    close(node);
    expect_success("qemu-img check -f vhdx " + file);
    expect_content(file, "vhdx", model);
  }
}

// Between the entries of two chunks there is one of a sector bitmap block.
TEST_F(VhdxTest, vhdx_blocks_behind_a_sector_bitmap_entry_are_found) {
  const uint64_t edge = uint64_t{4} << 30;  // 16 blocks of 256 MiB
  const std::string file = path("disk.vhdx");
  create(file, "vhdx", {{"size", edge + (1 << 20)}, {"block_size", "256M"}});
  NodePtr node = open(file, "vhdx", fast());
  EXPECT_EQ(write(*node, edge - 4096, std::string(8192, 'x')), 0);
  EXPECT_EQ(read(*node, edge - 4096, 8192), std::string(8192, 'x'));
  close(node);
  expect_success("qemu-img check -f vhdx " + file);
  expect_success("qemu-io -f vhdx -c 'read -P 0x78 " + std::to_string(edge - 4096) + " 8k' -c 'read -P 0 " +
                 std::to_string(edge + 4096) + " 8k' " + file + " | { ! grep -q fail; }");
}

TEST_F(VhdxTest, vhdx_blocks_are_as_large_as_those_of_qemu_img) {
  for (const std::string size : {"10M", "2G", "200G", "33T"}) {
    const std::string ours = path("ours.vhdx"), theirs = path("theirs.vhdx");
    create(ours, "vhdx", {{"size", size}});
    expect_success("qemu-img create -f vhdx " + theirs + " " + size);
    NodePtr one = open(ours, "vhdx", false), other = open(theirs, "vhdx", false);
    EXPECT_EQ(one->limits().cluster_bytes, other->limits().cluster_bytes);
    EXPECT_EQ(one->size(), other->size());
    close(one);
    close(other);
    expect_success("qemu-img check -f vhdx " + ours);
  }
}

TEST_F(VhdxTest, vhdx_log_is_replayed) {
  const std::string file = make_unclosed();
  expect_refused(file, "vhdx", {"log", "ostler-img check -r all"});
  NodePtr node = open(file, "vhdx", fast());
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(read(*node, 0, 4096), std::string(4096, 'A'));
  EXPECT_EQ(read(*node, 3 << 20, 4096), std::string(4096, 'B'));
  close(node);
  EXPECT_EQ(open_error(file, "vhdx"), "");
  expect_success("qemu-img check -f vhdx " + file);
}

TEST_F(VhdxTest, vhdx_log_entry_that_is_torn_is_not_replayed) {
  const std::string file = make_unclosed();
  patch(file, kMegabyte + 0x3000 + 100, "x");
  OpenFlags flags = fast();
  const auto opened = context.run_until(opener.open(file, "vhdx", flags));
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message().find("no complete entry"), std::string::npos)
      << opened.error().message();
}

TEST_F(VhdxTest, vhdx_damaged_log_entries_are_refused) {
  const uint64_t entry = kMegabyte + 0x2000;
  struct Case {
    uint64_t offset;
    std::string value, word;
  };
  const Case cases[] = {
      {8, bytes_of<uint32_t>(100), "no complete entry"},
      {8, bytes_of<uint32_t>(2 << 20), "no complete entry"},
      {12, bytes_of<uint32_t>(0x1000), "no complete entry"},
      {24, bytes_of<uint32_t>(0xffffffff), "no complete entry"},
      {24, bytes_of<uint32_t>(2), "no complete entry"},
      {64, "xxxx", "no complete entry"},
      {64 + 24, bytes_of<uint64_t>(77), "no complete entry"},
      {4096, "xxxx", "no complete entry"},
      {48, bytes_of<uint64_t>(uint64_t{1} << 40), "were there when"},
      {56, bytes_of<uint64_t>(uint64_t{1} << 60), "wants the file"},
      {64 + 16, bytes_of<uint64_t>(1), "writes to offset"},
      {64 + 16, bytes_of<uint64_t>(uint64_t{1} << 60), "writes to offset"},
  };
  for (const Case& each : cases) {
    const std::string file = make_unclosed();
    patch_checked(file, entry, 8192, each.offset, each.value);
    const auto opened = context.run_until(opener.open(file, "vhdx", fast()));
    ASSERT_FALSE(opened) << each.word;
    EXPECT_NE(opened.error().message().find(each.word), std::string::npos) << opened.error().message();
  }
}

// Each sector begins an entry as long as the log: looking at all of them would take the square of it.
TEST_F(VhdxTest, vhdx_log_of_overlapping_entries_is_given_up) {
  const std::string file = path("disk.vhdx");
  create(file, "vhdx", {{"size", 1 << 20}});
  const std::string id(16, 'i');
  patch_headers(file, 48, id);
  std::string head(64, '\0');
  head.replace(0, 4, "loge");
  head.replace(8, 4, bytes_of<uint32_t>(1 << 20));
  head.replace(16, 8, bytes_of<uint64_t>(1));
  head.replace(32, 16, id);
  for (uint64_t at = 0; at < kMegabyte; at += 4096) patch(file, kMegabyte + at, head);
  const auto opened = context.run_until(opener.open(file, "vhdx", fast()));
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message().find("overlap"), std::string::npos) << opened.error().message();
}

TEST_F(VhdxTest, vhdx_uses_the_newest_valid_header) {
  const std::string file = path("disk.vhdx");
  create(file, "vhdx", {{"size", 4 << 20}});
  for (const uint64_t header : kHeaders) {
    const std::string good = part_of(file, header, 4096);
    patch(file, header + 100, "torn");
    EXPECT_EQ(open_error(file, "vhdx"), "");
    patch(file, header, good);
  }
  const std::string before = content_of(file);
  NodePtr node = open(file, "vhdx", fast());
  EXPECT_EQ(write(*node, 0, std::string(512, 'x')), 0);
  close(node);
  // One of the two was written, with the next number.
  const std::string after = content_of(file);
  unsigned changed = 0;
  for (const uint64_t header : kHeaders)
    if (before.substr(header, 4096) != after.substr(header, 4096)) ++changed;
  EXPECT_EQ(changed, 1u);
  for (const uint64_t header : kHeaders) patch(file, header + 100, "torn");
  expect_refused(file, "vhdx", {"neither of its headers"});
}

TEST_F(VhdxTest, vhdx_second_region_table_stands_in_for_the_first) {
  const std::string file = path("disk.vhdx");
  create(file, "vhdx", {{"size", 4 << 20}});
  patch(file, kRegions + 100, "torn");
  EXPECT_EQ(open_error(file, "vhdx"), "");
  patch(file, kRegions + 65536 + 100, "torn");
  expect_refused(file, "vhdx", {"neither of its region tables"});
}

TEST_F(VhdxTest, vhdx_power_cuts_lose_nothing) {
  for (const unsigned seed : {1u, 2u}) {
    const std::string file = path("disk" + std::to_string(seed));
    create(file, "vhdx", {{"size", 4 << 20}, {"block_size", "1M"}});
    expect_power_cuts_lose_nothing(file, "vhdx", seed, "qemu-img check -f vhdx");
  }
}

TEST_F(VhdxTest, vhdx_damaged_table_entries_are_errors) {
  for (const uint64_t entry : {uint64_t{6}, (uint64_t{1} << 50) | 6, uint64_t{7}, uint64_t{4}}) {
    const std::string file = path("disk.vhdx");
    create(file, "vhdx", {{"size", 4 << 20}});
    patch_le(file, kTable, entry);
    NodePtr node = open(file, "vhdx", fast());
    char byte;
    EXPECT_EQ(context.run_until(read_bytes(*node, 0, &byte, 1)), -EIO) << entry;
    close(node);
  }
}

TEST_F(VhdxTest, vhdx_damaged_headers_are_refused) {
  struct Case {
    char where;  // h: headers, r: region table, m: metadata
    uint64_t offset;
    std::string value, word;
  };
  const Case cases[] = {
      {'h', 66, bytes_of<uint16_t>(2), "version"},
      {'h', 64, bytes_of<uint16_t>(1), "version"},
      {'h', 68, bytes_of<uint32_t>(4096), "its log"},
      {'h', 68, bytes_of<uint32_t>(3u << 30), "its log"},
      {'h', 72, bytes_of<uint64_t>(0), "its log"},
      {'h', 72, bytes_of<uint64_t>(uint64_t{1} << 50), "its log"},
      {'r', 8, bytes_of<uint32_t>(5000), "5000 entries"},
      {'r', 8, bytes_of<uint32_t>(1), "lacks"},
      {'r', 32, bytes_of<uint64_t>(12345), "not within"},
      {'r', 32, bytes_of<uint64_t>(uint64_t{1} << 50), "not within"},
      {'r', 32, bytes_of<uint64_t>(kMetadata), "overlap"},
      {'r', 40, bytes_of<uint32_t>(0), "not within"},
      {'r', 16, std::string(16, 'x'), "unknown region"},
      {'m', 0, "xxxx", "signature"},
      {'m', 10, bytes_of<uint16_t>(3000), "too many"},
      {'m', 10, bytes_of<uint16_t>(1), "lack the size"},
      {'m', 32, std::string(16, 'x'), "unknown metadata"},
      {'m', 48, bytes_of<uint32_t>(100), "not within its region"},
      {'m', 52, bytes_of<uint32_t>(1 << 21), "not within its region"},
      {'m', 52, bytes_of<uint32_t>(4), "has 4 bytes"},
      {'m', 65536, bytes_of<uint32_t>(12345), "blocks have 12345"},
      {'m', 65536, bytes_of<uint32_t>(512 << 20), "blocks have"},
      {'m', 65540, bytes_of<uint32_t>(2), "differencing"},
      {'m', 65544, bytes_of<uint64_t>(uint64_t{65} << 40), "its size"},
      {'m', 65544, bytes_of<uint64_t>(513), "its size"},
      {'m', 65544, bytes_of<uint64_t>(uint64_t{60} << 40), "table has"},
      {'m', 65568, bytes_of<uint32_t>(1000), "sectors have"},
  };
  for (const Case& each : cases) {
    const std::string file = path("disk.vhdx");
    create(file, "vhdx", {{"size", 4 << 20}});
    if (each.where == 'h') patch_headers(file, each.offset, each.value);
    if (each.where == 'r') patch_checked(file, kRegions, 65536, each.offset, each.value);
    if (each.where == 'm') patch(file, kMetadata + each.offset, each.value);
    expect_refused(file, "vhdx", {each.word});
  }
  expect_refused(make_file("x", std::string(1 << 20, 'x')), "vhdx", {"signature"});
}

TEST_F(VhdxTest, vhdx_creation_refuses_what_cannot_be) {
  EXPECT_NE(create_error(path("x"), "vhdx", {{"size", "65T"}}).find("64 TiB"), std::string::npos);
  EXPECT_NE(create_error(path("x"), "vhdx", {{"size", "1M"}, {"block_size", "3M"}}).find("power of two"),
            std::string::npos);
  EXPECT_NE(create_error(path("x"), "vhdx", {{"size", "1M"}, {"log_size", "2G"}}).find("1 GiB"),
            std::string::npos);
}

TEST(Crc32c, known_values) {
  EXPECT_EQ(crc32c("123456789", 9), 0xe3069283u);
  EXPECT_EQ(crc32c("6789", 4, crc32c("12345", 5)), 0xe3069283u);
}

}  // namespace
}  // namespace ostler::block
