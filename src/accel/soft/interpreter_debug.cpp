#include "accel/soft/interpreter_debug.h"

#include <algorithm>

namespace ostler::accel {

interp::DebugRequest interpreter_request(const DebugRequest& request) {
  interp::DebugRequest out{.step = request.single_step, .breakpoints = {}, .watches = {}};
  for (const Breakpoint& point : request.breakpoints) {
    if (!point.watches_data()) {
      out.breakpoints.push_back(point.address);
      continue;
    }
    out.watches.push_back({.first = point.address,
                           .last = point.address + (point.length - 1),
                           .reads = point.kind != BreakpointKind::kWrite,
                           .writes = point.kind != BreakpointKind::kRead});
  }
  std::sort(out.breakpoints.begin(), out.breakpoints.end());
  return out;
}

DebugStop debug_stop_of(const DebugRequest& request, const interp::DebugStop& stop) {
  using Reason = interp::DebugStop::Reason;
  DebugStop out{.hit = std::nullopt, .address = stop.address};
  if (stop.reason == Reason::kStep) return out;
  for (const Breakpoint& point : request.breakpoints) {
    const bool here = stop.address >= point.address && stop.address - point.address < point.length;
    const bool fits =
        stop.reason == Reason::kBreakpoint
            ? !point.watches_data() && stop.address == point.address
            : here && (point.kind == BreakpointKind::kAccess ||
                       point.kind == (stop.access == mmu::Access::kWrite ? BreakpointKind::kWrite
                                                                         : BreakpointKind::kRead));
    if (fits && (!out.hit || point.kind < *out.hit)) out.hit = point.kind;
  }
  return out;
}

}  // namespace ostler::accel
