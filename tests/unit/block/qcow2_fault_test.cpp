// qcow2 under failing requests, several threads, and images that lie.
#include <fmt/format.h>
#include <malloc.h>

#include <atomic>
#include <functional>
#include <thread>

#include "base/bytes.h"
#include "block/client.h"
#include "block/filters/fault_node.h"
#include "qcow2_fixture.h"

namespace {

// How many buffers may still be had before one may not; less than 0: all.
std::atomic<int> buffers_until_failure = -1;

}  // namespace

// Instead of libc's, which AlignedBuffer calls.
extern "C" void* aligned_alloc(size_t alignment, size_t bytes) {
  if (buffers_until_failure >= 0 && buffers_until_failure-- == 0) return nullptr;
  return memalign(alignment, bytes);
}

namespace ostler::block {
namespace {

using test::Qcow2Test;
using test::run_command;
using test::same;

// What fails once, in the Nth place for one N after the other: the guest's request says so, others are as
// they should be, and the image has leaks at most.
class Qcow2Faults : public Qcow2Test {
 protected:
  // `arm` lets it fail, `disarm` ends that where N was more than there were. `failure`: what requests say.
  void expect_no_harm(int failure, const std::function<void(FaultNode&)>& arm,
                      const std::function<void(FaultNode&)>& disarm) {
    constexpr size_t kSize = 1 << 20;
    create("disk", {{"size", kSize}, {"cluster_size", 4096}});
    NodePtr node = open_options({{"driver", "qcow2"},
                                 {"file",
                                  {{"driver", "blkdebug"},
                                   {"node-name", "faults"},
                                   {"image", {{"driver", "file"}, {"filename", path("disk")}}}}}});
    ASSERT_NE(node, nullptr);
    auto faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
    arm(*faults);
    std::mt19937 random(3);
    std::string model(kSize, '\0');
    std::vector<bool> unknown(kSize / 512);
    for (int i = 0; i < 50; ++i) {
      const uint64_t sector = random() % (kSize / 512 - 20), count = 1 + random() % 20;
      const std::string data(count * 512, static_cast<char>(1 + i));
      int error;
      if (i % 7 == 6)
        error = flush(*node);
      else if (i % 5 == 4)
        error = zero(*node, sector * 512, count * 512, true);
      else
        error = write(*node, sector * 512, data);
      EXPECT_TRUE(error == 0 || error == -failure) << error;
      if (i % 7 == 6) continue;
      if (error == 0)
        model.replace(sector * 512, count * 512, i % 5 == 4 ? std::string(count * 512, '\0') : data);
      for (uint64_t s = sector; s < sector + count; ++s) unknown[s] = error != 0;
    }
    disarm(*faults);
    EXPECT_EQ(flush(*node), 0);
    std::string now = read(*node, 0, kSize);
    for (size_t s = 0; s < unknown.size(); ++s)
      if (unknown[s]) now.replace(s * 512, 512, model, s * 512, 512);
    EXPECT_TRUE(same(now, model));
    faults = nullptr;
    close(node);
    node = open(path("disk"), "qcow2", false);
    const auto report = context.run_until(node->checker()->check({}));
    ASSERT_TRUE(report);
    EXPECT_EQ(report->corruptions + report->errors, 0u) << report->messages[0];
  }
};

class Qcow2RequestFaults : public Qcow2Faults,
                           public testing::WithParamInterface<std::pair<unsigned, int>> {};

// What changes the file's length gives it its blocks; nothing else is told of a host that has none left.
INSTANTIATE_TEST_SUITE_P(Kinds, Qcow2RequestFaults,
                         testing::Values(std::pair(kFaultWrite | kFaultWriteZeroes | kFaultFlush, ENOSPC),
                                         std::pair(kFaultRead, EIO),
                                         std::pair(kFaultRead | kFaultWrite | kFaultFlush | kFaultDiscard,
                                                   EIO),
                                         std::pair(kFaultTruncate | kFaultWriteZeroes, ENOSPC)));

TEST_P(Qcow2RequestFaults, a_request_that_fails_harms_nothing_else) {
  const auto [kinds, failure] = GetParam();
  for (uint64_t nth = 0; nth < 60; nth += 1 + nth / 10) {
    SCOPED_TRACE(nth);
    const FaultRule rule = {
        .kinds = kinds, .error = failure, .skip = nth, .once = true, .transfer = nth % 2 * 512};
    expect_no_harm(
        failure, [&](FaultNode& faults) { faults.add(rule); }, [](FaultNode& faults) { faults.clear(); });
  }
}

TEST_F(Qcow2Faults, memory_that_is_not_there_harms_nothing_else) {
  uint64_t failed = 0;
  for (int nth = 0; nth < 60; nth += 1 + nth / 10) {
    SCOPED_TRACE(nth);
    expect_no_harm(
        ENOMEM, [&](FaultNode&) { buffers_until_failure = nth; },
        [&](FaultNode&) { failed += buffers_until_failure.exchange(-1) < 0 ? 1 : 0; });
  }
  EXPECT_GT(failed, 10u) << "there were so many allocations";
}

// Reads and writes that fail, but not at once.
class LateFaultNode final : public FilterNode {
 public:
  LateFaultNode() : FilterNode("late-fault", "file") {}
  Task<int> read(uint64_t offset, Buffers to) override {
    if (!failing) co_return co_await child_->read(offset, to);
    co_return co_await fail();
  }
  Task<int> write(uint64_t offset, Buffers from) override {
    if (!failing) co_return co_await child_->write(offset, from);
    co_return co_await fail();
  }
  bool failing = false;

