// Random changes of paging by a kernel that invalidates what SDM 3A §4.10.4 asks of it and no more: page
// tables of eight address spaces, PCIDs with and without "keep", global pages, INVPCID of each type, large
// pages that are split, accessed and dirty bits, CR0.WP, CR4.PGE, SMEP, SMAP, EFER.NXE and AC, with code,
// data and stacks on what is mapped, for the kernel and for its user. Translated, with all that the TLB
// keeps, it does what the interpreter does that finds an empty TLB before each instruction: the same
// registers, faults, memory and page tables. OSTLER_PAGING_SEED and OSTLER_PAGING_ROUNDS choose other
// streams.
#include <array>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "rig.h"

namespace ostler::bt {
namespace {

constexpr uint64_t kData = 0x20000, kKernelStack = 0x28800, kUserStack = 0x2c800, kStub = 0x30000;
constexpr uint64_t kKernel = 0x40000, kUser = 0x60000, kCodeSize = 0x20000;
constexpr uint64_t kFrames = 0x80000, kLargeFrames = 0x200000, kSpaces = 0x100000;
constexpr unsigned kFrameCount = 12, kSpaceCount = 8, kSlots = 8, kFirstGlobal = 6;
constexpr uint64_t kWindow = uint64_t{1} << 30, kLarge = kWindow + (2 << 20);
constexpr uint64_t kP = 1, kW = 2, kU = 4, kG = 0x100, kPs = 0x80, kNx = uint64_t{1} << 63;
constexpr uint64_t kKeep = uint64_t{1} << 63;

struct SpaceTables {
  uint64_t root, pointers, directory, small, large;
};
constexpr SpaceTables tables_of(unsigned space) {
  const uint64_t at = kSpaces + space * 5 * kPageSize;
  return {at, at + kPageSize, at + 2 * kPageSize, at + 3 * kPageSize, at + 4 * kPageSize};
}

// What a seed's kernel executes.
struct Program {
  std::vector<uint8_t> kernel, user;
};

class Kernel {
 public:
  Kernel(uint64_t seed, bool pcids) : random_(seed), pcids_(pcids) {}
  Program make() {
    for (unsigned n = 0; n < 250; ++n) {
      put({0x4c, 0x8d, 0x3d, 0, 0, 0, 0});  // lea r15, [what follows this piece]
      const size_t after = code().size();
      add_one();
      const auto length = static_cast<uint32_t>(code().size() - after);
      std::memcpy(code().data() + after - 4, &length, 4);
    }
    put({0xf4});
    return std::move(program_);
  }

 private:
  unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }
  std::vector<uint8_t>& code() { return in_user_ ? program_.user : program_.kernel; }
  void put(std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) code().push_back(static_cast<uint8_t>(byte));
  }
  void put32(uint64_t value) {
    for (unsigned i = 0; i < 4; ++i) code().push_back(static_cast<uint8_t>(value >> 8 * i));
  }
  void put64(uint64_t value) {
    put32(value);
    put32(value >> 32);
  }
  void rax(uint64_t value) {
    put({0x48, 0xb8});
    put64(value);
  }
  void rbx(uint64_t value) {
    put({0x48, 0xbb});
    put64(value);
  }
  uint64_t slot_address(unsigned slot) { return kWindow + slot * kPageSize; }
  uint64_t any_page() {
    return below(3) != 0 ? slot_address(below(kSlots)) : kLarge + below(kFrameCount) * kPageSize;
  }
  void note_rax() { put({0x48, 0x6b, 0xed, 0x1f, 0x48, 0x01, 0xc5}); }  // imul rbp, 31; add rbp, rax

  void add_one() {
    switch (below(16)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
        return use();
      case 5:
      case 6:
      case 7:
        return use_as_user();
      case 8:
      case 9:
        return change_slot();
      case 10:
        return change_global();
      case 11:
        return change_large();
      case 12:
        return toggle();
      case 13:
        return put({0x0f, 0x01, below(2) == 0 ? 0xcau : 0xcbu});  // clac, stac
      default:
        return change_space(below(kSpaceCount));
    }
  }

