// Memory's layout changes under translated code that runs on another thread: RAM that goes, becomes
// read-only, or makes way for other memory, while a vCPU reads, writes, pushes, calls and repeats strings
// there. When the commit has returned, nothing that the vCPU keeps leads to what was there: not its TLB,
// stack window, shared checks, hash tables, links or shadow stack. The memory that has gone holds a pattern,
// and keeps it.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "team.h"

namespace ostler::bt {
namespace {

constexpr uint64_t kExtra = uint64_t{1} << 30, kExtraSize = 4 * kPageSize;  // linear and physical
constexpr uint64_t kFlag = 0x30000, kRounds = 0x30040, kBad = 0x30080, kProgram = 0x40000, kStack = 0x28000;
constexpr uint8_t kPattern = 0xa5;

std::vector<uint8_t> number_of(uint64_t value, unsigned bytes) {
  std::vector<uint8_t> out;
  for (unsigned i = 0; i < bytes; ++i) out.push_back(static_cast<uint8_t>(value >> 8 * i));
  return out;
}

// What the guest does to the page in RBX. It keeps R12; R13 is the number that the memory has everywhere
// which lies there after the change.
struct Way {
  const char* name;
  std::vector<uint8_t> code;  // leaves a number that it has read there in RAX
};

const std::vector<Way>& ways() {
  static const std::vector<Way> all = {
      {"Load", {0x48, 0x8b, 0x83, 0, 8, 0, 0}},  // mov rax, [rbx + 0x800]
      // mov rax, [rbx + 0x800]; and rax, [rbx + 0x808]; and rax, [rbx + 0x810]
      {"SharedCheck",
       {0x48, 0x8b, 0x83, 0, 8, 0, 0, 0x48, 0x23, 0x83, 8, 8, 0, 0, 0x48, 0x23, 0x83, 0x10, 8, 0, 0}},
      // mov r14, rsp; lea rsp, [rbx + 0x808]; pop rcx; push r13; mov rax, [rsp]; pop rcx; mov rsp, r14
      {"Stack", {0x49, 0x89, 0xe6, 0x48, 0x8d, 0xa3, 8,    8,    0,    0,   0x59,
                 0x41, 0x55, 0x48, 0x8b, 0x04, 0x24, 0x59, 0x4c, 0x89, 0xf4}},
      {"Call", {0xff, 0xd3}},  // call rbx
      // call the function's link: a direct one
      {"DirectCall", {0xe8, 0, 0, 0, 0}},
      // lea rsi, [rbx + 0x800]; mov rdi, r15; mov ecx, 200; rep movsq; mov rax, [rdi - 8]
      {"RepeatedFrom", {0x48, 0x8d, 0xb3, 0, 8,    0,    0,    0x4c, 0x89, 0xff, 0xb9,
                        200,  0,    0,    0, 0xf3, 0x48, 0xa5, 0x48, 0x8b, 0x47, 0xf8}},
      // lea rdi, [rbx + 0x800]; mov rax, r13; mov ecx, 200; rep stosq; mov rax, [rbx + 0x800]
      {"RepeatedTo", {0x48, 0x8d, 0xbb, 0,    8,    0,    0,    0x4c, 0x89, 0xe8, 0xb9, 200, 0,
                      0,    0,    0xf3, 0x48, 0xab, 0x48, 0x8b, 0x83, 0,    8,    0,    0}},
      // mov rcx, r13; xchg [rbx + 0x800], rcx; mov rax, [rbx + 0x800]
      {"Locked", {0x4c, 0x89, 0xe9, 0x48, 0x87, 0x8b, 0, 8, 0, 0, 0x48, 0x8b, 0x83, 0, 8, 0, 0}},
  };
  return all;
}

enum class Change { kOtherRam, kRom, kReadOnly };

class ViewChanges : public ::testing::TestWithParam<std::tuple<size_t, Change>> {
 protected:
  // Functions and numbers that say which memory it is.
  static void fill(memory::RamBlock& block, uint32_t number) {
    for (uint64_t page = 0; page < kExtraSize; page += kPageSize) {
      std::byte* at = block.host() + page;
      const std::vector<uint8_t> function = {0x48, 0xc7, 0xc0, static_cast<uint8_t>(number), 0, 0, 0, 0xc3};
      std::memcpy(at, function.data(), function.size());
      for (uint64_t i = 0x800; i < kPageSize; i += 8) store_le<uint64_t>(at + i, number);
    }
  }
  static std::shared_ptr<memory::RamBlock> extra() {
    return value_of(memory::RamBlock::create({.name = "extra", .size = kExtraSize}));
  }
};

TEST_P(ViewChanges, LeaveNoWayToWhatWasThere) {
  const Way& way = ways()[std::get<0>(GetParam())];
  const Change change = std::get<1>(GetParam());
  Team team({});
  team.map();
  const uint64_t directory = kTables + 0x10000, table = directory + kPageSize;
  store_le<uint64_t>(team.at(kTables + kPageSize + 8), directory | 7);
  store_le<uint64_t>(team.at(directory), table | 7);
  for (uint64_t page = 0; page < kExtraSize / kPageSize; ++page)
    store_le<uint64_t>(team.at(table + 8 * page), (kExtra + page * kPageSize) | 0x67);

  const auto first_block = extra(), second_block = change == Change::kReadOnly ? first_block : extra();
  fill(*first_block, 1);
  if (second_block != first_block) fill(*second_block, 2);
  memory::RamRegion first("first", first_block), second("second", second_block);
  memory::RomRegion rom("rom", second_block);
  memory::Region& under = change == Change::kOtherRam ? static_cast<memory::Region&>(second) : rom;
  {
    memory::Transaction add(team.space);
    add.add(team.space.root(), kExtra, under);
    add.add(team.space.root(), kExtra, first, 1);
  }

  // again: mov r12, [flag]; (the way); cmp rax, r13; je good; test r12, r12; je good; inc [bad];
  // good: inc [rounds]; cmp [stop], 0; je again; hlt
  std::vector<uint8_t> code = {0x4c, 0x8b, 0x24, 0x25};
  const auto append = [&code](const std::vector<uint8_t>& bytes) {
    code.insert(code.end(), bytes.begin(), bytes.end());
  };
  append(number_of(kFlag, 4));
  append({0xfc});
  const size_t start = code.size();
  append(way.code);
  if (way.code[0] == 0xe8) {
    const auto distance = number_of(kExtra - (kProgram + start + 5), 4);
    std::copy(distance.begin(), distance.end(), code.begin() + static_cast<ptrdiff_t>(start) + 1);
  }
  append({0x4c, 0x39, 0xe8, 0x74, 13, 0x4d, 0x85, 0xe4, 0x74, 8, 0x48, 0xff, 0x04, 0x25});
  append(number_of(kBad, 4));
  append({0x48, 0xff, 0x04, 0x25});
  append(number_of(kRounds, 4));
  append({0x83, 0x3c, 0x25});
  append(number_of(kFlag + 8, 4));
  append({0});
  const size_t back = code.size() + 6;
  append({0x0f, 0x84});
  append(number_of(0 - back, 4));
  append({0xf4});
  team.put(kProgram, code);

  Member vcpu(team, true);
  vcpu.interpreter->stop_on_exceptions(true);
  vcpu.start(0, kProgram, kStack);
  vcpu.state().gpr[x86::kRbx] = kExtra;
  vcpu.state().gpr[x86::kR13] = change == Change::kReadOnly ? 1 : 2;
  vcpu.state().gpr[x86::kR15] = 0x34000;
  vcpu.interpreter->state_changed();
  interp::Exit exit{};
  std::thread thread([&] { exit = vcpu.run(); });
  const auto rounds = [&] {
    return __atomic_load_n(reinterpret_cast<uint64_t*>(team.at(kRounds)), __ATOMIC_ACQUIRE);
  };
  const auto wait = [&](uint64_t count) {
    for (const uint64_t now = rounds(); rounds() < now + count;) std::this_thread::yield();
  };
  const auto set = [&](uint64_t at, uint64_t value) {
    __atomic_store_n(reinterpret_cast<uint64_t*>(team.at(at)), value, __ATOMIC_SEQ_CST);
  };
  uint64_t touched = 0;
  for (unsigned turn = 0; turn < 6; ++turn) {
    wait(20 + turn);
    memory::Transaction(team.space).set_enabled(first, false);
    if (change == Change::kReadOnly) {
      // Nobody may write it now.
      std::vector<std::byte> before(kExtraSize);
      memory::guest_copy(before.data(), first_block->host(), kExtraSize);
      memory::guest_fill(first_block->host() + 0x800, 1, 16);
      wait(20);
      for (unsigned i = 0; i < 16; ++i) touched += first_block->host()[0x800 + i] != std::byte{1};
      memory::guest_copy(first_block->host(), before.data(), kExtraSize);
    } else {
      set(kFlag, 1);
      memory::guest_fill(first_block->host(), kPattern, kExtraSize);
      team.space.ram_written(*first_block, 0, kExtraSize);
      wait(20);
      for (uint64_t i = 0; i < kExtraSize; ++i) touched += first_block->host()[i] != std::byte{kPattern};
      if (change == Change::kRom) {
        for (uint64_t i = 0x800; i < kPageSize; i += 8)
          touched += load_le<uint64_t>(second_block->host() + i) != 2;
      }
      fill(*first_block, 1);
      team.space.ram_written(*first_block, 0, kExtraSize);
      set(kFlag, 0);
      wait(2);
    }
    memory::Transaction(team.space).set_enabled(first, true);
  }
  set(kFlag + 8, 1);
  thread.join();
  EXPECT_EQ(exit, interp::Exit::kHalted) << std::hex << vcpu.state().rip;
  EXPECT_EQ(touched, 0u);
  EXPECT_EQ(load_le<uint64_t>(team.at(kBad)), 0u);
  EXPECT_EQ(vcpu.runner->statistics().host_faults, 0u);
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<size_t, Change>>& one) {
  const Change change = std::get<1>(one.param);
  return std::string(ways()[std::get<0>(one.param)].name) + (change == Change::kOtherRam ? "OtherRam"
                                                             : change == Change::kRom    ? "Rom"
                                                                                         : "ReadOnly");
}

INSTANTIATE_TEST_SUITE_P(Uses, ViewChanges,
                         ::testing::Combine(::testing::Range<size_t>(0, 8),
                                            ::testing::Values(Change::kOtherRam, Change::kRom,
                                                              Change::kReadOnly)),
                         name_of);

}  // namespace
}  // namespace ostler::bt
