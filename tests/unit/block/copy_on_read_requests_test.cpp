// The filter "copy-on-read" while requests overlap, and when something fails.
#include <nlohmann/json.hpp>

#include "block/filters/throttle.h"
#include "filter_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;

constexpr size_t kCluster = 65536;
constexpr size_t kSize = 2 * kCluster + 512;

// "base" has the letter a; "top", an image on it, has nothing.
class CopyOnReadRequests : public test::FilterTest {
 protected:
  void SetUp() override {
    make_file("base", std::string(kSize, 'a'));
    const json options = {{"size", kSize}};
    ASSERT_TRUE(context.run_until(opener.create(path("top"), "qcow2", options, OpenFlags())));
  }
  json base() const { return {{"driver", "raw"}, {"file", file_options("base")}}; }
  json top(json backing) const {
    return {{"driver", "qcow2"},
            {"node-name", "top"},
            {"backing", std::move(backing)},
            {"file", file_options("top")}};
  }
  static json filter(json below) { return {{"driver", "copy-on-read"}, {"file", std::move(below)}}; }
  std::string own_of_top() {
    NodePtr node = open_options(top(nullptr));
    const std::string result = read(*node, 0, kSize);
    close(node);
    return result;
  }
  int read_error(Node& node, uint64_t offset, std::string& content) {
    return context.run_until(read_bytes(node, offset, content.data(), content.size()));
  }
  // A read that is copied slowly, and `other` beside it.
  void read_beside(NodePtr node, Task<int> other) {
    const auto group = ThrottleGroup::get("filter-test");
    group->book(false, 1);  // the copy's read of "base" waits
    std::string content(512, '?');
    EXPECT_EQ(context.run_until(
                  test::run_both(read_bytes(*node, 0, content.data(), content.size()), std::move(other))),
              0);
    EXPECT_EQ(content, std::string(512, 'a')) << "it began first";
  }
};

TEST_F(CopyOnReadRequests, writes_do_not_come_between_a_copys_read_and_its_write) {
  NodePtr node = open_options(filter(top(slow(base()))));
  ASSERT_NE(node, nullptr);
  const std::string other(kCluster, 'n');
  read_beside(node, write_bytes(*node, 0, other.data(), other.size()));
  EXPECT_EQ(read(*node, 0, kCluster), other);
  close(node);
}

TEST_F(CopyOnReadRequests, zeros_do_not_come_between_a_copys_read_and_its_write) {
  NodePtr node = open_options(filter(top(slow(base()))));
  ASSERT_NE(node, nullptr);
  read_beside(node, node->write_zeroes(0, kCluster, {}));
  EXPECT_EQ(read(*node, 0, kCluster), std::string(kCluster, '\0'));
  close(node);
}

TEST_F(CopyOnReadRequests, discards_do_not_come_between_a_copys_read_and_its_write) {
  NodePtr node = open_options(filter(top(slow(base()))));
  ASSERT_NE(node, nullptr);
  read_beside(node, node->discard(0, kCluster));
  EXPECT_EQ(read(*node, 0, kCluster), std::string(kCluster, '\0'));
  close(node);
}

TEST_F(CopyOnReadRequests, what_two_reads_want_is_copied_once) {
  NodePtr node = open_options(filter(with_faults(top(slow(base())))));
  ASSERT_NE(node, nullptr);
  std::string content(512, '?');
  read_beside(node, read_bytes(*node, 512, content.data(), content.size()));
  EXPECT_EQ(content, std::string(512, 'a'));
  EXPECT_EQ(faults()->count(kFaultWrite), 1u);
  close(node);
}

TEST_F(CopyOnReadRequests, whole_clusters_are_copied_up_to_the_end) {
  NodePtr node = open_options(filter(top(base())));
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(read(*node, 4096, 512), std::string(512, 'a'));
  EXPECT_EQ(read(*node, 2 * kCluster, 512), std::string(512, 'a'));
  close(node);
  EXPECT_EQ(own_of_top(), std::string(kCluster, 'a') + std::string(kCluster, '\0') +
                              std::string(kSize - 2 * kCluster, 'a'));
}

TEST_F(CopyOnReadRequests, a_full_disk_does_not_make_reads_fail) {
  NodePtr node = open_options(filter(with_faults(top(base()))));
  ASSERT_NE(node, nullptr);
  faults()->add({.kinds = kFaultWrite, .error = ENOSPC, .once = true});
  EXPECT_EQ(read(*node, 0, 512), std::string(512, 'a'));
  faults()->add({.kinds = kFaultWrite, .error = EIO, .once = true});
  std::string content(512, '?');
  EXPECT_EQ(read_error(*node, 0, content), -EIO);
  close(node);
}

TEST_F(CopyOnReadRequests, what_could_not_be_read_is_not_copied) {
  NodePtr node = open_options(filter(top(with_faults(base()))));
  ASSERT_NE(node, nullptr);
  faults()->add({.kinds = kFaultRead, .once = true});
  std::string content(512, '?');
  EXPECT_EQ(read_error(*node, 0, content), -EIO);
  EXPECT_EQ(read(*node, 0, kCluster), std::string(kCluster, 'a'));
  close(node);
}

TEST_F(CopyOnReadRequests, images_that_are_only_read_get_no_copies) {
  NodePtr node = open_options(filter(top(base())), false);
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(read(*node, 0, kSize), std::string(kSize, 'a'));
  close(node);
  EXPECT_EQ(own_of_top(), std::string(kSize, '\0'));
}

TEST_F(CopyOnReadRequests, who_wants_the_image_unchanged_is_asked) {
  NodePtr image = open_options(top(base()), false);
  ASSERT_NE(image, nullptr);
  {
    const auto user = Client::attach(image, "user", {.used = kPermissionRead, .shared = kPermissionRead});
    ASSERT_TRUE(user);
    EXPECT_FALSE(context.run_until(opener.open(filter("top"), OpenFlags())));
  }
  close(image);
}

TEST_F(CopyOnReadRequests, unknown_options_are_refused) {
  json options = filter(top(base()));
  options["botom"] = "top";
  EXPECT_NE(options_error(options).find("botom"), std::string::npos);
}

}  // namespace
}  // namespace ostler::block