  // ---- what the mappings are used for ----
  void use() {
    if (in_user_) {
      recent_space_ = current_;
      recent_slot_ = below(kFirstGlobal);
    }
    if (in_user_ && below(4) == 0) return use_page(slot_address(kFirstGlobal + below(2)));
    use_page(in_user_ && below(2) == 0 ? slot_address(recent_slot_) : any_page());
  }
  void use_page(uint64_t page) {
    rbx(page);
    const unsigned disp = below(30) * 8;
    switch (below(13)) {
      case 0:
        put({0x48, 0x8b, 0x83});  // mov rax, [rbx + 0x800 + disp]
        put32(0x800 + disp);
        break;
      case 1:  // add rax, [rbx + 0x808]; xor rax, [rbx + 0x810]
        put({0x48, 0x03, 0x83, 8, 8, 0, 0, 0x48, 0x33, 0x83, 0x10, 8, 0, 0});
        break;
      case 2:  // lea rsi, [rbx + 0x820]; cld; lodsq
        put({0x48, 0x8d, 0xb3, 0x20, 8, 0, 0, 0xfc, 0x48, 0xad});
        break;
      case 3:  // mov rax, [rbx + 0xffc]
        put({0x48, 0x8b, 0x83, 0xfc, 0x0f, 0, 0});
        break;
      case 4:
        put({0x48, 0x89, 0xab});  // mov [rbx + 0x800 + disp], rbp
        put32(0x800 + disp);
        return;
      case 5:  // mov rax, [rbx + 0x840]; inc dword [rbx + 0x848]; mov [rbx + 0x850], rax
        put({0x48, 0x8b, 0x83, 0x40, 8, 0, 0, 0xff, 0x83, 0x48, 8, 0, 0, 0x48, 0x89, 0x83, 0x50, 8, 0, 0});
        break;
      case 6:  // lea rdi, [rbx + 0x860]; mov ecx, 4; cld; rep stosq
        put({0x48, 0x8d, 0xbb, 0x60, 8, 0, 0, 0xb9, 4, 0, 0, 0, 0xfc, 0xf3, 0x48, 0xab});
        return;
      case 7:  // lea rsi, [rbx + 0x800]; lea rdi, [data]; mov ecx, 5; cld; rep movsq
        put({0x48, 0x8d, 0xb3, 0, 8, 0, 0, 0x48, 0x8d, 0x3c, 0x25});
        put32(in_user_ ? kUserStack : kData + 0x100);
        put({0xb9, 5, 0, 0, 0, 0xfc, 0xf3, 0x48, 0xa5});
        return;
      case 8:  // lea rsp, [rbx + 0x900]; push rbp; push rbx; pop rax; pop rcx
        put({0x48, 0x8d, 0xa3, 0, 9, 0, 0, 0x55, 0x53, 0x58, 0x59});
        new_stack();
        break;
      case 9:  // lock xadd [rbx + 0x880], rax
        put({0xf0, 0x48, 0x0f, 0xc1, 0x83, 0x80, 8, 0, 0});
        break;
      case 10:  // mov [rbx + 1], ebp: another number for the function there
        put({0x89, 0x6b, 1});
        return;
      case 11: {  // what falls into the next page
        put({0x48, 0x81, 0xc3});
        put32(0xff0);
        put({0xff, 0xd3});
        break;
      }
      default:
        put({0xff, 0xd3});  // call rbx
    }
    note_rax();
  }
  void new_stack() {
    put({0xbc});
    put32(in_user_ ? kUserStack : kKernelStack);
  }
  // First of a page, if one is given.
  void use_as_user(uint64_t page = 0) {
    put({0xbc});
    put32(kUserStack);
    put({0xb9});  // mov ecx, where; mov r11d, 2; sysret
    put32(kUser + program_.user.size());
    put({0x41, 0xbb, 2, 0, 0, 0, 0x48, 0x0f, 0x07});
    in_user_ = true;
    if (page != 0) use_page(page);
    for (unsigned n = 1 + below(3); n-- > 0;) use();
    put({0x0f, 0x05});  // syscall
    in_user_ = false;
  }

