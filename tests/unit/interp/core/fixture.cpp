#include "fixture.h"

namespace ostler::interp {
namespace {

std::shared_ptr<memory::RamBlock> make_block() {
  auto block = memory::RamBlock::create({.name = "test", .size = kRam});
  EXPECT_TRUE(block.has_value());
  return *block;
}
x86::CpuModel make_model() {
  auto model = x86::CpuModel::parse("max");
  EXPECT_TRUE(model.has_value());
  return *model;
}

}  // namespace

Board::Board() : block(make_block()), ram("ram", block) {
  {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
  }
  const auto table = [this](unsigned n) { return block->host() + kTables + n * kPageSize; };
  const uint64_t flags = 3;
  store_le<uint64_t>(table(0), (kTables + 1 * kPageSize) | flags);
  // Both gigabytes, the plain one and the alias, share one directory.
  store_le<uint64_t>(table(1), (kTables + 2 * kPageSize) | flags);
  store_le<uint64_t>(table(1) + 8, (kTables + 2 * kPageSize) | flags);
  for (unsigned i = 0; i < 2; ++i)
    store_le<uint64_t>(table(2) + 8 * i, (kTables + (3 + i) * kPageSize) | flags);
  for (uint64_t page = 0; page < 1024; ++page)
    store_le<uint64_t>(table(3) + 8 * page, (page * kPageSize) | flags);
  store_le<uint64_t>(block->host() + kGdt + 8, 0x00209b00'00000000);   // 64-bit code
  store_le<uint64_t>(block->host() + kGdt + 16, 0x00cf9300'0000ffff);  // data
  for (uint64_t vector = 0; vector < 256; ++vector) {
    const uint64_t handler = kHandlers + vector * 16;
    block->host()[handler] = std::byte{0xf4};  // HLT
    store_le<uint64_t>(block->host() + kIdt + vector * 16,
                       (handler & 0xffff) | 8 << 16 | uint64_t{0x8e00} << 32 | (handler >> 16) << 48);
  }
}

void Board::set_page(uint64_t linear, uint64_t entry) {
  store_le<uint64_t>(block->host() + kTables + 3 * kPageSize + (linear >> 12) * 8, entry);
}

Vcpu::Vcpu(Board& the_board, size_t cache_bytes)
    : board(the_board), model(make_model()), vcpu(board.engine, world, model, cache_bytes) {
  using namespace x86;
  s.cr0 = cr0::kPe | cr0::kEt | cr0::kNe | cr0::kWp | cr0::kPg;
  s.cr4 = cr4::kPae;
  s.msr.efer = efer::kLme | efer::kLma | efer::kNxe;
  s.cr3 = kTables;
  s.gdtr = {kGdt, 23};
  s.idtr = {kIdt, 0xfff};
  for (auto& segment : s.seg) segment = {.base = 0, .limit = ~0u, .attributes = 0xc093, .selector = 16};
  s.seg[kCs] = {.base = 0, .limit = ~0u, .attributes = 0xa09b, .selector = 8};
  s.gpr[kRsp] = kStackTop;
  interpreter.state_changed();
}

}  // namespace ostler::interp
