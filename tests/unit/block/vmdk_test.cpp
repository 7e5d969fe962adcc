// VMware images: every kind of extent, parents, stream-optimized ones.
#include <nlohmann/json.hpp>

#include "power_cut.h"

namespace ostler::block {
namespace {

using nlohmann::json;

class VmdkTest : public test::PowerCutTest {
 protected:
  // The sparse image's directory and its first table.
  uint64_t table_offset(const std::string& file) {
    const std::string bytes = content_of(file);
    const auto directory = load_le<uint64_t>(bytes.data() + 56);
    return load_le<uint32_t>(bytes.data() + directory * 512) * uint64_t{512};
  }
  template <class T>
  static T load_le(const void* from) {
    T value;
    memcpy(&value, from, sizeof value);
    return value;
  }
};

constexpr uint64_t kSize = (3 << 20) + 1536;
constexpr const char* kSubformats[] = {"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse",
                                       "twoGbMaxExtentFlat", "streamOptimized"};

TEST_F(VmdkTest, vmdk_written_at_random_agrees_with_a_model_and_with_qemu_img) {
  for (const char* subformat : kSubformats) {
    SCOPED_TRACE(subformat);
    const std::string file = path("disk.vmdk");
    create(file, "vmdk", {{"size", kSize}, {"subformat", subformat}});
    std::string model(kSize, '\0');
    NodePtr node = open(file, "", fast());
    ASSERT_NE(node, nullptr);
    ASSERT_EQ(node->driver(), "vmdk");
    EXPECT_EQ(node->format_specific_info()["data"]["create-type"], subformat);
    churn(*node, model, 1, 60);
    close(node);
    expect_success("qemu-img check -f vmdk " + file);
    expect_content(file, "vmdk", model);
    expect_ours(file, "vmdk", model);
    EXPECT_EQ(check(file, "vmdk").corruptions, 0u);
  }
}

TEST_F(VmdkTest, vmdk_of_qemu_img_reads_and_writes) {
  std::string content = random_content(3 << 20, 2);
  content.replace(1 << 20, 1 << 20, std::string(1 << 20, '\0'));
  const std::string raw = make_file("raw", content);
  std::vector<std::string> variants = {"hwversion=7,adapter_type=lsilogic", "compat6=on", "zeroed_grain=on"};
  for (const char* subformat : kSubformats) variants.push_back(std::string("subformat=") + subformat);
  for (const std::string& options : variants) {
    SCOPED_TRACE(options);
    const std::string file = path("disk.vmdk");
    expect_success("qemu-img convert -f raw -O vmdk -o " + options + " " + raw + " " + file);
    expect_ours(file, "", content);
    std::string model = content;
    NodePtr node = open(file, "vmdk", fast());
    churn(*node, model, 3, 40);
    close(node);
    expect_success("qemu-img check -f vmdk " + file);
    expect_content(file, "vmdk", model);
  }
}

TEST_F(VmdkTest, vmdk_split_in_several_extents_reads_and_writes_across_them) {
  const uint64_t size = (uint64_t{2} << 30) + (1 << 20), edge = uint64_t{2} << 30;
  for (const char* subformat : {"twoGbMaxExtentSparse", "twoGbMaxExtentFlat"}) {
    const std::string file = path("big.vmdk");
    create(file, "vmdk", {{"size", size}, {"subformat", subformat}});
    NodePtr node = open(file, "vmdk", fast());
    ASSERT_NE(node, nullptr);
    const std::string bytes = random_content(100000, 4).substr(0, 512 * 100);
    EXPECT_EQ(write(*node, edge - 512 * 50, bytes), 0);
    EXPECT_EQ(read(*node, edge - 512 * 50, bytes.size()) == bytes, true);
    EXPECT_EQ(node->format_specific_info()["data"]["extents"].size(), 2u);
    close(node);
    expect_success("qemu-img check -f vmdk " + file);
    const std::string raw = make_file("raw", "");
    std::filesystem::resize_file(raw, size);
    patch(raw, edge - 512 * 50, bytes);
    expect_success("qemu-img compare -f raw -F vmdk " + raw + " " + file);
  }
}

TEST_F(VmdkTest, vmdk_on_a_parent_copies_what_it_changes) {
  const std::string base = path("base.vmdk"), top = path("top.vmdk");
  std::string model = random_content(kSize, 5);
  create(base, "vmdk", {{"size", kSize}});
  NodePtr node = open(base, "vmdk", fast());
  EXPECT_EQ(write(*node, 0, model), 0);
  close(node);
  create(top, "vmdk", {{"size", kSize}, {"backing_file", "base.vmdk"}, {"zeroed_grain", "on"}});
  const std::string before = content_of(base);
  node = open(top, "vmdk", fast());
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(node->backing_file_name(), "base.vmdk");
  churn(*node, model, 6, 60);
  close(node);
  EXPECT_EQ(content_of(base) == before, true);
  expect_success("qemu-img check -f vmdk " + top);
  expect_content(top, "vmdk", model);
}

TEST_F(VmdkTest, vmdk_on_a_parent_of_qemu_img_is_read) {
  const std::string base = path("base.vmdk"), top = path("top.vmdk");
  const std::string model = random_content(1 << 20, 5);
  const std::string raw = make_file("raw", model);
  expect_success("qemu-img convert -O vmdk " + raw + " " + base);
  expect_success("qemu-img create -f vmdk -F vmdk -b " + base + " " + top);
  expect_ours(top, "vmdk", model);
}

TEST_F(VmdkTest, vmdk_parent_that_was_changed_is_refused) {
  const std::string base = path("base.vmdk"), top = path("top.vmdk");
  create(base, "vmdk", {{"size", kSize}});
  create(top, "vmdk", {{"backing_file", "base.vmdk"}});
  EXPECT_EQ(open_error(top, "vmdk"), "");
  NodePtr node = open(base, "vmdk", fast());
  EXPECT_EQ(write(*node, 0, std::string(512, 'x')), 0);
  close(node);
  expect_refused(top, "vmdk", {"base.vmdk", "changed", "CID"});
}

TEST_F(VmdkTest, vmdk_cid_changes_with_the_first_write_only) {
  const std::string file = path("disk.vmdk");
  create(file, "vmdk", {{"size", kSize}});
  NodePtr node = open(file, "vmdk", fast());
  const auto cid = [&] { return node->format_specific_info()["data"]["cid"].get<uint32_t>(); };
  const uint32_t before = cid();
  EXPECT_EQ(write(*node, 0, std::string(512, 'x')), 0);
  const uint32_t after = cid();
  EXPECT_NE(before, after);
  EXPECT_EQ(write(*node, 0, std::string(512, 'y')), 0);
  EXPECT_EQ(cid(), after);
  close(node);
  node = open(file, "vmdk", false);
  EXPECT_EQ(cid(), after);
  close(node);
}

TEST_F(VmdkTest, vmdk_zeroed_grains_hide_the_parent) {
  const std::string base = path("base.vmdk"), top = path("top.vmdk");
  create(base, "vmdk", {{"size", 1 << 20}});
  NodePtr node = open(base, "vmdk", fast());
  EXPECT_EQ(write(*node, 0, std::string(1 << 20, 'x')), 0);
  close(node);
  create(top, "vmdk", {{"backing_file", "base.vmdk"}, {"zeroed_grain", "on"}});
  const auto before = std::filesystem::file_size(top);
  node = open(top, "vmdk", fast());
  EXPECT_EQ(zero(*node, 65536, 131072, false), 0);
  BlockStatus status;
  EXPECT_EQ(context.run_until(node->block_status(65536, 1 << 19, StatusDetail::kQuick, status)), 0);
  EXPECT_TRUE(status.zero && status.allocated && !status.data);
  EXPECT_EQ(status.bytes, 131072u);
  close(node);
  EXPECT_EQ(std::filesystem::file_size(top), before);
  expect_content(
      top, "vmdk",
      std::string(65536, 'x') + std::string(131072, '\0') + std::string((1 << 20) - 65536 * 3, 'x'));
}

// As VMware writes a stream: the directory's place is known at the end only.
TEST_F(VmdkTest, vmdk_stream_with_a_footer_is_read_only) {
  const std::string file = path("disk.vmdk");
  const std::string model = random_content(1 << 20, 7);
  create(file, "vmdk", {{"size", 1 << 20}, {"subformat", "streamOptimized"}});
  NodePtr node = open(file, "vmdk", fast());
  EXPECT_EQ(write(*node, 0, model), 0);
  close(node);
  std::string bytes = content_of(file), footer = bytes.substr(0, 512);
  bytes.replace(56, 8, std::string(8, '\xff'));
  std::string marker(512, '\0');  // one sector of metadata follows, a footer
  marker[0] = 1;
  marker[12] = 3;
  std::ofstream(file, std::ios::binary) << bytes << marker << footer << std::string(512, '\0');
  expect_ours(file, "vmdk", model);
  expect_content(file, "vmdk", model);
  EXPECT_NE(open_error(file, "vmdk", true).find("can only be read"), std::string::npos);
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1024);
  expect_refused(file, "vmdk", {"footer"});
}

TEST_F(VmdkTest, vmdk_flat_extent_may_begin_within_its_file) {
  make_file("data", std::string(4096, 'a') + std::string(4096, 'b'));
  const std::string text =
      "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\n";
  const std::string file = make_file("disk.vmdk", text + "RW 4 FLAT \"data\" 8\nRW 4 FLAT \"data\" 0\n");
  expect_ours(file, "", std::string(2048, 'b') + std::string(2048, 'a'));
}

TEST_F(VmdkTest, vmdk_damaged_grains_are_errors) {
  const std::string file = path("disk.vmdk");
  create(file, "vmdk", {{"size", 1 << 20}});
  NodePtr node = open(file, "vmdk", fast());
  EXPECT_EQ(write(*node, 0, std::string(131072, 'x')), 0);
  close(node);
  const uint64_t table = table_offset(file);
  const std::string good = content_of(file);
  patch_le<uint32_t>(file, table, 0x7fffffff);  // beyond the file
  EXPECT_EQ(check(file, "vmdk").corruptions, 1u);
  node = open(file, "vmdk", fast());
  char byte;
  EXPECT_EQ(context.run_until(read_bytes(*node, 0, &byte, 1)), -EIO);
  EXPECT_EQ(read(*node, 65536, 512), std::string(512, 'x'));
  close(node);
  std::ofstream(file, std::ios::binary) << good;
  patch(file, table, good.substr(table + 4, 4));  // two grains in one place
  EXPECT_EQ(check(file, "vmdk").corruptions, 1u);
}

TEST_F(VmdkTest, vmdk_damaged_packed_grains_are_errors) {
  const std::string file = path("disk.vmdk");
  create(file, "vmdk", {{"size", 1 << 20}, {"subformat", "streamOptimized"}});
  NodePtr node = open(file, "vmdk", fast());
  EXPECT_EQ(write(*node, 0, std::string(65536, 'x')), 0);
  close(node);
  const std::string good = content_of(file);
  const uint64_t grain = load_le<uint32_t>(good.data() + table_offset(file)) * uint64_t{512};
  struct Case {
    uint64_t offset;
    uint32_t value;
  };
  for (const Case& each : {Case{0, 5}, Case{8, 0xffffffff}, Case{8, 2}, Case{14, 0x12345678}}) {
    std::ofstream(file, std::ios::binary) << good;
    patch_le(file, grain + each.offset, each.value);
    node = open(file, "vmdk", fast());
    char byte;
    EXPECT_EQ(context.run_until(read_bytes(*node, 0, &byte, 1)), -EIO) << each.offset;
    close(node);
  }
}

TEST_F(VmdkTest, vmdk_damaged_headers_are_refused) {
  struct Case {
    uint64_t offset;
    uint32_t value;
    std::string word;
  };
  const Case cases[] = {
      {0, 0, "begins neither"},    {0, 0x44574f43, "COWD"},
      {4, 9, "version 9"},         {73, 0x0a0a0a0a, "copied as text"},
      {77, 7, "compression is 7"}, {16, 0x7fffffff, "sectors"},
      {20, 100, "grains"},         {20, 1 << 20, "grains"},
      {44, 0, "entries"},          {44, 1 << 20, "entries"},
      {28, 1 << 30, "descriptor"}, {36, 1 << 20, "descriptor"},
      {28, 0, "one extent"},       {56, 0, "directory"},
      {56, 1 << 30, "directory"},  {48, 1 << 30, "redundant"},
      {12, 0, "no sectors"},
  };
  for (const Case& each : cases) {
    const std::string file = path("disk.vmdk");
    create(file, "vmdk", {{"size", 1 << 20}});
    patch_le(file, each.offset, each.value);
    expect_refused(file, "vmdk", {each.word});
  }
}

TEST_F(VmdkTest, vmdk_damaged_descriptors_are_refused) {
  make_file("data", std::string(4096, 'a'));
  const std::string head = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n";
  const std::string type = "createType=\"custom\"\n";
  struct Case {
    std::string text, word;
  };
  const Case cases[] = {
      {head + "RW 8 FLAT \"data\" 0\n", "createType"},
      {head + type, "names no extent"},
      {head + type + "RW x FLAT \"data\" 0\n", "cannot be understood"},
      {head + type + "RW 8 FLAT \"data 0\n", "cannot be understood"},
      {head + type + "RW 0 FLAT \"data\" 0\n", "impossible"},
      {head + type + "RW 99999999999999999 FLAT \"data\" 0\n", "impossible"},
      {head + type + "RW 9 FLAT \"data\" 0\n", "4096 bytes"},
      {head + type + "RW 8 FLAT \"data\" 1\n", "4096 bytes"},
      {head + type + "NOACCESS 8 FLAT \"data\" 0\n", "NOACCESS"},
      {head + type + "RW 8 VMFSSPARSE \"data\"\n", "VMFSSPARSE"},
      {head + type + "RW 8 FLAT \"\" 0\n", "no file name"},
      {head + type + "RW 8 FLAT \"json:{}\" 0\n", "not a file's name"},
      {head + type + "RW 8 FLAT \"none\" 0\n", "no such disk image"},
      {head + type + "RW 8 SPARSE \"data\"\n", "no header"},
      {head + type + "RW 8 FLAT \"disk.vmdk\" 0\n", "extent of itself"},
      {"version=1\nCID=zz\n" + type, "CID is 'zz'"},
      {"version=1\nparentCID=5\n" + type + "RW 8 FLAT \"data\" 0\n", "its name"},
  };
  for (const Case& each : cases) {
    const std::string file = make_file("disk.vmdk", each.text);
    expect_refused(file, "vmdk", {each.word});
  }
  std::string many = head + type;
  for (int i = 0; i < 1025; ++i) many += "RW 8 FLAT \"data\" 0\n";
  expect_refused(make_file("disk.vmdk", many), "vmdk", {"1024 extents"});
}

TEST_F(VmdkTest, vmdk_power_cuts_lose_nothing) {
  for (const char* subformat : {"monolithicSparse", "streamOptimized"}) {
    const std::string base = path("base.vmdk"), file = path(std::string(subformat) + ".vmdk");
    create(base, "vmdk", {{"size", 4 << 20}});
    NodePtr node = open(base, "vmdk", fast());
    EXPECT_EQ(write(*node, 0, std::string(2 << 20, 'x')), 0);
    close(node);
    create(file, "vmdk", {{"backing_file", "base.vmdk"}, {"subformat", subformat}});
    expect_power_cuts_lose_nothing(file, "vmdk", 1, "qemu-img check -f vmdk");
  }
}

TEST_F(VmdkTest, vmdk_creation_refuses_what_cannot_be) {
  create(path("raw"), "raw", {{"size", 1 << 20}});
  create(path("base.vmdk"), "vmdk", {{"size", 1 << 20}});
  struct Case {
    json options;
    std::string word;
  };
  const Case cases[] = {
      {{{"size", 512}, {"subformat", "odd"}}, "odd"},
      {{{"size", 0}}, "size"},
      {{{"size", 512}, {"adapter_type", "scsi"}}, "scsi"},
      {{{"size", 512}, {"compat6", "on"}, {"hwversion", "7"}}, "together"},
      {{{"size", 512}, {"hwversion", "7\"\nx"}}, "quotation"},
      {{{"backing_file", "base.vmdk"}, {"subformat", "monolithicFlat"}}, "flat"},
      {{{"backing_file", "raw"}}, "vmdk"},
      {{{"backing_file", "base.vmdk"}, {"backing_fmt", "raw"}}, "raw"},
  };
  for (const Case& each : cases) {
    const std::string error = create_error(path("new.vmdk"), "vmdk", each.options);
    EXPECT_NE(error.find(each.word), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace ostler::block
