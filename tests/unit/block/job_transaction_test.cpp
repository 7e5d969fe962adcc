// Several changes at one moment, all or none, while guests write.
#include "block/jobs/transaction.h"

#include "block/jobs/graph.h"
#include "job_fixture.h"

namespace ostler::block {
namespace {

using test::Guest;
using test::JobTest;
using test::same;

constexpr uint64_t kSize = 4 << 20;  // several pieces: a job whose speed is 1 copies only the first

class TransactionTest : public JobTest {
 protected:
  struct Disk {
    std::shared_ptr<Client> client;
    NodePtr target;
  };
  void TearDown() override {
    run(manager.shut_down());
    for (Disk& each : disks) {
      if (each.target) close(each.target);
      NodePtr node = each.client->node();
      each.client = nullptr;
      close(node);
    }
    JobTest::TearDown();
  }
  // A disk named so, of zeros.
  Disk& add_disk(const std::string& name) {
    create(name, {{"size", kSize}});
    NodePtr node = open(path(name), "qcow2");
    auto client = Client::attach(node, name, test::kGuest);
    EXPECT_TRUE(client);
    disks.push_back({*client, nullptr});
    return disks.back();
  }
  BackupOptions backup_of(Disk& disk, const std::string& id) {
    create(id, {{"size", kSize}});
    disk.target = open(path(id), "qcow2");
    BackupOptions options;
    options.job.id = id;
    options.job.auto_dismiss = false;
    options.node = disk.client->node();
    options.target = disk.target;
    return options;
  }
  int write_to(Disk& disk, uint64_t offset, const std::string& bytes) {
    const iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
    return context.run_until(disk.client->write(offset, Buffers(&piece, 1)));
  }
  std::vector<BitmapInfo> bitmaps_of(const Disk& disk) { return list_bitmaps(disk.client->node()); }
  Result<std::vector<std::shared_ptr<Job>>> transact(std::vector<TransactionAction> actions,
                                                     CompletionMode mode = CompletionMode::kIndividual) {
    return run(run_transaction(manager, std::move(actions), mode));
  }
  // An action that is refused: such a bitmap is not there.
  static BitmapChange impossible(const Disk& disk) {
    return {BitmapChange::Kind::kClear, disk.client->node(), "none"};
  }
  template <class... Actions>
  static std::vector<TransactionAction> list(Actions... actions) {
    std::vector<TransactionAction> all;
    (all.emplace_back(std::move(actions)), ...);
    return all;
  }
  std::deque<Disk> disks;
};

// A guest writes each number to the first disk, then to the second: a moment has the same in both, or one
// more in the first.
TEST_F(TransactionTest, backups_are_of_one_moment) {
  Disk &one = add_disk("one"), &two = add_disk("two");
  std::atomic<bool> stop{false};
  std::atomic<unsigned> rounds{0};
  std::thread guest([&] {
    IoContext own;
    for (unsigned i = 1; !stop; ++i, ++rounds) {
      std::string sector(512, '\0');
      memcpy(sector.data(), &i, sizeof i);
      const iovec piece{sector.data(), sector.size()};
      EXPECT_EQ(own.run_until(one.client->write(0, Buffers(&piece, 1))), 0);
      EXPECT_EQ(own.run_until(two.client->write(0, Buffers(&piece, 1))), 0);
    }
  });
  const auto number_of = [&](const std::string& name) {
    NodePtr node = open(path(name), "qcow2", false);
    const std::string bytes = read(*node, 0, 512);
    close(node);
    unsigned number = 0;
    memcpy(&number, bytes.data(), sizeof number);
    return number;
  };
  for (unsigned i = 0; i < 8; ++i) {
    SCOPED_TRACE(i);
    for (const unsigned seen = rounds; rounds < seen + 20;) std::this_thread::yield();
    const std::string first = "a" + std::to_string(i), second = "b" + std::to_string(i);
    auto begun = transact(list(backup_of(one, first), backup_of(two, second)));
    ASSERT_TRUE(begun) << begun.error().message();
    for (const auto& job : *begun) EXPECT_EQ(end_of(job), "");
    close(one.target);
    close(two.target);
    const unsigned of_one = number_of(first), of_two = number_of(second);
    EXPECT_LE(of_two, of_one);
    EXPECT_LE(of_one, of_two + 1);
  }
  stop = true;
  guest.join();
}

TEST_F(TransactionTest, what_was_done_is_undone_when_something_fails) {
  Disk &one = add_disk("one"), &two = add_disk("two");
  ASSERT_TRUE(run(add_bitmap(manager, {.node = two.client->node(), .name = "old"})));
  ASSERT_EQ(write_to(two, 65536, std::string(65536, 'x')), 0);
  create("overlay", {{"size", kSize / 2}});
  NodePtr overlay = open(path("overlay"), "qcow2");
  // The snapshot is the last of all, and impossible: the sizes differ.
  auto begun = transact(list(BitmapOptions{.node = one.client->node(), .name = "new"},
                             BitmapChange{BitmapChange::Kind::kClear, two.client->node(), "old"},
                             BitmapChange{BitmapChange::Kind::kDisable, two.client->node(), "old"},
                             backup_of(one, "job1"), SnapshotPair{two.client->node(), overlay}));
  ASSERT_FALSE(begun);
  EXPECT_NE(begun.error().message().find("the sizes differ"), std::string::npos);
  EXPECT_TRUE(bitmaps_of(one).empty());
  ASSERT_EQ(bitmaps_of(two).size(), 1u);
  EXPECT_EQ(bitmaps_of(two)[0].dirty_bytes, 65536u);
  EXPECT_TRUE(bitmaps_of(two)[0].enabled);
  EXPECT_EQ(manager.list().at(0).status, JobStatus::kConcluded);
  EXPECT_NE(manager.list().at(0).error, "");
  EXPECT_EQ(one.client->node()->driver(), "qcow2");
  EXPECT_EQ(write_to(one, 0, std::string(512, 'w')), 0);
  close(overlay);
}

TEST_F(TransactionTest, an_action_that_is_refused_begins_nothing) {
  Disk& one = add_disk("one");
  EXPECT_FALSE(transact(list(backup_of(one, "job1"), impossible(one))));
  EXPECT_TRUE(manager.list().empty());
  EXPECT_TRUE(bitmaps_of(one).empty());
}

TEST_F(TransactionTest, a_full_backup_and_its_bitmap_begin_together) {
  Disk& one = add_disk("one");
  ASSERT_EQ(write_to(one, 0, std::string(65536, 'a')), 0);
  auto begun =
      transact(list(BitmapOptions{.node = one.client->node(), .name = "since"}, backup_of(one, "job1")));
  ASSERT_TRUE(begun) << begun.error().message();
  EXPECT_EQ(end_of(begun->at(0)), "");
  EXPECT_EQ(bitmaps_of(one).at(0).dirty_bytes, 0u);
  ASSERT_EQ(write_to(one, 131072, std::string(512, 'b')), 0);
  EXPECT_EQ(bitmaps_of(one).at(0).dirty_bytes, 65536u);
}

TEST_F(TransactionTest, an_added_bitmap_can_be_changed_by_a_later_action) {
  Disk& one = add_disk("one");
  const NodePtr node = one.client->node();
  ASSERT_TRUE(transact(list(BitmapOptions{.node = node, .name = "new"},
                            BitmapChange{BitmapChange::Kind::kDisable, node, "new"})));
  ASSERT_EQ(bitmaps_of(one).size(), 1u);
  EXPECT_FALSE(bitmaps_of(one)[0].enabled);
}

TEST_F(TransactionTest, grouped_jobs_succeed_together) {
  Disk &one = add_disk("one"), &two = add_disk("two");
  BackupOptions slow = backup_of(two, "job2");
  ASSERT_EQ(write_to(two, 0, std::string(kSize, 's')), 0);
  slow.job.speed = 1;
  auto begun = transact(list(backup_of(one, "job1"), std::move(slow)), CompletionMode::kGrouped);
  ASSERT_TRUE(begun) << begun.error().message();
  wait_for_status(begun->at(0), JobStatus::kWaiting);
  EXPECT_TRUE(begun->at(1)->set_speed(0));
  EXPECT_EQ(end_of(begun->at(0)), "");
  EXPECT_EQ(end_of(begun->at(1)), "");
}

TEST_F(TransactionTest, a_grouped_job_that_is_cancelled_takes_the_others_with_it) {
  Disk &one = add_disk("one"), &two = add_disk("two");
  ASSERT_TRUE(run(add_bitmap(manager, {.node = one.client->node(), .name = "bits"})));
  ASSERT_EQ(write_to(one, 0, std::string(512, 'a')), 0);
  BackupOptions first = backup_of(one, "job1");
  first.sync = SyncMode::kIncremental;
  first.bitmap = "bits";
  BackupOptions slow = backup_of(two, "job2");
  ASSERT_EQ(write_to(two, 0, std::string(kSize, 's')), 0);
  slow.job.speed = 1;
  auto begun = transact(list(std::move(first), std::move(slow)), CompletionMode::kGrouped);
  ASSERT_TRUE(begun) << begun.error().message();
  wait_for_status(begun->at(0), JobStatus::kWaiting);
  EXPECT_TRUE(begun->at(1)->cancel());
  EXPECT_EQ(end_of(begun->at(0)), "job 'job1' was cancelled");
  EXPECT_EQ(end_of(begun->at(1)), "job 'job2' was cancelled");
  // The first had copied everything; its bitmap has its bits again.
  EXPECT_EQ(bitmaps_of(one).at(0).dirty_bytes, 65536u);
}

TEST_F(TransactionTest, several_snapshots_and_a_backup_of_another_disk) {
  Disk &one = add_disk("one"), &two = add_disk("two");
  create("overlay", {{"size", kSize}});
  NodePtr overlay = open(path("overlay"), "qcow2");
  auto begun = transact(list(SnapshotPair{one.client->node(), overlay}, backup_of(two, "job2")));
  ASSERT_TRUE(begun) << begun.error().message();
  EXPECT_EQ(one.client->node(), overlay);
  EXPECT_EQ(write_to(one, 0, std::string(512, 'n')), 0);
  EXPECT_EQ(end_of(begun->at(0)), "");
  overlay = nullptr;
}

}  // namespace
}  // namespace ostler::block
