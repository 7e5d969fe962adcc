// Random steps of several vCPUs at once over shared memory, translated and interpreted. In each step one of
// them, or a device, overwrites functions that the others call, or maps another frame where they call, read
// and write, while all push the code cache over its limit and a thread removes other memory. During the step
// either version is a legal outcome of each use; after it, and after what SDM 3A §4.10.5 asks of each vCPU,
// only the new one is. Each vCPU has a program, stack and counters of its own. OSTLER_VCPUS_SEED and
// OSTLER_VCPUS_STEPS choose other streams.
#include <array>
#include <atomic>
#include <barrier>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "memory/dma.h"
#include "team.h"

namespace ostler::bt {
namespace {

constexpr unsigned kVcpus = 3, kFrames = 8, kSlots = 6, kFirstGlobal = 4, kFunctions = 15, kRoots = 3;
constexpr uint64_t kFunction = 256, kNumber = 0xf40;  // in a frame
constexpr uint64_t kPrograms = 0x40000, kProgramSize = 0x8000, kStacks = 0x20000, kCounters = 0x30000;
constexpr uint64_t kFramesAt = 0x80000, kChurn = 0x100000, kChurnPages = 96, kRootsAt = 0x320000;
constexpr uint64_t kWindow = uint64_t{1} << 30, kRoom = uint64_t{1} << 32;
constexpr uint64_t kKeep = uint64_t{1} << 63;

uint64_t frame_at(unsigned frame) {
  return kFramesAt + frame * kPageSize;
}
uint64_t entry_at(unsigned root, unsigned slot) {
  return kRootsAt + (root * 4 + 3) * kPageSize + slot * 8;
}

// A vCPU's part of a step.
class Program {
 public:
  explicit Program(uint64_t at) : at_(at) {}
  uint64_t here() const { return at_ + code_.size(); }
  const std::vector<uint8_t>& end() {
    put({0xf4});
    return code_;
  }
  void put(std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) code_.push_back(static_cast<uint8_t>(byte));
  }
  void put32(uint64_t value) {
    for (unsigned i = 0; i < 4; ++i) code_.push_back(static_cast<uint8_t>(value >> 8 * i));
  }
  void rax(uint64_t value) {
    put({0x48, 0xb8});
    put32(value);
    put32(value >> 32);
  }
  void rbx(uint64_t value) {
    put({0x48, 0xbb});
    put32(value);
    put32(value >> 32);
  }
  void call(uint64_t target) {
    put({0xe8});
    put32(target - (here() + 4));
  }
  void call_indirect(uint64_t target) {
    rbx(target);
    put({0xff, 0xd3});
  }
  void load(uint64_t from) {
    rbx(from);
    put({0x8b, 0x03});
  }
  // mov dword [at], value
  void store(uint64_t at, uint32_t value) {
    put({0xc7, 0x04, 0x25});
    put32(at);
    put32(value);
  }
  // EAX must be one of the two: cmp eax, a; je good; cmp eax, b; je good; inc r13; good: inc r12
  void expect(uint32_t one, uint32_t other) {
    put({0x3d});
    put32(one);
    put({0x74, 10, 0x3d});
    put32(other);
    put({0x74, 3, 0x49, 0xff, 0xc5, 0x49, 0xff, 0xc4});
  }

 private:
  const uint64_t at_;
  std::vector<uint8_t> code_;
};

class Stream {
 public:
  Stream(uint64_t seed, bool translated) : random_(seed), team_({.cache_bytes = size_t{1} << 20}, kVcpus) {
    team_.map();
    for (unsigned root = 0; root < kRoots; ++root) {
      const uint64_t at = kRootsAt + root * 4 * kPageSize;
      entry(at, (at + kPageSize) | 7);
      entry(at + kPageSize, (kTables + 2 * kPageSize) | 7);
      entry(at + kPageSize + 8, (at + 2 * kPageSize) | 7);
      entry(at + 2 * kPageSize, (at + 3 * kPageSize) | 7);
      for (unsigned slot = 0; slot < kSlots; ++slot) {
        frame_of_[root][slot] = slot < kFirstGlobal ? (slot + root) % kFrames : slot;
        entry(entry_at(root, slot), value_of_entry(root, slot));
      }
    }
    for (unsigned frame = 0; frame < kFrames; ++frame) {
      version_[frame] = ++versions_;
      const std::vector<uint8_t> page = page_of(version_[frame]);
      team_.put(frame_at(frame), page);
    }
    for (uint64_t page = 0; page < kChurnPages; ++page)
      team_.put(kChurn + page * kPageSize, page_of(static_cast<uint32_t>(page)));
    for (unsigned n = 0; n < kVcpus; ++n) {
      vcpus_.push_back(std::make_unique<Member>(team_, translated));
      Member& vcpu = *vcpus_.back();
      vcpu.interpreter->stop_on_exceptions(true);
      vcpu.start(0, kPrograms + n * kProgramSize, stack_of(n));
      vcpu.state().cr3 = kRootsAt | 1;
      vcpu.state().cr4 |= x86::cr4::kPge | x86::cr4::kPcide;
      vcpu.interpreter->state_changed();
    }
  }

