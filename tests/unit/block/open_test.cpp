// From names and options to nodes; errors as sentences.
#include <nlohmann/json.hpp>

#include "block_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;
using test::BlockTest;

TEST_F(BlockTest, names_by_path_json_and_dotted_options) {
  const std::string file = make_file("disk", std::string(1024, 'a'));
  const std::vector<NodePtr> nodes = {
      open(file, "", false), open(file, "raw", false),
      open("json:{\"driver\":\"file\",\"filename\":\"" + file + "\"}", "", false),
      open_options({{"driver", "raw"}, {"file.driver", "file"}, {"file.filename", file}}, false),
      open_options({{"file", {{"filename", file}}}}, false)};
  for (const NodePtr& node : nodes) {
    ASSERT_NE(node, nullptr);
    EXPECT_EQ(node->size(), 1024u);
    EXPECT_EQ(node->filename(), file);
    EXPECT_EQ(read(*node, 0, 4), "aaaa");
  }
  EXPECT_EQ(nodes[0]->driver(), "raw");
  EXPECT_EQ(nodes[2]->driver(), "file");
}

TEST_F(BlockTest, nodes_are_referred_to_by_name) {
  const NodePtr below = open_options({{"driver", "null-co"}, {"node-name", "zeros"}, {"size", "1M"}});
  const NodePtr above =
      open_options({{"driver", "raw"}, {"file", "zeros"}, {"offset", 4096}, {"size", "8k"}});
  ASSERT_NE(above, nullptr);
  EXPECT_EQ(above->size(), 8192u);
  EXPECT_EQ(above->file(), below);
}

TEST_F(BlockTest, open_errors_name_what_is_wrong) {
  const std::string file = make_file("disk", std::string(1024, 'a'));
  EXPECT_NE(open_error(file, "qcow9").find("'qcow9'"), std::string::npos);
  EXPECT_NE(open_error(path("none"), "").find("no such disk image"), std::string::npos);
  EXPECT_NE(open_error("json:{", "").find("JSON"), std::string::npos);
  EXPECT_NE(open_error("json:{\"driver\":\"raw\"}", "").find("'file' is missing"), std::string::npos);
  EXPECT_NE(open_error("json:{\"driver\":\"file\",\"filename\":\"" + file + "\",\"fielname\":1}", "")
                .find("fielname"),
            std::string::npos);
  EXPECT_NE(open_error("json:{\"driver\":5}", "").find("driver"), std::string::npos);
  EXPECT_NE(open_error("json:{\"driver\":\"raw\",\"file\":\"nobody\"}", "").find("'nobody'"),
            std::string::npos);
}

TEST_F(BlockTest, name_in_json_and_a_format_beside_it_must_agree) {
  const std::string file = make_file("disk", std::string(1024, 'a'));
  const std::string protocol = "{\"driver\":\"file\",\"filename\":\"" + file + "\"}";
  const std::string raw = "json:{\"driver\":\"raw\",\"file\":" + protocol + "}";
  // Of a qcow2 image's head, whose format the name leaves to the caller.
  const std::string other = make_file("other", std::string("QFI\xfb\0\0\0\x03", 8) + std::string(1016, 'a'));
  for (const std::string& name : {raw, "json:" + protocol, "json:{\"file\":" + protocol + "}",
                                  "json:{\"driver\":\"raw\",\"file.filename\":\"" + file + "\"}",
                                  "json:{\"file.filename\":\"" + other + "\"}"}) {
    const NodePtr node = open(name, "raw", false);
    ASSERT_NE(node, nullptr) << name;
    EXPECT_EQ(node->driver(), "raw") << name;
  }
  for (const std::string& name : {raw, "json:{\"driver\":\"raw\",\"filename\":\"" + file + "\"}",
                                  "json:{\"driver\":\"raw\",\"file.filename\":\"" + file + "\"}"})
    EXPECT_EQ(open_error(name, "qcow2"), name +
                                             ": this name's driver is 'raw', and the format given beside it "
                                             "'qcow2'; leave one of them out");
  EXPECT_NE(open_error("json:{\"driver\":\"rwa\"}", "qcow2").find("'raw'"), std::string::npos);
}

// A guest that writes another format's head would have that format's backing file opened at the next start.
// Two writers that do not know of each other overwrite each other's tables.
TEST_F(BlockTest, what_is_shared_by_force_is_not_written) {
  const std::string file = make_file("disk", std::string(1024, 'a'));
  const json options = {
      {"driver", "raw"}, {"force-share", true}, {"file", {{"driver", "file"}, {"filename", file}}}};
  OpenFlags flags;
  flags.writable = true;
  const auto refused = context.run_until(opener.open(options, flags));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find(file + ": force-share=on"), std::string::npos)
      << refused.error().message();
  EXPECT_NE(open_options(options, false), nullptr);
  json read_only = options;
  read_only["read-only"] = true;
  EXPECT_NE(open_options(read_only), nullptr);
  flags.force_share = true;
  EXPECT_FALSE(context.run_until(opener.open(file, "raw", flags)));
}

