// The filter "compress" over qcow2 images.
#include <memory>

#include "block/client.h"
#include "block/filters/compress.h"
#include "block/filters/fault_node.h"
#include "qcow2_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;
using test::Qcow2Test;

class CompressTest : public Qcow2Test {
 protected:
  static json filter_over(json image) { return {{"driver", "compress"}, {"file", std::move(image)}}; }
  json image_options(const std::string& name) const {
    return {{"driver", "qcow2"},
            {"node-name", name},
            {"cache", {{"no-flush", true}}},
            {"file", {{"driver", "file"}, {"filename", path(name)}}}};
  }
  NodePtr open_filter(const std::string& name) { return open_options(filter_over(image_options(name))); }
  std::string filter_error(json options) {
    OpenFlags flags;
    flags.writable = true;
    const auto node = context.run_until(opener.open(filter_over(std::move(options)), flags));
    return node ? "" : node.error().message();
  }
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

// A write of a part and zeros in another part of the same cluster.
Task<int> write_beside_zeros(Node& node, const std::string& bytes) {
  TaskGroup group;
  int error = co_await group.start(write_bytes(node, 0, bytes.data(), bytes.size()));
  if (error == 0) error = co_await group.start(node.write_zeroes(32768, 32768, {}));
  const int others = co_await group.wait();
  co_return error != 0 ? error : others;
}

TEST_F(CompressTest, zeros_in_part_of_a_cluster_leave_the_rest_and_stay_compressed) {
  create("disk", {{"size", 1 << 20}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  std::string model(1 << 20, 'm');
  ASSERT_EQ(write(*node, 0, model), 0);
  const std::string bytes(1000, 'b');
  ASSERT_EQ(context.run_until(write_beside_zeros(*node, bytes)), 0);
  model.replace(0, 1000, bytes).replace(32768, 32768, std::string(32768, '\0'));
  ASSERT_EQ(zero(*node, 100000, 200000, true), 0);  // the end of one, two whole ones, the beginning of one
  model.replace(100000, 200000, std::string(200000, '\0'));
  EXPECT_TRUE(test::same(read(*node, 0, model.size()), model));
  BlockStatus status;
  ASSERT_EQ(context.run_until(node->block_status(131072, 131072, StatusDetail::kQuick, status)), 0);
  EXPECT_TRUE(status.zero && !status.data);
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
  const json file = {{"driver", "file"}, {"filename", path("raw")}};
  json locked = image_options("locked");
  locked["encrypt"] = {{"key-secret", "s"}};
  const json images[] = {{{"driver", "raw"}, {"node-name", "plain"}, {"file", file}},
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

TEST_F(CompressTest, a_stream_optimized_vmdk_may_lie_below) {
  OpenFlags flags;
  for (const std::string kind : {"streamOptimized", "monolithicSparse"}) {
    const auto made =
        context.run_until(opener.create(path(kind), "vmdk", {{"size", 1 << 20}, {"subformat", kind}}, flags));
    ASSERT_TRUE(made) << made.error().message();
    const json image = {{"driver", "vmdk"}, {"file", {{"driver", "file"}, {"filename", path(kind)}}}};
    EXPECT_EQ(filter_error(image).empty(), kind == "streamOptimized");
  }
}

TEST_F(CompressTest, nobody_else_writes_to_the_image) {
  create("disk", {{"size", 1 << 20}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  const Permissions writer = {.used = kPermissionWrite, .shared = kPermissionsAll};
  EXPECT_FALSE(Client::attach(node->filtered(), "other", writer));
  EXPECT_TRUE(Client::attach(node->filtered(), "reader", {}));
  EXPECT_TRUE(Client::attach(node, "user", writer));
  ASSERT_TRUE(context.run_until(node->reopen(false)));
  EXPECT_TRUE(Client::attach(node->filtered(), "other", writer));
  ASSERT_TRUE(context.run_until(node->reopen(true)));
  EXPECT_FALSE(Client::attach(node->filtered(), "other", writer));
  EXPECT_EQ(write(*node, 5, "five"), 0);
  close(node);
}

TEST_F(CompressTest, a_failed_write_is_told_and_leaves_the_cluster_as_it_was) {
  create("disk", {{"size", 1 << 20}});
  json options = image_options("disk");
  options["file"] = {{"driver", "blkdebug"}, {"node-name", "faults"}, {"image", options["file"]}};
  NodePtr node = open_options(filter_over(options));
  ASSERT_NE(node, nullptr);
  auto faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
  ASSERT_EQ(write(*node, 0, std::string(65536, 'a')), 0);
  faults->add({.kinds = kFaultWrite, .error = ENOSPC, .once = true});
  EXPECT_EQ(write(*node, 7, "seven"), -ENOSPC);
  EXPECT_EQ(read(*node, 0, 65536), std::string(65536, 'a'));
  faults->add({.kinds = kFaultRead, .once = true});
  ASSERT_EQ(write(*node, 65536, std::string(65536, 'b')), 0);  // a whole cluster: nothing is read
  faults->clear();
  faults->add({.kinds = kFaultFlush, .once = true});
  EXPECT_EQ(flush(*node), -EIO);
  EXPECT_EQ(write(*node, 7, "seven"), 0);
  faults = nullptr;
  close(node);
  expect_content("disk", "aaaaaaaseven" + std::string(65524, 'a') + std::string(65536, 'b') +
                             std::string((1 << 20) - 131072, '\0'));
}

TEST_F(CompressTest, a_larger_disk_keeps_what_its_last_cluster_held) {
  create("disk", {{"size", 100 << 10}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(write(*node, 100 << 10, "beyond"), -EINVAL);
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

Task<int> write_and_drain(std::shared_ptr<Client> user, NodePtr image, const std::string& bytes,
                          unsigned& done) {
  TaskGroup group(16);
  const auto one = [](std::shared_ptr<Client> client, uint64_t offset, const std::string& from,
                      unsigned& count) -> Task<int> {
    const iovec piece{const_cast<char*>(from.data()), from.size()};
    const int error = co_await client->write(offset, Buffers(&piece, 1));
    ++count;
    co_return error;
  };
  for (uint64_t i = 0; i < 10; ++i) {
    const int error = co_await group.start(one(user, i * 100, bytes, done));
    if (error != 0) co_return error;
  }
  {
    const Drained drained = co_await Drained::begin(image);
    if (done != 10) co_return -EBUSY;
  }
  co_return co_await group.wait();
}

TEST_F(CompressTest, a_drain_of_the_image_waits_for_writes_through_the_filter) {
  create("disk", {{"size", 1 << 20}});
  NodePtr node = open_filter("disk");
  ASSERT_NE(node, nullptr);
  auto user = Client::attach(node, "user", pass_through_permissions(true));
  ASSERT_TRUE(user);
  unsigned done = 0;
  const std::string bytes(100, 'd');
  EXPECT_EQ(context.run_until(write_and_drain(*user, node->filtered(), bytes, done)), 0);
  *user = nullptr;
  EXPECT_EQ(read(*node, 0, 1000), std::string(1000, 'd'));
  close(node);
}

Task<int> write_and_cancel(NodePtr node, const std::string& bytes) {
  TaskGroup group(64);
  for (uint64_t i = 0; i < 50; ++i)
    co_await group.start(write_bytes(*node, i / 2 * 65536, bytes.data(), bytes.size()));
  node->cancel();
  co_return co_await group.wait();
}

TEST_F(CompressTest, writes_that_wait_below_can_be_cancelled) {
  create("disk", {{"size", 4 << 20}});
  NodePtr node = open_options(filter_over({{"driver", "throttle"},
                                           {"throttle-group", "compress-test"},
                                           {"limits", {{"iops-total", 5}}},
                                           {"file", image_options("disk")}}));
  ASSERT_NE(node, nullptr);
  const std::string bytes(65536, 'c');
  EXPECT_EQ(context.run_until(write_and_cancel(node, bytes)), -ECANCELED);
  close(node);
  expect_check_clean("disk");
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
