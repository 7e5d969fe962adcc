// The filter "preallocate", on files and below qcow2 images.
#include <memory>

#include "block/client.h"
#include "block/filters/fault_node.h"
#include "block/filters/preallocate.h"
#include "qcow2_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;
using test::Qcow2Test;

// A file on any file system: zeros that it cannot reserve are written.
class ZeroingFilter final : public FilterNode {
 public:
  ZeroingFilter() : FilterNode("zeroing", "file") {}
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override {
    flags.no_fallback = false;
    return write_zeroes_anyhow(*child_, offset, bytes, flags);
  }
};

class PreallocateTest : public Qcow2Test {
 protected:
  static constexpr uint64_t kUnit = 1 << 20, kAhead = 1 << 20;

  // A file of that name with rules for faults below the filter.
  NodePtr open_filter(const std::string& name, const std::string& content) {
    auto zeroing = std::make_shared<ZeroingFilter>();
    EXPECT_TRUE(zeroing->connect(open_file(make_file(name, content)), pass_through_permissions(true)));
    faults = std::make_shared<FaultNode>();
    EXPECT_TRUE(faults->connect(zeroing, pass_through_permissions(true)));
    EXPECT_TRUE(opener.add(faults, name + ".faults"));
    json options = {{"driver", "preallocate"},
                    {"node-name", name},
                    {"prealloc-align", kUnit},
                    {"prealloc-size", kAhead},
                    {"file", name + ".faults"}};
    return open_options(options);
  }
  // All that is below a node goes with it.
  void close(NodePtr& node) {
    faults = nullptr;
    Qcow2Test::close(node);
  }
  uint64_t length(const std::string& name) const { return std::filesystem::file_size(path(name)); }

  std::shared_ptr<FaultNode> faults;
};

TEST_F(PreallocateTest, a_write_beyond_the_end_reserves_and_the_close_cuts) {
  NodePtr node = open_filter("disk", "begin");
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(node->size(), 5u);
  ASSERT_EQ(write(*node, 5, "more"), 0);
  EXPECT_EQ(node->size(), 9u);
  EXPECT_EQ(length("disk"), kUnit + kAhead);
  EXPECT_EQ(faults->count(kFaultWriteZeroes), 1u);
  ASSERT_EQ(write(*node, 1000, "last"), 0);  // in what was reserved
  EXPECT_EQ(faults->count(kFaultWriteZeroes), 1u);
  EXPECT_EQ(node->size(), 1004u);
  EXPECT_EQ(read(*node, 1002, 6), std::string("st\0\0\0\0", 6));
  BlockStatus status;
  ASSERT_EQ(context.run_until(node->block_status(1004, 100, StatusDetail::kPrecise, status)), 0);
  EXPECT_TRUE(status.zero && !status.data);
  close(node);
  EXPECT_EQ(length("disk"), 1004u);
  EXPECT_EQ(content_of(path("disk")), "beginmore" + std::string(991, '\0') + "last");
}

TEST_F(PreallocateTest, a_host_file_keeps_the_space) {
  make_file("disk", "");
  NodePtr node =
      open_options({{"driver", "preallocate"}, {"file", {{"driver", "file"}, {"filename", path("disk")}}}});
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, "data"), 0);
  EXPECT_EQ(node->size(), 4u);
  EXPECT_EQ(node->options()["prealloc-align"], 1 << 20);
  EXPECT_EQ(node->options()["prealloc-size"], 128 << 20);
  close(node);
  EXPECT_EQ(content_of(path("disk")), "data");
}

TEST_F(PreallocateTest, zeros_and_writes_grow_alike) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(zero(*node, 0, 10000, false), 0);
  EXPECT_EQ(node->size(), 10000u);
  ASSERT_EQ(write(*node, 3 * kUnit, "x"), 0);
  EXPECT_EQ(length("disk"), 5 * kUnit);
  EXPECT_EQ(discard(*node, 0, 4096), 0);
  EXPECT_EQ(flush(*node), 0);
  EXPECT_EQ(faults->count(kFaultFlush), 1u);
  close(node);
  EXPECT_EQ(length("disk"), 3 * kUnit + 1);
}

