#include "rig.h"

#include <fmt/format.h>

#include "accel/kvm/kvm_engine.h"
#include "accel/soft/soft_engine.h"
#include "x86/msr_index.h"

namespace ostler::accel {
namespace {

std::shared_ptr<memory::RamBlock> block_of(uint64_t size) {
  return *memory::RamBlock::create({.name = "test", .size = size});
}

Result<std::shared_ptr<kvm::System>>& kvm_system() {
  static auto system = kvm::System::open();
  return system;
}

// The same for all engines, so that their states compare.
x86::CpuModel common_model() {
  x86::CpuModel model = *x86::CpuModel::parse("max");
  if (kvm_system()) {
    EXPECT_TRUE(model.restrict_to((*kvm_system())->features(), "KVM"));
  }
  return model;
}

x86::Segment flat(uint32_t attributes, uint16_t selector) {
  return {.base = 0, .limit = 0xffffffff, .attributes = attributes, .selector = selector};
}

}  // namespace

uint64_t Recorder::io_read(uint64_t offset, unsigned size) {
  log_.push_back(fmt::format("{} read {:x}.{}", name_, offset, size));
  return 0x8877665544332211 & (size == 8 ? ~uint64_t{0} : (uint64_t{1} << 8 * size) - 1);
}

void Recorder::io_write(uint64_t offset, unsigned size, uint64_t value) {
  log_.push_back(fmt::format("{} write {:x}.{} {:x}", name_, offset, size, value));
  if (on_write) on_write(offset, value);
}

std::optional<uint64_t> FakeInterrupts::read_msr(uint32_t index) {
  if (index == x86::msr_index::IA32_APIC_BASE) return 0xfee00900;
  if (index == x86::msr_index::IA32_X2APIC_FIRST + 2) return 7;  // the id
  return std::nullopt;
}

bool FakeInterrupts::write_msr(uint32_t index, uint64_t value) {
  if (index != x86::msr_index::IA32_X2APIC_FIRST + 0xb || value != 0) return false;
  ++eois;
  return true;
}

std::optional<uint64_t> FakeParavirt::read_msr(uint32_t index) {
  if (index == 0x4b564d01) return system_time;
  return std::nullopt;
}

bool FakeParavirt::write_msr(uint32_t index, uint64_t value) {
  if (index != 0x4b564d01) return false;
  system_time = value;
  return true;
}

Rig::Rig()
    : ram(block_of(kRamSize)),
      rom(block_of(0x10000)),
      ram_region("ram", ram),
      rom_region("rom", rom),
      alias("alias", ram_region, kAliased, 4096),
      model(common_model()) {
  {
    memory::Transaction change(memory);
    change.add(memory.root(), 0, ram_region);
    change.add(memory.root(), kRom, rom_region);
    change.add(memory.root(), kDevice, device_region);
    change.add(memory.root(), kAlias, alias);
  }
  memory::Transaction change(ports);
  change.add(ports.root(), 0, port_region);
}

Rig::~Rig() = default;

kvm::EngineContext Rig::engine_context() {
  return {.vm = *vm,
          .index = 0,
          .model = model,
          .memory = memory,
          .ports = ports,
          .code = code,
          .interrupts = interrupts,
          .paravirt = paravirt,
          .bind_thread = [] {},
          .info = {}};
}

std::string Rig::why_no_kvm() {
  return kvm_system() ? "" : kvm_system().error().message();
}

std::vector<const char*> Rig::kvm_if_here() {
  if (!why_no_kvm().empty()) return {};
  return {"kvm"};
}

std::unique_ptr<Engine> Rig::make(const std::string& engine) {
  x86::VcpuInfo info;
  info.kvm_features = 1;
  info.apic_id = apic_id;
  if (engine == "kvm") {
    if (!kvm_system()) return nullptr;
    if (vm == nullptr)
      vm = *kvm::Vm::create(*kvm_system(), memory,
                            {.irqchip = irqchip, .dirty_ring_entries = dirty_ring_entries, .ports = &ports});
    auto made = kvm::KvmEngine::create({.vm = *vm,
                                        .index = kvm_vcpus_++,
                                        .model = model,
                                        .memory = memory,
                                        .ports = ports,
                                        .code = code,
                                        .interrupts = *apic,
                                        .paravirt = paravirt,
                                        .bind_thread = [] {},
                                        .info = info});
    EXPECT_TRUE(made) << made.error().message();
    return *std::move(made);
  }
  if (engine == "bt" && translator == nullptr) {
    bt::Options options;
    options.cache_bytes = size_t{4} << 20;
    translator = *bt::Shared::create(code, options);
  }
  auto made = SoftEngine::create({.model = model,
                                  .memory = memory,
                                  .ports = ports,
                                  .code = code,
                                  .interrupts = *apic,
                                  .paravirt = paravirt,
                                  .bind_thread = [] {},
                                  .fpu_error = [] {},
                                  .info = info,
                                  .cache_bytes = size_t{1} << 20,
                                  .translator = engine == "bt" ? translator.get() : nullptr,
                                  .window = nullptr});
  EXPECT_TRUE(made) << made.error().message();
  return *std::move(made);
}

void Rig::place(std::span<const uint8_t> bytes, uint64_t address) {
  for (const uint8_t byte : bytes) poke(address++, byte);
}

void Rig::start(Engine& engine, Mode mode) {
  engine.reset(false);
  x86::CpuState& cpu = engine.cpu_state();
  cpu.activity = x86::Activity::kRunning;
  cpu.seg[x86::kCs].base = 0;
  cpu.seg[x86::kCs].selector = 0;
  cpu.rip = kCode;
  cpu.gpr[x86::kRsp] = kStack;
  cpu.cr0 = x86::cr0::kEt | x86::cr0::kNe;
  cpu.idtr = {0, 0x3ff};
  if (mode != Mode::kReal) {
    cpu.cr0 |= x86::cr0::kPe;
    // Null, 32-bit code, data, 64-bit code.
    const uint64_t descriptors[] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff};
    for (size_t i = 0; i < std::size(descriptors); ++i) poke(kGdt + 8 * i, descriptors[i]);
    cpu.gdtr = {kGdt, sizeof descriptors - 1};
    cpu.idtr = {kIdt, 0xfff};
    cpu.seg[x86::kCs] = mode == Mode::kLong ? flat(0xa09b, 0x18) : flat(0xc09b, 0x8);
    for (const x86::SegIndex data : {x86::kEs, x86::kSs, x86::kDs, x86::kFs, x86::kGs})
      cpu.seg[data] = flat(0xc093, 0x10);
  }
  if (mode == Mode::kLong) {
    poke<uint64_t>(kPageTables, (kPageTables + 0x1000) | 3);
    poke<uint64_t>(kPageTables + 0x1000, (kPageTables + 0x2000) | 3);
    poke<uint64_t>(kPageTables + 0x2000, 0x83);  // 2 MiB one to one
    cpu.cr3 = kPageTables;
    cpu.cr4 = x86::cr4::kPae;
    cpu.cr0 |= x86::cr0::kPg;
    cpu.msr.efer = x86::efer::kLme | x86::efer::kLma;
  }
  engine.state_loaded();
}

VcpuExit Rig::run(Engine& engine) {
  port.on_write = [&engine](uint64_t number, uint64_t) {
    if (number == kStopPort) engine.kick();
  };
  VcpuExit exit = engine.run();
  // A stop that nobody asked for may come at any time.
  for (int i = 0;
       i < 1000 && exit == VcpuExit::kStopped && (log.empty() || !log.back().starts_with("port write 80"));
       ++i)
    exit = engine.run();
  return exit;
}

}  // namespace ostler::accel
