// The options that a qcow2 node is opened with.
#include <sys/stat.h>

#include "qcow2_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;
using test::Qcow2Test;

class Qcow2Options : public Qcow2Test {
 protected:
  json options(const json& more) {
    json all = {{"driver", "qcow2"}, {"file", {{"driver", "file"}, {"filename", path("disk")}}}};
    all.update(more);
    return all;
  }
  struct Space {
    uint64_t image, host;  // bytes that are taken after a discard, of 1 MiB before
  };
  Space after_discard(const json& more) {
    create("disk", {{"size", 4 << 20}, {"preallocation", "falloc"}});
    NodePtr node = open_options(options(more));
    EXPECT_EQ(write(*node, 0, std::string(1 << 20, 'a')), 0);
    EXPECT_EQ(flush(*node), 0);
    const uint64_t before = file_bytes();
    EXPECT_EQ(discard(*node, 0, 1 << 20), 0);
    EXPECT_EQ(flush(*node), 0);
    BlockStatus status;
    EXPECT_EQ(context.run_until(node->block_status(0, 1 << 20, StatusDetail::kQuick, status)), 0);
    const bool kept = status.data && status.bytes == 1 << 20;
    close(node);
    expect_check_clean("disk");
    return {kept ? 1u << 20 : 0,
            (1 << 20) - std::min<uint64_t>(before - std::min(before, file_bytes()), 1 << 20)};
  }
  uint64_t file_bytes() {
    struct stat status;
    EXPECT_EQ(stat(path("disk").c_str(), &status), 0);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  }
};

TEST_F(Qcow2Options, discards_reach_the_image_and_its_file_as_the_user_wants) {
  Space space = after_discard({{"discard", "unmap"}});
  EXPECT_EQ(space.image, 0u);
  EXPECT_EQ(space.host, 0u);
  space = after_discard({{"discard", "unmap"}, {"pass-discard-request", false}});
  EXPECT_EQ(space.image, 0u);
  EXPECT_EQ(space.host, 1u << 20) << "free in the image, and kept in the file";
  space = after_discard({{"discard", "ignore"}, {"pass-discard-request", true}});
  EXPECT_EQ(space.image, 1u << 20);
  EXPECT_EQ(space.host, 1u << 20);
}

TEST_F(Qcow2Options, settings_of_other_implementations_must_make_sense) {
  create("disk", {{"size", 1 << 20}});
  OpenFlags flags;
  for (const json& good : {json{{"overlap-check", "all"}}, json{{"overlap-check", "none"}},
                           json{{"overlap-check", {{"template", "cached"}, {"inactive-l2", true}}}},
                           json{{"lazy-refcounts", true}, {"l2-cache-size", "1M"}}}) {
    NodePtr node = open_options(options(good), false);
    ASSERT_NE(node, nullptr) << good;
  }
  for (const auto& [bad, word] : {std::pair{json{{"overlap-check", "banana"}}, "banana"},
                                  std::pair{json{{"overlap-check", {{"main", true}}}}, "main"},
                                  std::pair{json{{"lazy-refcounts", "perhaps"}}, "lazy-refcounts"}}) {
    const auto refused = context.run_until(opener.open(options(bad), flags));
    ASSERT_FALSE(refused) << bad;
    EXPECT_NE(refused.error().message().find(word), std::string::npos) << refused.error().message();
  }
}

}  // namespace
}  // namespace ostler::block
