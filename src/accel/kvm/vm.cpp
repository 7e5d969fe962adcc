#include "accel/kvm/vm.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "accel/kvm/refusal.h"
#include "base/log.h"
#include "x86/msr_index.h"

namespace ostler::accel::kvm {
namespace {

// Four pages that Intel's processors need in real mode, where no board puts anything: below the flash.
constexpr uint64_t kIdentityMap = 0xfeffc000, kTss = 0xfeffd000;

namespace msr = x86::msr_index;

// Registers of devices of ours: the local APIC's, kvmclock's, and the writes that move the TSC, which our
// timers must hear of.
Result<void> filter_msrs(int fd, bool kernel_apics) {
  kvm_enable_cap enable{};
  enable.cap = KVM_CAP_X86_USER_SPACE_MSR;
  enable.args[0] = KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL;
  if (const int done = call(fd, kEnableCap, &enable); done < 0)
    return refusal("KVM_CAP_X86_USER_SPACE_MSR", done);

  struct Range {
    uint32_t first, count, flags;
  };
  constexpr uint32_t kBoth = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
  constexpr Range kRanges[] = {{msr::KVM_WALL_CLOCK, 2, kBoth},
                               {msr::KVM_FIRST, msr::KVM_LAST - msr::KVM_FIRST + 1, kBoth},
                               {msr::IA32_TIME_STAMP_COUNTER, 1, KVM_MSR_FILTER_WRITE},
                               {msr::IA32_TSC_ADJUST, 1, KVM_MSR_FILTER_WRITE},
                               {msr::IA32_APIC_BASE, 1, kBoth},
                               {msr::IA32_TSC_DEADLINE, 1, kBoth}};
  constexpr size_t kOfLocalApic = 2;  // the last ones
  static_assert(std::size(kRanges) <= KVM_MSR_FILTER_MAX_RANGES);
  uint8_t none[32] = {};  // a clear bit keeps the kernel from answering
  kvm_msr_filter filter{};
  filter.flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
  for (size_t i = 0; i < std::size(kRanges) - (kernel_apics ? kOfLocalApic : 0); ++i) {
    filter.ranges[i].flags = kRanges[i].flags;
    filter.ranges[i].base = kRanges[i].first;
    filter.ranges[i].nmsrs = kRanges[i].count;
    filter.ranges[i].bitmap = none;
  }
  if (const int done = call(fd, kSetMsrFilter, &filter); done < 0)
    return refusal("KVM_X86_SET_MSR_FILTER", done);
  return {};
}

// 0: none.
unsigned late_page_of(const System& system) {
  const int page = system.extension(KVM_CAP_COALESCED_MMIO);
  const bool fits = page > 0 && (static_cast<size_t>(page) + 1) * kPageSize <= system.vcpu_mapping_size();
  return fits ? static_cast<unsigned>(page) : 0;
}

}  // namespace

Vm::Vm(std::shared_ptr<System> system, memory::AddressSpace& space, int fd)
    : system_(std::move(system)),
      space_(space),
      fd_(fd),
      late_ring_(late_page_of(*system_)),
      late_memory_(fd, false),
      late_ports_(fd, true) {}

Vm::~Vm() {
  if (listening_) space_.remove_listener(*this);
}

Result<std::unique_ptr<Vm>> Vm::create(std::shared_ptr<System> system, memory::AddressSpace& space,
                                       const VmOptions& options) {
  const int fd = call(system->fd(), kCreateVm);
  if (fd < 0) return refusal("KVM_CREATE_VM", fd);
  std::unique_ptr<Vm> vm(new Vm(std::move(system), space, fd));
  TRY(vm->set_up(options));
  space.add_listener(*vm);
  vm->listening_ = true;
  if (options.ports != nullptr && vm->late_ring_.exists() &&
      vm->system_->extension(KVM_CAP_COALESCED_PIO) > 0)
    vm->port_listener_.emplace(*vm, *options.ports);
  return vm;
}

Result<void> Vm::set_up(const VmOptions& options) {
  const int fd = fd_.get();
  uint64_t identity_map = kIdentityMap;
  if (const int done = call(fd, kSetIdentityMapAddr, &identity_map); done < 0)
    return refusal("KVM_SET_IDENTITY_MAP_ADDR", done);
  if (const int done = call(fd, kSetTssAddr, static_cast<unsigned long>(kTss)); done < 0)
    return refusal("KVM_SET_TSS_ADDR", done);
  most_ids_ = static_cast<uint32_t>(std::max(32, system_->extension(KVM_CAP_NR_MEMSLOTS)));
  // User code that KVM cannot run would get #UD, where the interpreter can (kvm_engine_fallback.cpp).
  kvm_enable_cap tell_failures{};
  tell_failures.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE;
  tell_failures.args[0] = 1;
  if (system_->extension(KVM_CAP_EXIT_ON_EMULATION_FAILURE) > 0) call(fd, kEnableCap, &tell_failures);
  notify_exits_ = options.notify_exits;
  kvm_enable_cap notify{};
  notify.cap = KVM_CAP_X86_NOTIFY_VMEXIT;
  notify.args[0] =
      uint64_t{options.notify_window} << 32 | KVM_X86_NOTIFY_VMEXIT_ENABLED | KVM_X86_NOTIFY_VMEXIT_USER;
  if (notify_exits_ != NotifyExits::kOff && system_->extension(KVM_CAP_X86_NOTIFY_VMEXIT) > 0)
    call(fd, kEnableCap, &notify);
  TRY(set_up_dirty_log(options.dirty_ring_entries));
  if (system_->extension(KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0) io_events_.emplace(fd);
  if (options.irqchip) {
    TRY_ASSIGN(irqchip_, Irqchip::create(fd, *options.irqchip));
  }
  return filter_msrs(fd, options.irqchip.has_value());
}

Result<Fd> Vm::create_vcpu(unsigned index) {
  const int created = call(fd_.get(), kCreateVcpu, index);
  if (created < 0) return refusal(fmt::format("KVM_CREATE_VCPU of vCPU {}", index), created);
  Fd fd(created);
  if (ring_entries_ == 0) return fd;
  TRY_ASSIGN(DirtyRing ring, DirtyRing::of_vcpu(fd.get(), ring_entries_));
  const std::lock_guard lock(mutex_);
  rings_.insert_or_assign(fd.get(), std::move(ring));
  return fd;
}

int Vm::set_slot(uint64_t address, const Slot& slot, uint64_t size) {
  kvm_userspace_memory_region region{};
  region.slot = slot.id;
  region.flags = (slot.read_only ? KVM_MEM_READONLY : 0u) | (dirty_log_ ? KVM_MEM_LOG_DIRTY_PAGES : 0u);
  region.guest_phys_addr = address;
  region.memory_size = size;
  region.userspace_addr = reinterpret_cast<uintptr_t>(slot.ram->host() + slot.offset);
  const int done = call(fd_.get(), kSetUserMemoryRegion, &region);
  log::trace(log::Subject::kKvm, "kvm: slot {} is {:#x} bytes at {:#x}{}", slot.id, size, address,
             slot.read_only ? ", read-only" : "");
  return done;
}

void Vm::add_locked(const memory::FlatRange& range) {
  const uint64_t first = (range.first.value + kPageMask) & ~kPageMask;
  const uint64_t end = (range.last.value + 1) & ~kPageMask;
  const uint64_t offset = range.offset + (first - range.first.value);
  if (first >= end || (offset & kPageMask) != 0) return;
  if (free_ids_.empty() && next_id_ >= most_ids_) {
    log::warning(
        fmt::format("KVM has no memory slot left for {:#x} bytes at {:#x}: the guest cannot run code "
                    "there; use fewer devices with memory of their own",
                    end - first, first));
    return;
  }
  Slot slot{.id = free_ids_.empty() ? next_id_ : free_ids_.back(),
            .size = end - first,
            .offset = offset,
            .ram = range.ram,
            .read_only = range.read_only};
  if (const int done = set_slot(first, slot, slot.size); done < 0) {
    log::warning(fmt::format("KVM_SET_USER_MEMORY_REGION of {:#x} bytes at {:#x}: {}", slot.size, first,
                             std::strerror(-done)));
    return;
  }
  if (free_ids_.empty())
    ++next_id_;
  else
    free_ids_.pop_back();
  slots_.emplace(first, std::move(slot));
}

void Vm::remove_locked(const memory::FlatRange& range) {
  const auto found = slots_.find((range.first.value + kPageMask) & ~kPageMask);
  if (found == slots_.end()) return;
  collect_from_locked(found->second);
  set_slot(found->first, found->second, 0);
  free_ids_.push_back(found->second.id);
  slots_.erase(found);
}

void Vm::PortListener::view_changed(const memory::ViewChange& change) {
  const std::lock_guard lock(vm_.mutex_);
  for (const memory::FlatRange& range : change.removed) vm_.late_ports_.remove(range);
  for (const memory::FlatRange& range : change.added) vm_.late_ports_.add(range);
}

void Vm::view_changed(const memory::ViewChange& change) {
  {
    const std::lock_guard lock(mutex_);
    if (io_events_) {
      for (const memory::FlatRange& range : change.removed) io_events_->remove(range);
      for (const memory::FlatRange& range : change.added) io_events_->add(range);
    }
    if (late_ring_.exists()) {
      for (const memory::FlatRange& range : change.removed) late_memory_.remove(range);
      for (const memory::FlatRange& range : change.added) late_memory_.add(range);
    }
  }
  const auto is_ram = [](const memory::FlatRange& range) { return range.is_ram(); };
  if (std::none_of(change.removed.begin(), change.removed.end(), is_ram) &&
      std::none_of(change.added.begin(), change.added.end(), is_ram))
    return;
  gate_.run_closed([&] {
    const std::lock_guard lock(mutex_);
    for (const memory::FlatRange& range : change.removed)
      if (range.is_ram()) remove_locked(range);
    for (const memory::FlatRange& range : change.added)
      if (range.is_ram()) add_locked(range);
  });
}

}  // namespace ostler::accel::kvm
