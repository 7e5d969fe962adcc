// Disks that NBD clients write while jobs put other nodes in the place of theirs.
#include <atomic>
#include <optional>
#include <thread>

#include "block/jobs/bitmaps.h"
#include "block/jobs/commit.h"
#include "block/jobs/graph.h"
#include "block/jobs/mirror.h"
#include "block/jobs/snapshot.h"
#include "block/jobs/stream.h"
#include "block/nbd/live_server.h"
#include "job_fixture.h"
#include "nbd_peer.h"

namespace ostler::block {
namespace {

using nbd::Command;
using nbd::LiveServer;
using test::Guest;
using test::JobTest;
using test::NbdPeer;
using test::same;

constexpr uint64_t kSize = 8 << 20, kHalf = kSize / 2;

class JobNbdTest : public JobTest {
 protected:
  // A device that lets others write has the first half of the disk, clients of the export the second.
  void begin(unsigned seed) {
    content = make_chain("disk", 2, kSize, seed);
    NodePtr node = open(path("disk1"), "qcow2");
    auto client = Client::attach(node, "guest",
                                 {.used = kPermissionRead | kPermissionWrite, .shared = kPermissionsAll});
    ASSERT_TRUE(client);
    guest_disk = *client;
    ASSERT_TRUE(server.start({.path = socket()}, nullptr, 0));
    add("disk", false);
    remote = open_options(
        {{"driver", "nbd"}, {"server", {{"type", "unix"}, {"path", socket()}}}, {"export", "disk"}});
    ASSERT_NE(remote, nullptr);
    auto user = Client::attach(remote, "client", {.used = kPermissionRead | kPermissionWrite});
    ASSERT_TRUE(user);
    device.emplace(guest_disk, content.substr(0, kHalf), seed, 2);
    user_of_export.emplace(*user, content.substr(kHalf), seed + 1, 2, kHalf);
    wait();
  }
  std::string socket() const { return path("nbd.sock"); }
  void add(const std::string& name, bool read_only, std::vector<std::string> bitmaps = {}) {
    const NodePtr node = node_now();
    const auto added =
        server.add(node, {.name = name, .read_only = read_only, .bitmaps = std::move(bitmaps)});
    ASSERT_TRUE(added) << added.error().message();
  }
  NodePtr node_now() {
    const std::lock_guard lock(graph_mutex());
    return guest_disk->node();
  }
  void wait() {
    device->wait_for(40);
    user_of_export->wait_for(40);
  }
  NodePtr make_target(const std::string& name) {
    create(name, {{"size", kSize}});
    NodePtr node = open(path(name), "qcow2");
    return node;
  }
  // Chooses an export and a context of it; the blocks' states come.
  static bool ask_for(NbdPeer& peer, const std::string& name, const std::string& context) {
    peer.greet();
    EXPECT_EQ(peer.ask(nbd::Option::kStructuredReply), nbd::OptionReply::kAck);
    peer.option(nbd::Option::kSetMetaContext, NbdPeer::query_data(name, {context}));
    while (peer.reply() == nbd::OptionReply::kMetaContext) continue;
    peer.option(nbd::Option::kGo, NbdPeer::go_data(name));
    while (peer.reply() == nbd::OptionReply::kInfo) continue;
    return is_told(peer);
  }
  static bool is_told(NbdPeer& peer) {
    peer.request(Command::kBlockStatus, 0, kSize);
    return peer.chunk().type == nbd::Chunk::kBlockStatus;
  }
  // Of the node that the device has then.
  void add_and_ask(const std::string& name) {
    std::shared_ptr<Client> client;
    {
      const std::lock_guard lock(graph_mutex());
      auto attached = LiveServer::attach(guest_disk->node(), {.name = name, .read_only = true});
      ASSERT_TRUE(attached);
      client = *attached;
    }
    ASSERT_TRUE(server.add(std::move(client), {.name = name, .read_only = true}));
    NbdPeer peer(socket());
    EXPECT_TRUE(ask_for(peer, name, "base:allocation"));
  }
  // Completes a job that is ready while everybody writes, and one that is not ready by itself.
  void expect_success(const std::shared_ptr<Job>& job, bool becomes_ready) {
    ASSERT_NE(job, nullptr);
    if (becomes_ready) {
      wait_for_status(job, JobStatus::kReady);
      wait();
      EXPECT_TRUE(job->complete());
    }
    EXPECT_EQ(end_of(job), "");
    wait();
  }
  std::shared_ptr<Job> mirror_to(NodePtr target, MirrorCopyMode mode) {
    MirrorOptions options;
    options.job.id = "job";
    options.job.auto_dismiss = true;
    options.node = node_now();
    options.target = std::move(target);
    options.copy_mode = mode;
    return expect_job(run(start_mirror(manager, std::move(options))));
  }
  std::shared_ptr<Job> commit() {
    CommitOptions options;
    options.job.id = "job";
    options.job.auto_dismiss = true;
    options.node = node_now();
    return expect_job(run(start_commit(manager, std::move(options))));
  }
  // Nobody writes any more: what the device, the client and `file` read is what both know.
  void expect_end(const std::string& file) {
    const std::string wanted = device->stop() + user_of_export->stop();
    EXPECT_TRUE(same(read_guest_disk(), wanted));
    EXPECT_TRUE(same(read(*remote, 0, kSize), wanted));
    EXPECT_EQ(flush(*remote), 0);
    user_of_export.reset();
    device.reset();
    close(remote);
    server.stop();
    close_guest_disk();
    expect_check_clean(file);
    expect_content(file, wanted);
  }
  void TearDown() override {
    device.reset();
    user_of_export.reset();
    if (remote) close(remote);
    server.stop();
    JobTest::TearDown();
  }