 private:
  static Task<int> fail() {
    IoContext& context = *IoContext::current();
    co_await context.sleep_until(0);
    co_return -EIO;
  }
};

// A cluster that was given up is free when no request from before can use it: failed ones must not count for
// ever.
TEST_F(Qcow2Test, space_is_used_again_after_requests_of_many_pieces_have_failed) {
  constexpr uint64_t kCluster = 4096, kClusters = 64;
  create("disk", {{"size", 1 << 20}, {"cluster_size", kCluster}});
  const auto file = std::make_shared<LateFaultNode>();
  ASSERT_TRUE(file->connect(open_file(path("disk")), {.used = kPermissionsAll}));
  ASSERT_TRUE(opener.add(file, "late"));
  NodePtr node = open_options({{"driver", "qcow2"}, {"file", "late"}});
  ASSERT_NE(node, nullptr);
  // No two are neighbours in the file.
  for (uint64_t i = kClusters; i-- != 0;)
    EXPECT_EQ(write(*node, i * kCluster, std::string(kCluster, 'a')), 0);
  EXPECT_EQ(flush(*node), 0);
  file->failing = true;
  std::string bytes(kClusters * kCluster, 'b');
  EXPECT_EQ(context.run_until(read_bytes(*node, 0, bytes.data(), bytes.size())), -EIO);
  EXPECT_EQ(write(*node, 0, bytes), -EIO);
  file->failing = false;
  const uint64_t before = std::filesystem::file_size(path("disk"));
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(write(*node, kClusters * kCluster, std::string(kCluster, 'c')), 0);
    EXPECT_EQ(context.run_until(node->discard(kClusters * kCluster, kCluster)), 0);
    EXPECT_EQ(flush(*node), 0);
  }
  EXPECT_LE(std::filesystem::file_size(path("disk")), before + 8 * kCluster);
  close(node);
}

Task<int> write_many(NodePtr node, unsigned seed, std::vector<std::string>& data, size_t thread,
                     size_t threads) {
  TaskGroup group(16);
  std::vector<size_t> order;
  for (size_t i = thread; i < data.size(); i += threads) order.push_back(i);
  std::mt19937 random(seed);
  std::shuffle(order.begin(), order.end(), random);
  for (const size_t i : order) {
    const int error = co_await group.start(write_bytes(*node, i * 1536, data[i].data(), data[i].size()));
    if (error != 0) break;
  }
  co_return co_await group.wait();
}

// Neighbours in one cluster by several threads: none is lost.
TEST_F(Qcow2Test, parallel_writes_of_several_threads_all_arrive) {
  constexpr size_t kPieces = 2000, kThreads = 3;
  for (const char* options : {R"({"cluster_size": 4096})", R"({})", R"({"extended_l2": "on"})"}) {
    auto parsed = nlohmann::json::parse(options);
    parsed["size"] = "4M";
    create("disk", parsed);
    NodePtr node = open(path("disk"), "qcow2");
    ASSERT_NE(node, nullptr);
    std::vector<std::string> data;
    std::string model(4 << 20, '\0');
    for (size_t i = 0; i < kPieces; ++i) {
      data.emplace_back(1536, static_cast<char>(1 + i % 255));
      model.replace(i * 1536, 1536, data.back());
    }
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; ++t)
      threads.emplace_back([&, t] {
        IoContext own(t == 0 ? Aio::kThreads : Aio::kIoUring);
        EXPECT_EQ(own.run_until(write_many(node, static_cast<unsigned>(t), data, t, kThreads)), 0);
        EXPECT_EQ(own.run_until(node->flush()), 0);
      });
    for (auto& thread : threads) thread.join();
    EXPECT_TRUE(same(read(*node, 0, model.size()), model));
    close(node);
    expect_check_clean("disk");
    expect_content("disk", model);
  }
}