  void run(unsigned steps) {
    memory::RamRegion room("room", value_of(memory::RamBlock::create({.name = "room", .size = kPageSize})));
    memory::Transaction(team_.space).add(team_.space.root(), kRoom, room);
    std::barrier begin(kVcpus + 1), end(kVcpus + 1);
    std::atomic<bool> over{false};
    std::vector<std::thread> threads;
    for (unsigned n = 0; n < kVcpus; ++n)
      threads.emplace_back([&, n] {
        for (begin.arrive_and_wait(); !over.load(); begin.arrive_and_wait()) {
          exits_[n] = vcpus_[n]->run();
          end.arrive_and_wait();
        }
      });
    for (unsigned step = 0; step < steps && !failed(); ++step) {
      plan();
      begin.arrive_and_wait();
      if (by_device_) write_as_device();
      if (below(4) == 0) {
        memory::Transaction(team_.space).set_enabled(room, false);
        memory::Transaction(team_.space).set_enabled(room, true);
      }
      end.arrive_and_wait();
      look_at(step);
    }
    over.store(true);
    begin.arrive_and_wait();
    for (std::thread& thread : threads) thread.join();
  }

  Team& team() { return team_; }
  Member& vcpu(unsigned n) { return *vcpus_[n]; }

 private:
  static bool failed() { return ::testing::Test::HasFailure(); }
  unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }
  static uint64_t stack_of(unsigned n) { return kStacks + n * 0x2000 + 0x1800; }
  void entry(uint64_t at, uint64_t value) { store_le<uint64_t>(team_.at(at), value); }
  uint64_t value_of_entry(unsigned root, unsigned slot) const {
    return frame_at(frame_of_[root][slot]) | 7 | (slot < kFirstGlobal ? 0 : 0x100);
  }
  // Functions that return the version, which lies where one store replaces it; and numbers that are it.
  static std::vector<uint8_t> page_of(uint32_t version) {
    std::vector<uint8_t> page(kPageSize);
    const auto number = [&](uint64_t at) { store_le<uint32_t>(&page[at], version); };
    for (unsigned i = 0; i < kFunctions; ++i) {
      const uint8_t function[] = {0x0f, 0x1f, 0x00, 0xb8, 0, 0, 0, 0, 0xc3};  // nop; mov eax, version; ret
      std::memcpy(&page[i * kFunction], function, sizeof function);
      number(i * kFunction + 4);
    }
    number(kNumber);
    return page;
  }

