// qcow2: other refcount widths, and files that become shorter with their disk; qemu-img is the judge.
#include "block/filters/fault_node.h"
#include "qcow2_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;
using test::Qcow2Test;
using test::same;

class Qcow2AmendTest : public Qcow2Test {
 protected:
  static constexpr size_t kSize = 1 << 20;

  // An image with content, a snapshot if `snapshot`, and clusters changed after it.
  std::string make(const std::string& name, json options, bool snapshot) {
    options["size"] = kSize;
    create(name, options);
    NodePtr node = open(path(name), "qcow2");
    std::string model(kSize, '\0');
    for (size_t i = 0; i < kSize / 2; ++i) model[i] = static_cast<char>('a' + i / 512 % 23);
    EXPECT_EQ(write(*node, 0, model), 0);
    if (snapshot) {
      SnapshotInfo info;
      info.name = "s";
      EXPECT_TRUE(context.run_until(node->snapshots()->create(info)));
      EXPECT_EQ(write(*node, 65536, std::string(70000, 'z')), 0);
      model.replace(65536, 70000, std::string(70000, 'z'));
    }
    close(node);
    return model;
  }
  Result<void> amend(Node& node, json options) { return context.run_until(node.amend(std::move(options))); }
  uint64_t bytes_of(const std::string& name) const { return std::filesystem::file_size(path(name)); }
};

TEST_F(Qcow2AmendTest, refcounts_take_any_width) {
  for (const int from : {1, 16, 64})
    for (const int to : {1, 2, 8, 32, 64}) {
      for (const int cluster : {512, 65536}) {
        SCOPED_TRACE(std::to_string(from) + " to " + std::to_string(to) + " at " + std::to_string(cluster));
        const bool snapshot = from != 1 && to != 1;
        std::string model = make("disk", {{"refcount_bits", from}, {"cluster_size", cluster}}, snapshot);
        NodePtr node = open(path("disk"), "qcow2");
        const auto done = amend(*node, {{"refcount_bits", to}});
        ASSERT_TRUE(done) << done.error().message();
        EXPECT_EQ(node->format_specific_info()["data"]["refcount-bits"], to);
        // What is written next finds its place by the new refcounts.
        ASSERT_EQ(write(*node, 700000, std::string(50000, 'y')), 0);
        model.replace(700000, 50000, std::string(50000, 'y'));
        const CheckReport report = check(*node);
        EXPECT_EQ(report.corruptions + report.leaks + report.errors, 0u);
        close(node);
        expect_check_clean("disk");
        expect_content("disk", model);
      }
    }
}

TEST_F(Qcow2AmendTest, refcounts_too_high_for_the_width_are_told_and_nothing_changes) {
  const std::string model = make("disk", {{"cluster_size", 4096}}, true);
  const std::string before = content_of(path("disk"));
  NodePtr node = open(path("disk"), "qcow2");
  const auto done = amend(*node, {{"refcount_bits", 1}});
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().message().find("delete snapshots"), std::string::npos) << done.error().message();
  EXPECT_FALSE(amend(*node, {{"refcount_bits", 3}}));
  EXPECT_FALSE(amend(*node, {{"refcount_bits", 0}}));
  EXPECT_FALSE(amend(*node, {{"compat", "0.10"}, {"refcount_bits", 8}}));
  close(node);
  EXPECT_TRUE(same(content_of(path("disk")), before));
  make("old", {{"compat", "0.10"}}, false);
  node = open(path("old"), "qcow2");
  EXPECT_FALSE(amend(*node, {{"refcount_bits", 8}}));
  EXPECT_TRUE(amend(*node, {{"refcount_bits", 8}, {"compat", "1.1"}}));
  EXPECT_TRUE(amend(*node, {{"refcount_bits", 16}, {"compat", "0.10"}}));
  close(node);
  expect_check_clean("old");
}

