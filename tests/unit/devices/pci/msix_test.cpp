// MSI-X: delivery, masks, pending bits; MSI.
#include "devices/pci/msix.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "fixture.h"

namespace ostler::pci {
namespace {

using test::RecordingMsi;

constexpr uint16_t kEnable = 0x8000, kFunctionMask = 0x4000;
constexpr uint64_t kPending = 2048;  // of a small table

class MsixTest : public testing::Test {
 protected:
  void SetUp() override { msix.add_capability(config, 1); }
  void control(uint16_t value) {
    config.write(0x42, 2, value);
    msix.update(config, &sink);
  }
  void program(unsigned index, uint64_t address, uint32_t data, bool masked) {
    msix.io_write(16 * index, 4, address & 0xffffffff);
    msix.io_write(16 * index + 4, 4, address >> 32);
    msix.io_write(16 * index + 8, 4, data);
    msix.io_write(16 * index + 12, 4, masked ? 1 : 0);
  }
  ConfigSpace config;
  RecordingMsi sink;
  Msix msix{"msix", 3};
};

TEST_F(MsixTest, capability) {
  EXPECT_EQ(config.read(0x34, 1), 0x40u);
  EXPECT_EQ(config.read(0x40, 4), 0x00020011u);
  EXPECT_EQ(config.read(0x44, 4), 1u);
  EXPECT_EQ(config.read(0x48, 4), 2048u | 1u);
}

TEST_F(MsixTest, sends) {
  control(kEnable);
  program(1, 0xfee01000, 0x41, false);
  msix.notify(1);
  EXPECT_EQ(sink.messages, (std::vector<std::pair<uint64_t, uint32_t>>{{0xfee01000, 0x41}}));
}

TEST_F(MsixTest, entries_start_masked) {
  control(kEnable);
  EXPECT_EQ(msix.io_read(12, 4), 1u);
  msix.notify(0);
  EXPECT_TRUE(sink.messages.empty());
  EXPECT_EQ(msix.io_read(kPending, 8), 1u);
}

TEST_F(MsixTest, unmasking_sends_what_is_pending_once) {
  control(kEnable);
  program(2, 0xfee00000, 0x52, true);
  msix.notify(2);
  msix.notify(2);
  EXPECT_EQ(msix.io_read(kPending, 4), 4u);
  msix.io_write(2 * 16 + 12, 4, 0);
  EXPECT_EQ(sink.messages.size(), 1u);
  EXPECT_EQ(msix.io_read(kPending, 4), 0u);
}

TEST_F(MsixTest, function_mask_holds_everything) {
  control(kEnable | kFunctionMask);
  program(0, 0xfee00000, 0x31, false);
  msix.notify(0);
  EXPECT_TRUE(sink.messages.empty());
  control(kEnable);
  EXPECT_EQ(sink.messages.size(), 1u);
}

TEST_F(MsixTest, without_bus_mastering_it_stays_pending) {
  control(kEnable);
  program(0, 0xfee00000, 0x31, false);
  msix.update(config, nullptr);
  msix.notify(0);
  EXPECT_TRUE(sink.messages.empty());
  msix.update(config, &sink);
  EXPECT_EQ(sink.messages.size(), 1u);
}

TEST_F(MsixTest, disabled_or_absent_vectors_are_ignored) {
  msix.notify(0);
  control(kEnable);
  msix.notify(3);
  msix.notify(0xffff);
  EXPECT_TRUE(sink.messages.empty());
  EXPECT_EQ(msix.io_read(kPending, 8), 0u);
}

TEST_F(MsixTest, quadword_access) {
  control(kEnable);
  msix.io_write(0, 8, 0x00000001'fee02000);
  EXPECT_EQ(msix.io_read(0, 8), 0x00000001'fee02000u);
  EXPECT_EQ(msix.io_read(4, 4), 1u);
}

TEST_F(MsixTest, pending_bits_cannot_be_written) {
  control(kEnable);
  msix.io_write(kPending, 8, ~uint64_t{0});
  EXPECT_EQ(msix.io_read(kPending, 8), 0u);
}

TEST_F(MsixTest, beyond_the_table_reads_zero) {
  msix.io_write(16 * 3, 8, ~uint64_t{0});
  EXPECT_EQ(msix.io_read(16 * 3, 8), 0u);
  EXPECT_EQ(msix.io_read(2 * kPending - 4, 8), 0u);
}

TEST_F(MsixTest, state) {
  control(kEnable);
  program(1, 0xfee01000, 0x41, true);
  msix.notify(1);
  state::Saver saver;
  msix.state(saver);
  const auto bytes = saver.take();
  Msix other("msix", 3);
  ConfigSpace other_config;
  other.add_capability(other_config, 1);
  state::Loader loader(bytes);
  other.state(loader);
  ASSERT_TRUE(loader.finish());
  other_config.write(0x42, 2, kEnable);
  other.update(other_config, &sink);
  other.io_write(16 + 12, 4, 0);
  EXPECT_EQ(sink.messages, (std::vector<std::pair<uint64_t, uint32_t>>{{0xfee01000, 0x41}}));
}

// ---- eventfds that the host's kernel takes ----
// What it would do with them.
struct FakeMessageFds final : bus::MessageFds {
  class One final : public bus::MessageFd {
   public:
    explicit One(FakeMessageFds& owner) : owner_(owner) {}
    ~One() override { owner_.log.emplace_back("end"); }
    void send(GuestPhys address, uint32_t data) override {
      owner_.log.push_back("send " + std::to_string(address.value & 0xfffff) + " " + std::to_string(data));
    }
    void hold() override { owner_.log.emplace_back("hold"); }

   private:
    FakeMessageFds& owner_;
  };
  std::unique_ptr<bus::MessageFd> take(int) override {
    if (full) return nullptr;
    return std::make_unique<One>(*this);
  }
  void send(std::span<const Sending> each) override {
    ++tables;
    for (const Sending& one : each) one.source->send(one.address, one.data);
  }
  std::vector<std::string> log;
  unsigned tables = 0;  // how often it was told of messages
  bool full = false;
};

class MsixSourceTest : public MsixTest {
 protected:
  void SetUp() override {
    MsixTest::SetUp();
    source = *msix.add_source(event.get(), kernel);
  }
  ~MsixSourceTest() override { msix.remove_source(source); }
  void signal() const {
    const uint64_t one = 1;
    ASSERT_EQ(::write(event.get(), &one, sizeof one), ssize_t{sizeof one});
  }
  // What the kernel was told last; before a change of ours.
  std::string last() const { return kernel.log.empty() ? "" : kernel.log.back(); }
  uint64_t pending_bits() { return msix.io_read(kPending, 8); }

  Fd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  FakeMessageFds kernel;
  unsigned source = 0;
};

TEST_F(MsixSourceTest, sends_while_its_vector_may) {
  program(1, 0xfee01000, 0x41, false);
  msix.assign_source(source, 1);
  EXPECT_EQ(last(), "hold") << "MSI-X is off";
  control(kEnable);
  EXPECT_EQ(last(), "send 4096 65");
  control(kEnable | kFunctionMask);
  EXPECT_EQ(last(), "hold");
  control(kEnable);
  EXPECT_EQ(last(), "send 4096 65");
  msix.update(config, nullptr);
  EXPECT_EQ(last(), "hold") << "no bus master";
  control(kEnable);
  program(1, 0xfee01000, 0x41, true);
  EXPECT_EQ(last(), "hold");
  program(1, 0xfee02000, 0x42, false);
  EXPECT_EQ(last(), "send 8192 66");
}

TEST_F(MsixSourceTest, moves_among_vectors) {
  control(kEnable);
  program(0, 0xfee00000, 0x40, false);
  program(1, 0xfee00000, 0x41, false);
  msix.assign_source(source, 0);
  EXPECT_EQ(last(), "send 0 64");
  msix.assign_source(source, 1);
  EXPECT_EQ(last(), "send 0 65");
  msix.assign_source(source, 3);
  EXPECT_EQ(last(), "hold") << "there is no such vector";
  msix.assign_source(source, {});
  EXPECT_EQ(last(), "hold");
}

TEST_F(MsixSourceTest, what_waits_is_pending) {
  control(kEnable);
  msix.assign_source(source, 2);
  EXPECT_EQ(pending_bits(), 0u);
  signal();
  EXPECT_EQ(pending_bits(), 4u);
  msix.assign_source(source, {});
  EXPECT_EQ(pending_bits(), 0u);
  msix.assign_source(source, 2);
  program(2, 0xfee00000, 0x52, false);
  EXPECT_EQ(pending_bits(), 0u) << "the kernel sends it";
}

TEST_F(MsixSourceTest, what_waits_is_saved_and_sent_elsewhere) {
  control(kEnable);
  program(2, 0xfee00000, 0x52, true);
  msix.assign_source(source, 2);
  signal();
  state::Saver saver;
  msix.state(saver);
  const auto bytes = saver.take();
  ConfigSpace other_config;
  Msix other("msix", 3);
  other.add_capability(other_config, 1);
  state::Loader loader(bytes);
  other.state(loader);
  ASSERT_TRUE(loader.finish());
  other_config.write(0x42, 2, kEnable);
  other.update(other_config, &sink);
  other.io_write(2 * 16 + 12, 4, 0);
  EXPECT_EQ(sink.messages, (std::vector<std::pair<uint64_t, uint32_t>>{{0xfee00000, 0x52}}));
}

TEST_F(MsixSourceTest, a_load_and_a_reset_forget_what_was_signalled_before) {
  control(kEnable);
  msix.assign_source(source, 2);
  state::Saver saver;
  msix.state(saver);
  const auto bytes = saver.take();
  signal();
  state::Loader loader(bytes);
  msix.state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_EQ(pending_bits(), 0u);
  signal();
  program(2, 0xfee00000, 0x52, false);
  msix.reset();
  EXPECT_EQ(last(), "hold");
  EXPECT_EQ(pending_bits(), 0u);
}

TEST_F(MsixSourceTest, is_none_without_room_in_the_kernel) {
  kernel.full = true;
  EXPECT_FALSE(msix.add_source(event.get(), kernel));
}

TEST_F(MsixSourceTest, that_is_removed_is_left_alone) {
  msix.assign_source(source, 2);
  msix.remove_source(source);
  EXPECT_EQ(last(), "end");
  control(kEnable);
  program(2, 0xfee00000, 0x52, false);
  msix.reset();
  EXPECT_EQ(last(), "end");
}

TEST(Msi, vectors_are_or_ed_into_the_data) {
  ConfigSpace config;
  RecordingMsi sink;
  Msi msi(4);
  msi.add_capability(config);
  config.write(0x42, 2, 1 | 2 << 4);
  config.write(0x44, 4, 0xfee00000);
  config.write(0x4c, 2, 0x60);
  msi.update(config, &sink);
  msi.notify(3);
  EXPECT_EQ(sink.messages, (std::vector<std::pair<uint64_t, uint32_t>>{{0xfee00000, 0x63}}));
}

TEST(Msi, disabled_sends_nothing) {
  ConfigSpace config;
  RecordingMsi sink;
  Msi msi(1);
  msi.add_capability(config);
  msi.update(config, &sink);
  msi.notify(0);
  EXPECT_TRUE(sink.messages.empty());
}

}  // namespace
}  // namespace ostler::pci
