// One virtual machine of KVM: its memory slots follow the flat view of an address space, and its vCPUs are
// made here. The interrupt controllers are ours, in this process, or the kernel's (irqchip.h).
//
// RAM and ROM become slots, page by page; everything else, and the odd bytes of pages that are only partly
// RAM, are left without one, so that KVM hands accesses to them back (KVM_EXIT_MMIO).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "accel/kvm/dirty_ring.h"
#include "accel/kvm/gate.h"
#include "accel/kvm/io_events.h"
#include "accel/kvm/irqchip.h"
#include "accel/kvm/late_writes.h"
#include "accel/kvm/system.h"
#include "base/fd.h"
#include "base/result.h"
#include "memory/address_space.h"

namespace ostler::accel::kvm {

// What becomes of a guest that keeps the processor from all events, interrupts of the host included: an exit
// ends it where the processor can tell (KVM_CAP_X86_NOTIFY_VMEXIT).
enum class NotifyExits : uint8_t {
  kOff,   // none: such a guest holds the host's processor for as long as it likes
  kGoOn,  // the guest is interrupted, and goes on
  kStop,  // the vCPU shuts down
};

struct VmOptions {
  std::optional<Irqchip::Mode> irqchip;  // none: all interrupt controllers are ours
  // Of the ring in which each vCPU tells the pages that its guest writes; 0: KVM keeps bitmaps.
  uint32_t dirty_ring_entries = 0;
  NotifyExits notify_exits = NotifyExits::kGoOn;
  uint32_t notify_window = 0;  // how long, in the processor's own unit, beyond the least that is safe
  // Whose late writes KVM collects too; null: all exit.
  memory::AddressSpace* ports = nullptr;
};

class Vm final : public memory::Listener {
 public:
  // Follows `space` from now on. `space` outlives it; engines are destroyed before it.
  static Result<std::unique_ptr<Vm>> create(std::shared_ptr<System> system, memory::AddressSpace& space,
                                            const VmOptions& options = {});
  ~Vm() override;

  const System& system() const { return *system_; }
  int fd() const { return fd_.get(); }
  Gate& gate() { return gate_; }
  LateRing& late_writes() { return late_ring_; }
  Irqchip* irqchip() const { return irqchip_.get(); }  // null: none is in the kernel
  NotifyExits notify_exits() const { return notify_exits_; }
  Result<Fd> create_vcpu(unsigned index);

  // ---- the dirty log, of one control thread: beside RamBlock's own ----
  // From now on KVM notes which pages the guest writes; or not any more.
  void set_dirty_log(bool on);
  // Notes them in their RAM blocks (RamBlock::note_dirty), and begins anew. Some may have been noted before.
  void collect_dirty();
  // On the thread of a vCPU that does not go on before there is room in its ring (KVM_EXIT_DIRTY_RING_FULL).
  void dirty_ring_full(int vcpu);  // its file descriptor

  void view_changed(const memory::ViewChange& change) override;
  size_t slot_count() const { return slots_.size(); }
  size_t doorbell_count() const { return io_events_ ? io_events_->count() : 0; }
  size_t late_zone_count() const { return late_memory_.count() + late_ports_.count(); }

 private:
  struct Slot {
    uint32_t id;
    uint64_t size;  // bytes
    uint64_t offset;
    std::shared_ptr<memory::RamBlock> ram;
    bool read_only;
  };
  // Of the port space.
  class PortListener final : public memory::Listener {
   public:
    PortListener(Vm& vm, memory::AddressSpace& ports) : vm_(vm), ports_(ports) { ports_.add_listener(*this); }
    ~PortListener() override { ports_.remove_listener(*this); }
    void view_changed(const memory::ViewChange& change) override;

   private:
    Vm& vm_;
    memory::AddressSpace& ports_;
  };
  Vm(std::shared_ptr<System> system, memory::AddressSpace& space, int fd);
  Result<void> set_up(const VmOptions& options);
  void add_locked(const memory::FlatRange& range);
  void remove_locked(const memory::FlatRange& range);
  // vm_dirty_log.cpp
  template <class F>
  void outside_guests(F&& f);
  Result<void> set_up_dirty_log(uint32_t ring_entries);
  void collect_locked();
  void collect_from_locked(const Slot& slot);
  void collect_bitmap_locked(const Slot& slot);
  void empty_rings_locked();
  void collect_rings_locked();
  void collect_ring_locked(DirtyRing& ring);
  void reset_rings_locked();
  void note_locked(const std::vector<DirtyPage>& pages);
  void note_all_locked();
  int set_slot(uint64_t address, const Slot& slot, uint64_t size);

  const std::shared_ptr<System> system_;
  memory::AddressSpace& space_;
  Fd fd_;
  Gate gate_;
  LateRing late_ring_;
  std::unique_ptr<Irqchip> irqchip_;
  bool listening_ = false;
  std::mutex mutex_;                // the following
  std::map<uint64_t, Slot> slots_;  // by guest-physical address
  std::optional<IoEvents> io_events_;
  LateZones late_memory_, late_ports_;
  std::vector<uint32_t> free_ids_;
  uint32_t next_id_ = 0, most_ids_ = 0;
  NotifyExits notify_exits_ = NotifyExits::kOff;
  bool dirty_log_ = false;
  uint32_t ring_entries_ = 0;       // 0: bitmaps
  std::map<int, DirtyRing> rings_;  // by the vCPU's file descriptor
  bool told_reset_ = false, told_overrun_ = false;
  bool clears_itself_ = false;  // pages are protected again by a call of their own, and only those written
  std::optional<PortListener> port_listener_;  // last: it takes mutex_
};

}  // namespace ostler::accel::kvm
