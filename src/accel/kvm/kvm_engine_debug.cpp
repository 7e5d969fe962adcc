// Breakpoints, watchpoints and single steps by KVM_SET_GUEST_DEBUG. The processor's four debug registers
// watch for us while any is wanted, and the guest keeps the values of its own. Breakpoints beyond them are
// looked for after each instruction, so that guest memory is never changed.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "accel/kvm/kvm_engine.h"
#include "base/log.h"

namespace ostler::accel::kvm {
namespace {

constexpr size_t kRegisters = 4;
constexpr uint64_t kStepBit = 1u << 14;  // DR6.BS
// Of DR7 (SDM 3B §17.2.4).
constexpr uint64_t kExecute = 0, kWrite = 1, kReadOrWrite = 3;

uint64_t length_code(uint64_t length) {
  return length == 8 ? 2 : length - 1;
}

// The longest piece from `address` on that one register can watch.
uint64_t piece_of(uint64_t address, uint64_t length) {
  uint64_t piece = 8;
  while (piece > length || (address & (piece - 1)) != 0) piece /= 2;
  return piece;
}

}  // namespace

void KvmEngine::set_debug(const DebugRequest& request) {
  debug_ = request;
  hardware_ = {};
  in_hardware_.clear();
  watch_every_step_ = false;
  const auto add = [&](const Breakpoint& point, uint64_t address, uint64_t length, uint64_t kind) {
    const size_t at = in_hardware_.size();
    if (at == kRegisters) return false;
    hardware_.arch.debugreg[at] = address;
    hardware_.arch.debugreg[7] |= uint64_t{2} << (2 * at);  // G
    hardware_.arch.debugreg[7] |= (kind | length_code(length) << 2) << (16 + 4 * at);
    in_hardware_.push_back(point);
    return true;
  };
  for (const Breakpoint& point : request.breakpoints) {
    if (!point.watches_data()) continue;
    uint64_t address = point.address;
    for (uint64_t left = point.length; left != 0;) {
      const uint64_t piece = piece_of(address, left);
      Breakpoint part = point;
      part.address = address;
      part.length = piece;
      // The processor cannot watch for reads alone.
      if (!add(part, address, piece, point.kind == BreakpointKind::kWrite ? kWrite : kReadOrWrite)) {
        log::warning(fmt::format(
            "the host's processor watches 4 places: the {} bytes at {:#x} are not watched; remove another "
            "watchpoint, or say -accel bt",
            left, address));
        break;
      }
      address += piece;
      left -= piece;
    }
  }
  for (const Breakpoint& point : request.breakpoints)
    if (!point.watches_data() && !add(point, point.address, 1, kExecute)) watch_every_step_ = true;
}

void KvmEngine::apply_debug(bool step) {
  kvm_guest_debug wanted = hardware_;
  if (!in_hardware_.empty()) wanted.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
  if (step) wanted.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
  if (wanted.control == 0 && !debug_applied_) return;
  debug_applied_ = wanted.control != 0;
  if (const int done = call_vcpu(kSetGuestDebug, &wanted); done < 0) refused(kSetGuestDebug, done);
}

std::optional<BreakpointKind> KvmEngine::breakpoint_at(uint64_t address) const {
  std::optional<BreakpointKind> out;
  for (const Breakpoint& point : debug_.breakpoints)
    if (!point.watches_data() && point.address == address && (!out || point.kind < *out)) out = point.kind;
  return out;
}

// What stopped the vCPU at linear address `pc`; nothing: a step that nobody asked for.
std::optional<DebugStop> KvmEngine::stop_of(uint64_t pc, uint64_t dr6) const {
  for (size_t i = 0; i < in_hardware_.size(); ++i)
    if ((dr6 >> i & 1) != 0 && in_hardware_[i].watches_data())
      return DebugStop{.hit = in_hardware_[i].kind, .address = in_hardware_[i].address};
  if (debug_.single_step && (dr6 & kStepBit) != 0) return DebugStop{};
  if (const auto kind = breakpoint_at(pc)) return DebugStop{.hit = kind, .address = pc};
  return std::nullopt;
}

std::optional<VcpuExit> KvmEngine::handle_debug() {
  const auto& arch = run_area().debug.arch;
  const std::optional<DebugStop> stop = stop_of(arch.pc, arch.dr6);
  if (!stop) return std::nullopt;
  debug_stop_ = *stop;
  return VcpuExit::kDebug;
}

}  // namespace ostler::accel::kvm
