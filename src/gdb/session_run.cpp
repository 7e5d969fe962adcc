// Breakpoints, running and stopping.
#include <fmt/format.h>

#include <algorithm>

#include "gdb/errors.h"
#include "gdb/session.h"
#include "x86/state.h"

namespace ostler::gdb {
namespace {

using accel::Breakpoint;
using accel::BreakpointKind;

// "TYPE,ADDRESS,LENGTH" of Z and z packets.
std::optional<Breakpoint> breakpoint(Fields request) {
  const auto type = request.number();
  if (!type || *type > 4 || !request.skip(',')) return std::nullopt;
  const auto address = request.number();
  if (!address || !request.skip(',')) return std::nullopt;
  const auto length = request.number();
  if (!length || !request.done()) return std::nullopt;
  Breakpoint out{.kind = static_cast<BreakpointKind>(*type), .address = *address, .length = *length};
  if (!out.watches_data()) out.length = 1;  // the kind of instruction, which x86 has one of
  if (out.length == 0 || out.address + (out.length - 1) < out.address) return std::nullopt;
  return out;
}

}  // namespace

// Both kinds of packets may come twice.
std::string Session::insert_breakpoint(Fields request) {
  const auto point = breakpoint(request);
  if (!point) return kInvalid;
  if (std::find(breakpoints_.begin(), breakpoints_.end(), *point) != breakpoints_.end()) return kOk;
  if (breakpoints_.size() == kMostBreakpoints) return kNoSpace;
  breakpoints_.push_back(*point);
  return kOk;
}

std::string Session::remove_breakpoint(Fields request) {
  const auto point = breakpoint(request);
  if (!point) return kInvalid;
  std::erase(breakpoints_, *point);
  return kOk;
}

// "c", "s" with an address to go on at; "C", "S" with a signal, which means nothing to a machine, before it.
// A step moves one vCPU.
Session::Reply Session::resume_old(Fields request, bool step, bool with_signal) {
  if (with_signal && !request.number()) return kInvalid;
  if (with_signal && !request.done() && !request.skip(';')) return kInvalid;
  if (!request.done()) {
    const auto address = request.number();
    if (!address || !request.done()) return kInvalid;
    target_.cpu_state(resumed_).rip = *address;
    target_.cpu_state_changed(resumed_);
  }
  std::vector<Run> runs(target_.cpu_count(), step ? Run::kStay : Run::kContinue);
  if (step) runs[resumed_] = Run::kStep;
  return resume(std::move(runs));
}

// "ACTION[:THREAD];…": each thread takes the first action that names it; the others stay.
Session::Reply Session::resume_threads(Fields actions) {
  std::vector<std::optional<Run>> runs(target_.cpu_count());
  while (!actions.done()) {
    Fields action(actions.until(';'));
    Run run = Run::kStay;
    if (action.skip('c')) {
      run = Run::kContinue;
    } else if (action.skip('s')) {
      run = Run::kStep;
    } else if (action.skip('C') || action.rest().starts_with('S')) {
      run = action.skip('S') ? Run::kStep : Run::kContinue;
      if (!action.number()) return kInvalid;
    } else if (!action.skip('t')) {
      return kInvalid;
    }
    ThreadId thread{.process = ThreadId::kAll, .thread = ThreadId::kAll};
    if (!action.done()) {
      if (!action.skip(':')) return kInvalid;
      const auto named = action.thread_id();
      if (!named || !action.done()) return kInvalid;
      thread = *named;
    }
    for (size_t cpu = 0; cpu < runs.size(); ++cpu)
      if (!runs[cpu] && thread.includes(cpu)) runs[cpu] = run;
  }
  std::vector<Run> all;
  for (const auto& run : runs) all.push_back(run.value_or(Run::kStay));
  return resume(std::move(all));
}

Session::Reply Session::resume(std::vector<Run> runs) {
  // What was met meanwhile is told first, if it is still wanted.
  while (!pending_.empty()) {
    const PendingStop next = pending_.front();
    pending_.erase(pending_.begin());
    const bool wanted = std::any_of(breakpoints_.begin(), breakpoints_.end(), [&](const Breakpoint& point) {
      return point.watches_data() && next.stop.address - point.address < point.length;
    });
    if (!wanted || runs[next.cpu] == Run::kStay) continue;
    current_ = resumed_ = next.cpu;
    return last_stop_ = stop_reply(kSigTrap, next.stop);
  }
  if (std::all_of(runs.begin(), runs.end(), [](Run run) { return run == Run::kStay; }))
    return last_stop_ = stop_reply(kSigNone);
  waiting_ = true;
  release_running_ = true;
  target_.resume(runs, breakpoints_);
  return std::nullopt;
}

std::string Session::stop_reply(unsigned signal, const std::optional<accel::DebugStop>& stop) {
  std::string reason;
  if (stop && stop->hit) {
    switch (*stop->hit) {
      case BreakpointKind::kSoftware:
        if (tells_software_) reason = "swbreak:;";
        break;
      case BreakpointKind::kHardware:
        if (tells_hardware_) reason = "hwbreak:;";
        break;
      case BreakpointKind::kWrite:
        reason = fmt::format("watch:{:x};", stop->address);
        break;
      case BreakpointKind::kRead:
        reason = fmt::format("rwatch:{:x};", stop->address);
        break;
      case BreakpointKind::kAccess:
        reason = fmt::format("awatch:{:x};", stop->address);
        break;
    }
  }
  return fmt::format("T{:02x}{}thread:{};", signal, reason, thread_name(current_));
}

void Session::interrupt() {
  if (!waiting_) return;
  target_.stop();
  waiting_ = false;
  send_(last_stop_ = stop_reply(kSigInt));
}

void Session::stopped(size_t cpu, const accel::DebugStop& stop) {
  if (!waiting_) {
    // Breakpoints are met again and steps are asked for again; an access is not repeated.
    const bool access = stop.hit && *stop.hit >= BreakpointKind::kWrite;
    std::erase_if(pending_, [&](const PendingStop& other) { return other.cpu == cpu; });
    if (access) pending_.push_back({cpu, stop});
    return;
  }
  target_.stop();
  waiting_ = false;
  current_ = resumed_ = cpu;
  send_(last_stop_ = stop_reply(kSigTrap, stop));
}

void Session::paused_by_others() {
  release_running_ = false;
  if (!waiting_) return;
  waiting_ = false;
  send_(last_stop_ = stop_reply(kSigInt));
}

void Session::resumed_by_others() {
  release_running_ = true;
  waiting_ = true;
}

void Session::program_ends(int status) {
  if (waiting_) send_(fmt::format("W{:02x}{}", status & 0xff, multiprocess_ ? ";process:1" : ""));
}

Session::Reply Session::detach() {
  send_(kOk);
  breakpoints_.clear();
  pending_.clear();
  release_running_ = true;
  waiting_ = true;
  target_.release(true);
  return std::nullopt;
}

}  // namespace ostler::gdb