  std::string content;
  LiveServer server;
  NodePtr remote;
  std::optional<Guest> device, user_of_export;
};

TEST_F(JobNbdTest, clients_go_over_to_the_target_of_a_mirror) {
  for (const MirrorCopyMode mode : {MirrorCopyMode::kBackground, MirrorCopyMode::kWriteBlocking}) {
    SCOPED_TRACE(static_cast<int>(mode));
    begin(101);
    NodePtr target = make_target("target");
    expect_success(mirror_to(target, mode), true);
    EXPECT_EQ(node_now(), target);
    target = nullptr;
    expect_end("target");
  }
}

TEST_F(JobNbdTest, clients_go_over_to_the_base_of_a_commit) {
  begin(102);
  expect_success(commit(), true);
  expect_end("disk0");
}

TEST_F(JobNbdTest, clients_write_while_a_stream_makes_the_image_whole) {
  begin(103);
  StreamOptions options;
  options.job.id = "job";
  options.node = node_now();
  expect_success(expect_job(run(start_stream(manager, std::move(options)))), false);
  expect_end("disk1");
}

TEST_F(JobNbdTest, clients_write_to_the_overlay_of_a_snapshot_and_through_its_commit) {
  begin(104);
  for (int round = 0; round < 4; ++round) {
    SCOPED_TRACE(round);
    SnapshotFile snapshot;
    snapshot.node = node_now();
    snapshot.file = path("overlay");
    const auto taken = run(take_snapshot_file(manager, std::move(snapshot)));
    ASSERT_TRUE(taken) << taken.error().message();
    wait();
    CommitOptions options;
    options.job.id = "job";
    options.node = node_now();
    options.base = next_in_chain(options.node);
    expect_success(expect_job(run(start_commit(manager, std::move(options)))), true);
  }
  expect_end("disk1");
}

TEST_F(JobNbdTest, a_cancelled_mirror_leaves_the_clients_where_they_were) {
  begin(105);
  NodePtr target = make_target("target");
  const auto job = mirror_to(target, MirrorCopyMode::kBackground);
  ASSERT_NE(job, nullptr);
  wait();
  EXPECT_TRUE(job->cancel());
  end_of(job);
  wait();
  close(target);
  expect_end("disk1");
}

// An export that is made while a job has its filter over the disk, by the image's own node.
TEST_F(JobNbdTest, exports_of_the_image_under_a_job_go_over_too) {
  begin(106);
  const NodePtr image = node_now();
  NodePtr target = make_target("target");
  const auto job = mirror_to(target, MirrorCopyMode::kBackground);
  ASSERT_NE(job, nullptr);
  ASSERT_NE(node_now(), image);
  ASSERT_TRUE(server.add(image, {.name = "image", .read_only = true}));
  expect_success(job, true);
  NbdPeer peer(socket());
  peer.greet();
  peer.option(nbd::Option::kGo, NbdPeer::go_data("image"));
  while (peer.reply() == nbd::OptionReply::kInfo) continue;
  const std::string wanted = device->stop() + user_of_export->stop();
  ASSERT_EQ(peer.ask(Command::kRead, 0, kSize), 0u);
  EXPECT_TRUE(same(peer.receive(kSize), wanted));
  ASSERT_TRUE(server.remove("image"));
  target = nullptr;
  expect_end("target");
}

// Exports come and go and connections are made at each moment of mirrors from file to file.
TEST_F(JobNbdTest, exports_and_connections_come_and_go_while_the_node_changes) {
  begin(107);
  std::atomic<bool> stop{false};
  std::thread others([&] {
    for (unsigned round = 0; !stop; ++round) {
      const std::string name = "n" + std::to_string(round);
      add_and_ask(name);
      EXPECT_TRUE(server.remove(name));
    }
  });
  for (int round = 0; round < 4; ++round) {
    const std::string name = "target" + std::to_string(round);
    expect_success(mirror_to(make_target(name), MirrorCopyMode::kBackground), true);
  }
  stop = true;
  others.join();
  expect_end("target3");
}

// The bitmap stays with the image that keeps it.
TEST_F(JobNbdTest, a_bitmap_is_asked_for_until_its_image_is_gone) {
  begin(108);
  const auto kept = run(add_bitmap(manager, {.node = node_now(), .name = "bits", .persistent = true}));
  ASSERT_TRUE(kept) << kept.error().message();
  add("bits", true, {"bits"});
  NbdPeer peer(socket());
  const bool before = ask_for(peer, "bits", "qemu:dirty-bitmap:bits");
  EXPECT_TRUE(before);
  NodePtr target = make_target("target");
  const auto job = mirror_to(target, MirrorCopyMode::kBackground);
  ASSERT_NE(job, nullptr);
  std::thread asking([&] {
    while (is_told(peer)) continue;
  });
  expect_success(job, true);
  asking.join();
  EXPECT_FALSE(is_told(peer));
  EXPECT_EQ(node_now(), target);
  target = nullptr;
  expect_end("target");
}

}  // namespace
}  // namespace ostler::block
