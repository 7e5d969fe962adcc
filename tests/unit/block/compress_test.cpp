// The filter "compress" over qcow2 images.
#include "block/filters/compress.h"

#include "block/null/null_node.h"
#include "filter_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;
using test::FilterTest;

// An image of no content with such limits.
class LimitedNode final : public FilterNode {
 public:
  explicit LimitedNode(Limits limits) : FilterNode("limited", "file"), limits_(limits) {
    EXPECT_TRUE(connect(std::make_shared<NullNode>(1 << 20), pass_through_permissions(true)));
  }
  Limits limits() const override { return limits_; }
  Task<int> write_zeroes(uint64_t, uint64_t bytes, ZeroFlags flags) override {
    zeroed += bytes;
    may_unmap = flags.may_unmap;
    co_return zero_error;
  }
  uint64_t zeroed = 0;  // bytes
  bool may_unmap = false;
  int zero_error = 0;

 private:
  const Limits limits_;
};

class CompressTest : public FilterTest {
 protected:
  static json filter_over(json image) { return {{"driver", "compress"}, {"file", std::move(image)}}; }
  json image_options(const std::string& name) const {
    return {{"driver", "qcow2"},
            {"node-name", name},
            {"cache", {{"no-flush", true}}},
            {"file", file_options(name)}};
  }
  // Over a new image "disk" of 1 MiB, whose file fails as faults() says.
  NodePtr over_faults() {
    create("disk", {{"size", 1 << 20}});
    json options = image_options("disk");
    options["file"] = with_faults(options["file"]);
    return open_options(filter_over(options));
  }
  static std::shared_ptr<CompressNode> filter_on(NodePtr image) {
    auto node = std::make_shared<CompressNode>();
    EXPECT_TRUE(node->connect(std::move(image), CompressNode::permissions(true)));
    return node;
  }
  NodePtr open_filter(const std::string& name) { return open_options(filter_over(image_options(name))); }
  std::string filter_error(json image) { return options_error(filter_over(std::move(image))); }
  json check_report(const std::string& name) {
    std::string output;
    EXPECT_EQ(test::run_command("qemu-img check -f qcow2 --output=json " + path(name), &output), 0) << output;
    return json::parse(output, nullptr, false);
  }
};

struct Image {
  const char* name;
  const char* options;  // JSON
  size_t size;
  bool backing;
};
void PrintTo(const Image& image, std::ostream* to) {
  *to << image.name;
}

class CompressedImage : public CompressTest, public testing::WithParamInterface<Image> {};

TEST_P(CompressedImage, random_requests_equal_a_model) {
  const size_t size = GetParam().size;
  json options = json::parse(GetParam().options);
  options["size"] = size;
  std::string model(size, '\0');
  if (GetParam().backing) {
    for (size_t i = 0; i < size; ++i) model[i] = static_cast<char>('a' + i / 700 % 19);
    make_file("base", model);
    options["backing_file"] = path("base");
    options["backing_fmt"] = "raw";
  }
  create("disk", options);
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  std::mt19937 random(3);
  for (int i = 0; i < 250; ++i) {
    const size_t longest = random() % 4 == 0 ? size / 2 : random() % 2 == 0 ? 9000 : 20;
    const size_t offset = random() % size;
    const size_t bytes = std::min<size_t>(1 + random() % longest, size - offset);
    switch (random() % 6) {
      case 0:
        ASSERT_EQ(zero(*node, offset, bytes, random() % 2 == 0), 0);
        model.replace(offset, bytes, std::string(bytes, '\0'));
        break;
      case 1:  // without the filter: clusters that are not compressed
        ASSERT_EQ(write(*node->filtered(), offset, std::string(bytes, 'p')), 0);
        model.replace(offset, bytes, std::string(bytes, 'p'));
        break;
      default: {
        std::string data(bytes, static_cast<char>(1 + random() % 255));
        if (random() % 4 == 0)  // does not become smaller
          for (char& c : data) c = static_cast<char>(random());
        ASSERT_EQ(write(*node, offset, data), 0);
        model.replace(offset, bytes, data);
      }
    }
    if (i % 25 != 0) continue;
    ASSERT_EQ(flush(*node), 0);
    ASSERT_TRUE(test::same(read(*node, 0, size), model)) << "request " << i;
  }
  ASSERT_TRUE(test::same(read(*node, 0, size), model));
  ASSERT_EQ(write(*node, 0, std::string(size, 'z')), 0);
  model.assign(size, 'z');
  ASSERT_EQ(write(*node, size / 2, "y"), 0);
  model[size / 2] = 'y';
  close(node);
  expect_content("disk", model);
  const json report = check_report("disk");
  EXPECT_GT(report["allocated-clusters"].get<uint64_t>(), 0u);
  EXPECT_EQ(report["compressed-clusters"], report["allocated-clusters"]);
}