TEST_F(Qcow2Test, unknown_incompatible_features_are_refused_by_name) {
  qemu_img("create -f qcow2 disk 1M");
  std::string content = content_of(path("disk"));
  content[72] = 0x40;  // bit 62
  make_file("disk", content);
  const std::string error = open_error(path("disk"), "qcow2");
  EXPECT_NE(error.find("bit 62"), std::string::npos) << error;
}

TEST_F(Qcow2Test, an_image_with_the_corrupt_bit_is_only_read) {
  qemu_img("create -f qcow2 disk 1M");
  std::string content = content_of(path("disk"));
  content[79] = 2;
  make_file("disk", content);
  EXPECT_NE(open_error(path("disk"), "qcow2", true).find("corrupt"), std::string::npos);
  EXPECT_EQ(open_error(path("disk"), "qcow2", false), "");
}

TEST_F(Qcow2Test, a_dirty_image_is_repaired_when_it_is_opened_for_writing) {
  create("disk", {{"size", "1M"}, {"lazy_refcounts", "on"}});
  {
    const NodePtr node = open(path("disk"), "qcow2");
    EXPECT_EQ(write(*node, 0, std::string(65536, 'x')), 0);
    EXPECT_EQ(flush(*node), 0);
    EXPECT_TRUE(node->dirty());
  }
  std::string content = content_of(path("disk"));
  // As a program that postpones them leaves refcounts: the data cluster's is 0.
  const auto block =
      __builtin_bswap64(load_le<uint64_t>(&content[__builtin_bswap64(load_le<uint64_t>(&content[48]))]));
  std::fill(content.begin() + static_cast<ptrdiff_t>(block) + 8,
            content.begin() + static_cast<ptrdiff_t>(block) + 64, '\0');
  make_file("disk", content);
  NodePtr node = open(path("disk"), "qcow2");
  ASSERT_NE(node, nullptr);
  EXPECT_FALSE(node->dirty());
  EXPECT_EQ(read(*node, 0, 512), std::string(512, 'x'));
  close(node);
  expect_check_clean("disk");
}

