#include "gdb/session.h"

#include <fmt/format.h>

#include <algorithm>

#include "gdb/errors.h"
#include "gdb/packet.h"
#include "gdb/target_description.h"
#include "x86/state.h"

namespace ostler::gdb {
namespace {

constexpr std::string_view kMonitorHelp =
    "help   this list\n"
    "reset  reset the machine; it stays stopped\n";

std::string_view activity_text(x86::Activity activity) {
  switch (activity) {
    case x86::Activity::kRunning:
      return "running";
    case x86::Activity::kHalted:
      return "halted";
    case x86::Activity::kWaitForSipi:
      return "waits for SIPI";
    case x86::Activity::kShutdown:
      return "shut down";
  }
  return "";
}

}  // namespace

Session::Session(Target& target, std::function<void(std::string)> send)
    : target_(target), send_(std::move(send)), release_running_(target.running()) {
  target_.stop();
}

Session::~Session() {
  target_.release(release_running_);
}

void Session::handle(std::string_view packet) {
  // While the guest runs a client has nothing to ask: it sends Ctrl-C first.
  if (waiting_ || packet.empty()) return;
  if (auto reply = answer(packet)) send_(*std::move(reply));
}

Session::Reply Session::answer(std::string_view packet) {
  Fields rest(packet.substr(1));
  switch (packet.front()) {
    case '?':
      if (last_stop_.empty()) last_stop_ = stop_reply(kSigTrap);
      return last_stop_;
    case 'c':
    case 'C':
      return resume_old(rest, false, packet.front() == 'C');
    case 's':
    case 'S':
      return resume_old(rest, true, packet.front() == 'S');
    case 'D':
      return detach();
    case 'g':
      return read_registers();
    case 'G':
      return write_registers(rest);
    case 'H':
      return select_thread(rest);
    case 'k':
      target_.quit();
      return std::nullopt;
    case 'm':
      return read_memory(rest, false);
    case 'x':
      return read_memory(rest, true);
    case 'M':
      return write_memory(rest, false);
    case 'X':
      return write_memory(rest, true);
    case 'p':
      return read_one_register(rest);
    case 'P':
      return write_one_register(rest);
    case 'q':
      return answer_query(rest);
    case 'Q':
      return answer_set(rest);
    case 'T': {
      const auto thread = rest.thread_id();
      return thread && rest.done() && first_of(*thread) ? kOk : kInvalid;
    }
    case 'v':
      return answer_long(rest);
    case 'Z':
      return insert_breakpoint(rest);
    case 'z':
      return remove_breakpoint(rest);
    default:
      return std::string();  // "not supported"
  }
}

Session::Reply Session::answer_query(Fields query) {
  if (query.skip("Supported")) return supported(query);
  if (query.skip("Xfer:")) return read_object(query);
  if (query.rest() == "C") return "QC" + thread_name(current_);
  if (query.rest() == "fThreadInfo") return "m" + thread_list();
  if (query.rest() == "sThreadInfo") return "l";
  if (query.skip("ThreadExtraInfo,")) {
    const auto thread = query.thread_id();
    const auto cpu = thread ? first_of(*thread) : std::nullopt;
    if (!cpu) return kInvalid;
    return to_hex(fmt::format("vCPU {} [{}]", *cpu, activity_text(target_.cpu_state(*cpu).activity)));
  }
  if (query.rest() == "Attached" || query.skip("Attached:")) return "1";  // a client that ends detaches
  if (query.skip("Symbol:")) return kOk;                                  // we ask for none
  if (query.skip("Rcmd,")) return monitor_command(query);
  return std::string();
}

Session::Reply Session::answer_set(Fields set) {
  if (set.rest() != "StartNoAckMode") return std::string();
  acknowledges_ = false;
  return kOk;
}

Session::Reply Session::answer_long(Fields word) {
  if (word.rest() == "Cont?") return "vCont;c;C;s;S;t";
  if (word.skip("Cont;")) return resume_threads(word);
  if (word.skip("Kill;")) {
    send_(kOk);
    target_.quit();
    return std::nullopt;
  }
  return std::string();
}

std::string Session::supported(Fields features) {
  features.skip(':');
  while (!features.done()) {
    const std::string_view feature = features.until(';');
    if (feature == "multiprocess+") multiprocess_ = true;
    if (feature == "swbreak+") tells_software_ = true;
    if (feature == "hwbreak+") tells_hardware_ = true;
  }
  return fmt::format(
      "PacketSize={:x};multiprocess+;swbreak+;hwbreak+;vContSupported+;QStartNoAckMode+;binary-upload+;"
      "qXfer:features:read+;qXfer:threads:read+",
      kMostPacket);
}

// qXfer:OBJECT:read:ANNEX:OFFSET,LENGTH
std::string Session::read_object(Fields request) {
  const std::string_view object = request.until(':');
  const std::string_view operation = request.until(':');
  const std::string_view annex = request.until(':');
  if (operation != "read") return {};
  std::string text;
  if (object == "features") {
    if (annex != "target.xml") return kNoSuchAnnex;
    text = target_description();
  } else if (object == "threads") {
    if (!annex.empty()) return kNoSuchAnnex;
    text = "<?xml version=\"1.0\"?>\n<threads>\n";
    for (size_t cpu = 0; cpu < target_.cpu_count(); ++cpu)
      text += fmt::format("<thread id=\"{}\" core=\"{}\" name=\"vCPU {}\">{}</thread>\n", thread_name(cpu),
                          cpu, cpu, activity_text(target_.cpu_state(cpu).activity));
    text += "</threads>\n";
  } else {
    return {};
  }
  const auto offset = request.number();
  const bool comma = request.skip(',');
  const auto length = request.number();
  if (!offset || !comma || !length || !request.done()) return kInvalid;
  if (*offset >= text.size()) return "l";
  // Escapes may double it.
  const std::string_view part =
      std::string_view(text).substr(*offset, std::min<uint64_t>(*length, (kMostPacket - 1) / 2));
  return (*offset + part.size() < text.size() ? "m" : "l") + escape(part);
}

std::string Session::thread_name(size_t cpu) const {
  return fmt::format("{}{:x}", multiprocess_ ? "p1." : "", cpu + 1);
}

std::string Session::thread_list() const {
  std::string list;
  for (size_t cpu = 0; cpu < target_.cpu_count(); ++cpu) list += (cpu == 0 ? "" : ",") + thread_name(cpu);
  return list;
}

std::optional<size_t> Session::first_of(const ThreadId& thread) const {
  for (size_t cpu = 0; cpu < target_.cpu_count(); ++cpu)
    if (thread.includes(cpu)) return cpu;
  return std::nullopt;
}

// Hg: registers and memory. Hc: old-style steps.
std::string Session::select_thread(Fields request) {
  const bool general = request.skip('g');
  if (!general && !request.skip('c')) return kInvalid;
  const auto thread = request.thread_id();
  if (!thread || !request.done()) return kInvalid;
  size_t& selected = general ? current_ : resumed_;
  if (thread->includes(selected)) return kOk;
  const auto cpu = first_of(*thread);
  if (!cpu) return kInvalid;
  selected = *cpu;
  return kOk;
}

std::string Session::monitor_command(Fields request) {
  const auto bytes = from_hex(request.rest());
  if (!bytes) return kInvalid;
  const std::string_view command(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  if (command == "help") return to_hex(kMonitorHelp);
  if (command == "reset") {
    target_.reset();
    return kOk;
  }
  return to_hex("There is no such command; 'monitor help' lists them.\n");
}

}  // namespace ostler::gdb
