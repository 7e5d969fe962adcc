// Doorbells of a device that KVM rings in the device's place.
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>

#include "base/fd.h"
#include "bus/doorbells.h"
#include "fake_kvm.h"
#include "guests.h"
#include "rig.h"

namespace ostler::accel {
namespace {

using Log = std::vector<std::string>;

// 0x10: any write rings; 0x50: the values 3 and 4 have each their own.
class Bells final : public bus::IoHandler, public bus::Doorbells {
 public:
  explicit Bells(std::vector<std::string>& log) : recorder_("bells", log) {
    for (Fd& fd : fds_) fd.reset(eventfd(0, EFD_NONBLOCK));
    list_ = {bus::Doorbell{.offset = 0x10, .value = {}, .fd = fds_[0].get()},
             bus::Doorbell{.offset = 0x50, .value = 3, .fd = fds_[1].get()},
             bus::Doorbell{.offset = 0x50, .value = 4, .fd = fds_[2].get()}};
  }
  std::string_view name() const override { return "bells"; }
  uint64_t io_read(uint64_t offset, unsigned size) override { return recorder_.io_read(offset, size); }
  void io_write(uint64_t offset, unsigned size, uint64_t value) override {
    recorder_.io_write(offset, size, value);
  }
  std::span<const bus::Doorbell> doorbells() const override { return list_; }
  // How often each was rung since the last look.
  std::array<uint64_t, 3> rung() {
    std::array<uint64_t, 3> counts{};
    for (size_t i = 0; i < counts.size(); ++i)
      if (read(fds_[i].get(), &counts[i], sizeof counts[i]) < 0) counts[i] = 0;
    return counts;
  }

 private:
  Recorder recorder_;
  std::array<Fd, 3> fds_;
  std::array<bus::Doorbell, 3> list_;
};

class WithBells {
 protected:
  void put(uint64_t address) {
    memory::Transaction change(rig_.memory);
    change.add(rig_.memory.root(), address, region_, 1);
  }
  void take() { memory::Transaction(rig_.memory).remove(region_); }
  Rig rig_;
  Bells bells_{rig_.log};
  memory::IoRegion region_{"bells", bells_, 4096, 8};
};
class KvmDoorbells : public WithBells, public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Here, KvmDoorbells, ::testing::ValuesIn(Rig::kvm_if_here()),
                         [](const auto& test) { return test.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KvmDoorbells);
class RefusedDoorbells : public WithBells, public ::testing::Test {};

GUEST(ring32, ".code32",
      "movw $1, 0xe0010; movb $2, 0xe0010; movl $3, 0xe0050; movl $4, 0xe0050; movl $5, 0xe0050\n"
      "movw $3, 0xe0050; mov 0xe0010, %eax; movw $1, 0xe0012; out %al, $0x80; hlt")
TEST_P(KvmDoorbells, AreRungInTheKernelWhereTheDeviceIs) {
  const auto engine = rig_.make(GetParam());
  ASSERT_NE(engine, nullptr);
  put(kHole);
  EXPECT_EQ(rig_.vm->doorbell_count(), 3u);
  rig_.place(ring32());
  rig_.start(*engine, Mode::kProtected);
  EXPECT_EQ(rig_.run(*engine), VcpuExit::kStopped);
  EXPECT_EQ(bells_.rung(), (std::array<uint64_t, 3>{2, 1, 1}));
  EXPECT_EQ(rig_.log, (Log{"bells write 50.4 5", "bells write 50.2 3", "bells read 10.4",
                           "bells write 12.2 1", "port write 80.1 11"}));
  take();
  EXPECT_EQ(rig_.vm->doorbell_count(), 0u);
  rig_.start(*engine, Mode::kProtected);
  EXPECT_EQ(rig_.run(*engine), VcpuExit::kStopped);
  EXPECT_EQ(bells_.rung(), (std::array<uint64_t, 3>{})) << "where it was";
  put(kHole);
  rig_.start(*engine, Mode::kProtected);
  EXPECT_EQ(rig_.run(*engine), VcpuExit::kStopped);
  EXPECT_EQ(bells_.rung(), (std::array<uint64_t, 3>{2, 1, 1})) << "where it is again";
  take();
}

TEST_F(RefusedDoorbells, AreAccessesWhereKvmRefusesThem) {
  kvm::FakeKvm fake;
  fake.refused = {{"KVM_IOEVENTFD", ENOSPC}};
  const auto vm = kvm::Vm::create(*fake.open(), rig_.memory);
  ASSERT_TRUE(vm);
  put(kHole);
  EXPECT_EQ(fake.count("KVM_IOEVENTFD"), 3u);
  EXPECT_EQ((*vm)->doorbell_count(), 0u);
  take();
  EXPECT_EQ(fake.count("KVM_IOEVENTFD"), 3u) << "nothing to take back";
}

}  // namespace
}  // namespace ostler::accel