TEST_F(BlockTest, a_guessed_raw_disk_stays_raw) {
  const std::string file = make_file("disk.dmg", std::string(256 << 10, 'a'));
  const std::string head("QFI\xfb\0\0\0\3", 8);
  const NodePtr node = open(file, "", true);
  ASSERT_EQ(node->driver(), "raw");
  EXPECT_EQ(write(*node, 0, head), -EPERM);
  EXPECT_EQ(write(*node, 2, head.substr(2)), 0) << "half of it is nothing";
  EXPECT_EQ(write(*node, 0, head.substr(0, 2)), -EPERM) << "the other half";
  EXPECT_EQ(read(*node, 0, 8), "aa" + head.substr(2));
  const iovec whole = {const_cast<char*>(head.data()), head.size()};
  EXPECT_EQ(node->try_write(0, Buffers(&whole, 1)), -EAGAIN) << "past the check";
  std::string trailer(512, '\0');
  trailer.replace(0, 12, std::string("koly\0\0\0\4\0\0\2\0", 12));
  EXPECT_EQ(write(*node, (256 << 10) - 512, trailer), -EPERM);
  EXPECT_EQ(write(*node, 4096, head), 0);
  EXPECT_EQ(write(*node, 0, std::string(65536, 'b')), 0);
  EXPECT_EQ(write(*node, (256 << 10) - 512, std::string(512, 'c')), 0);
  EXPECT_EQ(context.run_until(node->write_zeroes(0, 512, {})), 0);
  EXPECT_EQ(read(*node, 511, 2), std::string("\0b", 2));

  const NodePtr allowed = open(make_file("other", std::string(65536, 'a')), "raw", true);
  EXPECT_EQ(write(*allowed, 0, head), 0);
}

TEST_F(BlockTest, nested_options_that_contradict_are_refused) {
  EXPECT_FALSE(nest_options(json{{"file", "x"}, {"file.filename", "y"}}));
  EXPECT_FALSE(nest_options(json{{"a.b", 1}, {"a", {{"b", 2}}}}));
}

TEST_F(BlockTest, option_lists_are_parsed) {
  const auto list = parse_option_list("size=1G,file.name=a,,b,flag");
  ASSERT_TRUE(list);
  EXPECT_EQ(*list, (json{{"size", "1G"}, {"file", {{"name", "a,b"}}}, {"flag", "on"}}));
}

TEST_F(BlockTest, sizes) {
  EXPECT_EQ(*parse_size("512"), 512u);
  EXPECT_EQ(*parse_size("1.5K"), 1536u);
  EXPECT_EQ(*parse_size("2T"), uint64_t{2} << 40);
  for (const char* bad : {"", "k", "-1", "1x", "1.5", "99999999999999999999", "9E", "1.k2"})
    EXPECT_FALSE(parse_size(bad)) << bad;
}

TEST_F(BlockTest, raw_images_are_created) {
  for (const char* mode : {"off", "falloc", "full"}) {
    OpenFlags flags;
    const auto made = context.run_until(
        opener.create(path("new"), "raw", {{"size", "1M"}, {"preallocation", mode}}, flags));
    ASSERT_TRUE(made) << made.error().message();
    EXPECT_EQ(std::filesystem::file_size(path("new")), 1u << 20);
  }
  EXPECT_FALSE(context.run_until(opener.create(path("new"), "raw", {{"size", "1M"}, {"sice", 1}}, {})));
}

TEST_F(BlockTest, a_window_beyond_the_end_is_refused) {
  const std::string file = make_file("disk", std::string(1024, 'a'));
  const json window = {
      {"driver", "raw"}, {"file", {{"driver", "file"}, {"filename", file}}}, {"offset", 512}, {"size", 1024}};
  EXPECT_FALSE(context.run_until(opener.open(window, {})));
}

TEST_F(BlockTest, backing_names_are_relative_to_the_image) {
  EXPECT_EQ(backing_path("/images/top.qcow2", "base.raw"), "/images/base.raw");
  EXPECT_EQ(backing_path("top.qcow2", "base.raw"), "base.raw");
  EXPECT_EQ(backing_path("/images/top.qcow2", "/base.raw"), "/base.raw");
  EXPECT_EQ(backing_path("/images/top.qcow2", "nbd://host/x"), "nbd://host/x");
  EXPECT_EQ(backing_path("/images/top.qcow2", "json:{}"), "json:{}");
}

TEST_F(BlockTest, cache_modes) {
  OpenFlags flags;
  ASSERT_TRUE(set_cache_mode(flags, "directsync"));
  EXPECT_TRUE(flags.direct && flags.writethrough && !flags.no_flush);
  EXPECT_FALSE(set_cache_mode(flags, "fast"));
}

}  // namespace
}  // namespace ostler::block
