// Code that others change while a vCPU runs it: another vCPU, a device. Once the change is announced and the
// vCPU has executed a serializing instruction, it runs the new code (SDM Vol. 3A §8.1.3).
#include <immintrin.h>

#include <thread>

#include "fixture.h"

namespace ostler::test {
namespace {

using interp::Exit;
using x86::kR11;
using x86::kR12;
using x86::kR13;
using x86::kR14;
using x86::kR15;
using x86::kRax;
using x86::kRsi;
using x86::kRsp;

constexpr uint64_t kFunction = 0x18000;
constexpr uint64_t kRequest = kHeap, kDone = kHeap + 0x80;  // round numbers
constexpr uint64_t kRounds = 60;

// Calls the function after each request and tells that it did; R11 collects the differences between what it
// returned and the round's number.
Code caller(uint64_t done) {
  Code code;
  code.mov(kRsi, kRequest).mov(kR12, kFunction).mov(kR14, 0).mov(kR15, kRounds).mov(kR11, 0);
  code.mov(x86::kRdi, done);
  const size_t wait = code.size();
  code.raw({0xf3, 0x90}).load(kRax, kRsi).compare(kRax, kR14).jcc(4, wait).move(kR14, kRax);
  code.serialize().call(kR12).sub(kRax, kR14).raw({0x49, 0x09, 0xc3});  // or r11, rax
  code.store(x86::kRdi, kR14).compare(kR14, kR15).jcc(5, wait).hlt();
  return code;
}

void run_caller(Machine& machine, Space& space, unsigned number) {
  Vcpu cpu(machine, space);
  cpu.reg(kRsp) = kStackTop - number * 0x1000;
  EXPECT_EQ(cpu.go(kText + number * 0x1000, INT64_MAX / 2), Exit::kHalted);
  EXPECT_EQ(cpu.reg(kR11), 0u) << "vCPU " << number << " ran old code";
}

// `function_at`: the address through which the writing vCPU knows the function.
void change_from_another_vcpu(uint64_t function_at, unsigned callers) {
  Machine machine;
  Space space(machine);
  space.map(kFree, kFunction, pte::kP | pte::kW);
  machine.put(kFunction, Code().mov32(kRax, 0).ret());
  std::vector<std::thread> threads;
  for (unsigned i = 1; i <= callers; ++i) {
    machine.put(kText + i * 0x1000, caller(kDone + i * 0x80));
    threads.emplace_back([&, i] { run_caller(machine, space, i); });
  }
  Vcpu cpu(machine, space);
  Code code;
  code.mov(kRsi, kRequest).mov(kR12, function_at).mov(kR13, 0).mov(kR15, kRounds);
  const size_t top = code.size();
  code.inc(kR13).store32(kR12, kR13, 1).store(kRsi, kR13);
  for (unsigned i = 1; i <= callers; ++i) {
    const size_t wait = code.size();
    code.raw({0xf3, 0x90}).load(kRax, kRsi, static_cast<int32_t>(kDone + i * 0x80 - kRequest));
    code.compare(kRax, kR13).jcc(5, wait);
  }
  code.compare(kR13, kR15).jcc(5, top).hlt();
  machine.put(kText, code);
  EXPECT_EQ(cpu.go(kText, INT64_MAX / 2), Exit::kHalted);
  for (auto& thread : threads) thread.join();
}

TEST(OtherWriters, AnotherVcpu) {
  change_from_another_vcpu(kFunction, 1);
}
TEST(OtherWriters, AnotherVcpuThroughAnotherAddress) {
  change_from_another_vcpu(kFree, 1);
}
TEST(OtherWriters, AnotherVcpuWithTwoThatRunTheCode) {
  change_from_another_vcpu(kFunction, 2);
}

TEST(OtherWriters, ADevice) {
  Machine machine;
  Space space(machine);
  machine.put(kFunction, Code().mov32(kRax, 0).ret());
  machine.put(kText + 0x1000, caller(kDone));
  std::thread thread([&] { run_caller(machine, space, 1); });
  for (uint64_t round = 1; round <= kRounds; ++round) {
    machine.poke<uint8_t>(kFunction + 1, static_cast<uint8_t>(round));
    machine.poke<uint64_t>(kRequest, round);
    const auto* done = reinterpret_cast<const std::atomic<uint64_t>*>(machine.block->host() + kDone);
    while (done->load(std::memory_order_acquire) != round) std::this_thread::yield();
  }
  thread.join();
}

// The function is written all the time while vCPUs call it, and make and remake what they make of it; after
// the last write they run what it has left.
TEST(OtherWriters, ADeviceInTheMiddleOfIt) {
  constexpr unsigned kWrites = 3, kVcpus = 2, kTimes = 120;
  Machine machine;
  Space space(machine);
  Code function;  // long, so that what is made of it takes some time
  function.mov32(kRax, 0).move(x86::kR8, kRsi);
  for (unsigned i = 0; i < 30; ++i) function.load(x86::kRbx, x86::kR8).inc(x86::kR8);
  machine.put(kFunction, function.ret());
  Code code;
  code.mov(kRsi, kRequest).mov(kR12, kFunction).mov(kR14, 0).mov(kR15, kTimes).mov(kR11, 0);
  const size_t wait = code.size();
  code.call(kR12).load(kRax, kRsi).compare(kRax, kR14).jcc(4, wait).move(kR14, kRax);
  code.serialize().call(kR12).sub(kRax, kR14).raw({0x49, 0x09, 0xc3});  // or r11, rax
  code.store(x86::kRdi, kR14).compare(kR14, kR15).jcc(5, wait).hlt();
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kVcpus; ++i) {
    machine.put(kText + i * 0x1000, code);
    threads.emplace_back([&, i] {
      Vcpu cpu(machine, space);
      cpu.reg(kRsp) = kStackTop - i * 0x1000;
      cpu.reg(x86::kRdi) = kDone + i * 0x80;
      EXPECT_EQ(cpu.go(kText + i * 0x1000, INT64_MAX / 2), Exit::kHalted);
      EXPECT_EQ(cpu.reg(kR11), 0u) << "vCPU " << i << " ran old code";
    });
  }
  for (uint64_t round = 1; round <= kTimes; ++round) {
    for (unsigned i = 0; i < kWrites; ++i) {
      machine.poke<uint8_t>(kFunction + 1, static_cast<uint8_t>(i));
      // Now and then enough for a vCPU to get somewhere.
      for (uint64_t pause = (round * 31 + i * 17) % 197; pause > 0; --pause) _mm_pause();
    }
    machine.poke<uint8_t>(kFunction + 1, static_cast<uint8_t>(round));
    machine.poke<uint64_t>(kRequest, round);
    for (unsigned i = 0; i < kVcpus; ++i) {
      const auto* done =
          reinterpret_cast<const std::atomic<uint64_t>*>(machine.block->host() + kDone + i * 0x80);
      while (done->load(std::memory_order_acquire) != round) std::this_thread::yield();
    }
  }
  for (auto& thread : threads) thread.join();
}

// All find the same code new at the same time, while writes that change nothing take pieces of it away.
TEST(OtherWriters, SeveralVcpusMeetTheSameNewCode) {
  constexpr unsigned kFunctions = 1500, kVcpus = 4, kStep = 32;
  constexpr uint64_t kFirst = 0x100000;
  Machine machine;
  Space space(machine);
  for (unsigned i = 0; i < kFunctions; ++i)  // adds its number, then goes on with the next one
    machine.put(kFirst + i * kStep,
                Code().mov32(kRax, i).raw({0x48, 0x01, 0xc3}).mov(kR12, kFirst + (i + 1) * kStep).jump(kR12));
  machine.put(kFirst + kFunctions * kStep, Code().hlt());
  std::vector<std::thread> threads;
  std::atomic<unsigned> ended = 0;
  for (unsigned i = 0; i < kVcpus; ++i)
    threads.emplace_back([&, i] {
      Vcpu cpu(machine, space);
      for (unsigned round = 0; round < 3; ++round) {
        cpu.reg(x86::kRbx) = 0;
        EXPECT_EQ(cpu.go(kFirst, INT64_MAX / 2), Exit::kHalted);
        EXPECT_EQ(cpu.reg(x86::kRbx), uint64_t{kFunctions} * (kFunctions - 1) / 2) << "vCPU " << i;
      }
      ++ended;
    });
  for (unsigned i = 0; ended != kVcpus; i = (i + 7) % kFunctions)
    machine.poke<uint8_t>(kFirst + i * kStep + 1, static_cast<uint8_t>(i));
  for (auto& thread : threads) thread.join();
}

// Two vCPUs that write the same code in turn, each calling it.
TEST(OtherWriters, TwoVcpusThatChangeTheSameCodeInTurn) {
  Machine machine;
  Space space(machine);
  machine.put(kFunction, Code().mov32(kRax, 0).ret());
  // The word at kRequest is whose turn it is; each writes its next number and calls.
  const auto player = [](uint64_t parity) {
    Code code;
    code.mov(kRsi, kRequest).mov(kR12, kFunction).mov(kR13, parity).mov(kR11, 0).mov(kR15, parity + kRounds);
    const size_t top = code.size();
    code.raw({0xf3, 0x90}).load(kRax, kRsi).compare(kRax, kR13).jcc(5, top);
    code.store32(kR12, kR13, 1).call(kR12).sub(kRax, kR13).raw({0x49, 0x09, 0xc3}).inc(kR13);
    code.store(kRsi, kR13).inc(kR13).compare(kR13, kR15).jcc(5, top).hlt();
    return code;
  };
  const auto play = [&](unsigned number) {
    machine.put(kText + number * 0x1000, player(number));
    Vcpu cpu(machine, space);
    cpu.reg(kRsp) = kStackTop - number * 0x1000;
    EXPECT_EQ(cpu.go(kText + number * 0x1000, INT64_MAX / 2), Exit::kHalted);
    EXPECT_EQ(cpu.reg(kR11), 0u);
  };
  std::thread other([&] { play(1); });
  play(0);
  other.join();
}

}  // namespace
}  // namespace ostler::test