  // ---- a step ----
  void plan() {
    for (uint64_t& counted : counted_) counted = 0;
    std::vector<Program> programs;
    for (unsigned n = 0; n < kVcpus; ++n) {
      programs.emplace_back(kPrograms + n * kProgramSize);
      catch_up(n, programs[n]);
    }
    // What may be seen during the step: of frames and of mappings.
    before_ = version_;
    frame_before_ = frame_of_;
    by_device_ = false;
    const unsigned writer = below(kVcpus);
    const unsigned what = below(5);
    const unsigned frame = below(kFrames);
    if (what < 3) {
      version_[frame] = ++versions_;
      overwritten_ = frame;
      by_device_ = what == 0;
    }
    const unsigned slot = below(kSlots);
    const unsigned root = root_[writer];
    if (what >= 3) {
      const unsigned to = below(kFrames);
      for (unsigned r = 0; r < kRoots; ++r)
        if (r == root || slot >= kFirstGlobal) frame_of_[r][slot] = to;
    }
    for (unsigned n = 0; n < kVcpus; ++n) {
      Program& program = programs[n];
      const unsigned loops = 3 + below(6);
      for (unsigned i = 0; i < loops; ++i) {
        use(n, program, false);
        if (below(4) == 0) churn(program);
      }
      if (n == writer) {
        if (what == 1 || what == 2) overwrite(program, frame);
        if (what >= 3) remap(program, n, root, slot);
      }
      for (unsigned i = 0; i < loops; ++i) use(n, program, n == writer && !by_device_);
    }
    if (what >= 3)
      for (unsigned n = 0; n < kVcpus; ++n)
        for (unsigned r = 0; r < kRoots; ++r)
          if (n != writer && frame_before_[r][slot] != frame_of_[r][slot]) stale_[n][r][slot] = true;
    for (unsigned n = 0; n < kVcpus; ++n) {
      team_.put(kPrograms + n * kProgramSize, programs[n].end());
      x86::CpuState& s = vcpus_[n]->state();
      s.rip = kPrograms + n * kProgramSize;
      s.gpr[x86::kR12] = s.gpr[x86::kR13] = 0;
    }
  }
  // One use of a function or number; `exact`: this vCPU has made the change itself.
  void use(unsigned n, Program& program, bool exact) {
    ++counted_[n];
    const unsigned how = below(6);
    if (how == 0) {
      program.put({0xf0, 0xff, 0x04, 0x25});  // lock inc dword [counter], across two pages
      program.put32(kCounters + kPageSize - 2);
      program.put({0x49, 0xff, 0xc4});
      ++increments_;
      return;
    }
    const unsigned slot = below(kSlots), root = root_[n];
    const bool mapped = how >= 2;
    const unsigned now = mapped ? frame_of_[root][slot] : below(kFrames);
    const unsigned old = mapped ? frame_before_[root][slot] : now;
    const uint64_t page = mapped ? kWindow + slot * kPageSize : frame_at(now);
    const unsigned function = below(kFunctions);
    if (how % 3 == 0)
      program.load(page + kNumber);
    else if (how % 3 == 1)
      program.call(page + function * kFunction);
    else
      program.call_indirect(page + function * kFunction);
    // One change at a time: of the frame, or of the mapping.
    program.expect(version_[now], exact ? version_[now] : before_[old]);
  }
  void churn(Program& program) {
    const uint64_t page = kChurn + below(kChurnPages) * kPageSize;
    for (unsigned i = 0; i < 12; ++i) program.call(page + below(kFunctions) * kFunction);
  }
  void overwrite(Program& program, unsigned frame) {
    const uint64_t page = frame_at(frame);
    for (unsigned i = 0; i < kFunctions; ++i) program.store(page + i * kFunction + 4, version_[frame]);
    program.store(page + kNumber, version_[frame]);
  }
  void write_as_device() {
    memory::Dma dma(team_.space);
    const std::vector<uint8_t> page = page_of(version_[overwritten_]);
    EXPECT_TRUE(dma.write({frame_at(overwritten_)}, std::as_bytes(std::span(page))));
  }
  void remap(Program& program, unsigned n, unsigned root, unsigned slot) {
    for (unsigned r = 0; r < kRoots; ++r) {
      if (frame_before_[r][slot] == frame_of_[r][slot] && r != root) continue;
      program.rax(value_of_entry(r, slot));
      program.put({0x48, 0x87, 0x04, 0x25});  // xchg [entry], rax
      program.put32(entry_at(r, slot));
    }
    invalidate(n, program, slot);
  }

