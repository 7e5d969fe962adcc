// The filter "preallocate", on files and below qcow2 images.
#include "block/filters/preallocate.h"

#include "block/null/null_node.h"
#include "filter_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;
using test::FilterTest;

// A file on any file system: zeros that it cannot reserve are written.
class ZeroingFilter final : public FilterNode {
 public:
  ZeroingFilter() : FilterNode("zeroing", "file") {}
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override {
    reserved += flags.no_fallback ? bytes : 0;
    flags.no_fallback = false;
    return write_zeroes_anyhow(*child_, offset, bytes, flags);
  }
  uint64_t reserved = 0;  // bytes that were to be zeros only if that is cheap
};

class PreallocateTest : public FilterTest {
 protected:
  static constexpr uint64_t kUnit = 1 << 20, kAhead = 1 << 20;

  // A file of that name with rules for faults below the filter.
  NodePtr open_filter(const std::string& name, const std::string& content) {
    const auto zeroing = std::make_shared<ZeroingFilter>();
    reserved = &zeroing->reserved;
    EXPECT_TRUE(zeroing->connect(open_file(make_file(name, content)), pass_through_permissions(true)));
    faulty = std::make_shared<FaultNode>();
    EXPECT_TRUE(faulty->connect(zeroing, pass_through_permissions(true)));
    EXPECT_TRUE(opener.add(faulty, name + ".faults"));
    json options = {{"driver", "preallocate"},
                    {"node-name", name},
                    {"prealloc-align", kUnit},
                    {"prealloc-size", kAhead},
                    {"file", name + ".faults"}};
    return open_options(options);
  }
  // All that is below a node goes with it.
  void close(NodePtr& node) {
    faulty = nullptr;
    FilterTest::close(node);
  }
  uint64_t length(const std::string& name) const { return std::filesystem::file_size(path(name)); }

  std::shared_ptr<FaultNode> faulty;
  const uint64_t* reserved = nullptr;  // of the file's ZeroingFilter
};

TEST_F(PreallocateTest, a_write_beyond_the_end_reserves_and_the_close_cuts) {
  NodePtr node = open_filter("disk", "begin");
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(node->size(), 5u);
  ASSERT_EQ(write(*node, 5, "more"), 0);
  EXPECT_EQ(node->size(), 9u);
  EXPECT_EQ(length("disk"), kUnit + kAhead);
  EXPECT_EQ(faulty->count(kFaultWriteZeroes), 1u);
  ASSERT_EQ(write(*node, 1000, "last"), 0);  // in what was reserved
  EXPECT_EQ(faulty->count(kFaultWriteZeroes), 1u);
  EXPECT_EQ(*reserved, kUnit + kAhead - 5);  // from the file's end
  EXPECT_EQ(node->size(), 1004u);
  ASSERT_EQ(write(*node, 0, "begin"), 0);
  EXPECT_EQ(node->size(), 1004u);
  EXPECT_EQ(read(*node, 1002, 6), std::string("st\0\0\0\0", 6));
  for (const StatusDetail detail : {StatusDetail::kQuick, StatusDetail::kPrecise}) {
    BlockStatus status;
    ASSERT_EQ(context.run_until(node->block_status(1004, 100, detail, status)), 0);
    EXPECT_TRUE(status.zero && !status.data);
  }
  close(node);
  EXPECT_EQ(length("disk"), 1004u);
  EXPECT_EQ(content_of(path("disk")), "beginmore" + std::string(991, '\0') + "last");
}

TEST_F(PreallocateTest, a_host_file_keeps_the_space) {
  make_file("disk", "");
  NodePtr node = open_options({{"driver", "preallocate"}, {"file", file_options("disk")}});
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, "data"), 0);
  EXPECT_EQ(node->size(), 4u);
  EXPECT_EQ(node->options()["prealloc-align"], 1 << 20);
  EXPECT_EQ(node->options()["prealloc-size"], 128 << 20);
  close(node);
  EXPECT_EQ(content_of(path("disk")), "data");
}

