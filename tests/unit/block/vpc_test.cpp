// VHD images.
#include <nlohmann/json.hpp>

#include "block/formats/vpc/vhd_footer.h"
#include "power_cut.h"

namespace ostler::block {
namespace {

using nlohmann::json;

class VpcTest : public test::PowerCutTest {
 protected:
  // Changes bytes of a footer or header and makes its checksum right.
  void patch_be(const std::string& file, uint64_t begin, size_t bytes, size_t checksum_at, uint64_t offset,
                const std::string& value) {
    std::string part = part_of(file, begin, bytes);
    part.replace(offset, value.size(), value);
    part.replace(checksum_at, 4, std::string(4, '\0'));
    uint32_t sum = 0;
    for (const char byte : part) sum += static_cast<uint8_t>(byte);
    sum = ~sum;
    for (int i = 0; i < 4; ++i) part[checksum_at + i] = static_cast<char>(sum >> (24 - 8 * i));
    patch(file, begin, part);
  }
};

TEST_F(VpcTest, vpc_written_at_random_agrees_with_a_model_and_with_qemu_img) {
  for (const char* subformat : {"dynamic", "fixed"}) {
    SCOPED_TRACE(subformat);
    const std::string file = path("disk.vhd");
    create(file, "vpc", {{"size", (6 << 20) + 512}, {"subformat", subformat}, {"force_size", "on"}});
    NodePtr node = open(file, "", fast());
    ASSERT_NE(node, nullptr);
    ASSERT_EQ(node->driver(), "vpc");
    ASSERT_EQ(node->size(), (6u << 20) + 512);
    std::string model(node->size(), '\0');
    churn(*node, model, 1, 60);
    close(node);
    expect_content(file, "vpc", model);
    expect_ours(file, "vpc", model);
    EXPECT_EQ(check(file, "vpc").corruptions, 0u);
    EXPECT_EQ(content_of(file).substr(std::filesystem::file_size(file) - 512, 8), "conectix");
  }
}

TEST_F(VpcTest, vpc_of_qemu_img_reads_and_writes) {
  std::string content = random_content(5 << 20, 2);
  content.replace(1 << 20, 3 << 20, std::string(3 << 20, '\0'));
  const std::string raw = make_file("raw", content);
  for (const std::string options : {"subformat=dynamic", "subformat=fixed", "force_size=on"}) {
    SCOPED_TRACE(options);
    const std::string file = path("disk.vhd");
    expect_success("qemu-img convert -f raw -O vpc -o " + options + " " + raw + " " + file);
    NodePtr node = open(file, "vpc", fast());
    std::string model = content;
    model.resize(node->size());  // rounded up to a geometry
    EXPECT_EQ(read(*node, 0, model.size()) == model, true);
    churn(*node, model, 3, 40);
    close(node);
    expect_content(file, "vpc", model);
  }
}

TEST_F(VpcTest, vpc_sizes_are_those_of_qemu_img) {
  for (const uint64_t size : {uint64_t{512}, uint64_t{1} << 20, uint64_t{10} << 20, uint64_t{700} << 20,
                              (uint64_t{33} << 30) + 512, uint64_t{127} << 30, uint64_t{200} << 30}) {
    const std::string ours = path("ours.vhd"), theirs = path("theirs.vhd");
    create(ours, "vpc", {{"size", size}});
    expect_success("qemu-img create -f vpc " + theirs + " " + std::to_string(size));
    NodePtr one = open(ours, "vpc", false), other = open(theirs, "vpc", false);
    EXPECT_EQ(one->size(), other->size()) << size;
    EXPECT_GE(one->size(), size);
    const json info = json::parse(run("qemu-img info --output=json " + ours).output);
    EXPECT_EQ(info["virtual-size"], one->size());
    close(one);
    close(other);
  }
}

TEST_F(VpcTest, vpc_is_opened_by_the_footer_at_the_end_when_the_copy_is_damaged) {
  const std::string file = path("disk.vhd");
  create(file, "vpc", {{"size", 4 << 20}});
  patch(file, 0, std::string(512, '\0'));
  EXPECT_EQ(open_error(file, "vpc"), "");
  patch(file, std::filesystem::file_size(file) - 512, std::string(512, '\0'));
  expect_refused(file, "vpc", {"footer", "checksum"});
}

TEST_F(VpcTest, vpc_fixed_disks_are_recognised_by_footer_and_name) {
  create(path("a.vhd"), "vpc", {{"size", 4 << 20}, {"subformat", "fixed"}});
  std::filesystem::copy_file(path("a.vhd"), path("a.img"));
  NodePtr node = open(path("a.vhd"), "", false);
  EXPECT_EQ(node->driver(), "vpc");
  node = open(path("a.img"), "", false);
  EXPECT_EQ(node->driver(), "raw");
}

TEST_F(VpcTest, vpc_space_that_a_table_entry_points_to_is_not_given_away) {
  const std::string file = path("disk.vhd");
  create(file, "vpc", {{"size", 8 << 20}});
  NodePtr node = open(file, "vpc", fast());
  EXPECT_EQ(write(*node, 0, std::string(512, 'a')), 0);
  close(node);
  std::filesystem::resize_file(file, 2048 + 512 + 100000);  // the block's end and the footer are lost
  node = open(file, "vpc", fast());
  EXPECT_EQ(write(*node, 4 << 20, std::string(2 << 20, 'b')), 0);
  EXPECT_EQ(read(*node, 0, 512), std::string(512, 'a'));
  EXPECT_EQ(read(*node, 1 << 20, 512), std::string(512, '\0'));
  close(node);
}

TEST_F(VpcTest, vpc_entry_beyond_the_file_is_an_error) {
  const std::string file = path("disk.vhd");
  create(file, "vpc", {{"size", 4 << 20}});
  patch_le<uint32_t>(file, 1536, 0xfeffffff);
  NodePtr node = open(file, "vpc", fast());
  char byte;
  EXPECT_EQ(context.run_until(read_bytes(*node, 0, &byte, 1)), -EIO);
  close(node);
}

TEST_F(VpcTest, vpc_damaged_footers_and_headers_are_refused) {
  struct Case {
    bool header;
    uint64_t offset;
    std::string value, word;
  };
  using namespace std::string_literals;
  const Case cases[] = {
      {false, 12, "\0\2\0\0"s, "version"},
      {false, 60, "\0\0\0\4"s, "differencing"},
      {false, 60, "\0\0\0\7"s, "type is 7"},
      {false, 16, "\0\0\0\1\0\0\0\0"s, "not within the file"},
      {false, 16, "\0\0\0\0\0\0\0\0"s, "header of the dynamic disk is missing"},
      {false, 56, "\x7f\xff\x10\xff"s, "does not fit"},
      {true, 24, "\0\3\0\0"s, "version"},
      {true, 16, "\0\0\0\1\0\0\0\0"s, "not within the file"},
      {true, 16, "\0\0\0\0\0\0\6\1"s, "not within the file"},
      {true, 28, "\x7f\0\0\0"s, "entries"},
      {true, 28, "\0\xff\xff\xff"s, "not within the file"},
      {true, 28, "\0\0\0\1"s, "does not fit"},
      {true, 32, "\0\0\3\0"s, "blocks have 768"},
      {true, 32, "\x40\0\0\0"s, "256 MiB"},
  };
  for (const Case& each : cases) {
    const std::string file = path("disk.vhd");
    create(file, "vpc", {{"size", 4 << 20}});
    if (each.header)
      patch_be(file, 512, 1024, 36, each.offset, each.value);
    else
      patch_be(file, 0, 512, 64, each.offset, each.value);
    expect_refused(file, "vpc", {each.word});
  }
  const std::string file = path("disk.vhd");
  create(file, "vpc", {{"size", 4 << 20}});
  patch(file, 512 + 100, "x");
  expect_refused(file, "vpc", {"checksum of the dynamic disk's header"});
  expect_refused(make_file("short", "conectix"), "vpc", {"shorter"});
  create(file, "vpc", {{"size", 4 << 20}, {"subformat", "fixed"}});
  const std::string bytes = content_of(file);
  make_file("disk.vhd", bytes.substr(1 << 20));
  expect_refused(file, "vpc", {"the file only"});
}

TEST_F(VpcTest, vpc_power_cuts_lose_nothing) {
  for (const unsigned seed : {1u, 2u, 3u}) {
    const std::string file = path("disk" + std::to_string(seed));
    create(file, "vpc", {{"size", 8 << 20}});
    expect_power_cuts_lose_nothing(file, "vpc", seed, "qemu-img info -f vpc");
  }
}

TEST_F(VpcTest, vpc_creation_refuses_what_cannot_be) {
  EXPECT_NE(create_error(path("x"), "vpc", {{"size", uint64_t{3} << 40}}).find("2040 GiB"),
            std::string::npos);
  EXPECT_NE(create_error(path("x"), "vpc", {{"size", 512}, {"subformat", "odd"}}).find("odd"),
            std::string::npos);
}

}  // namespace
}  // namespace ostler::block
