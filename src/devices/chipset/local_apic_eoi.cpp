// Ends of interrupts that the guest writes to its memory (memory_eoi.h).
//
// While an offer stands, ISR and PPR may be out of date: the guest may have ended the interrupt. So whatever
// looks at them settles the offer first, and an interrupt that arrives asks the vCPU to, however low it is.
// An offer and an interrupt's arrival, in another thread, cannot miss each other: one stores eoi_offered_ and
// then looks at IRR, the other sets IRR and then looks at eoi_offered_, both seq_cst.
#include "devices/chipset/local_apic.h"
#include "devices/chipset/memory_eoi.h"

namespace ostler::chipset {

void LocalApic::offer_eoi(uint8_t vector) {
  // Somebody waits for the end of a level-triggered interrupt, or the next one is there already.
  if (memory_eoi_ == nullptr || tmr_.test(vector) || irr_.highest() >= 0 || !memory_eoi_->offer()) return;
  eoi_offered_.store(true);
  if (irr_.highest() >= 0) settle_eoi();
}

void LocalApic::settle_eoi() {
  if (!eoi_offered_.load()) return;
  eoi_offered_.store(false);
  if (memory_eoi_->withdraw())
    end_of_interrupt();
  else
    update_priority();
}

}  // namespace ostler::chipset
