// A running machine: builds core, board and devices from the configuration, and is the one place from which a
// guest is started, paused, reset, saved and ended. Everything but the constructor's caller happens on the
// loop's thread; requests from devices (chipset::SystemRequests) come from any thread and are posted there.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "config/machine.h"
#include "devices/chipset/system_requests.h"
#include "machine/properties.h"

namespace ostler::state {
class Archive;
}
namespace ostler::event {
class Loop;
}

namespace ostler::virtio::balloon {
class BalloonDevice;
}

namespace ostler::machine {

class Board;
class Core;
class Backends;
class Debugger;
class DiskErrors;
class BlockJobs;
class Media;
class NbdExports;
class PluggedDevices;

// kIoError: paused since a disk's request failed (werror=stop, or a full host disk).
enum class RunState { kRunning, kPaused, kIoError };

// A whole guest, as taken while it was paused.
struct Snapshot {
  std::vector<std::byte> devices;
  std::vector<std::pair<uint64_t, std::vector<std::byte>>>
      pages;  // RAM offset, contents; zero pages left out
};

class Machine final : private chipset::SystemRequests {
 public:
  // Opens every file, builds every object. Errors are one sentence each.
  static Result<std::unique_ptr<Machine>> create(const config::Machine& config);
  ~Machine() override;

  // Starts the guest (unless start_paused) and runs the loop on the calling thread until the guest or quit()
  // ends it. The program's exit status.
  int run();

  // ---- any thread ----
  void quit(int status);

  // ---- the loop's thread, or before run() ----
  event::Loop& loop();
  void pause();
  void resume();
  bool paused() const { return paused_; }
  RunState run_state() const;
  bool started() const { return started_; }  // run() was called
  Result<void> reset();
  void press_power_button();
  // Gives a drive or a block node another size in bytes; the guest is told.
  Result<void> block_resize(const std::string& name, uint64_t bytes);
  // "blockdev-add" of a node with a name, {"driver": …, "node-name": …}, and "blockdev-del".
  Result<void> block_add(const std::string& options);
  Result<void> block_remove(const std::string& node);
  Media& media() { return *media_; }  // trays, and what lies in them
  // Puts the cable of a network card in, or pulls it; `name`: the card's id or its network's.
  Result<void> set_link(const std::string& name, bool up);
  // The guest's balloon; null: it has none.
  virtio::balloon::BalloonDevice* balloon();
  NbdExports& nbd() { return *nbd_; }   // disks for clients of the network
  BlockJobs& jobs() { return *jobs_; }  // snapshots and copies of disks
  // While paused. kUnsupported: a device's state cannot be saved.
  Result<Snapshot> save();
  Result<void> restore(const Snapshot&);  // while paused; on error the machine must be reset or destroyed
  uint64_t instructions() const;          // executed by all vCPUs
  Core& core() { return *core_; }         // memory, ports and vCPUs, for debuggers and tests

 private:
  explicit Machine(const config::Machine& config);
  Result<void> build();
  Result<void> start_guest_code();  // kernel or firmware into memory, registers of the boot vCPU
  bool has_acpi() const;
  Result<void> place_tables();
  void pause_guest();  // without telling the debugger
  void resume_guest();
  void state(state::Archive& archive);
  void report_statistics();

  // chipset::SystemRequests
  void request_reset(std::string_view source) override;
  void request_shutdown(std::string_view source) override;
  void guest_panicked(std::string_view source) override;
  void debug_exit(int code) override;

  const config::Machine config_;
  std::unique_ptr<Core> core_;
  std::unique_ptr<DiskErrors> disk_errors_;
  std::unique_ptr<Backends> backends_;
  std::unique_ptr<Media> media_;
  std::unique_ptr<BlockJobs> jobs_;
  std::unique_ptr<NbdExports> nbd_;
  std::unique_ptr<Board> board_;
  std::unique_ptr<PluggedDevices> devices_;
  std::unique_ptr<Debugger> debugger_;  // null: not asked for
  MachineProperties properties_;
  std::atomic<bool> reset_posted_{false};
  bool paused_ = true, started_ = false;
  int status_ = 0;
};

}  // namespace ostler::machine
