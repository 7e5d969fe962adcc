// virtio-9p: chains in, chains out, and requests that the host does not answer for a while.
#include "devices/virtio/p9/device.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>

#include "fake_driver.h"
#include "support/temp_folder.h"
#include "unit/fs9p/client.h"

namespace ostler::virtio::p9 {
namespace {

using fs9p::Type;
using fs9p::test::Answer;
using fs9p::test::Bytes;
using test::FakeQueue;
using test::GuestMemory;

struct Interrupts final : Transport {
  void interrupt_queue(unsigned) override {
    const std::lock_guard lock(mutex);
    ++count;
    came.notify_all();
  }
  void interrupt_config() override {}
  void needs_reset() override { broken = true; }
  std::mutex mutex;
  std::condition_variable came;
  unsigned count = 0;
  std::atomic<bool> broken{false};
};

// A lease makes whoever cuts the file wait until it is given up: a host's file system that takes its time.
class SlowFile {
 public:
  explicit SlowFile(const std::string& path) : path_(path) {
    std::ofstream(path) << "content";
    // A leaseholder is told by a signal, which would end us.
    std::signal(SIGIO, SIG_IGN);
    fd_.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(::fcntl(fd_.get(), F_SETLEASE, F_RDLCK), 0);
  }
  void answer() { fd_.reset(); }
  // Whether somebody waits for it.
  bool wanted() const { return ::fcntl(fd_.get(), F_GETLEASE) == F_UNLCK; }
  // Nobody has cut it: the kernel ends a lease that nobody gives up only after 45 seconds.
  bool still_waits() const { return wanted() && std::filesystem::file_size(path_) != 0; }

 private:
  const std::string path_;
  Fd fd_;
};

class P9Test : public testing::Test {
 protected:
  static constexpr uint16_t kSlots = 128;

  P9Test() {
    options.mount_tag = "tag";
    auto made = P9Device::create(memory.space, share, options);
    EXPECT_TRUE(made.has_value());
    device = *std::move(made);
    device->connect(interrupts);
    EXPECT_TRUE(device->activate(feature(VIRTIO_F_VERSION_1), {&driver.setup, 1}));
  }
  ~P9Test() override { device.reset(); }

  // The address of the room for its reply.
  template <class... Fields>
  uint64_t send(Type type, uint16_t tag, const Fields&... fields) {
    const Bytes bytes = fs9p::test::message(type, tag, fields...);
    auto chain =
        driver.chain().readable({reinterpret_cast<const char*>(bytes.data()), bytes.size()}).writable(512);
    chain.offer();
    device->notify(0);
    return chain.address(1);
  }
  void wait_for_used(uint16_t count) {
    std::unique_lock lock(interrupts.mutex);
    interrupts.came.wait(lock, [&] { return driver.used_index() >= count; });
  }
  Answer answer_at(uint64_t address) {
    const std::string text = memory.bytes(address, 512);
    const auto bytes = std::as_bytes(std::span(text));
    return fs9p::test::parse(Bytes(bytes.begin(), bytes.end()));
  }
  // Fid 1 stands on the first of `files` afterwards, and so on; uses two chains and one for each file.
  void mount(std::vector<std::string> files) {
    send(Type::kVersion, 1, uint32_t{8192}, "9P2000.L");
    wait_for_used(1);
    send(Type::kAttach, 1, uint32_t{0}, ~0u, "root", "", ~0u);
    wait_for_used(2);
    uint16_t used = 2;
    for (const std::string& file : files) {
      send(Type::kWalk, 1, uint32_t{0}, uint32_t{used} - 1, uint16_t{1}, file);
      wait_for_used(++used);
    }
  }
  uint64_t cut(uint32_t fid, uint16_t tag) {
    return send(Type::kSetattr, tag, fid, fs9p::set::kSize, 0u, 0u, 0u, uint64_t{0}, uint64_t{0}, uint64_t{0},
                uint64_t{0}, uint64_t{0});
  }
  void wait_until_wanted(const SlowFile& file) {
    while (!file.wanted()) std::this_thread::yield();
  }