TEST_F(PreallocateTest, what_needs_no_wait_goes_through) {
  PreallocateNode node(kUnit, kAhead);
  ASSERT_TRUE(node.connect(std::make_shared<NullNode>(kUnit), PreallocateNode::permissions(true)));
  node.start(true);
  std::string bytes(512, 'x');
  const iovec piece{bytes.data(), bytes.size()};
  EXPECT_EQ(node.try_read(0, Buffers(&piece, 1)), 0);
  EXPECT_EQ(node.try_write(kUnit - 512, Buffers(&piece, 1)), 0);
  EXPECT_EQ(node.try_write(kUnit - 511, Buffers(&piece, 1)), -EAGAIN);  // makes it longer
}

TEST_F(PreallocateTest, nothing_is_reserved_where_no_file_reaches) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  EXPECT_LT(write(*node, (uint64_t{1} << 63) - 512, "far"), 0);
  EXPECT_EQ(faulty->count(kFaultWriteZeroes), 0u);
  EXPECT_EQ(node->size(), 0u);
  close(node);
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
  EXPECT_EQ(faulty->count(kFaultFlush), 1u);
  close(node);
  EXPECT_EQ(length("disk"), 3 * kUnit + 1);
}

TEST_F(PreallocateTest, without_space_for_more_the_write_goes_on) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  faulty->add({.kinds = kFaultWriteZeroes, .error = ENOSPC, .once = true});
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
  faulty->add({.kinds = kFaultWriteZeroes, .error = ENOTSUP});
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(write(*node, i * 3, "abc"), 0);
  EXPECT_EQ(faulty->count(kFaultWriteZeroes), 1u);
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
    faulty->add({.kinds = kFaultWriteZeroes, .error = ENOSPC, .skip = skip, .once = true});
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
  faulty->add({.kinds = kFaultWrite, .once = true, .transfer = 50});
  EXPECT_EQ(write(*node, 1, std::string(100, 'b')), -EIO);
  EXPECT_EQ(node->size(), 101u);
  ASSERT_TRUE(context.run_until(node->truncate(1, Preallocation::kOff)));
  ASSERT_TRUE(context.run_until(node->truncate(200, Preallocation::kOff)));
  EXPECT_EQ(read(*node, 0, 200), "a" + std::string(199, '\0'));
  close(node);
}

TEST_F(PreallocateTest, what_a_failed_request_did_not_reach_is_not_in_the_file) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  faulty->add({.kinds = kFaultWriteZeroes, .error = ENOSPC, .once = true});
  faulty->add({.kinds = kFaultWrite, .once = true, .transfer = 50});
  EXPECT_EQ(write(*node, 0, std::string(100, 'b')), -EIO);
  EXPECT_EQ(node->size(), 50u);
  ASSERT_EQ(write(*node, 0, "a"), 0);
  ASSERT_EQ(write(*node, 50, "c"), 0);  // reserves
  faulty->add({.kinds = kFaultWriteZeroes, .error = ENOTSUP, .once = true});
  EXPECT_EQ(context.run_until(node->write_zeroes(1000, 100, {.no_fallback = true})), -ENOTSUP);
  EXPECT_EQ(node->size(), 51u);
  close(node);
  EXPECT_EQ(length("disk"), 51u);
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
  for (const uint64_t skip : {0, 1}) {  // cutting, the new size
    faulty->add({.kinds = kFaultTruncate, .skip = skip, .once = true});
    EXPECT_FALSE(context.run_until(node->truncate(2000, Preallocation::kOff)));
    EXPECT_EQ(node->size(), 11u);
  }
  ASSERT_TRUE(context.run_until(node->truncate(kUnit, Preallocation::kFull)));
  EXPECT_GE(node->allocated_bytes(), static_cast<int64_t>(kUnit));
  close(node);
  EXPECT_EQ(length("disk"), kUnit);
}