  // ---- changes ----
  uint64_t any_entry() {
    uint64_t entry = kFrames + below(kFrameCount) * kPageSize;
    if (below(8) != 0) entry |= kP;
    if (below(3) != 0) entry |= kW;
    if (below(2) != 0) entry |= kU;
    if (below(6) == 0) entry |= kNx;
    if (below(2) == 0) entry |= 0x20;
    if (below(3) == 0) entry |= 0x60;
    return entry;
  }
  void write_entry(uint64_t at, uint64_t entry) {
    rax(entry);
    put({0x48, 0x89, 0x04, 0x25});
    put32(at);
  }
  void clear_used(uint64_t at) {  // and qword [at], ~(accessed | dirty)
    put({0x48, 0x83, 0x24, 0x25});
    put32(at);
    put({0x9f});
  }
  void change_slot() {
    // What its user knows of a space, often.
    const bool recent = below(2) == 0;
    const unsigned space = recent ? recent_space_ : below(2) == 0 ? current_ : below(kSpaceCount);
    const unsigned slot = recent ? recent_slot_ : below(kFirstGlobal);
    const uint64_t at = tables_of(space).small + slot * 8;
    switch (below(4)) {
      case 0:
        clear_used(at);
        break;
      case 1:  // What is only allowed now needs nothing: or qword [at], writable
        put({0x48, 0x83, 0x0c, 0x25});
        put32(at);
        put({2});
        return;
      default:
        write_entry(at, any_entry());
    }
    if (space == current_)
      invalidate(slot_address(slot), false);
    else
      invalidate_elsewhere(space, slot_address(slot));
    if (below(2) != 0) return;
    if (space != current_) change_space(space);
    use_as_user(slot_address(slot));
  }
  void change_global() {
    const unsigned slot = kFirstGlobal + below(kSlots - kFirstGlobal);
    const uint64_t entry = any_entry() | kG;
    for (unsigned space = 0; space < kSpaceCount; ++space)
      write_entry(tables_of(space).small + slot * 8, entry);
    invalidate(slot_address(slot), true);
    if (!pge_) stale_.fill(true);  // they are like others then
    stale_[current_] = false;
    if (below(2) != 0) return;
    change_space(recent_space_);
    use_as_user(slot_address(slot));
  }
  void change_large() {
    const uint64_t at = tables_of(current_).directory + 8;
    const uint64_t any_address = kLarge + below(512) * kPageSize + below(4096);
    if (large_[current_]) {
      if (below(3) == 0) {
        clear_used(at);
      } else {
        write_entry(at, tables_of(current_).large | 0x27);
        large_[current_] = false;
      }
      return invalidate(any_address, false);  // one address is enough for all of a large page
    }
    if (below(2) == 0) {
      const unsigned page = below(kFrameCount);
      write_entry(tables_of(current_).large + page * 8, any_entry());
      return invalidate(kLarge + page * kPageSize, false);
    }
    write_entry(at, kLargeFrames | kPs | kP | (below(3) != 0 ? kW : 0) | (below(2) != 0 ? kU : 0));
    large_[current_] = true;
    flush_current();
  }
  void toggle() {
    switch (below(5)) {
      case 0:
        return toggle_cr4(x86::cr4::kSmep);
      case 1:
        return toggle_cr4(x86::cr4::kSmap);
      case 2:
        toggle_cr4(x86::cr4::kPge);
        pge_ = !pge_;
        return stale_.fill(false);
      case 3:  // CR0.WP
        return put({0x0f, 0x20, 0xc0, 0x48, 0x35, 0, 0, 1, 0, 0x0f, 0x22, 0xc0});
      default:  // EFER.NXE
        return put({0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0x35, 0, 8, 0, 0, 0x0f, 0x30});
    }
  }
  void toggle_cr4(uint64_t bit) {
    put({0x0f, 0x20, 0xe0, 0x48, 0x35});  // mov rax, cr4; xor rax, bit; mov cr4, rax
    put32(bit);
    put({0x0f, 0x22, 0xe0});
  }

