#include "machine/machine.h"

#include <fmt/format.h>

#include <algorithm>

#include "acpi/smbios.h"
#include "acpi/tables.h"
#include "base/log.h"
#include "config/block_node.h"
#include "machine/backends.h"
#include "machine/block_jobs.h"
#include "machine/board.h"
#include "machine/core.h"
#include "machine/debugger.h"
#include "machine/disk_errors.h"
#include "machine/kernel_loader.h"
#include "machine/media.h"
#include "machine/microvm_board.h"
#include "machine/nbd_exports.h"
#include "machine/pc_board.h"
#include "machine/plugged_devices.h"
#include "machine/shares.h"
#include "memory/dma.h"
#include "state/archive.h"
#include "x86/state.h"

namespace ostler::machine {
namespace {

boot::Request::Protocol protocol_of(KernelEntry entry) {
  switch (entry) {
    case KernelEntry::kPvh:
      return boot::Request::Protocol::kPvh;
    case KernelEntry::kLinux64:
      return boot::Request::Protocol::kLinux64;
    case KernelEntry::kAuto:
      break;
  }
  return boot::Request::Protocol::kAuto;
}

bool is_zero(std::span<const std::byte> page) {
  return std::all_of(page.begin(), page.end(), [](std::byte b) { return b == std::byte{0}; });
}

// visit(offset among all RAM, host address)
template <class Visit>
void for_each_page(const GuestRam& ram, Visit&& visit) {
  uint64_t begin = 0;
  for (const auto& block : ram.blocks()) {
    for (uint64_t offset = 0; offset < block->size(); offset += kPageSize)
      visit(begin + offset, block->host() + offset);
    begin += block->size();
  }
}

}  // namespace

Machine::Machine(const config::Machine& config) : config_(config) {}

Machine::~Machine() {
  // vCPUs end before the devices they use; devices before the back ends and the memory they use.
  if (core_ != nullptr) core_->stop_vcpus();
  debugger_.reset();
  // Clients and jobs of the disks go before the devices: these may wait for them.
  nbd_.reset();
  jobs_.reset();
  devices_.reset();
  media_.reset();
  board_.reset();
  backends_.reset();
}

Result<std::unique_ptr<Machine>> Machine::create(const config::Machine& config) {
  std::unique_ptr<Machine> machine(new Machine(with_shares_placed(config)));
  TRY(machine->build());
  return machine;
}

Result<void> Machine::build() {
  if (config_.kernel.empty())
    return Error(ErrorKind::kUnsupported,
                 "there is nothing to boot: this version has no firmware; name a kernel with -kernel");
  TRY_ASSIGN(properties_, machine_properties(config_));
  TRY_ASSIGN(core_, Core::create(config_, *this));
  disk_errors_ = std::make_unique<DiskErrors>(
      core_->loop(), DiskErrors::Actions{.paused = [this] { return paused_; },
                                         .pause = [this] { pause(); },
                                         .resume = [this] { resume(); },
                                         .send_again = [this] { backends_->disks().resumed(); }});
  TRY_ASSIGN(backends_,
             Backends::create(
                 config_, core_->loop(), [this] { quit(0); },
                 [this](const std::string& disk, int error) { disk_errors_->failed(disk, error); }));
  media_ = std::make_unique<Media>(backends_->disks());
  jobs_ = std::make_unique<BlockJobs>(backends_->disks());
  nbd_ = std::make_unique<NbdExports>(backends_->disks());
  if (config_.type == "microvm") {
    TRY_ASSIGN(board_, MicrovmBoard::create(*core_, *backends_, *this));
  } else {
    TRY_ASSIGN(board_, PcBoard::create(*core_, *backends_, *this));
  }
  TRY_ASSIGN(devices_, PluggedDevices::create(config_, *core_, *backends_, *media_, *board_, *this));
  // After the devices: these decide who else may write to their disks.
  TRY(nbd_->begin(config_.objects));
  TRY(start_guest_code());
  if (config_.gdb_chardev) {
    TRY_ASSIGN(chardev::CharBackend * backend, backends_->take_chardev(*config_.gdb_chardev, "-gdb"));
    debugger_ = std::make_unique<Debugger>(*this, *backend, !config_.start_paused);
  }
  core_->start_vcpus();
  // Not earlier: a mistake gets one sentence, its own.
  for (const std::string& warning : core_->warnings()) log::warning(warning);
  for (const std::string& warning : devices_->warnings()) log::warning(warning);
  for (const std::string& warning : backends_->unused_networks()) log::warning(warning);
  if (!has_acpi() && config_.cpus > 1)
    log::warning(
        fmt::format("-machine pc,acpi=off: the guest is told of one vCPU of {}; leave acpi=off out, or "
                    "say -smp 1",
                    config_.cpus));
  // The tables name none of those that are absent (acpi::Description::apic_ids): the guest's kernel keeps no
  // room.
  if (config_.max_cpus > config_.cpus)
    log::warning(
        fmt::format("-smp maxcpus={0}: the guest has {1} vCPU{2} and gets no more while it runs, as there is "
                    "no processor "
                    "hotplug yet; say cpus={0} if it needs all of them",
                    config_.max_cpus, config_.cpus, config_.cpus == 1 ? "" : "s"));
  return {};
}

bool Machine::has_acpi() const {
  return properties_.acpi != config::OnOffAuto::kOff;
}

// ACPI and SMBIOS for guests that start without firmware.
Result<void> Machine::place_tables() {
  memory::Dma dma(core_->memory());
  const auto put = [&](GuestPhys at, const std::vector<uint8_t>& bytes) {
    return dma.write(at, std::as_bytes(std::span(bytes)));
  };
  const acpi::Description description = board_->acpi();
  const acpi::Tables tables = acpi::build_tables(description, core_->layout().acpi_tables());
  const acpi::Smbios smbios =
      acpi::build_smbios({.product = config_.type == "microvm" ? "Ostler microvm" : "Ostler PC",
                          .version = config_.type,
                          .vm_name = config_.name,
                          .uuid = config_.uuid,
                          .cpus = config_.cpus,
                          .cpu_brand = core_->model().name(),
                          .memory_bytes = config_.memory_bytes},
                         kSmbiosTable);
  const bool acpi = !has_acpi() || (tables.bytes.size() <= kAcpiArea && put(tables.address, tables.bytes) &&
                                    put(kRsdp, tables.rsdp));
  const bool placed = acpi && put(kSmbiosEntry, smbios.entry_point) && put(kSmbiosTable, smbios.table);
  if (!placed)
    return Error(ErrorKind::kNoResource,
                 fmt::format("-m {}M: too small for the firmware tables", config_.memory_bytes >> 20));
  return {};
}

Result<void> Machine::start_guest_code() {
  TRY(place_tables());
  memory::Dma dma(core_->memory());
  accel::Engine& engine = core_->vcpu(0).engine();
  const bool with_options = config_.type == "microvm" && properties_.kernel_options;
  TRY(boot_kernel(config_, with_options ? kMicrovmKernelOptions : "", core_->layout(),
                  has_acpi() ? kRsdp : GuestPhys{0}, protocol_of(properties_.kernel_entry), core_->model(),
                  dma, engine.cpu_state()));
  engine.state_loaded();
  // Firmware sets the MTRRs of all processors alike; INIT keeps them (SDM 3A §12.11.8).
  const x86::Msrs& boot = engine.cpu_state().msr;
  for (size_t i = 1; i < core_->cpu_count(); ++i) {
    x86::Msrs& msr = core_->vcpu(i).engine().cpu_state().msr;
    msr.mtrr_def_type = boot.mtrr_def_type;
    std::copy(std::begin(boot.mtrr_fixed), std::end(boot.mtrr_fixed), std::begin(msr.mtrr_fixed));
    std::copy(std::begin(boot.mtrr_var), std::end(boot.mtrr_var), std::begin(msr.mtrr_var));
  }
  return {};
}

int Machine::run() {
  started_ = true;
  if (!config_.start_paused && (debugger_ == nullptr || !debugger_->connected())) resume();
  core_->loop().run();
  if (debugger_ != nullptr) debugger_->program_ends(status_);
  pause_guest();
  if (log::enabled(log::Subject::kStats)) report_statistics();
  return status_;
}

event::Loop& Machine::loop() {
  return core_->loop();
}

void Machine::pause_guest() {
  if (paused_) return;
  core_->pause();
  paused_ = true;
}

void Machine::resume_guest() {
  if (!paused_) return;
  disk_errors_->forget();
  paused_ = false;
  core_->resume();
  backends_->disks().resumed();
}

RunState Machine::run_state() const {
  if (!paused_) return RunState::kRunning;
  return disk_errors_->waiting() ? RunState::kIoError : RunState::kPaused;
}

Result<void> Machine::block_resize(const std::string& name, uint64_t bytes) {
  return backends_->disks().resize(name, bytes);
}

Result<void> Machine::set_link(const std::string& name, bool up) {
  return devices_->set_link(name, up);
}

virtio::balloon::BalloonDevice* Machine::balloon() {
  return devices_->balloon();
}

Result<void> Machine::block_add(const std::string& options) {
  TRY_ASSIGN(const config::BlockNode node, config::block_node(options, "block node"));
  return backends_->disks().add_node(node);
}

Result<void> Machine::block_remove(const std::string& node) {
  return backends_->disks().remove_node(node);
}

void Machine::pause() {
  disk_errors_->forget();
  if (paused_) return;
  pause_guest();
  if (debugger_ != nullptr) debugger_->run_state_changed(false);
}

void Machine::resume() {
  if (!paused_) return;
  resume_guest();
  if (debugger_ != nullptr) debugger_->run_state_changed(true);
}

Result<void> Machine::reset() {
  const bool was_paused = paused_;
  pause_guest();
  board_->reset();
  core_->reset();
  TRY(start_guest_code());
  if (!was_paused) resume_guest();
  return {};
}

void Machine::press_power_button() {
  board_->press_power_button();
}

void Machine::state(state::Archive& archive) {
  archive.section("machine", 1);
  core_->state(archive);
  board_->state(archive);
}

Result<Snapshot> Machine::save() {
  if (const std::string why = devices_->unsavable(); !why.empty()) return Error(ErrorKind::kUnsupported, why);
  Snapshot snapshot;
  board_->quiesce();
  state::Saver saver;
  state(saver);
  snapshot.devices = saver.take();
  for_each_page(core_->ram(), [&](uint64_t offset, std::byte* host) {
    const std::span<const std::byte> page(host, kPageSize);
    if (!is_zero(page)) snapshot.pages.emplace_back(offset, std::vector<std::byte>(page.begin(), page.end()));
  });
  return snapshot;
}

Result<void> Machine::restore(const Snapshot& snapshot) {
  board_->quiesce();  // what is in flight would write into the pages that come
  auto next = snapshot.pages.begin();
  for_each_page(core_->ram(), [&](uint64_t offset, std::byte* page) {
    if (next != snapshot.pages.end() && next->first == offset) {
      std::copy(next->second.begin(), next->second.end(), page);
      ++next;
    } else if (!is_zero({page, kPageSize})) {
      std::fill_n(page, kPageSize, std::byte{0});
    }
  });
  state::Loader loader(snapshot.devices);
  state(loader);
  return loader.finish();
}

uint64_t Machine::instructions() const {
  uint64_t total = 0;
  for (size_t i = 0; i < core_->cpu_count(); ++i) total += core_->vcpu(i).engine().instructions();
  return total;
}

void Machine::report_statistics() {
  for (size_t i = 0; i < core_->cpu_count(); ++i)
    log::write(fmt::format("vcpu {}: {} instructions", i, core_->vcpu(i).engine().instructions()));
}

void Machine::quit(int status) {
  status_ = status;
  core_->loop().stop();
}

void Machine::request_reset(std::string_view source) {
  log::trace(log::Subject::kDevices, "reset asked by {}", source);
  if (!config_.reboot) {
    quit(0);
    return;
  }
  if (reset_posted_.exchange(true)) return;
  core_->loop().post([this] {
    reset_posted_ = false;
    if (const auto done = reset(); !done) {
      log::warning(fmt::format("the guest cannot be restarted: {}", done.error().message()));
      quit(1);
    }
  });
}

void Machine::request_shutdown(std::string_view source) {
  log::trace(log::Subject::kDevices, "power off by {}", source);
  core_->loop().post([this] {
    if (config_.shutdown)
      quit(0);
    else
      pause();
  });
}

void Machine::guest_panicked(std::string_view source) {
  log::warning(fmt::format("the guest reports a panic ({})", source));
}

void Machine::debug_exit(int code) {
  quit(code);
}

}  // namespace ostler::machine