TEST_F(Qcow2Test, lost_refcount_blocks_are_rebuilt) {
  create("disk", {{"size", "4M"}, {"cluster_size", 4096}});
  NodePtr node = open(path("disk"), "qcow2");
  EXPECT_EQ(write(*node, 0, std::string(2 << 20, 'x')), 0);
  close(node);
  std::string content = content_of(path("disk"));
  const uint64_t table = __builtin_bswap64(load_le<uint64_t>(&content[48]));
  store_le(&content[table], __builtin_bswap64(uint64_t{0x123456}));
  make_file("disk", content);
  OpenFlags flags;
  flags.writable = flags.check = true;
  node = open(path("disk"), "qcow2", flags);
  ASSERT_NE(node, nullptr);
  auto report = context.run_until(node->checker()->check({}));
  ASSERT_TRUE(report);
  EXPECT_GT(report->corruptions, 0u);
  report = context.run_until(node->checker()->check({.repair_leaks = true, .repair_errors = true}));
  ASSERT_TRUE(report) << report.error().message();
  EXPECT_EQ(report->corruptions, 0u);
  EXPECT_EQ(write(*node, 3 << 20, std::string(100 * 1024, 'y')), 0);
  EXPECT_EQ(read(*node, 0, 2 << 20), std::string(2 << 20, 'x'));
  close(node);
  expect_check_clean("disk");
}

TEST_F(Qcow2Test, a_circle_of_backing_files_is_an_error) {
  qemu_img("create -q -f qcow2 a 1M");
  qemu_img("create -q -f qcow2 -b a -F qcow2 b");
  qemu_img("rebase -u -f qcow2 -b b -F qcow2 a");
  const std::string error = open_error(path("a"), "qcow2");
  EXPECT_NE(error.find("circle"), std::string::npos) << error;
  EXPECT_TRUE(error.starts_with("backing file of " + path("a"))) << error;
  EXPECT_LT(error.size(), 2000u) << "not all 256 images, one after the other";
}

TEST_F(Qcow2Test, an_error_deep_in_a_chain_names_the_first_image_and_the_last) {
  qemu_img("create -q -f qcow2 disk0 1M");
  for (int i = 1; i <= 4; ++i)
    qemu_img(fmt::format("create -q -f qcow2 -b disk{} -F qcow2 disk{}", i - 1, i));
  std::filesystem::remove(path("disk0"));
  const std::string error = open_error(path("disk4"), "qcow2");
  EXPECT_TRUE(error.starts_with("backing file of " + path("disk4") + ": backing file of " + path("disk1") +
                                ": " + path("disk0") + ": no such disk image"))
      << error;
}

TEST_F(Qcow2Test, header_extensions_that_are_not_known_are_kept) {
  qemu_img("create -f qcow2 disk 1M");
  std::string content = content_of(path("disk"));
  // Instead of the table of feature names, which is the first.
  content.replace(112, 4, "\x12\x34\x56\x78");
  make_file("disk", content);
  NodePtr node = open(path("disk"), "qcow2");
  ASSERT_NE(node, nullptr);
  ASSERT_TRUE(context.run_until(node->truncate(2 << 20, Preallocation::kOff)));
  close(node);
  EXPECT_NE(content_of(path("disk")).substr(0, 4096).find("\x12\x34\x56\x78"), std::string::npos);
  expect_check_clean("disk");
}

TEST_F(Qcow2Test, compressed_clusters_are_written_read_and_replaced) {
  for (const char* kind : {"zlib", "zstd"}) {
    create("disk", {{"size", "2M"}, {"compression_type", kind}});
    NodePtr node = open(path("disk"), "qcow2");
    std::string model(2 << 20, '\0');
    std::mt19937 random(1);
    for (size_t at = 0; at < model.size(); at += 65536) {
      for (size_t i = 0; i < 65536; ++i)
        model[at + i] = static_cast<char>('a' + random() % (at % 262144 == 0 ? 256 : 3));
      const iovec whole{&model[at], 65536};
      ASSERT_EQ(context.run_until(node->write_compressed(at, Buffers(&whole, 1))), 0);
    }
    model.replace(70000, 300000, std::string(300000, 'z'));
    ASSERT_EQ(write(*node, 70000, std::string(300000, 'z')), 0);
    EXPECT_TRUE(same(read(*node, 0, model.size()), model));
    close(node);
    expect_check_clean("disk");
    expect_content("disk", model);
  }
}

}  // namespace
}  // namespace ostler::block