  // ---- invalidation ----
  uint64_t pcid_of(unsigned space) const { return pcids_ ? space + 1 : 0; }
  void load_cr3(unsigned space, bool keep) {
    rax(tables_of(space).root | pcid_of(space) | (keep ? kKeep : 0));
    put({0x0f, 0x22, 0xd8});
  }
  void invpcid(unsigned type, uint64_t pcid, uint64_t address) {
    rax(pcid);
    put({0x48, 0x89, 0x04, 0x25});
    put32(kData);
    rax(address);
    put({0x48, 0x89, 0x04, 0x25});
    put32(kData + 8);
    put({0xb9});
    put32(type);
    put({0x66, 0x0f, 0x38, 0x82, 0x0c, 0x25});
    put32(kData);
  }
  void change_space(unsigned to) {
    current_ = to;
    const bool keep = pcids_ && !stale_[current_] && below(4) != 0;
    load_cr3(current_, keep);
    // Without PCIDs there is one context, which this has emptied.
    if (!pcids_)
      stale_.fill(false);
    else
      stale_[current_] = false;
  }
  void flush_current() {
    switch (below(3)) {
      case 0:
        return load_cr3(current_, false);
      case 1:
        return invpcid(1, pcid_of(current_), 0);
      default:
        invpcid(3, 0, 0);
        stale_.fill(false);
    }
  }
  void invalidate(uint64_t address, bool global) {
    switch (below(global ? 4 : 7)) {
      case 0:
      case 1:
        rbx(address + below(4096));
        return put({0x0f, 0x01, 0x3b});  // invlpg [rbx]
      case 2:
        toggle_cr4(x86::cr4::kPge);
        toggle_cr4(x86::cr4::kPge);
        return stale_.fill(false);
      case 3:
        invpcid(2, 0, 0);
        return stale_.fill(false);
      case 4:
        return invpcid(0, pcid_of(current_), address);
      default:
        return flush_current();
    }
  }
  void invalidate_elsewhere(unsigned space, uint64_t address) {
    const unsigned how = below(4);
    if (!pcids_ || how == 0) {
      stale_[space] = true;
    } else if (how == 1) {
      invpcid(0, pcid_of(space), address);
    } else if (how == 2) {
      invpcid(1, pcid_of(space), 0);
      stale_[space] = false;
    } else {
      invpcid(3, 0, 0);
      stale_.fill(false);
    }
  }

  std::mt19937_64 random_;
  const bool pcids_;
  Program program_;
  bool in_user_ = false, pge_ = true;
  unsigned current_ = 0, recent_space_ = 0, recent_slot_ = 0;
  std::array<bool, kSpaceCount> stale_{};  // there may be translations that must not be used
  std::array<bool, kSpaceCount> large_ = {true, true, true, true, true, true, true, true};
};

class Side {
 public:
  explicit Side(bool translated) : rig({.cache_bytes = size_t{1} << 20}), translated_(translated) {
    if (!translated) rig.interpreter->set_native(nullptr);
    rig.interpreter->stop_on_exceptions(true);
  }

