// Edges, permissions, drain, and the devices' end of the graph.
#include <thread>

#include "block/backend.h"
#include "block/null/null_node.h"
#include "block_fixture.h"

namespace ostler::block {
namespace {

using test::BlockTest;

constexpr Permissions kWriter = {.used = kPermissionRead | kPermissionWrite, .shared = kPermissionRead};

TEST_F(BlockTest, a_writer_that_shares_nothing_excludes_another) {
  const auto node = std::make_shared<NullNode>(4096);
  ASSERT_TRUE(opener.add(node, "disk"));
  auto first = Client::attach(node, "first", kWriter);
  ASSERT_TRUE(first);
  const auto second = Client::attach(node, "second", kWriter);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind(), ErrorKind::kBusy);
  EXPECT_NE(second.error().message().find("'first'"), std::string::npos) << second.error().message();
  first = Error(ErrorKind::kState, "gone");
  EXPECT_TRUE(Client::attach(node, "second", kWriter));
}

TEST_F(BlockTest, requests_without_permission_or_beyond_the_end_are_refused) {
  const auto node = std::make_shared<NullNode>(4096);
  const auto client = *Client::attach(node, "reader", {});
  char bytes[512];
  const iovec piece{bytes, sizeof bytes};
  EXPECT_EQ(context.run_until(client->read(0, Buffers(&piece, 1))), 0);
  EXPECT_EQ(context.run_until(client->write(0, Buffers(&piece, 1))), -EPERM);
  EXPECT_EQ(context.run_until(client->read(4096, Buffers(&piece, 1))), -EINVAL);
  EXPECT_EQ(context.run_until(client->discard(0, 512)), -EPERM);
  EXPECT_EQ(client->try_read(3840, Buffers(&piece, 1)), -EINVAL);
}

Task<int> drain_while_reading(std::shared_ptr<Client> client, bool& done, std::vector<std::string>& events) {
  {
    Drained drained = co_await Drained::begin(client->node());
    events.push_back(done ? "drained after the read" : "drained too early");
    const auto late = [](std::shared_ptr<Client> user, std::vector<std::string>& log) -> Task<void> {
      char bytes[512];
      const iovec piece{bytes, sizeof bytes};
      co_await user->read(0, Buffers(&piece, 1));
      log.push_back("late read");
    };
    spawn(late(client, events));
    IoContext& context = *IoContext::current();
    co_await context.sleep_until(IoContext::now() + 2'000'000);
    events.push_back("end of drain");
  }
  IoContext& context = *IoContext::current();
  while (events.size() < 3) co_await context.sleep_until(IoContext::now() + 1'000'000);
  co_return 0;
}

Task<int> read_and_drain(std::shared_ptr<Client> client, std::vector<std::string>& events) {
  bool done = false;
  const auto early = [](std::shared_ptr<Client> user, bool& flag) -> Task<void> {
    char bytes[512];
    const iovec piece{bytes, sizeof bytes};
    co_await user->read(0, Buffers(&piece, 1));
    flag = true;
  };
  spawn(early(client, done));
  co_return co_await drain_while_reading(client, done, events);
}

TEST_F(BlockTest, drain_waits_for_requests_and_holds_new_ones_back) {
  const auto node = std::make_shared<NullNode>(4096, false, true, 3'000'000);
  std::vector<std::string> events;
  EXPECT_EQ(context.run_until(read_and_drain(*Client::attach(node, "user", {}), events)), 0);
  EXPECT_EQ(events, (std::vector<std::string>{"drained after the read", "end of drain", "late read"}));
}

Task<int> swap_child(Edge& edge, NodePtr next) {
  const Drained drained = co_await Drained::begin(edge.node());
  co_return edge.replace(std::move(next)) ? 0 : -EBUSY;
}

TEST_F(BlockTest, a_drained_edge_can_change_its_node) {
  const auto client = *Client::attach(std::make_shared<NullNode>(4096), "user", {});
  EXPECT_EQ(context.run_until(swap_child(client->edge(), std::make_shared<NullNode>(8192))), 0);
  EXPECT_EQ(client->size(), 8192u);
  char bytes[512];
  const iovec piece{bytes, sizeof bytes};
  EXPECT_EQ(context.run_until(client->read(4096, Buffers(&piece, 1))), 0);
}

Task<int> swap_users(NodePtr from, NodePtr to) {
  const Drained one = co_await Drained::begin(from);
  const Drained other = co_await Drained::begin(to);
  co_return Edge::move_users(from, to, {}, {}) ? 0 : -EBUSY;
}

TEST_F(BlockTest, users_come_and_go_while_others_change_node_and_size) {
  const NodePtr small = std::make_shared<NullNode>(4096), large = std::make_shared<NullNode>(8192);
  std::atomic<bool> stop{false};
  std::thread visitor([&] {
    while (!stop) {
      const auto client = *Client::attach(small, "visitor", {.used = 0, .shared = kPermissionsAll});
      const uint64_t size = client->size();
      EXPECT_TRUE(size == 4096 || size == 8192);
    }
  });
  for (int i = 0; i < 2000; ++i) {
    EXPECT_EQ(context.run_until(swap_users(small, large)), 0);
    EXPECT_EQ(context.run_until(swap_users(large, small)), 0);
    small->resized();
  }
  stop = true;
  visitor.join();
}

TEST_F(BlockTest, writethrough_flushes_each_write) {
  const NodePtr node = open_options({{"driver", "blkdebug"},
                                     {"image", {{"driver", "null-co"}}},
                                     {"inject-error", {{{"iotype", "flush"}, {"errno", 28}}}}});
  ASSERT_NE(node, nullptr);
  const auto client = *Client::attach(node, "user", kWriter);
  char bytes[512] = {};
  const iovec piece{bytes, sizeof bytes};
  EXPECT_EQ(context.run_until(client->write(0, Buffers(&piece, 1))), 0);
  client->set_writethrough(true);
  EXPECT_EQ(context.run_until(client->write(0, Buffers(&piece, 1))), -28);
}

TEST_F(BlockTest, backend_answers_at_once_what_the_page_cache_has) {
  const std::string file = make_file("disk", std::string(8192, 'a'));
  IoThread thread;
  NodeBackend disk(*Client::attach(open(file, "raw"), "disk", kWriter), thread.context());
  std::string bytes(4096, '?');
  std::promise<int> result;
  disk.read(0, {{bytes.data(), bytes.size()}}, [&](int error) { result.set_value(error); });
  EXPECT_EQ(result.get_future().get(), 0);
  EXPECT_EQ(bytes, std::string(4096, 'a'));
  std::thread::id written_by;
  disk.write(4096, {{bytes.data(), bytes.size()}}, [&](int) { written_by = std::this_thread::get_id(); });
  EXPECT_EQ(written_by, std::this_thread::get_id());
}

TEST_F(BlockTest, backend_runs_the_rest_on_its_context) {
  const std::string file = make_file("disk", std::string(1 << 20, 'a'));
  IoThread thread;
  NodeBackend disk(*Client::attach(open(file, "raw"), "disk", kWriter), thread.context());
  const auto wait = [](auto start) {
    std::promise<int> result;
    start([&](int error) { result.set_value(error); });
    return result.get_future().get();
  };
  std::string bytes(700 * 1024, 'b');
  EXPECT_EQ(wait([&](Done done) { disk.write(512, {{bytes.data(), bytes.size()}}, done); }), 0);
  EXPECT_EQ(wait([&](Done done) { disk.flush(done); }), 0);
  EXPECT_EQ(wait([&](Done done) { disk.discard(0, 4096, done); }), 0);
  EXPECT_EQ(wait([&](Done done) { disk.write_zeroes(8192, 4096, true, done); }), 0);
  EXPECT_EQ(wait([&](Done done) { disk.read(1 << 20, {{bytes.data(), 512}}, done); }), EINVAL);
  std::promise<void> deferred;
  disk.defer([&] { deferred.set_value(); });
  deferred.get_future().wait();
  EXPECT_EQ(content_of(file).substr(8192, 4096), std::string(4096, '\0'));
  EXPECT_EQ(content_of(file).substr(12288, 10), "bbbbbbbbbb");
}

}  // namespace
}  // namespace ostler::block
