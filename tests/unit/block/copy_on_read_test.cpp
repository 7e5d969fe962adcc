// The filter "copy-on-read" and its `bottom`.
#include <nlohmann/json.hpp>

#include "block_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;

constexpr size_t kPart = 65536;

// base has "aaa", middle ".b.", top ".."; '.' is nothing, and a letter is 64 KiB.
class CopyOnReadTest : public test::BlockTest {
 protected:
  void SetUp() override {
    make_file("base", std::string(3 * kPart, 'a'));
    make("middle", 3 * kPart);
    make("top", 3 * kPart);
    NodePtr node = open_options(alone("middle"));
    EXPECT_EQ(write(*node, kPart, std::string(kPart, 'b')), 0);
    close(node);
  }
  void make(const std::string& name, uint64_t size) {
    const json options = {{"size", size}};
    auto made = context.run_until(opener.create(path(name), "qcow2", options, OpenFlags()));
    EXPECT_TRUE(made) << (made ? "" : made.error().message());
  }
  json alone(const std::string& name) {
    return {{"driver", "qcow2"},
            {"node-name", name},
            {"backing", nullptr},
            {"file", {{"driver", "file"}, {"filename", path(name)}}}};
  }
  json filter(const json& bottom) {
    json base = {
        {"driver", "raw"}, {"node-name", "base"}, {"file", {{"driver", "file"}, {"filename", path("base")}}}};
    json middle = alone("middle"), top = alone("top");
    middle["backing"] = base;
    top["backing"] = middle;
    json result = {{"driver", "copy-on-read"}, {"file", top}};
    if (!bottom.is_null()) result["bottom"] = bottom;
    return result;
  }
  // What top has of its own when all of the filter was read.
  std::string copied(const json& bottom) {
    NodePtr node = open_options(filter(bottom));
    if (node == nullptr) return "?";
    EXPECT_EQ(letters(read(*node, 0, 3 * kPart)), "aba");
    close(node);
    return own_of_top();
  }
  std::string own_of_top() {
    NodePtr node = open_options(alone("top"));
    const std::string result = letters(read(*node, 0, 3 * kPart));
    close(node);
    return result;
  }
  static std::string letters(const std::string& content) {
    std::string result;
    for (size_t at = 0; at < content.size(); at += kPart) {
      EXPECT_EQ(content.substr(at, kPart), std::string(kPart, content[at]));
      result += content[at] == '\0' ? '.' : content[at];
    }
    return result;
  }
};

TEST_F(CopyOnReadTest, all_is_copied_without_a_bottom) {
  EXPECT_EQ(copied(nullptr), "aba");
}

TEST_F(CopyOnReadTest, what_lies_at_the_bottom_is_copied) {
  EXPECT_EQ(copied("base"), "aba");
}

TEST_F(CopyOnReadTest, what_lies_below_the_bottom_is_not) {
  EXPECT_EQ(copied("middle"), ".b.");
}

TEST_F(CopyOnReadTest, nothing_comes_from_above_the_image_itself) {
  EXPECT_EQ(copied("top"), "...");
}

TEST_F(CopyOnReadTest, an_end_of_the_middle_is_no_place_to_copy_from) {
  make("middle", 2 * kPart);
  NodePtr node = open_options(filter("base"));
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(letters(read(*node, 0, 3 * kPart)), "aa.");
  close(node);
  EXPECT_EQ(own_of_top(), "aa.");
}

TEST_F(CopyOnReadTest, a_bottom_that_left_the_chain_lets_nothing_be_copied) {
  NodePtr node = open_options(filter("base"));
  ASSERT_NE(node, nullptr);
  const NodePtr middle = node->filtered()->backing();
  ASSERT_TRUE(middle->set_backing(nullptr));
  EXPECT_EQ(letters(read(*node, 0, 3 * kPart)), ".b.");
  close(node);
  EXPECT_EQ(own_of_top(), "...");
}

TEST_F(CopyOnReadTest, the_bottom_is_named_among_the_options) {
  NodePtr node = open_options(filter("middle"));
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(node->options()["bottom"], "middle");
  close(node);
}

TEST_F(CopyOnReadTest, a_bottom_must_be_an_image_of_the_chain) {
  const NodePtr other = open_options({{"driver", "null-co"}, {"node-name", "other"}});
  for (const char* const bottom : {"other", "nobody"}) {
    OpenFlags flags;
    flags.writable = true;
    const auto node = context.run_until(opener.open(filter(bottom), flags));
    ASSERT_FALSE(node);
    EXPECT_NE(node.error().message().find(std::string("option 'bottom' is '") + bottom +
                                          "', which is neither the node-name of " + path("top")),
              std::string::npos)
        << node.error().message();
  }
}

}  // namespace
}  // namespace ostler::block