  void prepare(const Program& program, bool pcids, bool global_kernel) {
    std::memset(rig.at(0), 0, kTables);
    // What lies above the pages has been used: a walk that global pages make needless would tell otherwise.
    constexpr uint64_t kTable = 0x27, kKernelPage = kP | kW | 0x60;
    rig.map(global_kernel ? kKernelPage | kG : kKernelPage);
    const auto entry = [&](uint64_t at, uint64_t value) { store_le<uint64_t>(rig.at(at), value); };
    for (uint64_t page = kUser; page < kUser + kCodeSize; page += kPageSize) allow_user(page);
    allow_user(kUserStack & ~kPageMask);
    for (unsigned n = 0; n < kSpaceCount; ++n) {
      const SpaceTables t = tables_of(n);
      entry(t.root, t.pointers | kTable);
      entry(t.pointers, (kTables + 2 * kPageSize) | kTable);
      entry(t.pointers + 8, t.directory | kTable);
      entry(t.directory, t.small | kTable);
      entry(t.directory + 8, kLargeFrames | kPs | 7);
      for (unsigned slot = 0; slot < kSlots; ++slot) {
        const unsigned frame = slot < kFirstGlobal ? (slot + n) % kFrameCount : slot;
        entry(t.small + 8 * slot,
              (kFrames + frame * kPageSize) | (slot % 2 != 0 ? 7 : 3) | (slot < kFirstGlobal ? 0 : kG));
      }
      for (unsigned page = 0; page < kFrameCount; ++page)
        entry(t.large + 8 * page, (kFrames + page * kPageSize) | 7);
    }
    for (unsigned frame = 0; frame < kFrameCount; ++frame) {
      fill(kFrames + frame * kPageSize, 1000 + frame);
      fill(kLargeFrames + frame * kPageSize, 2000 + frame);
    }
    for (uint64_t at = 0; at < kPageSize; at += 2)  // UD2 behind the last function
      put(kLargeFrames + kFrameCount * kPageSize + at, {0x0f, 0x0b});
    put(kKernel, program.kernel);
    put(kUser, program.user);
    // mov esp, stack; jmp r15
    put(kStub,
        {0xbc, kKernelStack & 0xff, kKernelStack >> 8 & 0xff, kKernelStack >> 16, 0, 0x41, 0xff, 0xe7});
    rig.space.ram_written(*rig.block, 0, kTables);
    rig.start(0);
    x86::CpuState& s = rig.state();
    for (unsigned i = 0; i < 16; ++i) s.gpr[i] = i;
    s.gpr[x86::kRsp] = kKernelStack;
    s.set_rflags(x86::rflags::kFixed1);
    s.cr3 = tables_of(0).root | (pcids ? 1 : 0);
    s.cr4 |= x86::cr4::kPge | (pcids ? x86::cr4::kPcide : 0);
    s.msr.efer |= x86::efer::kSce;
    s.msr.star = uint64_t{8} << 32 | uint64_t{16 | 3} << 48;
    s.msr.lstar = kStub;
    s.msr.sfmask = 0x47700;
    s.rip = kKernel;
    rig.interpreter->state_changed();
  }
  // A global page that is known from one space is used in all: which of them were walked does not count.
  void spread_global_bits() {
    for (unsigned slot = kFirstGlobal; slot < kSlots; ++slot) {
      uint64_t used = 0;
      for (unsigned n = 0; n < kSpaceCount; ++n)
        used |= load_le<uint64_t>(rig.at(tables_of(n).small + 8 * slot)) & 0x60;
      for (unsigned n = 0; n < kSpaceCount; ++n) {
        std::byte* at = rig.at(tables_of(n).small + 8 * slot);
        store_le<uint64_t>(at, load_le<uint64_t>(at) | used);
      }
    }
  }
  // Until the end or an exception.
  interp::Exit run() {
    if (translated_) return rig.interpreter->run(int64_t{1} << 40);
    for (;;) {
      rig.mmu->flush_all();
      const interp::Exit exit = rig.interpreter->run(1);
      if (exit != interp::Exit::kBudget) return exit;
    }
  }
  // Goes on behind the piece that raised an exception, as a kernel.
  void go_on() {
    x86::CpuState& s = rig.state();
    s.seg[x86::kCs] = {.base = 0, .limit = ~0u, .attributes = 0xa09b, .selector = 8};
    s.seg[x86::kSs] = {.base = 0, .limit = ~0u, .attributes = 0xc093, .selector = 16};
    s.gpr[x86::kRsp] = kKernelStack;
    s.set_rflags(x86::rflags::kFixed1);
    s.rip = s.gpr[x86::kR15];
    rig.interpreter->cpu().mode_changed();
  }

  Rig rig;

