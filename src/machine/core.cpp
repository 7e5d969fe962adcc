#include "machine/core.h"

#include <fmt/format.h>
#include <ctime>

#include "accel/kvm/kvm_engine.h"
#include "accel/soft/soft_engine.h"
#include "base/log.h"
#include "machine/accelerator.h"
#include "machine/paravirt.h"
#include "machine/processor.h"
#include "machine/properties.h"
#include "x86/host_cpu.h"

namespace ostler::machine {
namespace {

constexpr size_t kDecodedCodePerVcpu = size_t{4} << 20, kDecodedCodeInAll = size_t{8} << 20,
                 kLeastDecodedCode = size_t{1} << 20;

std::optional<accel::kvm::Irqchip::Mode> irqchip_of(KernelIrqchip wanted) {
  using Mode = accel::kvm::Irqchip::Mode;
  if (wanted == KernelIrqchip::kOff) return std::nullopt;
  return wanted == KernelIrqchip::kOn ? Mode::kOn : Mode::kSplit;
}

// Time of day; the virtual clock is at 0 when the machine is built.
int64_t wall_clock_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

uint64_t VcpuTsc::guest_tsc() const {
  return base_.now() + __atomic_load_n(&state_->msr.tsc_offset, __ATOMIC_RELAXED);
}

void VcpuTsc::move(uint64_t change) {
  __atomic_fetch_add(&state_->msr.tsc_offset, change, __ATOMIC_RELAXED);
}

Core::Core(const config::Machine& config, x86::CpuModel model, GuestRam ram)
    : config_(config),
      layout_(config.memory_bytes),
      model_(std::move(model)),
      loop_(clock_),
      ram_(std::move(ram)),
      memory_("memory", memory::AddressSpace::kMemorySize),
      ports_("ports", memory::AddressSpace::kPortSize),
      kvm_clock_(clock_, wall_clock_ns()),
      code_(memory_, group_),
      apic_page_(apic_bus_),
      apic_region_("local-apic", apic_page_, chipset::ApicPage::kSize, 4) {
  ram_.map(layout_, memory_);
  memory::Transaction change(memory_);
  change.add(memory_.root(), kLocalApic.value, apic_region_, 1);
}

Result<std::unique_ptr<Core>> Core::create(const config::Machine& config, chipset::SystemRequests& requests) {
  std::vector<std::string> warnings;
  TRY_ASSIGN(const Accelerator accelerator, choose_accelerator(config, warnings));
  TRY_ASSIGN(auto model, x86::CpuModel::parse(config.cpu_model.empty() ? "max" : config.cpu_model));
  if (accelerator.kvm != nullptr) {
    TRY(model.restrict_to(accelerator.kvm->features(), "this host's KVM"));
  }
  warnings.insert(warnings.end(), model.warnings().begin(), model.warnings().end());
  TRY_ASSIGN(const MachineProperties properties, machine_properties(config));
  TRY_ASSIGN(GuestRam ram, GuestRam::create(config, properties, warnings));

  std::unique_ptr<Core> core(new Core(config, std::move(model), std::move(ram)));
  core->warnings_ = std::move(warnings);
  const uint64_t tsc_hz = x86::host_tsc_hz();
  if (accelerator.translates) {
    auto translator = bt::Shared::create(core->code_, accelerator.options, config.cpus);
    if (!translator) return std::move(translator).error().with_context("-accel bt");
    core->translator_ = *std::move(translator);
  }
  if (accelerator.kvm != nullptr) {
    auto vm = accel::kvm::Vm::create(
        accelerator.kvm, core->memory_,
        {.irqchip = irqchip_of(accelerator.irqchip.value_or(properties.kernel_irqchip)),
         .dirty_ring_entries = accelerator.dirty_ring_entries,
         .notify_exits = accelerator.notify_exits,
         .notify_window = accelerator.notify_window,
         .ports = &core->ports_});
    if (!vm) return std::move(vm).error().with_context("-accel kvm");
    core->vm_ = *std::move(vm);
    if (core->kernel_irqchip() != nullptr) core->apic_bus_.set_kernel(*core->kernel_irqchip());
  }
  for (unsigned i = 0; i < config.cpus; ++i) {
    x86::VcpuInfo info;
    info.topology = {
        .sockets = config.sockets, .dies = config.dies, .cores = config.cores, .threads = config.threads};
    info.apic_id = info.topology.apic_id(i);
    info.kvm_features = core->vm_ != nullptr ? Paravirt::kUnderKvm : Paravirt::kFeatures;
    info.tsc_hz = tsc_hz;
    info.apic_timer_hz = chipset::LocalApic::kTimerHz;
    chipset::LocalApic::Options apic{
        .id = info.apic_id, .bootstrap = i == 0, .x2apic = core->model_.has(x86::Feature::kX2apic)};
    auto processor = std::make_unique<Processor>(i, apic, core->tsc_, tsc_hz, core->apic_bus_, core->loop_,
                                                 core->kvm_clock_, core->memory_,
                                                 [&requests] { requests.request_reset("triple fault"); });
    TRY_ASSIGN(auto engine, core->make_engine(i, *processor, info));
    processor->vcpu().set_engine(std::move(engine));
    processor->tsc().set_state(processor->vcpu().engine().cpu_state());
    core->processors_.push_back(std::move(processor));
  }
  core->reset();
  return core;
}

Result<std::unique_ptr<accel::Engine>> Core::make_engine(unsigned index, Processor& processor,
                                                         const x86::VcpuInfo& info) {
  const auto bind_thread = [apic = &processor.apic()] { chipset::ApicPage::bind_to_this_thread(apic); };
  if (vm_ != nullptr) {
    auto engine = accel::kvm::KvmEngine::create({.vm = *vm_,
                                                 .index = index,
                                                 .model = model_,
                                                 .memory = memory_,
                                                 .ports = ports_,
                                                 .code = code_,
                                                 .interrupts = processor.apic(),
                                                 .paravirt = processor.paravirt(),
                                                 .bind_thread = bind_thread,
                                                 .info = info});
    if (!engine) return std::move(engine).error().with_context("-accel kvm");
    return std::unique_ptr<accel::Engine>(*std::move(engine));
  }
  // Together the vCPUs keep a bounded amount of decoded code, however many there are. Beside translations it
  // is little that the interpreter runs more than once.
  const size_t cache =
      translator_
          ? kLeastDecodedCode
          : std::max(kLeastDecodedCode, std::min(kDecodedCodePerVcpu, kDecodedCodeInAll / config_.cpus));
  TRY_ASSIGN(auto engine, accel::SoftEngine::create({.model = model_,
                                                     .memory = memory_,
                                                     .ports = ports_,
                                                     .code = code_,
                                                     .interrupts = processor.apic(),
                                                     .paravirt = processor.paravirt(),
                                                     .bind_thread = bind_thread,
                                                     .fpu_error = [line = &fpu_error_] { line->pulse(); },
                                                     .info = info,
                                                     .cache_bytes = cache,
                                                     .translator = translator_.get(),
                                                     .window = nullptr}));
  return std::unique_ptr<accel::Engine>(std::move(engine));
}

Core::~Core() {
  stop_vcpus();
}

void Core::stop_vcpus() {
  for (auto& processor : processors_) processor->vcpu().request_pause();
  for (auto& processor : processors_) processor->vcpu().stop();
}

accel::kvm::Irqchip* Core::kernel_irqchip() const {
  return vm_ == nullptr ? nullptr : vm_->irqchip();
}

accel::Vcpu& Core::vcpu(size_t index) {
  return processors_[index]->vcpu();
}

chipset::LocalApic& Core::local_apic(size_t index) {
  return processors_[index]->apic();
}

std::vector<uint32_t> Core::apic_ids() const {
  std::vector<uint32_t> ids;
  for (const auto& processor : processors_) ids.push_back(processor->apic().id());
  return ids;
}

void Core::start_vcpus() {
  for (auto& processor : processors_) processor->vcpu().start();
}

void Core::pause() {
  for (auto& processor : processors_) processor->vcpu().request_pause();
  for (auto& processor : processors_) processor->vcpu().wait_paused();
  tsc_.pause();
  clock_.pause();
  loop_.clock_changed();
}

void Core::resume() {
  clock_.resume();
  // The guest's TSCs stood still as the virtual clock did.
  const uint64_t change = tsc_.resume();
  for (auto& processor : processors_) processor->tsc().move(change);
  kvm_clock_.resync();
  for (auto& processor : processors_) {
    processor->paravirt().clock().update();
    processor->apic().tsc_changed();
  }
  loop_.clock_changed();
  for (auto& processor : processors_) processor->vcpu().resume();
}

void Core::reset() {
  tsc_.reset();
  for (auto& processor : processors_) {
    processor->apic().reset();
    processor->paravirt().reset();
    processor->vcpu().reset();
  }
}

void Core::state(state::Archive& archive) {
  archive.section("core", 1);
  clock_.state(archive);
  tsc_.state(archive);
  for (auto& processor : processors_) {
    processor->vcpu().state(archive);
    processor->apic().state(archive);
    processor->paravirt().state(archive);
    if (archive.loading()) processor->vcpu().engine().apic_loaded();
  }
}

}  // namespace ostler::machine