TEST_F(PreallocateTest, a_new_size_waits_for_writes_that_have_begun) {
  make_file("disk", std::string(1000, 'd'));
  NodePtr node = open_options({{"driver", "preallocate"}, {"file", slow(file_options("disk"))}});
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(read(*node, 0, 1), "d");  // the next request waits
  EXPECT_EQ(context.run_until(test::run_both(write_bytes(*node, 900, "late", 4), test::shrink(*node, 10))),
            0);
  EXPECT_EQ(node->size(), 10u);
  close(node);
  EXPECT_EQ(content_of(path("disk")), std::string(10, 'd'));
}

TEST_F(PreallocateTest, a_file_that_cannot_be_cut_is_told) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, "x"), 0);
  faulty->add({.kinds = kFaultTruncate, .once = true});
  faulty = nullptr;
  EXPECT_FALSE(context.run_until(close_chain(std::move(node))));
}

TEST_F(PreallocateTest, giving_up_write_access_cuts) {
  make_file("disk", "");
  NodePtr node = open_options(
      {{"driver", "preallocate"}, {"prealloc-size", kAhead}, {"file", with_faults(file_options("disk"))}});
  ASSERT_NE(node, nullptr);
  ASSERT_EQ(write(*node, 0, "first"), 0);
  ASSERT_TRUE(context.run_until(node->reopen(true)));  // as it was
  EXPECT_EQ(node->size(), 5u);
  faults()->add({.kinds = kFaultTruncate, .once = true});
  EXPECT_FALSE(context.run_until(node->reopen(false)));
  EXPECT_FALSE(node->read_only());
  ASSERT_TRUE(context.run_until(node->reopen(false)));
  EXPECT_TRUE(node->read_only());
  EXPECT_TRUE(node->filtered()->read_only());
  EXPECT_EQ(length("disk"), 5u);
  EXPECT_EQ(node->size(), 5u);
  ASSERT_TRUE(context.run_until(node->reopen(true)));
  EXPECT_FALSE(node->read_only());
  EXPECT_FALSE(node->filtered()->read_only());
  ASSERT_EQ(write(*node, 5, "second"), 0);
  ASSERT_TRUE(context.run_until(node->reopen(false)));
  const uint64_t cuts = faults()->count(kFaultTruncate);
  ASSERT_TRUE(context.run_until(node->reopen(true)));
  ASSERT_TRUE(context.run_until(node->reopen(false)));  // there is nothing to cut
  EXPECT_EQ(faults()->count(kFaultTruncate), cuts);
  close(node);
  EXPECT_EQ(content_of(path("disk")), "firstsecond");
}

TEST_F(PreallocateTest, a_file_that_stays_as_it_is_keeps_the_filter_so) {
  for (const bool writable : {true, false}) {
    const auto file = std::make_shared<NullNode>(kUnit, !writable);  // cannot change
    PreallocateNode node(kUnit, kAhead);
    ASSERT_TRUE(node.connect(file, PreallocateNode::permissions(writable)));
    node.start(writable);
    EXPECT_FALSE(context.run_until(node.reopen(!writable)));
    EXPECT_EQ(node.read_only(), !writable);
    EXPECT_EQ(others_may_write(file), !writable);
  }
}

TEST_F(PreallocateTest, the_length_of_the_file_is_the_filters_alone) {
  NodePtr node = open_filter("disk", "");
  ASSERT_NE(node, nullptr);
  EXPECT_FALSE(others_may_write(node->filtered()));
  EXPECT_FALSE(Client::attach(node->filtered(), "other", {.used = kPermissionResize}));
  EXPECT_FALSE(Client::attach(node->filtered(), "other", {.shared = kPermissionsAll & ~kPermissionResize}));
  EXPECT_TRUE(Client::attach(node->filtered(), "reader", {}));
  EXPECT_TRUE(others_may_write(node));
  ASSERT_TRUE(context.run_until(node->reopen(false)));
  EXPECT_TRUE(others_may_write(node->filtered()));
  ASSERT_TRUE(context.run_until(node->reopen(true)));
  EXPECT_FALSE(others_may_write(node->filtered()));
  close(node);
}

