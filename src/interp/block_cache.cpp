#include "interp/block_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <string>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/symbols.h"
#include "interp/control.h"
#include "interp/families.h"
#include "x86/format.h"

namespace ostler::interp {

using x86::CodeSize;
using x86::DecodeStatus;
using x86::Opcode;
using x86::Vector;

namespace {

constexpr unsigned kMaxLength = 15;
constexpr size_t kMaxContexts = 512;

const Op* raise_ud(Cpu&, const Op*) {
  x86::raise(Vector::kUd);
}
const Op* raise_gp(Cpu&, const Op*) {
  x86::raise(Vector::kGp, 0);
}

// Ran into the end of the block: maximum length, end of the page, or an instruction that did not leave.
const Op* go_on(Cpu& cpu, const Op* op) {
  return follow<0>(cpu, [op] { return static_cast<uint64_t>(op->insn.disp); });
}

// Stands in for the instruction after one that overwrote the code of its own block.
const Op* leave(Cpu& cpu, const Op* op) {
  cpu.s.rip = cpu.current_rip(*op);
  cpu.current_op = op - 1;  // the one that it stands in for is not counted
  return nullptr;
}

// Stands in for an instruction with a breakpoint of a debugger outside the guest.
const Op* stop_at_breakpoint(Cpu& cpu, const Op* op) {
  cpu.at_breakpoint = true;
  cpu.s.rip = cpu.current_rip(*op);
  return nullptr;
}

uint64_t truncate(uint64_t rip, CodeSize code_size) {
  switch (code_size) {
    case CodeSize::k16:
      return rip & 0xffff;
    case CodeSize::k32:
      return rip & 0xffff'ffff;
    case CodeSize::k64:
      return rip;
  }
  return rip;
}

}  // namespace

BlockCache::BlockCache(Cpu& cpu, size_t bytes)
    : cpu_(cpu), size_(align_down(bytes, 2 * kUnit)), end_of_half_(half()) {
  ASSERT(bytes >= 64 * 1024 && bytes < kUnit << 32, "the accelerator chooses a sensible size");
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  arena_ = static_cast<uint8_t*>(memory);
}

BlockCache::~BlockCache() {
  munmap(arena_, size_);
}

uint32_t BlockCache::intern(const BlockContext& context) {
  for (size_t i = contexts_.size(); i-- > 0;)
    if (contexts_[i] == context) return static_cast<uint32_t>(i);
  // Real-mode code with many code segments: numbers start again, so no old block may be found by one.
  if (contexts_.size() >= kMaxContexts) {
    flush();
    contexts_.clear();
  }
  contexts_.push_back(context);
  return static_cast<uint32_t>(contexts_.size() - 1);
}

uint32_t BlockCache::intern_slow() {
  const BlockContext fast = contexts_[cpu_.context];
  BlockContext slow = fast;
  slow.slow = true;
  const uint32_t number = intern(slow);
  cpu_.context = intern(fast);  // numbers may have started again
  return number;
}

void BlockCache::flush() {
  used_ = kUnit;
  end_of_half_ = half();
  turns_ = 0;
  recent_.fill(nullptr);
  by_phys_.fill(0);
  by_page_.fill(0);
  cpu_.link = nullptr;
  cpu_.block = nullptr;
  cpu_.current_op = nullptr;
  ++statistics_.flushes;
  cpu_.mmu.forget_code();
}

// Goes on in the half of the arena that was filled first, without what is there. Between blocks.
void BlockCache::turn() {
  // Pages whose code was evicted stay registered until they are written to or everything is forgotten.
  if (++turns_ == kTurnsUntilFlush) return flush();
  const bool to_first = end_of_half_ == size_;
  const size_t kept_start = to_first ? half() : kUnit;
  const size_t kept_end = used_;
  used_ = to_first ? kUnit : half();
  end_of_half_ = to_first ? half() : size_;
  cpu_.link = nullptr;
  cpu_.block = nullptr;
  cpu_.current_op = nullptr;
  ++statistics_.turns;

  const auto kept = [&](const Block* block) {
    const auto offset = static_cast<size_t>(reinterpret_cast<const uint8_t*>(block) - arena_);
    return offset >= kept_start && offset < kept_end;
  };
  for (Block*& recent : recent_)
    if (recent != nullptr && !kept(recent)) recent = nullptr;
  by_phys_.fill(0);
  by_page_.fill(0);
  for (size_t at_byte = kept_start; at_byte < kept_end;) {
    auto* block = reinterpret_cast<Block*>(arena_ + at_byte);
    at_byte += sizeof(Block) + block->op_count * sizeof(Op);
    for (Block*& link : block->link)
      if (link != nullptr && !kept(link)) link = nullptr;
    if (!block->dead) enter_tables(block);
  }
}

void BlockCache::enter_tables(Block* block) {
  uint32_t& by_phys = by_phys_[phys_index(block->phys, block->rip)];
  block->next_by_phys = by_phys;
  by_phys = unit_of(block);
  add_to_page(block, block->phys, 0);
  if (block->straddles) add_to_page(block, block->second_page(), 1);
}

uint64_t BlockCache::linear_of(uint64_t rip, const BlockContext& context) const {
  return context.code_size == CodeSize::k64 ? rip : (context.cs_base + rip) & 0xffff'ffff;
}

void BlockCache::check_fetch(uint64_t rip, const BlockContext& context) const {
  if (context.code_size == CodeSize::k64 ? !cpu_.canonical(rip) : rip > context.cs_limit)
    x86::raise(Vector::kGp, 0);
}

Block* BlockCache::find(uint64_t rip, uint32_t context) {
  Block*& recent = recent_[recent_index(rip)];
  if (recent != nullptr && recent->rip == rip && recent->context == context &&
      recent->epoch == cpu_.mmu.fetch_epoch(recent->global))
    return recent;

  // Reading code may serve other vCPUs' requests and so change the epoch: what is found now holds for this
  // one.
  const uint64_t epochs[2] = {cpu_.mmu.fetch_epoch(false), cpu_.mmu.fetch_epoch(true)};
  const BlockContext& where = contexts_[context];
  check_fetch(rip, where);
  const uint64_t linear = linear_of(rip, where);
  const uint64_t phys = cpu_.mmu.translate_fetch(linear).value;
  const bool global = cpu_.mmu.fetched_global(linear);
  Block* block = find_by_phys(phys, rip, context, linear);
  if (block == nullptr) {
    block = build(phys, rip, context);
    if (block->dead) return block;  // not to be found again
  }
  block->global = global && !block->straddles;
  block->epoch = epochs[block->global];
  recent_[recent_index(rip)] = block;
  return block;
}

Block* BlockCache::find_by_phys(uint64_t phys, uint64_t rip, uint32_t context, uint64_t linear) {
  uint32_t* from = &by_phys_[phys_index(phys, rip)];
  while (*from != 0) {
    Block* block = at(*from);
    if (block->dead) {
      *from = block->next_by_phys;
      continue;
    }
    if (block->phys == phys && block->rip == rip && block->context == context) {
      if (!block->straddles) return block;
      const uint64_t second = (linear | kPageMask) + 1;
      if (cpu_.mmu.translate_fetch(second).value == block->second_page()) return block;
    }
    from = &block->next_by_phys;
  }
  return nullptr;
}

void BlockCache::bind_op(Op& op, uint64_t rip, const BlockContext& context) {
  x86::Instruction& insn = op.insn;
  const uint64_t next = truncate(rip + insn.length, context.code_size);
  if (insn.base == x86::kRipBase) {
    insn.disp = static_cast<int64_t>((next + static_cast<uint64_t>(insn.disp)) &
                                     (insn.address_size == 4 ? 0xffff'ffff : ~uint64_t{0}));
    insn.base = x86::kNoRegister;
  }
  if (insn.operand[0].kind == x86::OperandKind::kRel) {
    // Near branches: disp is the target, truncated to the operand size (SDM Vol. 2, JMP).
    const uint64_t target = next + insn.imm;
    insn.disp = static_cast<int64_t>(insn.operand_size == 2   ? target & 0xffff
                                     : insn.operand_size == 4 ? target & 0xffff'ffff
                                                              : target);
  }
  const BindContext bind_context{
      .code_size = context.code_size,
      .flat = context.code_size == CodeSize::k64 && !context.slow && !context.alignment_check,
      .alignment_check = context.alignment_check,
      .vex = context.vex,
  };
  op.run = bind(insn, cpu_.model, bind_context, op.data);
}

bool BlockCache::decode_straddling(uint64_t phys, uint64_t rip, const BlockContext& context, Op& op,
                                   uint64_t& second_page) {
  uint8_t bytes[kMaxLength];
  const auto head = static_cast<unsigned>(kPageSize - (phys & kPageMask));
  bool keep = cpu_.mmu.read_code(GuestPhys{phys}, {bytes, head});
  const uint64_t second = (linear_of(rip, context) | kPageMask) + 1;
  second_page =
      cpu_.mmu.translate_fetch(context.code_size == CodeSize::k64 ? second : second & 0xffff'ffff).value;
  keep &= cpu_.mmu.read_code(GuestPhys{second_page}, {bytes + head, kMaxLength - head});
  const DecodeStatus status = x86::decode({bytes, kMaxLength}, context.code_size, op.insn);
  if (status == DecodeStatus::kOk)
    bind_op(op, rip, context);
  else
    op.run = status == DecodeStatus::kTooLong ? raise_gp : raise_ud;
  return keep;
}

Block* BlockCache::build(uint64_t phys, uint64_t rip, uint32_t context_index) {
  constexpr size_t kLargest = sizeof(Block) + (kMaxInstructions + 1) * sizeof(Op);
  if (used_ + kLargest > end_of_half_) turn();
  const BlockContext& context = contexts_[context_index];
  auto* block = new (arena_ + used_) Block;
  Op* ops = block->ops();
  block->rip = rip;
  block->phys = phys;
  block->context = static_cast<uint16_t>(context_index);

  const unsigned limit = context.slow ? 1 : kMaxInstructions;
  const uint64_t page_end = (phys | kPageMask) + 1;
  uint8_t window[64];  // few blocks are longer
  uint64_t window_start = phys;
  uint64_t window_end = phys;
  uint64_t position = phys;
  unsigned count = 0;
  uint64_t second_page = 0;
  bool leaves = false;
  const uint64_t writes_before = writes_seen_;
  bool keep = true;  // not when the bytes are a device's
  while (count < limit && position < page_end) {
    if (window_end < page_end && position + kMaxLength > window_end) {
      window_start = position;
      window_end = std::min<uint64_t>(position + sizeof window, page_end);
      keep &= cpu_.mmu.read_code(GuestPhys{position}, {window, static_cast<size_t>(window_end - position)});
    }
    Op& op = *new (ops + count) Op;
    const uint64_t at_rip = rip + (position - phys);
    const bool breaks = cpu_.debug.breaks_at(linear_of(at_rip, context));
    if (breaks && count != 0) break;
    const DecodeStatus status =
        x86::decode({window + (position - window_start), static_cast<size_t>(window_end - position)},
                    context.code_size, op.insn);
    if (status == DecodeStatus::kTruncated) {
      // Crosses into the next page: a block of its own.
      if (count != 0) break;
      keep &= decode_straddling(phys, rip, context, op, second_page);
      block->straddles = true;
    } else if (status == DecodeStatus::kOk) {
      bind_op(op, at_rip, context);
    } else {
      op.run = status == DecodeStatus::kTooLong ? raise_gp : raise_ud;
      op.insn.length = std::max<uint8_t>(op.insn.length, 1);
    }
    const unsigned length = op.insn.length;
    if (at_rip + length - 1 > context.cs_limit && context.code_size != CodeSize::k64) {
      if (count != 0) break;
      op.run = raise_gp;
    }
    if (breaks) op.run = stop_at_breakpoint;
    position += length;
    op.next_offset = static_cast<uint16_t>(position - phys);
    ++count;
    leaves = always_leaves(op.insn.opcode) && status == DecodeStatus::kOk;
    if (breaks || leaves || status != DecodeStatus::kOk || ends_block(op.insn.opcode)) break;
  }

  block->count = static_cast<uint8_t>(count);
  block->bytes = static_cast<uint16_t>(position - phys);
  block->op_count = static_cast<uint8_t>(count);
  if (!leaves || block->straddles) {
    Op& last = *new (ops + count) Op;
    last.run = go_on;
    last.next_offset = block->bytes;
    last.insn.disp = static_cast<int64_t>(truncate(rip + block->bytes, context.code_size));
    last.insn.imm = second_page;
    ++block->op_count;
  }
  used_ += sizeof(Block) + block->op_count * sizeof(Op);

  ++statistics_.blocks;
  statistics_.instructions += count;
  if (log::enabled(log::Subject::kInAsm)) log_block(block);
  // Code that was overwritten while it was being decoded may run once, but is not kept either.
  if (!keep || writes_before != writes_seen_) {
    block->dead = true;
    return block;
  }
  enter_tables(block);
  return block;
}

void BlockCache::add_to_page(Block* block, uint64_t phys, unsigned which) {
  uint32_t& head = by_page_[page_index(phys)];
  block->next_in_page[which] = head;
  head = unit_of(block) * 2 + which;
}

bool BlockCache::code_written(GuestPhys page, unsigned first, unsigned last) {
  const uint64_t frame = page.value & ~kPageMask;
  bool code_left = false;
  ++writes_seen_;
  uint32_t* from = &by_page_[page_index(frame)];
  while (*from != 0) {
    Block* block = at(*from / 2);
    const unsigned which = *from & 1;
    uint32_t* onwards = &block->next_in_page[which];
    if (!block->dead) {
      const uint64_t block_frame = which == 0 ? block->phys & ~kPageMask : block->second_page();
      if (block_frame == frame) {
        const auto head = static_cast<unsigned>(kPageSize - (block->phys & kPageMask));
        const unsigned start = which == 0 ? static_cast<unsigned>(block->phys & kPageMask) : 0;
        const unsigned end =
            which == 0 ? start + std::min<unsigned>(block->bytes, head) : block->bytes - head;
        if (start <= last && first < end)
          kill(block);
        else
          code_left = true;
      }
    }
    if (block->dead)
      *from = *onwards;
    else
      from = onwards;
  }
  return code_left;
}

void BlockCache::kill(Block* block) {
  block->dead = true;
  block->epoch = Block::kStale;
  ++statistics_.killed;
  // The running block is left after the instruction that overwrote it.
  if (block == cpu_.block && cpu_.current_op != nullptr) {
    const auto index = static_cast<size_t>(cpu_.current_op - block->ops());
    if (index + 1 < block->op_count) block->ops()[index + 1].run = leave;
  }
}

void BlockCache::log_block(const Block* block) const {
  const BlockContext& context = contexts_[block->context];
  std::string text =
      fmt::format("block {:#x}{} phys {:#x} cpl {} {}-bit\n", block->rip, symbols::at(block->rip),
                  block->phys, context.cpl, 16 << static_cast<unsigned>(context.code_size));
  uint64_t at_rip = block->rip;
  for (unsigned i = 0; i < block->count; ++i) {
    const x86::Instruction& insn = block->ops()[i].insn;
    text += fmt::format("  {:#018x}  {}\n", at_rip, x86::format(insn, at_rip));
    at_rip += insn.length;
  }
  log::write(text);
}

}  // namespace ostler::interp
