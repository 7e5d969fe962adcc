#include "mmu/soft_mmu.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/log.h"

namespace ostler::mmu {
namespace {

namespace flag = memory::page_flag;
namespace cr0 = x86::cr0;
namespace cr4 = x86::cr4;
namespace efer = x86::efer;

// Changes of these drop every translation, cached or not by the letter (SDM 3A §4.10.4.1): entries embody
// them.
constexpr uint64_t kCr0Paging = cr0::kPg | cr0::kWp;
constexpr uint64_t kCr4Paging =
    cr4::kPse | cr4::kPae | cr4::kPge | cr4::kLa57 | cr4::kPcide | cr4::kSmep | cr4::kSmap;
constexpr uint64_t kEferPaging = efer::kNxe | efer::kLma;

// With more of the code filter taken than this, too many INVLPGs would find their page in it by accident.
constexpr unsigned kCodeFilterFull = 8192;

unsigned code_hash(uint64_t linear, unsigned entries) {
  return static_cast<unsigned>((linear >> 12) ^ (linear >> 27)) % entries;
}

constexpr uint64_t kLargestAccess = 2 * kPageSize;

class HeapTlbs final : public TlbStore {
 public:
  Tlb* user(unsigned) override { return make(); }
  Tlb* supervisor(unsigned) override { return make(); }

 private:
  Tlb* make() { return tlbs_.emplace_back(std::make_unique<Tlb>()).get(); }
  std::vector<std::unique_ptr<Tlb>> tlbs_;
};

}  // namespace

// Page tables in guest RAM. Entries elsewhere read as all ones, and are not written: the walk never enters a
// device.
class SoftMmu::PageTables {
 public:
  explicit PageTables(SoftMmu& mmu) : mmu_(mmu) {}

  uint64_t read(GuestPhys at, unsigned size) {
    const memory::FlatRange* range = ram(at, size);
    if (range == nullptr) return size_mask(size);
    const std::byte* host = range->ram->host() + range->offset_of(at);
    return size == 4 ? memory::guest_load<uint32_t>(host) : memory::guest_load<uint64_t>(host);
  }

