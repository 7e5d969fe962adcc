// System instructions and deliveries on tables, stacks and registers full of nearly valid nonsense. Whatever
// happens: no assertion of ours fails, an exception leaves the state as it was, and CS, SS and the privilege
// level agree.
#include <array>
#include <random>

#include "fixture.h"

namespace ostler::interp {
namespace {

constexpr unsigned kRounds = 60'000;

// One instruction each, in encodings that mean the same in 16-, 32- and 64-bit code or are refused by the
// decoder.
const std::vector<std::vector<uint8_t>> kInstructions = {
    {0x8e, 0xd8},
    {0x8e, 0xd0},
    {0x8e, 0xe0},
    {0x8e, 0xc0},  // mov ds, ss, fs, es
    {0x0f, 0xa1},
    {0x0f, 0xa9},
    {0x1f},
    {0x17},  // pop fs, gs, ds, ss
    {0x0f, 0xb2, 0x03},
    {0x0f, 0xb4, 0x03},
    {0xc5, 0x03},
    {0xc4, 0x03},  // lss, lfs, lds, les
    {0xff, 0x2b},
    {0xff, 0x1b},
    {0x48, 0xff, 0x2b},
    {0x66, 0xff, 0x1b},  // jmp far, call far
    {0xcb},
    {0x66, 0xcb},
    {0x48, 0xcb},
    {0xca, 0x08, 0x00},  // retf
    {0xcf},
    {0x66, 0xcf},
    {0x48, 0xcf},
    {0xcf},
    {0x48, 0xcf},  // iret
    {0xcd, 0x40},
    {0xcd, 0x41},
    {0xcd, 0x42},
    {0xcc},
    {0xf1},
    {0xce},  // int
    {0x0f, 0x00, 0xd8},
    {0x0f, 0x00, 0xd0},
    {0x0f, 0x00, 0xe0},
    {0x0f, 0x00, 0xe8},  // ltr, lldt, verr, verw
    {0x0f, 0x02, 0xc8},
    {0x0f, 0x03, 0xc8},
    {0x0f, 0x00, 0xc8},
    {0x0f, 0x00, 0xc0},  // lar, lsl, str, sldt
    {0x0f, 0x01, 0x13},
    {0x0f, 0x01, 0x1b},
    {0x0f, 0x01, 0x03},
    {0x0f, 0x01, 0x0b},  // lgdt, lidt, sgdt, sidt
    {0x0f, 0x22, 0xc0},
    {0x0f, 0x22, 0xd8},
    {0x0f, 0x22, 0xe0},
    {0x0f, 0x01, 0xf0},  // mov cr0, cr3, cr4; lmsw
    {0x0f, 0x23, 0xf0},
    {0x0f, 0x23, 0xf8},
    {0x0f, 0x21, 0xf8},
    {0x0f, 0x20, 0xc0},  // mov dr, crs
    {0x0f, 0x30},
    {0x0f, 0x32},
    {0x0f, 0x01, 0xd1},
    {0x0f, 0xa2},  // wrmsr, rdmsr, xsetbv, cpuid
    {0x0f, 0x05},
    {0x0f, 0x07},
    {0x48, 0x0f, 0x07},
    {0x0f, 0x34},
    {0x0f, 0x35},
    {0x48, 0x0f, 0x35},
    {0x0f, 0x01, 0xf8},
    {0xfa},
    {0xfb},
    {0x0f, 0x06},
    {0x66, 0x0f, 0x38, 0x82, 0x03},  // swapgs, cli, sti, clts, invpcid
};

class Nonsense {
 public:
  explicit Nonsense(uint32_t seed) : random_(seed) {}
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(random_() % bound); }
  bool once_in(uint32_t n) { return below(n) == 0; }
  uint16_t selector() {
    return static_cast<uint16_t>(below(kGdtEnd + 16) / 8 * 8 | (once_in(2) ? 0 : below(8)));
  }
  uint64_t value() {
    switch (below(8)) {
      case 0:
        return random_();
      case 1:
        return below(0x20);
      case 2:
        return 0x100000 + below(4) * 0x1000;  // page tables
      case 3:
        return uint64_t{1} << below(64);
      case 4:
      case 5:
        return selector();
      default:
        return below(0x3ffff);
    }
  }

 private:
  std::mt19937_64 random_;
};

struct Snapshot {
  std::array<uint64_t, 17> gpr;
  std::array<x86::Segment, 6> seg;
  x86::Segment tr, ldtr;
  uint64_t rip, flags, cr0, cr3, cr4, efer, gdt, idt;