 private:
  void allow_user(uint64_t page) {
    std::byte* at = rig.at(kTables + 3 * kPageSize + page / kPageSize * 8);
    store_le<uint64_t>(at, load_le<uint64_t>(at) | kU);
  }
  // A function that returns `number`, entered at the page's start or 16 bytes before, through an instruction
  // that begins on the page before or not; and numbers.
  void fill(uint64_t page, uint64_t number) {
    put(page, {0xb8, static_cast<uint8_t>(number), static_cast<uint8_t>(number >> 8), 0, 0, 0x90, 0x90, 0x90,
               0x90, 0xc3});
    std::memset(rig.at(page + 0xff0), 0x90, 16);
    if (number % 2 != 0) *rig.at(page + 0xfff) = std::byte{0x48};
    for (uint64_t at = 0x800; at < 0xa00; at += 8) store_le<uint64_t>(rig.at(page + at), number * at);
  }
  void put(uint64_t phys, const std::vector<uint8_t>& bytes) {
    std::memcpy(rig.at(phys), bytes.data(), bytes.size());
  }

  const bool translated_;
};

uint64_t option(const char* name, uint64_t standard) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : standard;
}

TEST(PagingStreams, WhatIsKeptIsWhatAWalkWouldFind) {
  Side kept(true), walked(false);
  uint64_t faults = 0;
  const uint64_t first = option("OSTLER_PAGING_SEED", 1) * 1'000'000;
  const uint64_t rounds = option("OSTLER_PAGING_ROUNDS", 60);
  for (uint64_t seed = first; seed < first + rounds; ++seed) {
    const bool pcids = seed % 3 != 0;
    const Program program = Kernel(seed, pcids).make();
    ASSERT_LT(program.kernel.size(), kCodeSize);
    kept.prepare(program, pcids, seed % 2 == 0);
    walked.prepare(program, pcids, seed % 2 == 0);
    const x86::CpuState &a = kept.rig.state(), &b = walked.rig.state();
    for (;;) {
      const interp::Exit mine = kept.run(), other = walked.run();
      ASSERT_EQ(static_cast<int>(mine), static_cast<int>(other))
          << "seed " << seed << std::hex << " rip " << a.rip << " and " << b.rip << " cr2 "
          << kept.rig.interpreter->exception().cr2 << " and " << walked.rig.interpreter->exception().cr2;
      ASSERT_EQ(a.rip, b.rip) << "seed " << seed << std::hex << " cr2 "
                              << kept.rig.interpreter->exception().cr2 << " and "
                              << walked.rig.interpreter->exception().cr2;
      for (unsigned i = 0; i < 16; ++i)
        ASSERT_EQ(a.gpr[i], b.gpr[i]) << "seed " << seed << " register " << i << std::hex << " rip " << a.rip;
      if (mine != interp::Exit::kException) break;
      const x86::Exception &fault = kept.rig.interpreter->exception(),
                           &expected = walked.rig.interpreter->exception();
      ASSERT_EQ(static_cast<int>(fault.vector), static_cast<int>(expected.vector)) << "seed " << seed;
      ASSERT_EQ(fault.error, expected.error) << "seed " << seed << std::hex << " rip " << a.rip;
      ASSERT_EQ(fault.cr2, expected.cr2) << "seed " << seed << std::hex << " rip " << a.rip;
      ++faults;
      kept.go_on();
      walked.go_on();
    }
    kept.spread_global_bits();
    walked.spread_global_bits();
    for (uint64_t at = 0; at < kRam; at += 8)
      ASSERT_EQ(load_le<uint64_t>(kept.rig.at(at)), load_le<uint64_t>(walked.rig.at(at)))
          << "seed " << seed << std::hex << " at " << at;
  }
  EXPECT_GT(faults, rounds);
  EXPECT_GT(kept.rig.runner->statistics().entries, 100 * rounds);
  EXPECT_EQ(kept.rig.runner->statistics().host_faults, 0u);
}

}  // namespace
}  // namespace ostler::bt