// The Nth request to the file fails, for one N after the other.
TEST_F(Qcow2AmendTest, a_request_that_fails_leaves_an_image_of_one_width) {
  for (uint64_t nth = 0; nth < 12; ++nth) {
    SCOPED_TRACE(nth);
    const std::string model = make("disk", {{"cluster_size", 4096}}, true);
    NodePtr node = open_options({{"driver", "qcow2"},
                                 {"file",
                                  {{"driver", "blkdebug"},
                                   {"node-name", "faults"},
                                   {"image", {{"driver", "file"}, {"filename", path("disk")}}}}}});
    auto faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
    faults->add({.kinds = kFaultRead | kFaultWrite | kFaultFlush, .error = EIO, .skip = nth, .once = true});
    const auto done = amend(*node, {{"refcount_bits", 64}});
    faults = nullptr;
    auto closed = context.run_until(close_chain(std::move(node)));
    static_cast<void>(closed);
    node = open(path("disk"), "qcow2");
    ASSERT_NE(node, nullptr);
    const CheckReport report = check(*node);
    EXPECT_EQ(report.corruptions + report.leaks + report.errors, 0u);
    if (done) {
      EXPECT_EQ(node->format_specific_info()["data"]["refcount-bits"], 64);
    }
    EXPECT_TRUE(same(read(*node, 0, kSize), model));
    close(node);
    expect_check_clean("disk");
  }
}

// Tables of more clusters than a refcount block counts.
TEST_F(Qcow2AmendTest, tiny_clusters_have_room_for_large_tables) {
  for (const int bits : {16, 64}) {
    create("disk", {{"size", "1G"}, {"cluster_size", 512}, {"refcount_bits", bits}});
    NodePtr node = open(path("disk"), "qcow2");
    ASSERT_NE(node, nullptr);
    ASSERT_EQ(write(*node, 1000 << 20, std::string(70000, 'x')), 0);
    ASSERT_TRUE(context.run_until(node->truncate(uint64_t{2} << 30, Preallocation::kOff)));
    ASSERT_EQ(write(*node, 2000 << 20, std::string(70000, 'y')), 0);
    const CheckReport report = check(*node);
    EXPECT_EQ(report.corruptions + report.leaks + report.errors, 0u);
    EXPECT_EQ(read(*node, 1000 << 20, 70000), std::string(70000, 'x'));
    close(node);
    expect_check_clean("disk");
    EXPECT_LT(bytes_of("disk"), 4u << 20);
  }
}

TEST_F(Qcow2AmendTest, a_smaller_disk_has_a_shorter_file) {
  for (const char* options : {R"({"cluster_size": 4096})", R"({"cluster_size": 512, "refcount_bits": 64})",
                              R"({"cluster_size": 65536, "extended_l2": "on"})"}) {
    SCOPED_TRACE(options);
    json parsed = json::parse(options);
    parsed["size"] = 8 << 20;
    create("disk", parsed);
    NodePtr node = open(path("disk"), "qcow2");
    const std::string content(8 << 20, 'x');
    ASSERT_EQ(write(*node, 0, content), 0);
    close(node);
    std::filesystem::copy_file(path("disk"), path("theirs"),
                               std::filesystem::copy_options::overwrite_existing);
    node = open(path("disk"), "qcow2");
    ASSERT_TRUE(context.run_until(node->truncate(1 << 20, Preallocation::kOff)));
    close(node);
    expect_check_clean("disk");
    expect_content("disk", content.substr(0, 1 << 20));
    qemu_img("resize -q -f qcow2 --shrink theirs 1M");
    EXPECT_LE(bytes_of("disk"), bytes_of("theirs"));
    node = open(path("disk"), "qcow2");
    ASSERT_TRUE(context.run_until(node->truncate(3 << 20, Preallocation::kOff)));
    ASSERT_EQ(write(*node, 2 << 20, content.substr(0, 1 << 20)), 0);
    close(node);
    expect_check_clean("disk");
    expect_content("disk",
                   content.substr(0, 1 << 20) + std::string(1 << 20, '\0') + content.substr(0, 1 << 20));
  }
}

}  // namespace
}  // namespace ostler::block