constexpr Image kImages[] = {
    {"clusters_of_64k", "{}", 1 << 20, false},
    {"clusters_of_4k", R"({"cluster_size": 4096})", 300 << 10, false},
    {"zstd", R"({"compression_type": "zstd"})", 1 << 20, false},
    {"extended_l2", R"({"cluster_size": 16384, "extended_l2": "on"})", 1 << 20, false},
    {"version_2", R"({"cluster_size": 4096, "compat": "0.10"})", 256 << 10, true},
    {"short_last_cluster", R"({"cluster_size": 65536})", (300 << 10) + 512, true},
};
INSTANTIATE_TEST_SUITE_P(All, CompressedImage, testing::ValuesIn(kImages),
                         [](const auto& each) { return std::string(each.param.name); });

Task<int> write_each_byte(Node& node, const std::string& content) {
  TaskGroup group(64);
  int error = 0;
  for (size_t i = 0; i < content.size() && error == 0; ++i)
    error = co_await group.start(write_bytes(node, i, &content[i], 1));
  const int others = co_await group.wait();
  co_return error != 0 ? error : others;
}

TEST_F(CompressTest, writes_that_share_a_cluster_lose_nothing) {
  create("disk", {{"size", 1 << 20}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  std::string content(300, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>('a' + i % 26);
  ASSERT_EQ(context.run_until(write_each_byte(*node, content)), 0);
  EXPECT_TRUE(test::same(read(*node, 0, content.size()), content));
  close(node);
  content.resize(1 << 20);
  expect_content("disk", content);
  EXPECT_EQ(check_report("disk")["compressed-clusters"], 1);
}

TEST_F(CompressTest, zeros_in_part_of_a_cluster_leave_the_rest_and_stay_compressed) {
  create("disk", {{"size", 1 << 20}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  std::string model(1 << 20, 'm');
  ASSERT_EQ(write(*node, 0, model), 0);
  const std::string bytes(1000, 'b');
  ASSERT_EQ(context.run_until(test::run_both(write_bytes(*node, 0, bytes.data(), bytes.size()),
                                             node->write_zeroes(32768, 32768, {}))),
            0);
  model.replace(0, 1000, bytes).replace(32768, 32768, std::string(32768, '\0'));
  ASSERT_EQ(zero(*node, 100000, 200000, true), 0);  // the end of one, two whole ones, the beginning of one
  model.replace(100000, 200000, std::string(200000, '\0'));
  ASSERT_EQ(zero(*node, 393216, 65536, false), 0);
  model.replace(393216, 65536, std::string(65536, '\0'));
  EXPECT_TRUE(test::same(read(*node, 0, model.size()), model));
  for (const uint64_t whole : {131072, 196608, 393216}) {
    BlockStatus status;
    ASSERT_EQ(context.run_until(node->block_status(whole, 65536, StatusDetail::kQuick, status)), 0);
    EXPECT_TRUE(status.zero && !status.data) << whole;
  }
  close(node);
  expect_content("disk", model);
  const json report = check_report("disk");
  EXPECT_EQ(report["compressed-clusters"], report["allocated-clusters"]);
}

TEST_F(CompressTest, images_that_do_not_compress_are_refused_by_name) {
  create("data", {{"size", 1 << 20}, {"data_file", path("data.raw")}});
  ASSERT_TRUE(opener.add_secret("s", "secret"));
  create("locked", {{"size", 1 << 20},
                    {"encrypt.format", "luks"},
                    {"encrypt.key-secret", "s"},
                    {"encrypt.iter-time", 10}});
  make_file("raw", std::string(1 << 20, '\0'));
  json locked = image_options("locked");
  locked["encrypt"] = {{"key-secret", "s"}};
  const json images[] = {{{"driver", "raw"}, {"node-name", "plain"}, {"file", file_options("raw")}},
                         {{"driver", "file"}, {"node-name", "bare"}, {"filename", path("raw")}},
                         image_options("data"),
                         locked};
  for (const json& image : images) {
    const std::string message = filter_error(image);
    const auto name = "'" + image["node-name"].get<std::string>() + "'";
    EXPECT_NE(message.find("compress"), std::string::npos) << message;
    EXPECT_NE(message.find(name), std::string::npos) << message;
    EXPECT_NE(message.find("qcow2"), std::string::npos) << message;
  }
  EXPECT_NE(filter_error(nullptr).find("'file'"), std::string::npos);
}

TEST_F(CompressTest, zeros_up_to_the_end_of_the_disk_take_its_short_cluster) {
  create("disk", {{"size", 100 << 10}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, std::string(100 << 10, 'd')), 0);
  ASSERT_EQ(zero(*node, 65536, (100 << 10) - 65536, false), 0);
  BlockStatus status;
  ASSERT_EQ(context.run_until(node->block_status(65536, 1000, StatusDetail::kQuick, status)), 0);
  EXPECT_TRUE(status.zero && !status.data);
  close(node);
  expect_content("disk", std::string(65536, 'd') + std::string((100 << 10) - 65536, '\0'));
}

TEST_F(CompressTest, a_stream_optimized_vmdk_may_lie_below) {
  OpenFlags flags;
  for (const std::string kind : {"streamOptimized", "monolithicSparse"}) {
    const auto made =
        context.run_until(opener.create(path(kind), "vmdk", {{"size", 1 << 20}, {"subformat", kind}}, flags));
    ASSERT_TRUE(made) << made.error().message();
    EXPECT_EQ(filter_error({{"driver", "vmdk"}, {"file", file_options(kind)}}).empty(),
              kind == "streamOptimized");
  }
}

TEST_F(CompressTest, nobody_else_writes_to_the_image) {
  create("disk", {{"size", 1 << 20}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  EXPECT_FALSE(others_may_write(node->filtered()));
  EXPECT_TRUE(Client::attach(node->filtered(), "reader", {}));
  EXPECT_TRUE(others_may_write(node));
  ASSERT_TRUE(context.run_until(node->reopen(false)));
  EXPECT_TRUE(others_may_write(node->filtered()));
  ASSERT_TRUE(context.run_until(node->reopen(true)));
  EXPECT_FALSE(others_may_write(node->filtered()));
  EXPECT_EQ(write(*node, 5, "five"), 0);
  close(node);
}

TEST_F(CompressTest, a_filter_that_only_reads_lets_others_write) {
  create("disk", {{"size", 1 << 20}});
  NodePtr image = open_options(image_options("disk"));
  ASSERT_NE(image, nullptr);
  NodePtr node = open_options(filter_over("disk"), false);
  ASSERT_NE(node, nullptr);
  EXPECT_TRUE(others_may_write(image));
  close(node);
  close(image);
}

TEST_F(CompressTest, an_image_that_stays_writable_stays_the_filters_own) {
  auto image = std::make_shared<NullNode>(1 << 20);  // cannot be made read-only
  NodePtr node = filter_on(image);
  EXPECT_FALSE(context.run_until(node->reopen(false)));
  EXPECT_FALSE(others_may_write(image));
  EXPECT_EQ(node->try_read(0, {}), 0);  // a NullNode has all at once
}

TEST_F(CompressTest, options_are_checked) {
  create("disk", {{"size", 1 << 20}});
  json options = filter_over(image_options("disk"));
  options["compression"] = "zstd";
  EXPECT_NE(options_error(options).find("compression"), std::string::npos);
}

TEST_F(CompressTest, a_failed_request_is_told_and_leaves_the_cluster_as_it_was) {
  NodePtr node = over_faults();
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, std::string(65536, 'a') + std::string(65536, '-')), 0);
  faults()->add({.kinds = kFaultWrite, .error = ENOSPC, .once = true});
  EXPECT_EQ(write(*node, 7, "seven"), -ENOSPC);
  EXPECT_EQ(read(*node, 0, 65536), std::string(65536, 'a'));
  faults()->add({.kinds = kFaultRead, .once = true});
  EXPECT_EQ(write(*node, 65536 + 7, "seven"), -EIO);
  faults()->add({.kinds = kFaultRead, .once = true});
  ASSERT_EQ(write(*node, 65536, std::string(65536, 'b')), 0);  // a whole cluster: nothing is read
  faults()->clear();
  faults()->add({.kinds = kFaultFlush, .once = true});
  EXPECT_EQ(flush(*node), -EIO);
  EXPECT_EQ(write(*node, 7, "seven"), 0);
  close(node);
  expect_content("disk", "aaaaaaaseven" + std::string(65524, 'a') + std::string(65536, 'b') +
                             std::string((1 << 20) - 131072, '\0'));
}

TEST_F(CompressTest, a_request_ends_with_its_first_error) {
  NodePtr node = over_faults();
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, std::string(1 << 20, 'a')), 0);
  faults()->add({.kinds = kFaultWrite, .error = ENOSPC});
  const uint64_t before = faults()->count(kFaultWrite);
  EXPECT_EQ(write(*node, 0, std::string(1 << 20, 'b')), -ENOSPC);
  EXPECT_LT(faults()->count(kFaultWrite) - before, 16u);  // of 16 clusters
  faults()->clear();
  faults()->add({.kinds = kFaultWrite, .error = ENOSPC, .once = true});
  EXPECT_EQ(context.run_until(node->write_zeroes(1000, 70000, {})), -ENOSPC);  // the first of two parts
  close(node);
}

TEST_F(CompressTest, a_larger_disk_keeps_what_its_last_cluster_held) {
  create("disk", {{"size", 100 << 10}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  for (const uint64_t beyond : {(100 << 10) - 3, 100 << 10, 101 << 10}) {
    EXPECT_EQ(write(*node, beyond, "beyond"), -EINVAL);
    EXPECT_EQ(context.run_until(node->write_zeroes(beyond, 6, {})), -EINVAL);
  }
  ASSERT_EQ(write(*node, 90 << 10, std::string(10 << 10, 'e')), 0);
  const auto grown = context.run_until(node->truncate(200 << 10, Preallocation::kOff));
  ASSERT_TRUE(grown) << grown.error().message();
  EXPECT_EQ(node->size(), 200u << 10);
  ASSERT_EQ(write(*node, 199 << 10, std::string(1 << 10, 'f')), 0);
  close(node);
  std::string model(200 << 10, '\0');
  model.replace(90 << 10, 10 << 10, std::string(10 << 10, 'e'));
  model.replace(199 << 10, 1 << 10, std::string(1 << 10, 'f'));
  expect_content("disk", model);
  expect_check_clean("disk");
}

// A size that is no multiple of 512, as other programs write it: users see the sector whole.
TEST_F(CompressTest, the_last_sector_may_be_written_as_a_whole) {
  create("disk", {{"size", 100 << 10}});
  std::string image = content_of(path("disk"));
  image.replace(30, 2, "\x8e\x64");  // bytes 24 to 31: the size, here 101,988
  make_file("disk", image);
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(node->size(), 0x18e64u);
  EXPECT_EQ(write(*node, 0x18e00, std::string(512, 'e')), 0);
  EXPECT_EQ(write(*node, 0x18e00, std::string(513, 'e')), -EINVAL);
  EXPECT_EQ(read(*node, 0x18e00, 100), std::string(100, 'e'));
  close(node);
}

TEST_F(CompressTest, a_write_that_waits_for_a_smaller_size_heeds_it) {
  create("disk", {{"size", 100 << 10}});
  json options = image_options("disk");
  options.erase("cache");  // the change of size waits for the host's disk
  NodePtr node = open_options(filter_over(options));
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, std::string(100 << 10, 'd')), 0);
  EXPECT_EQ(context.run_until(
                test::run_both(test::shrink(*node, 80 << 10), write_bytes(*node, 90 << 10, "late", 4))),
            -EINVAL);
  EXPECT_EQ(node->size(), 80u << 10);
  close(node);
  expect_content("disk", std::string(80 << 10, 'd'));
}

TEST_F(CompressTest, a_drain_of_the_image_waits_for_writes_through_the_filter) {
  create("disk", {{"size", 1 << 20}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  auto user = Client::attach(node, "user", pass_through_permissions(true));
  ASSERT_TRUE(user);
  EXPECT_EQ(context.run_until(test::write_and_drain(*user, node->filtered(), std::string(100, 'd'), 10)), 0);
  *user = nullptr;
  EXPECT_EQ(read(*node, 0, 1000), std::string(1000, 'd'));
  close(node);
}

TEST_F(CompressTest, writes_that_wait_for_others_or_below_can_be_cancelled) {
  create("disk", {{"size", 4 << 20}});
  NodePtr node = open_options(filter_over(with_faults(slow(image_options("disk")))));
  ASSERT_NE(node, nullptr);
  // Two in each cluster: the first of them reads it, the second waits for the first.
  std::vector<Task<int>> requests = test::small_writes(*node, 50, 32768);
  const std::string whole(65536, 'w');
  const iovec piece{const_cast<char*>(whole.data()), whole.size()};
  requests.push_back(node->write_compressed(24 * 65536, Buffers(&piece, 1)));
  const std::vector<int> results = context.run_until(test::run_and_cancel(node, std::move(requests)));
  EXPECT_EQ(results[48], -ECANCELED);
  EXPECT_EQ(results[49], -ECANCELED);
  EXPECT_EQ(results[50], -ECANCELED);
  EXPECT_EQ(faults()->count(kFaultRead), 25u);
  close(node);
  expect_check_clean("disk");
}

TEST_F(CompressTest, a_cluster_that_comes_compressed_waits_for_a_write_of_a_part) {
  create("disk", {{"size", 1 << 20}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, std::string(65536, 'o')), 0);
  const std::string whole(65536, 'w');
  const iovec piece{const_cast<char*>(whole.data()), whole.size()};
  EXPECT_EQ(context.run_until(test::run_both(write_bytes(*node, 0, "part", 4),
                                             node->write_compressed(0, Buffers(&piece, 1)))),
            0);
  EXPECT_TRUE(test::same(read(*node, 0, 65536), whole));
  close(node);
}

TEST_F(CompressTest, whole_clusters_are_the_best_requests) {
  const auto best = [](Limits limits) {
    return filter_on(std::make_shared<LimitedNode>(limits))->limits().request_alignment;
  };
  EXPECT_EQ(best({.request_alignment = 512, .cluster_bytes = 65536}), 65536u);
  EXPECT_EQ(best({.request_alignment = 4096}), 4096u);
  EXPECT_EQ(best({.cluster_bytes = uint64_t{1} << 33}), 1u << 30);
}

TEST_F(CompressTest, zeros_of_whole_clusters_are_the_images_own) {
  const auto image = std::make_shared<LimitedNode>(Limits{.cluster_bytes = 65536});
  const NodePtr node = filter_on(image);
  image->zero_error = -ENOTSUP;  // in part of a cluster they are written
  EXPECT_EQ(context.run_until(node->write_zeroes(65536 + 10, 20, {})), 0);
  EXPECT_EQ(image->zeroed, 0u);
  EXPECT_EQ(context.run_until(node->write_zeroes(0, 65536, {})), -ENOTSUP);
  EXPECT_EQ(context.run_until(node->write_zeroes(10, 20, {.no_fallback = true})), -ENOTSUP);
  image->zero_error = 0;
  image->zeroed = 0;
  EXPECT_EQ(context.run_until(node->write_zeroes(65536, 131072, {.may_unmap = true})), 0);
  EXPECT_EQ(image->zeroed, 131072u);
  EXPECT_TRUE(image->may_unmap);
  EXPECT_EQ(context.run_until(node->write_zeroes((1 << 20) - 65536 - 1, 65536 + 1, {})), 0);
  EXPECT_EQ(image->zeroed, 131072u + 65536);
  EXPECT_FALSE(image->may_unmap);
}

// A mirror that ends puts its target below the filter.
TEST_F(CompressTest, an_image_put_below_later_gets_plain_writes_if_it_cannot_compress) {
  create("disk", {{"size", 1 << 20}});
  create("data", {{"size", 1 << 20}, {"data_file", path("data.raw")}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  const std::string file = make_file("raw", std::string(1 << 20, '\0'));
  auto& filter = dynamic_cast<CompressNode&>(*node);
  for (const NodePtr& next : {open(file, "raw"), open(path("data"), "qcow2")}) {
    NodePtr old = filter.child_edge().node();
    ASSERT_TRUE(filter.child_edge().replace(next));
    close(old);
    EXPECT_EQ(write(*node, 5, "five"), 0);
    EXPECT_EQ(zero(*node, 6, 2, false), 0);
    EXPECT_EQ(read(*node, 4, 6), std::string("\0f\0\0e\0", 6));
  }
  close(node);
}

}  // namespace
}  // namespace ostler::block
