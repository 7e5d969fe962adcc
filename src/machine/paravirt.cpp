#include "machine/paravirt.h"

#include <x86intrin.h>

#include <cerrno>
#include <thread>

#include "x86/host_cpu.h"

namespace ostler::machine {
namespace {

enum Call : uint64_t { kKickCpu = 5, kSendIpiCall = 10, kSchedYieldCall = 11 };

constexpr uint64_t answer(int64_t value) {
  return static_cast<uint64_t>(value);
}

}  // namespace

std::optional<uint64_t> Paravirt::read_msr(uint32_t index) {
  if (index == chipset::StealTime::kMsr) return steal_.msr();
  if (index == chipset::MemoryEoi::kMsr) return eoi_.msr();
  return clock_.read_msr(index);
}

bool Paravirt::write_msr(uint32_t index, uint64_t value) {
  if (index == chipset::StealTime::kMsr) return steal_.set_msr(value);
  if (index == chipset::MemoryEoi::kMsr) {
    apic_->settle_eoi();  // where the last offer was made
    return eoi_.set_msr(value);
  }
  return clock_.write_msr(index, value);
}

uint64_t Paravirt::hypercall(const x86::Hypercall& call) {
  constexpr int64_t kNoSuchCall = -1000;  // KVM_ENOSYS
  switch (call.number) {
    case kKickCpu:  // a spinlock's next owner sleeps: RCX is its APIC id
      bus_.unhalt(call.arguments[1]);
      return 0;
    case kSendIpiCall:
      return send_ipi(call);
    case kSchedYieldCall:  // an interrupt's receiver does not run: let it, if it can
      std::this_thread::yield();
      return 0;
    default:
      return answer(kNoSuchCall);
  }
}

// Sets of APIC ids in RBX and RCX, from the id in RDX upwards; RSI is as ICR's low word. The number of vCPUs.
uint64_t Paravirt::send_ipi(const x86::Hypercall& call) {
  constexpr uint64_t kShorthandOrLogical = 0xc0000 | 0x800, kLevel = 0x8000;
  const uint64_t icr = call.arguments[3];
  if ((icr & kShorthandOrLogical) != 0) return answer(-EINVAL);
  chipset::ApicMessage message{.wide = true,
                               .level = (icr & kLevel) != 0,
                               .mode = static_cast<chipset::DeliveryMode>(icr >> 8 & 7),
                               .vector = static_cast<uint8_t>(icr)};
  const unsigned width = call.wide ? 64 : 32;
  uint64_t sent = 0;
  for (unsigned word = 0; word < 2; ++word)
    for (uint64_t rest = call.arguments[word]; rest != 0; rest &= rest - 1) {
      const uint64_t id = call.arguments[2] + word * width + static_cast<unsigned>(__builtin_ctzll(rest));
      if (id >= chipset::ApicBus::kBroadcast || id < call.arguments[2]) continue;
      message.destination = static_cast<uint32_t>(id);
      if (bus_.matching(message) == 0) continue;
      bus_.send(message);
      ++sent;
    }
  return sent;
}

bool Paravirt::running() {
  interrupted();
  return steal_.running();
}

// A guest reads its steal time once in a timer tick.
void Paravirt::interrupted() {
  const uint64_t now = __rdtsc();
  if (now - told_ < x86::host_tsc_hz() / 1000) return;
  told_ = now;
  steal_.update();
}

void Paravirt::reset() {
  clock_.reset();
  steal_.reset();
  eoi_.reset();
}

void Paravirt::state(state::Archive& archive) {
  clock_.state(archive);
  steal_.state(archive);
  eoi_.state(archive);
}

}  // namespace ostler::machine
