// Registers whose writes may come late: KVM collects them, and nobody can tell.
#include "bus/late_writes.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "accel/kvm/kvm_engine.h"
#include "fake_kvm.h"
#include "guests.h"
#include "rig.h"

namespace ostler::accel {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Log = std::vector<std::string>;

// Eight ports, of which 1 to 5 are late; the same as registers.
class LateDevice final : public bus::IoHandler, public bus::LateWrites {
 public:
  LateDevice(std::string name, Log& log) : recorder_(std::move(name), log) {}
  std::string_view name() const override { return recorder_.name(); }
  uint64_t io_read(uint64_t offset, unsigned size) override { return recorder_.io_read(offset, size); }
  void io_write(uint64_t offset, unsigned size, uint64_t value) override {
    recorder_.io_write(offset, size, value);
  }
  std::span<const bus::LateRange> late_writes() const override { return list_; }

 private:
  Recorder recorder_;
  static constexpr std::array<bus::LateRange, 1> list_{{{.offset = 1, .size = 5}}};
};

class WithLateDevices {
 protected:
  static constexpr uint64_t kPorts = 0x1f0;
  WithLateDevices() {
    memory::Transaction(rig_.ports).add(rig_.ports.root(), kPorts, ports_, 1);
    memory::Transaction(rig_.memory).add(rig_.memory.root(), kHole, registers_, 1);
  }
  ~WithLateDevices() {
    memory::Transaction(rig_.ports).remove(ports_);
    memory::Transaction(rig_.memory).remove(registers_);
  }
  Rig rig_;
  LateDevice port_device_{"late", rig_.log}, memory_device_{"late mem", rig_.log};
  memory::IoRegion ports_{"late ports", port_device_, 8, 4};
  memory::IoRegion registers_{"late registers", memory_device_, 8, 4};
};

// ---- the host's kernel ----
class KvmLateWrites : public WithLateDevices, public ::testing::TestWithParam<const char*> {
 protected:
  // KVM_RUN calls until the guest stops.
  unsigned run(std::span<const uint8_t> code) {
    const auto engine = rig_.make(GetParam());
    EXPECT_EQ(rig_.vm->late_zone_count(), 2u);
    rig_.place(code);
    rig_.start(*engine, Mode::kProtected);
    unsigned runs = 0;
    kvm::set_intercept([&](int, const kvm::Request& request, unsigned long) -> std::optional<int> {
      if (request.number == kvm::kRun.number) ++runs;
      return std::nullopt;
    });
    EXPECT_EQ(rig_.run(*engine), VcpuExit::kStopped);
    kvm::set_intercept({});
    return runs;
  }
};
INSTANTIATE_TEST_SUITE_P(Here, KvmLateWrites, ::testing::ValuesIn(Rig::kvm_if_here()),
                         [](const auto& test) { return test.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KvmLateWrites);

GUEST(
    in_order32, ".code32",
    "mov $0x1f1, %edx; mov $1, %al; out %al, %dx; inc %edx; mov $2, %ax; out %ax, %dx\n"
    "movb $3, 0xe0005; mov $0x1f7, %edx; mov $4, %al; out %al, %dx\n"
    "mov $0x1f3, %edx; mov $5, %al; out %al, %dx; in %dx, %al; mov $0x1f5, %edx; mov $6, %ax; out %ax, %dx\n"
    "movw $7, 0xe0001; xor %eax, %eax; out %al, $0x80; hlt")
TEST_P(KvmLateWrites, ComeInTheirOrder) {
  run(in_order32());
  EXPECT_THAT(rig_.log, ElementsAre("late write 1.1 1", "late write 2.2 2", "late mem write 5.1 3",
                                    "late write 7.1 4", "late write 3.1 5", "late read 3.1",
                                    "late write 5.2 6", "late mem write 1.2 7", "port write 80.1 0"));
}

// More than the ring has room for.
GUEST(many32, ".code32",
      "mov $0x1f2, %edx; xor %eax, %eax; 1: out %ax, %dx; inc %eax; cmp $400, %eax; jb 1b\n"
      "xor %eax, %eax; out %al, $0x80; hlt")
TEST_P(KvmLateWrites, AreCollected) {
  const unsigned runs = run(many32());
  Log wanted;
  for (unsigned i = 0; i < 400; ++i) wanted.push_back(fmt::format("late write 2.2 {:x}", i));
  wanted.emplace_back("port write 80.1 0");
  EXPECT_EQ(rig_.log, wanted);
  EXPECT_LT(runs, 100u) << "most did not exit";
}

GUEST(then_halt32, ".code32", "mov $0x1f2, %edx; mov $9, %al; out %al, %dx; hlt")
TEST_P(KvmLateWrites, HaveComeWhenTheVcpuRests) {
  const auto engine = rig_.make(GetParam());
  rig_.place(then_halt32());
  rig_.start(*engine, Mode::kProtected);
  EXPECT_EQ(engine->run(), VcpuExit::kHalted);
  EXPECT_THAT(rig_.log, ElementsAre("late write 2.1 9"));
}

TEST_P(KvmLateWrites, GoWithTheirDevice) {
  const auto engine = rig_.make(GetParam());
  EXPECT_EQ(rig_.vm->late_zone_count(), 2u);
  memory::Transaction(rig_.ports).remove(ports_);
  EXPECT_EQ(rig_.vm->late_zone_count(), 1u);
  rig_.place(then_halt32());
  rig_.start(*engine, Mode::kProtected);
  EXPECT_EQ(engine->run(), VcpuExit::kHalted);
  EXPECT_THAT(rig_.log, ElementsAre("port write 1f2.1 9")) << "whose ports they are now";
  memory::Transaction(rig_.ports).add(rig_.ports.root(), kPorts, ports_, 1);
  EXPECT_EQ(rig_.vm->late_zone_count(), 2u);
}

// ---- a kernel that is scripted ----
class FakeLateWrites : public WithLateDevices, public ::testing::Test {
 protected:
  static constexpr unsigned kPage = 2;
  void build() {
    engine_.reset();
    rig_.vm.reset();
    rig_.vm = *kvm::Vm::create(*fake_.open(), rig_.memory,
                               {.irqchip = {}, .dirty_ring_entries = 0, .ports = &rig_.ports});
    engine_ = *kvm::KvmEngine::create(rig_.engine_context());
    rig_.start(*engine_, Mode::kReal);
  }
  FakeLateWrites() { fake_.extensions[KVM_CAP_COALESCED_MMIO] = kPage; }
  kvm::LateRing::Head& head(kvm_run& run) {
    return *reinterpret_cast<kvm::LateRing::Head*>(reinterpret_cast<std::byte*>(&run) + kPage * kPageSize);
  }
  // As the kernel does.
  void push(kvm_run& run, uint64_t address, uint32_t size, uint8_t value, bool is_port) {
    kvm::LateRing::Head& ring = head(run);
    auto& entry = reinterpret_cast<kvm_coalesced_mmio*>(&ring + 1)[ring.last];
    entry = {};
    entry.phys_addr = address;
    entry.len = size;
    entry.pio = is_port ? 1 : 0;
    entry.data[0] = value;
    ring.last = (ring.last + 1) % kvm::LateRing::kEntries;
  }
  // `first` is the first exit; then the vCPU is asked to stop.
  void run(const std::function<int(kvm_run&)>& first) {
    bool again = false;
    fake_.on_run = [&, again](kvm_run& run) mutable {
      if (again) {
        engine_->kick();
        return -EINTR;
      }
      again = true;
      return first(run);
    };
    EXPECT_EQ(engine_->run(), VcpuExit::kStopped);
  }
  kvm::FakeKvm fake_;
  std::unique_ptr<kvm::KvmEngine> engine_;
};

TEST_F(FakeLateWrites, ComeBeforeTheExitThatFoundThem) {
  build();
  run([&](kvm_run& run) {
    push(run, kPorts + 2, 1, 0x11, true);
    push(run, kHole + 1, 2, 0x22, false);
    run.exit_reason = KVM_EXIT_MMIO;
    run.mmio.phys_addr = kDevice;
    run.mmio.len = 4;
    run.mmio.is_write = 1;
    return 0;
  });
  EXPECT_THAT(rig_.log, ElementsAre("late write 2.1 11", "late mem write 1.2 22", "mem write 0.4 0"));
}

TEST_F(FakeLateWrites, ComeWhenASignalEndsTheRunToo) {
  build();
  run([&](kvm_run& run) {
    push(run, kPorts + 2, 1, 0x11, true);
    return -EINTR;
  });
  EXPECT_THAT(rig_.log, ElementsAre("late write 2.1 11"));
}

TEST_F(FakeLateWrites, GoRoundTheRing) {
  build();
  for (unsigned i = 0; i < 3 * kvm::LateRing::kEntries; ++i) {
    rig_.log.clear();
    run([&](kvm_run& run) {
      push(run, kPorts + 2, 1, 0x11, true);
      return -EINTR;
    });
    ASSERT_THAT(rig_.log, ElementsAre("late write 2.1 11")) << i;
  }
}

TEST_F(FakeLateWrites, WhatTheRingCannotHoldIsLeftAside) {
  build();
  run([&](kvm_run& run) {
    push(run, kPorts + 2, 0, 0x11, true);
    push(run, kPorts + 2, 77, 0x12, true);
    return -EINTR;
  });
  EXPECT_THAT(rig_.log, ElementsAre("late write 2.4 12", "late write 6.2 0", "port write 1f8.2 0"))
      << "eight bytes at most";
  rig_.log.clear();
  run([&](kvm_run& run) {
    head(run) = {.first = kvm::LateRing::kEntries, .last = 0};
    return -EINTR;
  });
  EXPECT_THAT(rig_.log, IsEmpty());
}

TEST_F(FakeLateWrites, AreAccessesWhereKvmRefusesThem) {
  fake_.refused = {{"KVM_REGISTER_COALESCED_MMIO", ENOSPC}};
  build();
  EXPECT_EQ(fake_.count("KVM_REGISTER_COALESCED_MMIO"), 2u);
  EXPECT_EQ(rig_.vm->late_zone_count(), 0u);
  memory::Transaction(rig_.ports).remove(ports_);
  EXPECT_EQ(fake_.count("KVM_UNREGISTER_COALESCED_MMIO"), 0u) << "nothing to take back";
}

TEST_F(FakeLateWrites, AreAccessesWhereKvmCannotCollectThem) {
  fake_.extensions[KVM_CAP_COALESCED_MMIO] = 0;
  build();
  EXPECT_EQ(fake_.count("KVM_REGISTER_COALESCED_MMIO"), 0u);
  fake_.extensions = {{KVM_CAP_COALESCED_MMIO, 64}};  // beyond a vCPU's mapping
  build();
  EXPECT_EQ(fake_.count("KVM_REGISTER_COALESCED_MMIO"), 0u);
  fake_.extensions = {{KVM_CAP_COALESCED_MMIO, kPage}, {KVM_CAP_COALESCED_PIO, 0}};
  build();
  EXPECT_EQ(fake_.count("KVM_REGISTER_COALESCED_MMIO"), 1u) << "that of memory";
}

}  // namespace
}  // namespace ostler::accel