TEST_F(PreallocateTest, a_read_only_node_changes_nothing) {
  make_file("disk", "text");
  NodePtr file = open_options({{"driver", "file"}, {"node-name", "below"}, {"filename", path("disk")}});
  ASSERT_NE(file, nullptr);
  NodePtr node = open_options({{"driver", "preallocate"}, {"file", "below"}}, false);
  ASSERT_NE(node, nullptr);
  EXPECT_TRUE(node->read_only());
  EXPECT_TRUE(others_may_write(file));
  ASSERT_EQ(write(*file, 4, " and more"), 0);
  EXPECT_EQ(node->size(), 13u);
  EXPECT_EQ(read(*node, 0, 13), "text and more");
  close(node);
  close(file);
  EXPECT_EQ(content_of(path("disk")), "text and more");
}

TEST_F(PreallocateTest, a_file_that_is_only_read_makes_a_read_only_node) {
  make_file("disk", "text");
  json file = file_options("disk");
  file["read-only"] = true;
  NodePtr node = open_options({{"driver", "preallocate"}, {"file", file}});
  ASSERT_NE(node, nullptr);
  EXPECT_TRUE(node->read_only());
  close(node);
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
  FilterTest::close(left);
  expect_check_clean("crashed");
  const uint64_t data = node->file()->size();
  close(node);
  EXPECT_LT(length("disk"), data + 16 * 65536);
  expect_check_clean("disk");
  expect_content("disk", work.model);
}

TEST_F(PreallocateTest, writes_that_wait_for_others_or_below_can_be_cancelled) {
  make_file("disk", "");
  NodePtr node = open_options({{"driver", "preallocate"},
                               {"prealloc-size", 0},
                               {"prealloc-align", 4 << 20},
                               {"file", with_faults(slow(file_options("disk")))}});
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(read(*node, 0, 1), std::string(1, '\0'));  // the next request waits: the first reservation
  const std::vector<int> results =
      context.run_until(test::run_and_cancel(node, test::small_writes(*node, 50, 65536)));
  EXPECT_EQ(results, std::vector<int>(50, -ECANCELED));
  EXPECT_EQ(faults()->count(kFaultWriteZeroes | kFaultWrite), 1u);
  EXPECT_EQ(node->size(), 0u);
  EXPECT_EQ(length("disk"), 0u) << "the reservation waited below and was cancelled there";
  close(node);
}

TEST_F(PreallocateTest, a_drain_of_the_file_waits_for_reservations_and_writes) {
  create("plain", {{"size", 4 << 20}});
  NodePtr file = open_filter("disk", content_of(path("plain")));
  ASSERT_NE(file, nullptr);
  NodePtr node = open_options({{"driver", "qcow2"}, {"file", "disk"}});
  ASSERT_NE(node, nullptr);
  auto user = Client::attach(node, "user", pass_through_permissions(true));
  ASSERT_TRUE(user);
  EXPECT_EQ(context.run_until(test::write_and_drain(*user, file->filtered(), std::string(200 << 10, 'd'), 4)),
            0);
  *user = nullptr;
  file = nullptr;
  close(node);
  expect_content("disk", std::string(800 << 10, 'd') + std::string((4 << 20) - (800 << 10), '\0'));
}

TEST_F(PreallocateTest, options_are_checked) {
  make_file("disk", "");
  const auto message = [&](const char* key, json value) {
    json options = {{"driver", "preallocate"}, {"file", file_options("disk")}};
    options[key] = std::move(value);
    return options_error(std::move(options));
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