TEST_F(PreallocateTest, without_space_for_more_the_write_goes_on) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  faults->add({.kinds = kFaultWriteZeroes, .error = ENOSPC, .once = true});
  ASSERT_EQ(write(*node, 0, "first"), 0);
  EXPECT_EQ(length("disk"), 5u);
  ASSERT_EQ(write(*node, 5, "second"), 0);  // tried again
  EXPECT_EQ(length("disk"), kUnit + kAhead);
  EXPECT_EQ(read(*node, 0, 11), "firstsecond");
  close(node);
  EXPECT_EQ(content_of(path("disk")), "firstsecond");
}

TEST_F(PreallocateTest, a_file_that_cannot_reserve_is_not_asked_again) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  faults->add({.kinds = kFaultWriteZeroes, .error = ENOTSUP});
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(write(*node, i * 3, "abc"), 0);
  EXPECT_EQ(faults->count(kFaultWriteZeroes), 1u);
  EXPECT_EQ(length("disk"), 15u);
  EXPECT_EQ(context.run_until(node->write_zeroes(15, 100, {.no_fallback = true})), -ENOTSUP);
  EXPECT_EQ(node->size(), 15u);
  close(node);
  EXPECT_EQ(content_of(path("disk")), "abcabcabcabcabc");
}

Task<int> grow_at_once(Node& node, const std::string& content, size_t piece) {
  TaskGroup group(32);
  int error = 0;
  // From the back: each may have to wait for a reservation that another one makes.
  for (size_t at = content.size(); at != 0 && error == 0; at -= piece)
    error = co_await group.start(write_bytes(node, at - piece, &content[at - piece], piece));
  const int others = co_await group.wait();
  co_return error != 0 ? error : others;
}

TEST_F(PreallocateTest, a_reservation_never_lies_over_a_write) {
  std::string content(6 << 20, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>('a' + i / 4096 % 25);
  for (const uint64_t skip : {0, 1, 2, 3}) {
    SCOPED_TRACE(skip);
    NodePtr node = open_filter("disk" + std::to_string(skip), "");
    ASSERT_NE(node, nullptr);
    faults->add({.kinds = kFaultWriteZeroes, .error = ENOSPC, .skip = skip, .once = true});
    ASSERT_EQ(context.run_until(grow_at_once(*node, content, 192 << 10)), 0);
    EXPECT_EQ(node->size(), content.size());
    close(node);
    EXPECT_TRUE(test::same(content_of(path("disk" + std::to_string(skip))), content));
  }
}

TEST_F(PreallocateTest, what_a_failed_write_has_left_is_no_free_space) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, "a"), 0);
  faults->add({.kinds = kFaultWrite, .once = true, .transfer = 50});
  EXPECT_EQ(write(*node, 1, std::string(100, 'b')), -EIO);
  EXPECT_EQ(node->size(), 101u);
  ASSERT_TRUE(context.run_until(node->truncate(1, Preallocation::kOff)));
  ASSERT_TRUE(context.run_until(node->truncate(200, Preallocation::kOff)));
  EXPECT_EQ(read(*node, 0, 200), "a" + std::string(199, '\0'));
  close(node);
}

TEST_F(PreallocateTest, a_new_size_counts_from_the_data) {
  NodePtr node = open_filter("disk", "12345");
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 5, "678"), 0);
  ASSERT_TRUE(context.run_until(node->truncate(4, Preallocation::kOff)));
  EXPECT_EQ(node->size(), 4u);
  EXPECT_EQ(length("disk"), 4u);
  ASSERT_TRUE(context.run_until(node->truncate(10, Preallocation::kOff)));
  EXPECT_EQ(node->size(), 10u);
  EXPECT_EQ(read(*node, 0, 10), std::string("1234\0\0\0\0\0\0", 10));
  ASSERT_EQ(write(*node, 10, "x"), 0);
  faults->add({.kinds = kFaultTruncate, .once = true});
  EXPECT_FALSE(context.run_until(node->truncate(2000, Preallocation::kOff)));
  EXPECT_EQ(node->size(), 11u);
  close(node);
  EXPECT_EQ(length("disk"), 11u);
}