  bool replace(GuestPhys at, unsigned size, uint64_t expected, uint64_t desired) {
    const memory::FlatRange* range = ram(at, size);
    if (range == nullptr || range->read_only) return true;
    memory::RamBlock& block = *range->ram;
    const uint64_t offset = range->offset_of(at);
    std::byte* host = block.host() + offset;
    bool done;
    if (size == 4) {
      auto old = static_cast<uint32_t>(expected);
      done =
          __atomic_compare_exchange_n(reinterpret_cast<uint32_t*>(host), &old, static_cast<uint32_t>(desired),
                                      false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
      done = __atomic_compare_exchange_n(reinterpret_cast<uint64_t*>(host), &expected, desired, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    if (done) mmu_.reader_.space().ram_written(block, offset, size);
    return done;
  }

 private:
  const memory::FlatRange* ram(GuestPhys at, unsigned size) {
    const memory::FlatRange* range = mmu_.reader_.find(at);
    if (range == nullptr || !range->is_ram() || range->last - at < size - 1 ||
        range->offset_of(at) % size != 0)
      return nullptr;
    return range;
  }

  SoftMmu& mmu_;
};

SoftMmu::SoftMmu(x86::CpuState& state, memory::AddressSpace& space, CodePages& code, Limits limits,
                 TlbStore* store)
    : state_(state),
      reader_(space),
      code_(code),
      own_store_(store == nullptr ? std::make_unique<HeapTlbs>() : nullptr),
      users_(store == nullptr ? *own_store_ : *store),
      supervisors_{(store == nullptr ? *own_store_ : *store).supervisor(0),
                   (store == nullptr ? *own_store_ : *store).supervisor(1)},
      limits_(limits),
      code_filter_(std::make_unique<std::array<bool, kCodeFilter>>()),
      participant_(code.group(), *this) {
  mode_changed();
  flush_all();
}

SoftMmu::~SoftMmu() {
  code_.forget(participant_);
}

// ---- control ----

void SoftMmu::mode_changed() {
  const uint64_t now_cr0 = state_.cr0 & kCr0Paging, now_cr4 = state_.cr4 & kCr4Paging;
  const uint64_t now_efer = state_.msr.efer & kEferPaging;
  if (now_cr0 != cr0_ || now_cr4 != cr4_ || now_efer != efer_) {
    cr0_ = now_cr0;
    cr4_ = now_cr4;
    efer_ = now_efer;
    flush_all();
  }
  user_ = state_.cpl() == 3;
  ac_ = state_.flag(x86::rflags::kAc);
  code64_ = state_.code64();
  select_contexts();
}

void SoftMmu::select_contexts() {
  tlbs_ = {&users_.tlb(), supervisors_[0], supervisors_[1]};
  data_ = tlbs_[context_of(Privilege::kCurrent, Access::kRead)];
  fetch_ = tlbs_[user_ ? kUser : kSupervisor];
  fetch_epochs_[0] = users_.epoch();
}

template <class F>
void SoftMmu::for_each_tlb(F&& f) {
  users_.for_each(f);
  f(*supervisors_[0]);
  f(*supervisors_[1]);
}

// Contexts that are not valid are cleared before they are used again.
void SoftMmu::forget_exec_ids() {
  for_each_tlb([](Tlb& tlb) { tlb.forget_exec_ids(); });
}

uint64_t SoftMmu::current_pcid() const {
  return (state_.cr4 & cr4::kPcide) != 0 ? state_.cr3 & 0xfff : 0;
}

void SoftMmu::flush_all() {
  log::trace(log::Subject::kMmu, "flush everything, cr3 {:#x}", state_.cr3);
  users_.clear(current_pcid());
  supervisors_[0]->clear();
  supervisors_[1]->clear();
  drop_code_filter();
  paging_ = PagingContext::of(state_, limits_.phys_bits, limits_.gib_pages);
  select_contexts();
}

// For when no fetch tag is left. Every epoch ends.
void SoftMmu::drop_code_filter() {
  code_filter_->fill(false);
  code_filter_used_ = 0;
  users_.renew_epochs();
  ++fetch_epochs_[1];
}

void SoftMmu::cr3_written(uint64_t value) {
  log::trace(log::Subject::kMmu, "cr3 {:#x}", value);
  drop_non_global(current_pcid(), (state_.cr4 & cr4::kPcide) != 0 && bit(value, 63));
}

// Goes on, or over, to `pcid`. What the supervisor has of pages that are not global is not kept for any PCID.
void SoftMmu::drop_non_global(uint64_t pcid, bool keep_user) {
  users_.select(pcid, keep_user);
  supervisors_[0]->clear_non_global();
  supervisors_[1]->clear_non_global();
  if (code_filter_used_ > kCodeFilterFull) {
    for_each_tlb([](Tlb& tlb) { tlb.clear_fetch_tags(); });
    drop_code_filter();
  }
  paging_ = PagingContext::of(state_, limits_.phys_bits, limits_.gib_pages);
  select_contexts();
}

// Of the current PCID, and of global pages in all.
void SoftMmu::invlpg(uint64_t linear) {
  log::trace(log::Subject::kMmu, "flush {:#x}", linear);
  const bool code = may_hold_code(linear);
  for_each_tlb([&](Tlb& tlb) { tlb.clear_around(linear); });
  if (!code) return;
  users_.renew_epochs();
  ++fetch_epochs_[1];
  select_contexts();
}

bool SoftMmu::may_hold_code(uint64_t linear) {
  bool may = (*code_filter_)[code_hash(linear, kCodeFilter)];
  for_each_tlb([&](const Tlb& tlb) { may = may || tlb.may_be_large(linear); });
  return may;
}

// SDM Vol. 2, INVPCID. Of PCIDs that are not current the whole context goes.
void SoftMmu::invpcid(uint64_t type, uint64_t pcid, uint64_t linear) {
  switch (type) {
    case 0:  // one address
      if (pcid == users_.pcid())
        invlpg(linear);
      else
        users_.forget(pcid);
      break;
    case 1:  // one PCID, but global translations
      if (pcid == users_.pcid())
        drop_non_global(pcid, false);
      else
        users_.forget(pcid);
      break;
    case 3:  // all PCIDs, but global translations
      users_.forget_others();
      drop_non_global(users_.pcid(), false);
      break;
    default:  // 2: everything; the others raise #GP before they come here
      flush_all();
      break;
  }
}

void SoftMmu::set_watches(std::vector<Watch> watches, std::function<void()> on_hit) {
  on_watch_hit_ = std::move(on_hit);
  forget_watch_hit();
  if (watches == watches_.list()) return;
  watches_.set(std::move(watches));
  flush_all();  // no page keeps or lacks its data tags wrongly
}

void SoftMmu::note_watched(uint64_t linear, uint64_t size, Access access) {
  if (watches_.empty()) return;
  const WatchHit hit = watches_.find(linear, size, access);
  if (!hit.present) return;
  watch_hit_ = hit;
  if (on_watch_hit_) on_watch_hit_();
}

void SoftMmu::load_pdptes(uint64_t cr3) {
  PageTables tables(*this);
  uint64_t loaded[4];
  // SDM 3A Table 4-8: bits 2:1, 8:5 and those beyond MAXPHYADDR are reserved in a present entry.
  const uint64_t reserved = 0x1e6 | ~((uint64_t{1} << limits_.phys_bits) - 1);
  for (unsigned i = 0; i < 4; ++i) {
    loaded[i] = tables.read({(cr3 & 0xffff'ffe0) + i * 8}, 8);
    if ((loaded[i] & pte::kPresent) != 0 && (loaded[i] & reserved) != 0) x86::raise(x86::Vector::kGp, 0);
  }
  // The next walk takes them from there, whatever the TLB still knows of the old ones.
  for (unsigned i = 0; i < 4; ++i) state_.pdpte[i] = paging_.pdpte[i] = loaded[i];
}

void SoftMmu::set_recorder(WriteRecorder* recorder) {
  recorder_ = recorder;
  if (recorder != nullptr) drop_write_access(nullptr);
}

void SoftMmu::drop_translations() {
  flush_all();
}

void SoftMmu::drop_write_access(const std::byte* host_page) {
  for_each_tlb([&](Tlb& tlb) {
    if (host_page == nullptr)
      tlb.clear_write_tags();
    else
      tlb.clear_write_tags_of(host_page);
  });
}

void SoftMmu::code_stale(GuestPhys page, unsigned first, unsigned last) {
  if (observer_ != nullptr) observer_->code_written(page, first, last);
}

// ---- translation ----

unsigned SoftMmu::context_of(Privilege privilege, Access access) const {
  if (privilege == Privilege::kSupervisor) return kSupervisor;
  if (user_) return kUser;
  return ac_ && (cr4_ & cr4::kSmap) != 0 && access != Access::kFetch ? kSupervisorAc : kSupervisor;
}

// What another context knows about a page answers for this one without a walk: a supervisor page is the same
// with and without AC, and what the user may touch, the supervisor may under AC.
bool SoftMmu::probe_other_contexts(unsigned context, uint64_t linear, Access access) {
  if (access == Access::kFetch || context == kUser || (cr4_ & cr4::kSmap) == 0) return false;
  const unsigned slot = Tlb::slot_of(linear);
  const uint64_t page = Tlb::page_of(linear);
  const auto adopt = [&](const Tlb& from) {
    const bool writable = from.write_tag[slot] == page;
    const bool readable = from.read_tag[slot] == page;
    if (access == Access::kWrite ? !writable : !readable) return false;
    tlbs_[context]->fill({.linear = page,
                          .phys = from.phys_page(slot),
                          .host = from.host[slot],
                          .read = readable,
                          .write = writable,
                          .fetch = false,
                          .global = from.is_global(slot),
                          .user_page = from.is_user_page(slot),
                          .page_size = from.page_size(slot)});
    return true;
  };
  const Tlb& sibling = *tlbs_[context == kSupervisor ? kSupervisorAc : kSupervisor];
  if (!sibling.is_user_page(slot) && adopt(sibling)) return true;
  return context == kSupervisorAc && tlbs_[kUser]->is_user_page(slot) && adopt(*tlbs_[kUser]);
}

SoftMmu::Page SoftMmu::translate(uint64_t linear, Access access, Privilege privilege) {
  std::optional<x86::Exception> fault;
  const auto page = try_translate(linear, access, privilege, fault);
  if (!page) throw *fault;
  return *page;
}

std::optional<SoftMmu::Page> SoftMmu::try_translate(uint64_t linear, Access access, Privilege privilege,
                                                    std::optional<x86::Exception>& fault) {
  ++statistics_.misses;
  const unsigned context = context_of(privilege, access);
  const Tlb& tlb = *tlbs_[context];
  const unsigned slot = Tlb::slot_of(linear);
  const uint64_t page = Tlb::page_of(linear);
  // A page-crossing access comes here though one or both of its pages are known.
  const auto known = [&] {
    const uint64_t tag = access == Access::kRead    ? tlb.read_tag[slot]
                         : access == Access::kWrite ? tlb.write_tag[slot]
                                                    : tlb.fetch_tag[slot];
    return tag == page;
  };
  if (known() || probe_other_contexts(context, linear, access)) {
    const uint64_t frame =
        access == Access::kFetch ? tlb.fetch_phys[slot] & ~kPageMask : tlb.phys_page(slot).value;
    const GuestPhys phys{frame | (linear & kPageMask)};
    const memory::FlatRange* range = reader_.find(phys);
    if (range == nullptr || !range->is_ram()) return Page{phys};
    // A commit publishes its view before it makes the vCPUs forget: the entry may be of other memory than has
    // come there, or of a right that has gone.
    const uint64_t offset = range->offset_of(phys);
    const bool same = range->ram->host() + offset == tlb.host[slot] + (phys.value & kPageMask);
    return Page{phys, range->ram.get(), offset,
                access == Access::kWrite && recorder_ == nullptr && !range->read_only && same};
  }

  if (paging_.mode >= PagingMode::k4Level) {
    const unsigned unused = paging_.mode == PagingMode::k5Level ? 7 : 16;
    if (static_cast<uint64_t>(static_cast<int64_t>(linear << unused) >> unused) != linear) {
      fault = x86::Exception{.vector = x86::Vector::kGp, .has_error = true};
      return std::nullopt;
    }
  }
  ++statistics_.walks;
  PageTables tables(*this);
  const bool explicit_access = privilege == Privilege::kCurrent;
  const Walk walk =
      PageWalker(paging_, tables)
          .walk(linear,
                {.kind = access, .user = user_ && explicit_access, .smap_lifted = ac_ && explicit_access});
  if (!walk.ok) {
    ++statistics_.faults;
    log::trace(log::Subject::kMmu, "page fault at {:#x}, linear {:#x} error {:#x}", state_.rip, linear,
               walk.error);
    fault = x86::Exception{
        .vector = x86::Vector::kPf, .has_error = true, .error = walk.error, .cr2 = linear, .dr6_bits = 0};
    return std::nullopt;
  }
  return locate(walk.phys, linear, access, context, walk);
}

SoftMmu::Page SoftMmu::locate(GuestPhys phys, uint64_t linear, Access access, unsigned context,
                              const Walk& walk) {
  const GuestPhys page{Tlb::page_of(phys.value)};
  if (access == Access::kFetch) {
    bool& noted = (*code_filter_)[code_hash(linear, kCodeFilter)];
    code_filter_used_ += !noted;
    noted = true;
  }
  const memory::FlatRange* range = reader_.find(phys);
  // Whole pages only: where a device begins in mid-page every access is looked up.
  const bool whole = range != nullptr && range->is_ram() && range->first <= page &&
                     range->last - page >= kPageMask && range->offset_of(page) % kPageSize == 0;
  if (!whole) {
    if (access == Access::kFetch)
      tlbs_[context]->fill({.linear = linear,
                            .phys = page,
                            .host = nullptr,
                            .read = false,
                            .write = false,
                            .fetch = true,
                            .global = walk.global,
                            .user_page = walk.user_page,
                            .page_size = walk.page_size});
    return {phys};
  }
  memory::RamBlock& ram = *range->ram;
  const uint64_t offset = range->offset_of(phys);
  bool direct = false, writable = false;
  if (access == Access::kWrite) {
    if (range->read_only) return {phys};
    std::atomic<uint8_t>& flags = ram.flags(offset);
    // kWriteTagged first: whoever sets kCode or kTracked later sees it, and makes us drop the tag; if they
    // came before, we see them.
    if ((flags.load(std::memory_order_relaxed) & flag::kCode) == 0) {
      const uint8_t before = flags.fetch_or(flag::kWriteTagged, std::memory_order_seq_cst);
      if ((before & flag::kTracked) != 0) ram.note_dirty(offset);
      direct = (before & flag::kCode) == 0;
    }
    if (recorder_ != nullptr) direct = false;
  } else if (access == Access::kRead && walk.dirty && !range->read_only && recorder_ == nullptr) {
    // What is written already may as well be written again, which saves a miss. Not pages that are only read,
    // in the guest's own map of all memory for instance: their first translation would make everyone look for
    // write tags.
    std::atomic<uint8_t>& flags = ram.flags(offset);
    if (flags.load(std::memory_order_relaxed) == flag::kWriteTagged)
      writable = (flags.fetch_or(flag::kWriteTagged, std::memory_order_seq_cst) &
                  (flag::kCode | flag::kTracked)) == 0;
  }
  // Stays out of the TLB, so that each access comes here.
  if (access != Access::kFetch && !watches_.empty() && watches_.on_page(linear))
    return {phys, &ram, offset, direct};
  tlbs_[context]->fill({.linear = linear,
                        .phys = page,
                        .host = ram.host() + (offset & ~kPageMask),
                        .read = access != Access::kFetch,  // what may be written may be read
                        .write = direct || writable,
                        .fetch = access == Access::kFetch,
                        .global = walk.global,
                        .user_page = walk.user_page,
                        .page_size = walk.page_size});
  return {phys, &ram, offset, direct};
}

GuestPhys SoftMmu::fetch_miss(uint64_t linear) {
  return translate(linear, Access::kFetch, Privilege::kCurrent).phys;
}

uint64_t SoftMmu::next_page(uint64_t linear, Privilege privilege) const {
  const uint64_t next = Tlb::page_of(linear) + kPageSize;
  // Outside 64-bit mode linear addresses are 32 bits wide; system tables of long mode may lie anywhere.
  return !code64_ && privilege == Privilege::kCurrent && next == uint64_t{1} << 32 ? 0 : next;
}

void SoftMmu::translate_pages(uint64_t linear, uint64_t size, Access access, Privilege privilege,
                              std::span<GuestPhys> out) {
  ASSERT(size <= kLargestAccess, "the largest operand of an instruction is an XSAVE area");
  uint64_t left = size, at = linear;
  for (size_t i = 0; left != 0; ++i) {
    out[i] = translate(at, access, privilege).phys;
    left -= std::min(left, kPageSize - (at & kPageMask));
    at = next_page(at, privilege);
  }
}

void SoftMmu::probe(uint64_t linear, unsigned size, Access access, Privilege privilege) {
  const Tlb& tlb = *tlbs_[context_of(privilege, access)];
  const auto& tags = access == Access::kRead    ? tlb.read_tag
                     : access == Access::kWrite ? tlb.write_tag
                                                : tlb.fetch_tag;
  if (size <= kPageSize && tlb.find(tags, linear, size) != nullptr) return;
  std::array<GuestPhys, 3> pages;
  translate_pages(linear, size, access, privilege, pages);
}

// ---- data ----

const void* SoftMmu::read_miss(uint64_t linear, void* out, unsigned size, Privilege privilege) {
  if ((linear & kPageMask) + size <= kPageSize) {
    const Page page = translate(linear, Access::kRead, privilege);
    note_watched(linear, size, Access::kRead);
    if (page.ram != nullptr) return page.host();
    read_phys(page.phys, {static_cast<uint8_t*>(out), size});
    return nullptr;
  }
  read_bytes(linear, {static_cast<uint8_t*>(out), size}, privilege);
  return nullptr;
}

void* SoftMmu::write_miss(uint64_t linear, const void* in, unsigned size, Privilege privilege) {
  const std::span<const uint8_t> bytes(static_cast<const uint8_t*>(in), size);
  if ((linear & kPageMask) + size <= kPageSize) {
    const Page page = translate(linear, Access::kWrite, privilege);
    note_watched(linear, size, Access::kWrite);
    if (page.direct) return page.host();
    write_phys(page.phys, bytes);
    return nullptr;
  }
  write_bytes(linear, bytes, privilege);
  return nullptr;
}

void* SoftMmu::rmw_pointer(uint64_t linear, unsigned size) {
  if (void* host = data_->find(data_->write_tag, linear, size)) return host;
  if ((linear & kPageMask) + size > kPageSize) {
    probe(linear, size, Access::kWrite);
    return nullptr;
  }
  const Page page = translate(linear, Access::kWrite, Privilege::kCurrent);
  if (!page.direct) return nullptr;
  note_watched(linear, size, Access::kRead);
  note_watched(linear, size, Access::kWrite);
  return page.host();
}

const void* SoftMmu::read_pointer(uint64_t linear, unsigned size) {
  if (const void* host = data_->find(data_->read_tag, linear, size)) return host;
  if ((linear & kPageMask) + size > kPageSize) {
    probe(linear, size, Access::kRead);
    return nullptr;
  }
  const Page page = translate(linear, Access::kRead, Privilege::kCurrent);
  if (page.ram == nullptr) return nullptr;
  note_watched(linear, size, Access::kRead);
  return page.host();
}

void* SoftMmu::pointer(uint64_t linear, unsigned size, Access access, std::optional<x86::Exception>& fault) {
  const bool write = access == Access::kWrite;
  if (void* host = data_->find(write ? data_->write_tag : data_->read_tag, linear, size)) return host;
  ASSERT((linear & kPageMask) + size <= kPageSize, "whoever crosses pages asks for each");
  const auto page = try_translate(linear, access, Privilege::kCurrent, fault);
  if (!page || (write ? !page->direct : page->ram == nullptr)) return nullptr;
  note_watched(linear, size, Access::kRead);
  if (write) note_watched(linear, size, Access::kWrite);
  return page->host();
}

void SoftMmu::read_bytes(uint64_t linear, std::span<uint8_t> out, Privilege privilege) {
  std::array<GuestPhys, 3> pages;
  translate_pages(linear, out.size(), Access::kRead, privilege, pages);
  note_watched(linear, out.size(), Access::kRead);
  for (size_t i = 0; !out.empty(); ++i) {
    const size_t step = std::min<size_t>(out.size(), kPageSize - (pages[i].value & kPageMask));
    read_phys(pages[i], out.first(step));
    out = out.subspan(step);
  }
}

void SoftMmu::write_bytes(uint64_t linear, std::span<const uint8_t> in, Privilege privilege) {
  std::array<GuestPhys, 3> pages;
  translate_pages(linear, in.size(), Access::kWrite, privilege, pages);
  note_watched(linear, in.size(), Access::kWrite);
  for (size_t i = 0; !in.empty(); ++i) {
    const size_t step = std::min<size_t>(in.size(), kPageSize - (pages[i].value & kPageMask));
    write_phys(pages[i], in.first(step));
    in = in.subspan(step);
  }
}

// ---- physical memory ----

namespace {

// Inside a device the vCPU does not count as running: the device may wait for locks, or for the other vCPUs.
// RAM is never touched like this, for whoever takes RAM away waits for running vCPUs only.
class InsideDevice {
 public:
  explicit InsideDevice(Participant& participant)
      : participant_(participant), was_running_(participant.running()) {
    if (was_running_) participant_.leave_running();
  }
  ~InsideDevice() {
    if (was_running_) participant_.enter_running();
  }
  InsideDevice(const InsideDevice&) = delete;
  InsideDevice& operator=(const InsideDevice&) = delete;

 private:
  Participant& participant_;
  const bool was_running_;
};

}  // namespace

void SoftMmu::read_phys(GuestPhys at, std::span<uint8_t> out) {
  while (!out.empty()) {
    const memory::FlatRange* range = reader_.find(at);
    size_t step = 1;
    if (range == nullptr) {
      out[0] = 0xff;
    } else {
      step = std::min<uint64_t>(out.size() - 1, range->last - at) + 1;
      if (range->is_ram()) {
        memory::guest_copy(out.data(), range->ram->host() + range->offset_of(at), step);
      } else {
        if (recorder_ != nullptr) throw WriteRecorder::NotMemory{};
        step = std::min<size_t>(step, 8);
        ++statistics_.mmio;
        const memory::FlatRange io = *range;
        const InsideDevice inside(participant_);
        const uint64_t value = memory::read_handler(io, at, static_cast<unsigned>(step));
        std::memcpy(out.data(), &value, step);
      }
    }
    out = out.subspan(step);
    at = at + step;
  }
}

void SoftMmu::write_phys(GuestPhys at, std::span<const uint8_t> in) {
  while (!in.empty()) {
    const memory::FlatRange* range = reader_.find(at);
    size_t step = 1;
    if (range != nullptr) {
      step = std::min<uint64_t>(in.size() - 1, range->last - at) + 1;
      if (range->is_writable_ram()) {
        store_noted(*range->ram, range->offset_of(at), in.first(step));
      } else if (range->handler != nullptr) {
        if (recorder_ != nullptr) throw WriteRecorder::NotMemory{};
        step = std::min<size_t>(step, 8);
        ++statistics_.mmio;
        uint64_t value = 0;
        std::memcpy(&value, in.data(), step);
        const memory::FlatRange io = *range;
        const InsideDevice inside(participant_);
        memory::write_handler(io, at, static_cast<unsigned>(step), value);
      }
    }
    in = in.subspan(step);
    at = at + step;
  }
}

// A write that the TLB does not cover: keeps the dirty log, and tells the owners of code, our own before this
// instruction ends.
void SoftMmu::store_noted(memory::RamBlock& ram, uint64_t offset, std::span<const uint8_t> in) {
  std::byte* host = ram.host() + offset;
  if (recorder_ != nullptr) recorder_->note(host, in.size());
  switch (in.size()) {  // in one access, where the guest's is one
    case 1:
      memory::guest_store(host, in[0]);
      break;
    case 2:
      memory::guest_store(host, load_le<uint16_t>(in.data()));
      break;
    case 4:
      memory::guest_store(host, load_le<uint32_t>(in.data()));
      break;
    case 8:
      memory::guest_store(host, load_le<uint64_t>(in.data()));
      break;
    default:
      memory::guest_copy(host, in.data(), in.size());
      break;
  }
  const uint8_t flags = ram.flags_after_write(offset);
  if ((flags & flag::kTracked) != 0) ram.note_dirty(offset);
  if ((flags & flag::kCode) == 0) return;
  ++statistics_.code_writes;
  own_stale_.clear();
  code_.written(participant_, ram, offset, in.size(), own_stale_);
  if (own_stale_.empty() || observer_ == nullptr) return;
  bool kept = false;
  for (const CodePages::Stale& stale : own_stale_)
    kept |= observer_->code_written(stale.page, stale.first, stale.last);
  if (!kept) code_.forget(participant_, ram, offset);
}

bool SoftMmu::read_code(GuestPhys address, std::span<uint8_t> out, bool shared) {
  ASSERT((address.value & kPageMask) + out.size() <= kPageSize, "code is read page by page");
  if (out.empty()) return true;
  const memory::FlatRange* range = reader_.find(address);
  const GuestPhys page{Tlb::page_of(address.value)};
  const bool keepable = range != nullptr && range->is_ram() && range->first <= page &&
                        range->last - page >= kPageMask && range->offset_of(page) % kPageSize == 0;
  if (!keepable) {
    read_phys(address, out);
    return false;
  }
  const uint64_t offset = range->offset_of(address);
  const std::byte* host = range->ram->host() + offset;
  // Most of what is read lies beside what was read before.
  const SharedCode wanted{.page = page, .host = host - (offset & kPageMask), .epoch = code_.shared_epoch()};
  const uint64_t granules = CodePages::granules_of(offset, out.size());
  SharedCode& known = shared_code_[page.value / kPageSize % shared_code_.size()];
  const bool same =
      shared && known.page == wanted.page && known.host == wanted.host && known.epoch == wanted.epoch;
  if (same && (granules & ~known.granules) == 0) {
    memory::guest_copy(out.data(), host, out.size());
    return true;
  }
  const std::shared_ptr<memory::RamBlock> ram = range->ram;  // protect() may wait while memory is taken away
  if (!code_.protect(participant_, *ram, offset, out.size(), page, shared)) {
    read_phys(address, out);
    return false;
  }
  if (shared) {
    if (!same) known = wanted;
    known.granules |= granules;
  }
  memory::guest_copy(out.data(), host, out.size());
  return true;
}

}  // namespace ostler::mmu