  ostler::test::TempFolder folder;
  std::shared_ptr<fs9p::Share> share = *fs9p::Share::open({.path = folder.path()});
  GuestMemory memory;
  FakeQueue driver{memory, kSlots};
  Interrupts interrupts;
  Options options;
  std::unique_ptr<P9Device> device;
};

TEST_F(P9Test, the_tag_is_in_the_configuration) {
  std::array<std::byte, 5> config{};
  device->read_config(0, config);
  EXPECT_EQ(load_le<uint16_t>(config.data()), 3);
  EXPECT_EQ(std::memcmp(config.data() + 2, "tag", 3), 0);
  EXPECT_EQ(device->config_size(), 5u);
  EXPECT_NE(device->features() & feature(VIRTIO_9P_MOUNT_TAG), 0u);
}

TEST_F(P9Test, odd_tags_are_refused) {
  for (const std::string& tag : {std::string(), std::string(kMostTag + 1, 'x')}) {
    options.mount_tag = tag;
    EXPECT_FALSE(
        P9Device::create(memory.space, *fs9p::Share::open({.path = folder.path()}), options).has_value());
  }
}

TEST_F(P9Test, a_request_is_answered_in_its_own_chain) {
  EXPECT_FALSE(device->mounted());
  mount({});
  const uint64_t reply = send(Type::kGetattr, 77, uint32_t{0}, uint64_t{0x7ff});
  wait_for_used(3);
  EXPECT_EQ(answer_at(reply).tag, 77);
  EXPECT_TRUE(device->mounted());
  for (int i = 0; i < 2; ++i) (void)driver.used();
  EXPECT_EQ(driver.used()->length, 160u) << "Rgetattr";
}

TEST_F(P9Test, chains_without_room_break_the_device) {
  driver.chain().readable("1234567").writable(10).offer();
  device->notify(0);
  EXPECT_TRUE(interrupts.broken);
}

TEST_F(P9Test, requests_without_a_header_break_the_device) {
  driver.chain().readable("123456").writable(100).offer();
  device->notify(0);
  EXPECT_TRUE(interrupts.broken);
}

TEST_F(P9Test, a_slow_request_delays_no_other) {
  SlowFile slow(folder / "slow");
  mount({"slow"});
  const uint64_t late = cut(1, 5);
  wait_until_wanted(slow);
  const uint64_t early = send(Type::kGetattr, 6, uint32_t{0}, uint64_t{0x7ff});
  wait_for_used(4);
  EXPECT_EQ(answer_at(early).tag, 6);
  slow.answer();
  wait_for_used(5);
  EXPECT_EQ(answer_at(late).tag, 5);
  EXPECT_EQ(answer_at(late).error, 0);
}

TEST_F(P9Test, a_flush_comes_after_what_it_flushes) {
  SlowFile slow(folder / "slow");
  mount({"slow"});
  const uint64_t old = cut(1, 5);
  wait_until_wanted(slow);
  const uint64_t flush = send(Type::kFlush, 6, uint16_t{5});
  send(Type::kGetattr, 7, uint32_t{0}, uint64_t{0x7ff});
  wait_for_used(4);
  EXPECT_EQ(memory.get<uint8_t>(flush + 4), 0) << "the old request still goes on";
  slow.answer();
  wait_for_used(6);
  EXPECT_EQ(answer_at(old).tag, 5);
  EXPECT_EQ(answer_at(flush).tag, 6);
  for (int i = 0; i < 4; ++i) (void)driver.used();
  EXPECT_EQ(driver.used()->length, fs9p::kHeaderBytes) << "Rsetattr";
  EXPECT_EQ(driver.used()->length, fs9p::kHeaderBytes) << "Rflush";
}

TEST_F(P9Test, a_flush_of_nothing_is_answered_at_once) {
  const uint64_t flush = send(Type::kFlush, 6, uint16_t{5});
  EXPECT_EQ(driver.used_index(), 1) << "by the thread that notified";
  EXPECT_EQ(answer_at(flush).tag, 6);
}

// All workers wait; what they have not begun is interrupted.
class BusyWorkersTest : public P9Test {
 protected:
  BusyWorkersTest() {
    std::vector<std::string> names;
    for (unsigned i = 0; i < P9Device::kWorkers; ++i) {
      names.push_back("slow" + std::to_string(i));
      slow.push_back(std::make_unique<SlowFile>(folder / names.back()));
    }
    mount(names);
    used = driver.used_index();
    for (unsigned i = 0; i < P9Device::kWorkers; ++i) {
      cut(i + 1, static_cast<uint16_t>(10 + i));
      wait_until_wanted(*slow[i]);
    }
  }
  ~BusyWorkersTest() override {
    for (auto& each : slow) each->answer();
  }
  bool all_wait() const {
    return std::ranges::all_of(slow, [](const auto& each) { return each->still_waits(); });
  }
  std::vector<std::unique_ptr<SlowFile>> slow;
  uint16_t used = 0;
};

TEST_F(BusyWorkersTest, a_request_that_waits_is_interrupted_by_its_flush) {
  const uint64_t old = send(Type::kGetattr, 5, uint32_t{0}, uint64_t{0x7ff});
  EXPECT_EQ(driver.used_index(), used);
  const uint64_t flush = send(Type::kFlush, 6, uint16_t{5});
  EXPECT_EQ(driver.used_index(), used + 2);
  EXPECT_EQ(answer_at(old).error, EINTR);
  EXPECT_EQ(answer_at(flush).tag, 6);
}

TEST_F(BusyWorkersTest, a_reset_does_not_wait_for_the_host) {
  device->reset();
  EXPECT_FALSE(device->mounted());
  EXPECT_TRUE(all_wait());
  EXPECT_EQ(driver.used_index(), used) << "nothing was told to a driver that is gone";
}

// Those that come back find no device, and close what the guest had open.
TEST_F(BusyWorkersTest, the_end_of_the_device_does_not_wait_for_the_host) {
  device.reset();
  EXPECT_TRUE(all_wait());
  EXPECT_NE(share->fids(), 0u);
  for (auto& each : slow) each->answer();
  while (share->fids() != 0) std::this_thread::yield();
  EXPECT_EQ(driver.used_index(), used) << "nothing was told to a driver that is gone";
}

TEST_F(BusyWorkersTest, a_driver_after_a_reset_gets_no_reply_of_an_earlier_request) {
  device->reset();
  FakeQueue fresh(memory, kSlots);
  EXPECT_TRUE(device->activate(feature(VIRTIO_F_VERSION_1), {&fresh.setup, 1}));
  const Bytes bytes = fs9p::test::message(Type::kVersion, 1, uint32_t{8192}, "9P2000.L");
  auto chain =
      fresh.chain().readable({reinterpret_cast<const char*>(bytes.data()), bytes.size()}).writable(512);
  chain.offer();
  device->notify(0);
  EXPECT_TRUE(all_wait());
  for (auto& each : slow) each->answer();
  std::unique_lock lock(interrupts.mutex);
  interrupts.came.wait(lock, [&] { return fresh.used_index() != 0; });
  EXPECT_EQ(answer_at(chain.address(1)).tag, 1);
  EXPECT_EQ(fresh.used_index(), 1);
  EXPECT_EQ(driver.used_index(), used);
}

TEST_F(BusyWorkersTest, more_requests_than_the_queue_is_long_are_not_taken) {
  // One descriptor chain, made available again and again.
  const Bytes bytes = fs9p::test::message(Type::kGetattr, 5, uint32_t{0}, uint64_t{0x7ff});
  auto chain =
      driver.chain().readable({reinterpret_cast<const char*>(bytes.data()), bytes.size()}).writable(512);
  const uint16_t head = chain.offer();
  const auto before = static_cast<uint16_t>(used + P9Device::kWorkers + 1);
  for (unsigned i = before; i < used + 2u * kSlots; ++i) {
    driver.make_available(head);
    if (i % 16 == 0) device->notify(0);
  }
  device->notify(0);
  EXPECT_FALSE(interrupts.broken);
  for (auto& each : slow) each->answer();
  wait_for_used(static_cast<uint16_t>(used + 2 * kSlots));
  EXPECT_EQ(driver.used_index(), used + 2 * kSlots);
}

}  // namespace
}  // namespace ostler::virtio::p9