TEST_F(PreallocateTest, a_file_that_cannot_be_cut_is_told) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, "x"), 0);
  faults->add({.kinds = kFaultTruncate, .once = true});
  faults = nullptr;
  EXPECT_FALSE(context.run_until(close_chain(std::move(node))));
}

TEST_F(PreallocateTest, giving_up_write_access_cuts) {
  make_file("disk", "");
  NodePtr node = open_options({{"driver", "preallocate"},
                               {"prealloc-size", kAhead},
                               {"file", {{"driver", "file"}, {"filename", path("disk")}}}});
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, "first"), 0);
  ASSERT_TRUE(context.run_until(node->reopen(false)));
  EXPECT_TRUE(node->read_only());
  EXPECT_EQ(length("disk"), 5u);
  EXPECT_EQ(node->size(), 5u);
  ASSERT_TRUE(context.run_until(node->reopen(true)));
  EXPECT_FALSE(node->read_only());
  ASSERT_EQ(write(*node, 5, "second"), 0);
  close(node);
  EXPECT_EQ(content_of(path("disk")), "firstsecond");
}

TEST_F(PreallocateTest, the_length_of_the_file_is_the_filters_alone) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  const Permissions writer = {.used = kPermissionWrite, .shared = kPermissionsAll};
  EXPECT_FALSE(Client::attach(node->filtered(), "other", writer));
  EXPECT_FALSE(Client::attach(node->filtered(), "other", {.used = kPermissionResize}));
  EXPECT_TRUE(Client::attach(node->filtered(), "reader", {}));
  ASSERT_TRUE(Client::attach(node, "user", writer));
  ASSERT_TRUE(context.run_until(node->reopen(false)));
  EXPECT_TRUE(Client::attach(node->filtered(), "other", writer));
  close(node);
}

TEST_F(PreallocateTest, a_read_only_node_changes_nothing) {
  const json below = {{"driver", "file"}, {"filename", make_file("disk", "text")}};
  NodePtr node = open_options({{"driver", "preallocate"}, {"file", below}}, false);
  ASSERT_NE(node, nullptr);
  EXPECT_TRUE(node->read_only());
  EXPECT_EQ(read(*node, 0, 4), "text");
  close(node);
  EXPECT_EQ(content_of(path("disk")), "text");
}

TEST_F(PreallocateTest, a_qcow2_image_above_is_clean_and_no_longer_than_its_data) {
  create("plain", {{"size", 4 << 20}});
  NodePtr node = open_filter("disk", content_of(path("plain")));
  ASSERT_NE(node, nullptr);
  node = open_options({{"driver", "qcow2"}, {"file", "disk"}});
  ASSERT_NE(node, nullptr);
  test::Workload work(5, 4 << 20);
  for (int i = 0; i < 200; ++i) {
    const auto request = work.next();
    if (request.kind != test::Workload::Request::kWrite) continue;  // a crash leaks what zeros gave up
    ASSERT_EQ(write(*node, request.offset, request.data), 0);
    work.model.replace(request.offset, request.bytes, request.data);
  }
  ASSERT_EQ(flush(*node), 0);
  EXPECT_GE(length("disk"), node->file()->size());
  // What a crash now would leave.
  make_file("crashed", content_of(path("disk")));
  expect_check_clean("crashed");
  expect_content("crashed", work.model);
  NodePtr left = open(path("crashed"), "qcow2");
  ASSERT_NE(left, nullptr);
  ASSERT_EQ(write(*left, 0, std::string(1 << 20, 'l')), 0);
  Qcow2Test::close(left);
  expect_check_clean("crashed");
  const uint64_t data = node->file()->size();
  close(node);
  EXPECT_LT(length("disk"), data + 16 * 65536);
  expect_check_clean("disk");
  expect_content("disk", work.model);
}

