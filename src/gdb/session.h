// One debugger's conversation: requests in, replies out, the guest in between (Debugging with GDB, appendix
// E). All-stop: when one vCPU stops, all do. Nothing of the client is trusted, and what is kept for it is
// bounded. On the event loop's thread.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "accel/debug.h"
#include "gdb/fields.h"
#include "gdb/target.h"

namespace ostler::gdb {

class Session {
 public:
  static constexpr size_t kMostBreakpoints = 1024;

  // Stops the guest. `send` takes the data of a packet, escaped where it is binary.
  Session(Target& target, std::function<void(std::string)> send);
  // Forgets breakpoints; the guest goes on if it ran when the session began, or was resumed since.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void handle(std::string_view packet);
  void interrupt();  // Ctrl-C
  // vCPU `cpu` met what resume() asked for.
  void stopped(size_t cpu, const accel::DebugStop& stop);
  // Somebody else paused or resumed the guest; the program ends.
  void paused_by_others();
  void resumed_by_others();
  void program_ends(int status);

  bool acknowledges() const { return acknowledges_; }  // until QStartNoAckMode

 private:
  using Reply = std::optional<std::string>;  // none: it comes later, or never

  // session.cpp
  Reply answer(std::string_view packet);
  Reply answer_query(Fields query);
  Reply answer_set(Fields set);
  Reply answer_long(Fields word);  // packets whose name begins with 'v'
  std::string supported(Fields features);
  std::string read_object(Fields request);
  std::string thread_list() const;
  std::string thread_name(size_t cpu) const;
  std::optional<size_t> first_of(const ThreadId& thread) const;
  std::string select_thread(Fields request);
  std::string monitor_command(Fields request);
  // session_memory.cpp
  std::string read_registers();
  std::string write_registers(Fields request);
  std::string read_one_register(Fields request);
  std::string write_one_register(Fields request);
  std::string read_memory(Fields request, bool binary);
  std::string write_memory(Fields request, bool binary);
  // session_run.cpp
  std::string insert_breakpoint(Fields request);
  std::string remove_breakpoint(Fields request);
  Reply resume_old(Fields request, bool step, bool with_signal);
  Reply resume_threads(Fields actions);
  Reply resume(std::vector<Run> runs);
  std::string stop_reply(unsigned signal, const std::optional<accel::DebugStop>& stop = {});
  Reply detach();

  struct PendingStop {
    size_t cpu;
    accel::DebugStop stop;
  };

  Target& target_;
  const std::function<void(std::string)> send_;
  bool multiprocess_ = false, tells_software_ = false, tells_hardware_ = false;  // the client understands
  bool acknowledges_ = true;
  bool waiting_ = false;  // the guest runs, the client waits for a stop reply
  bool release_running_;  // what becomes of the guest at the end
  size_t current_ = 0;    // vCPU of registers and memory
  size_t resumed_ = 0;    // vCPU of old-style steps
  std::string last_stop_;
  std::vector<accel::Breakpoint> breakpoints_;
  std::vector<PendingStop> pending_;  // watchpoints met while another vCPU's stop was told; one of each vCPU
};

}  // namespace ostler::gdb