  explicit Snapshot(const x86::CpuState& s)
      : gpr(s.gpr),
        seg(s.seg),
        tr(s.tr),
        ldtr(s.ldtr),
        rip(s.rip),
        flags(s.rflags()),
        cr0(s.cr0),
        cr3(s.cr3),
        cr4(s.cr4),
        efer(s.msr.efer),
        gdt(s.gdtr.base),
        idt(s.idtr.base) {}
  static bool same(const x86::Segment& a, const x86::Segment& b) {
    return a.selector == b.selector && a.base == b.base && a.limit == b.limit && a.attributes == b.attributes;
  }
  bool operator==(const Snapshot& o) const {
    for (unsigned i = 0; i < 6; ++i)
      if (!same(seg[i], o.seg[i])) return false;
    return gpr == o.gpr && same(tr, o.tr) && same(ldtr, o.ldtr) && rip == o.rip && flags == o.flags &&
           cr0 == o.cr0 && cr3 == o.cr3 && cr4 == o.cr4 && efer == o.efer && gdt == o.gdt && idt == o.idt;
  }
};

void choose_mode(Guest& g, Nonsense& n) {
  switch (n.below(8)) {
    case 0:
      return g.real_mode();
    case 1:
      return g.v8086_mode(n.once_in(2) ? 3 : 0);
    case 2:
    case 3:
      return g.protected_mode(0);
    case 4:
      return g.protected_mode(n.once_in(2) ? 1 : 3);
    case 5:
      return g.long_mode(3);
    default:
      return g.long_mode(0);
  }
}

void scatter(Guest& g, Nonsense& n) {
  for (unsigned i = 0; i < 3; ++i) {
    const uint32_t bit = n.below(64);
    const uint16_t at = n.selector() & 0xf8;
    if (at < kGdtEnd) g.set_gdt(at, g.peek<uint64_t>(kGdt + at) ^ uint64_t{1} << bit);
  }
  for (unsigned vector : {0u, 3u, 8u, 13u, 0x40u, 0x41u, 0x42u}) {
    static constexpr uint8_t kTypes[] = {0x8e, 0xee, 0xef, 0xe6, 0xe5, 0x85, 0x6e, 0xec};
    const uint64_t entry = gate(n.selector(), kHandler, kTypes[n.below(8)], static_cast<uint8_t>(n.below(3)));
    g.poke<uint64_t>(kIdt + vector * (g.s.long_mode() ? 16 : 8), entry);
    if (g.s.long_mode()) g.poke<uint64_t>(kIdt + vector * 16 + 8, n.once_in(16) ? n.value() : 0);
  }
  for (uint32_t tss : {kTss, kTss2, kTss16})
    if (n.once_in(2)) g.poke<uint32_t>(tss + n.below(26) * 4, static_cast<uint32_t>(n.value()));
  for (unsigned i = 0; i < x86::kZeroGpr; ++i)
    if (i != x86::kRsp) g.s.gpr[i] = n.value();
  g.s.gpr[x86::kRbx] = n.once_in(8) ? n.value() : 0x7000;
  for (uint32_t at = 0; at < 16; at += 2) g.poke<uint16_t>(0x7000 + at, static_cast<uint16_t>(n.value()));
  // A frame that a return may take for its own.
  if (!n.once_in(16)) g.rsp() -= g.rsp() > 0x200 ? 64 : 0;
  const unsigned width = 2u << n.below(3);
  const uint64_t top = (g.s.long_mode() ? 0 : g.ss().base) + g.rsp();
  const uint64_t values[] = {kHandler,     n.selector(), n.value(),   kStack3,
                             n.selector(), n.value(),    n.selector()};
  if (top < 0x100000)
    for (unsigned i = 0; i < 7; ++i)
      for (unsigned b = 0; b < width; ++b)
        g.poke<uint8_t>(top + i * width + b, static_cast<uint8_t>(values[i] >> 8 * b));
  g.s.msr.efer |= n.once_in(2) ? 1 : 0;
  g.s.msr.star = n.value() << 48 | uint64_t{n.selector()} << 32;
  g.s.msr.sysenter_cs = n.once_in(2) ? 0 : n.selector();
  if (n.once_in(4)) g.s.flags_rest |= x86::rflags::kNt;
}

void check_consistency(const x86::CpuState& s, const std::string& what) {
  if (s.protected_mode() && !s.v8086() && s.activity != x86::Activity::kShutdown) {
    ASSERT_EQ(s.seg[x86::kCs].selector & 3u, s.cpl()) << what;
  }
  ASSERT_EQ(s.long_mode(), (s.msr.efer & x86::efer::kLme) != 0 && (s.cr0 & x86::cr0::kPg) != 0) << what;
}

TEST(Hostile, instructions_and_deliveries_keep_their_promises) {
  Guest g;
  for (uint32_t seed = 0; seed < kRounds; ++seed) {
    Nonsense n(seed);
    g.fill_tables();
    choose_mode(g, n);
    g.mmu.flush_all();
    scatter(g, n);
    const std::vector<uint8_t>& bytes = kInstructions[n.below(static_cast<uint32_t>(kInstructions.size()))];
    const std::string what = testing::PrintToString(bytes) + ", seed " + std::to_string(seed);
    if (!g.decodes(bytes)) continue;

    const Snapshot before(g.s);
    const auto fault = g.execute(bytes);
    if (fault) {
      ASSERT_TRUE(Snapshot(g.s) == before) << what;
    }
    check_consistency(g.s, what);
    deliver_exception(g.cpu, fault ? *fault : x86::Exception{x86::Vector::kGp, true, 0});
    check_consistency(g.s, what + ", delivery");
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace ostler::interp