Task<int> grow_and_cancel(NodePtr node) {
  TaskGroup group(64);
  static const std::string bytes(512, 'c');
  for (uint64_t i = 0; i < 50; ++i)
    co_await group.start(write_bytes(*node, i * 65536, bytes.data(), bytes.size()));
  node->cancel();
  co_return co_await group.wait();
}

TEST_F(PreallocateTest, writes_that_wait_below_can_be_cancelled) {
  make_file("disk", "");
  const json file = {{"driver", "file"}, {"filename", path("disk")}};
  NodePtr node = open_options({{"driver", "preallocate"},
                               {"prealloc-size", 0},
                               {"prealloc-align", 4 << 20},
                               {"file",
                                {{"driver", "throttle"},
                                 {"throttle-group", "preallocate-test"},
                                 {"limits", {{"iops-total", 5}}},
                                 {"file", file}}}});
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(context.run_until(grow_and_cancel(node)), -ECANCELED);
  close(node);
}

Task<int> write_and_drain(std::shared_ptr<Client> user, NodePtr file, const std::string& bytes,
                          unsigned& done) {
  TaskGroup group(16);
  const auto one = [](std::shared_ptr<Client> client, uint64_t offset, const std::string& from,
                      unsigned& count) -> Task<int> {
    const iovec piece{const_cast<char*>(from.data()), from.size()};
    const int error = co_await client->write(offset, Buffers(&piece, 1));
    ++count;
    co_return error;
  };
  for (uint64_t i = 0; i < 4; ++i) {
    const int error = co_await group.start(one(user, i * bytes.size(), bytes, done));
    if (error != 0) co_return error;
  }
  {
    const Drained drained = co_await Drained::begin(file);
    if (done != 4) co_return -EBUSY;
  }
  co_return co_await group.wait();
}

TEST_F(PreallocateTest, a_drain_of_the_file_waits_for_reservations_and_writes) {
  create("plain", {{"size", 4 << 20}});
  NodePtr file = open_filter("disk", content_of(path("plain")));
  ASSERT_NE(file, nullptr);
  NodePtr node = open_options({{"driver", "qcow2"}, {"file", "disk"}});
  ASSERT_NE(node, nullptr);
  auto user = Client::attach(node, "user", pass_through_permissions(true));
  ASSERT_TRUE(user);
  unsigned done = 0;
  const std::string bytes(200 << 10, 'd');
  EXPECT_EQ(context.run_until(write_and_drain(*user, file->filtered(), bytes, done)), 0);
  *user = nullptr;
  file = nullptr;
  close(node);
  expect_content("disk", std::string(800 << 10, 'd') + std::string((4 << 20) - (800 << 10), '\0'));
}

TEST_F(PreallocateTest, options_are_checked) {
  make_file("disk", "");
  const auto message = [&](const char* key, json value) {
    OpenFlags flags;
    flags.writable = true;
    json options = {{"driver", "preallocate"}, {"file", {{"driver", "file"}, {"filename", path("disk")}}}};
    options[key] = std::move(value);
    const auto node = context.run_until(opener.open(std::move(options), flags));
    return node ? std::string() : node.error().message();
  };
  EXPECT_NE(message("prealloc-align", 0).find("multiple of 512"), std::string::npos);
  EXPECT_NE(message("prealloc-align", "1000").find("prealloc-align"), std::string::npos);
  EXPECT_NE(message("prealloc-align", "2T").find("prealloc-align"), std::string::npos);
  EXPECT_NE(message("prealloc-size", "2P").find("prealloc-size"), std::string::npos);
  EXPECT_NE(message("prealloc-sise", 1).find("prealloc-sise"), std::string::npos);
  EXPECT_EQ(message("prealloc-size", "16M"), "");
}

}  // namespace
}  // namespace ostler::block