  // ---- invalidation ----
  void load_cr3(Program& program, unsigned root, bool keep) {
    program.rax((kRootsAt + root * 4 * kPageSize) | (root + 1) | (keep ? kKeep : 0));
    program.put({0x0f, 0x22, 0xd8});
  }
  void invpcid(unsigned n, Program& program, unsigned type, unsigned root, uint64_t address) {
    const uint64_t at = kStacks + n * 0x2000;
    program.store(at, root + 1);
    program.store(at + 4, 0);
    program.store(at + 8, static_cast<uint32_t>(address));
    program.store(at + 12, static_cast<uint32_t>(address >> 32));
    program.put({0xb9});
    program.put32(type);
    program.put({0x66, 0x0f, 0x38, 0x82, 0x0c, 0x25});
    program.put32(at);
  }
  void forget_stale(unsigned n, unsigned root, bool global) {
    for (unsigned slot = 0; slot < (global ? kSlots : kFirstGlobal); ++slot) stale_[n][root][slot] = false;
  }
  // Of the current root, and of global pages in all.
  void invalidate(unsigned n, Program& program, unsigned slot) {
    const uint64_t address = kWindow + slot * kPageSize;
    const unsigned root = root_[n];
    switch (below(slot < kFirstGlobal ? 7 : 4)) {
      case 0:
      case 1:
        program.rbx(address + below(4096));
        program.put({0x0f, 0x01, 0x3b});  // invlpg [rbx]
        break;
      case 2:
        for (unsigned i = 0; i < 2; ++i)  // mov rax, cr4; xor al, 80h; mov cr4, rax
          program.put({0x0f, 0x20, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0});
        for (unsigned r = 0; r < kRoots; ++r) forget_stale(n, r, true);
        break;
      case 3:
        invpcid(n, program, 2, 0, 0);
        for (unsigned r = 0; r < kRoots; ++r) forget_stale(n, r, true);
        break;
      case 4:
        invpcid(n, program, 0, root, address);
        break;
      case 5:
        load_cr3(program, root, false);
        forget_stale(n, root, false);
        break;
      default:
        invpcid(n, program, 1, root, 0);
        forget_stale(n, root, false);
    }
    stale_[n][root][slot] = false;
    if (slot >= kFirstGlobal)
      for (unsigned r = 0; r < kRoots; ++r) stale_[n][r][slot] = false;
  }
  // What others have changed, as after their IPI; then perhaps another root.
  void catch_up(unsigned n, Program& program) {
    for (unsigned slot = 0; slot < kSlots; ++slot)
      if (stale_[n][root_[n]][slot]) invalidate(n, program, slot);
    if (below(3) != 0) return;
    const unsigned to = below(kRoots);
    bool keep = below(4) != 0;
    for (unsigned slot = 0; slot < kFirstGlobal; ++slot) keep = keep && !stale_[n][to][slot];
    load_cr3(program, to, keep);
    root_[n] = to;
    if (!keep) forget_stale(n, to, false);
  }

  void look_at(unsigned step) {
    for (unsigned n = 0; n < kVcpus; ++n) {
      const x86::CpuState& s = vcpus_[n]->state();
      EXPECT_EQ(static_cast<int>(exits_[n]), static_cast<int>(interp::Exit::kHalted))
          << "step " << step << " vCPU " << n << std::hex << " rip " << s.rip << " cr2 "
          << vcpus_[n]->interpreter->exception().cr2;
      EXPECT_EQ(s.gpr[x86::kR13], 0u) << "step " << step << " vCPU " << n << ": of neither version";
      EXPECT_EQ(s.gpr[x86::kR12], counted_[n]) << "step " << step << " vCPU " << n;
      EXPECT_EQ(s.gpr[x86::kRsp], stack_of(n)) << "step " << step << " vCPU " << n;
    }
    uint32_t counter = 0;
    std::memcpy(&counter, team_.at(kCounters + kPageSize - 2), 4);
    EXPECT_EQ(counter, increments_) << "step " << step;
  }

  std::mt19937_64 random_;
  Team team_;
  std::vector<std::unique_ptr<Member>> vcpus_;
  std::array<interp::Exit, kVcpus> exits_{};
  uint32_t versions_ = 1000, increments_ = 0;
  std::array<uint32_t, kFrames> version_{}, before_{};
  std::array<std::array<unsigned, kSlots>, kRoots> frame_of_{}, frame_before_{};
  std::array<unsigned, kVcpus> root_{};
  std::array<std::array<std::array<bool, kSlots>, kRoots>, kVcpus> stale_{};
  std::array<uint64_t, kVcpus> counted_{};
  bool by_device_ = false;
  unsigned overwritten_ = 0;
};

uint64_t option(const char* name, uint64_t standard) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : standard;
}

class VcpuStreams : public ::testing::TestWithParam<bool> {};

TEST_P(VcpuStreams, EachUseSeesALegalVersion) {
  Stream stream(option("OSTLER_VCPUS_SEED", 1), GetParam());
  stream.run(static_cast<unsigned>(option("OSTLER_VCPUS_STEPS", GetParam() ? 250 : 60)));
  if (!GetParam()) return;
  for (unsigned n = 0; n < kVcpus; ++n) EXPECT_EQ(stream.vcpu(n).runner->statistics().host_faults, 0u);
  EXPECT_GT(stream.team().shared->cache->statistics().evictions, 0u);
  EXPECT_GT(stream.team().shared->cache->statistics().killed, 0u);
}

INSTANTIATE_TEST_SUITE_P(Engines, VcpuStreams, ::testing::Bool(), [](const auto& one) {
  return std::string(one.param ? "translated" : "interpreted");
});

}  // namespace
}  // namespace ostler::bt
