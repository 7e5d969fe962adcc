#include "machine/kernel_loader.h"

#include <fmt/format.h>

#include "base/log.h"
#include "base/mapped_file.h"
#include "base/symbols.h"
#include "boot/elf.h"

namespace ostler::machine {
namespace {

bool log_names_addresses() {
  using log::Subject;
  return log::enabled(Subject::kInAsm) || log::enabled(Subject::kExec) || log::enabled(Subject::kInterrupts);
}

}  // namespace

Result<void> boot_kernel(const config::Machine& config, std::string_view options, const MemoryLayout& layout,
                         GuestPhys rsdp, boot::Request::Protocol protocol, const x86::CpuModel& processor,
                         memory::Dma& dma, x86::CpuState& state) {
  TRY_ASSIGN(const MappedFile kernel,
             MappedFile::open(config.kernel, fmt::format("-kernel '{}'", config.kernel)));
  MappedFile initrd;
  if (!config.initrd.empty()) {
    TRY_ASSIGN(initrd, MappedFile::open(config.initrd, fmt::format("-initrd '{}'", config.initrd)));
  }
  boot::Request request;
  request.kernel = kernel.bytes();
  request.kernel_path = config.kernel;
  request.initrd = initrd.bytes();
  request.initrd_path = config.initrd;
  request.command_line = options;
  if (!options.empty() && !config.append.empty()) request.command_line += ' ';
  request.command_line += config.append;
  request.memory_map = layout.e820();
  request.low_ram_end = layout.acpi_tables().value;
  request.rsdp = rsdp;
  request.protocol = protocol;
  TRY_ASSIGN(const boot::Image image, boot::load_kernel(request));
  if (image.long_mode && !processor.long_mode())
    return Error(ErrorKind::kUnsupported,
                 fmt::format("-cpu {}: -kernel '{}' is a 64-bit kernel, and this processor has 32 bits; name "
                             "another processor, or a 32-bit kernel",
                             processor.name(), config.kernel));
  for (const boot::Chunk& chunk : image.chunks) {
    const GuestPhys zeros{chunk.start.value + chunk.bytes().size()};
    if (!dma.write(chunk.start, std::as_bytes(chunk.bytes())) || !dma.fill(zeros, chunk.zeros, std::byte{0}))
      return Error(ErrorKind::kNoResource,
                   fmt::format("-kernel '{}': {:#x}..{:#x} is not guest memory; give more with -m",
                               config.kernel, chunk.start.value, chunk.start.value + chunk.size()));
  }
  image.apply(state);
  if (log_names_addresses())
    symbols::set(
        boot::parse_symbols(image.unpacked.bytes().empty() ? request.kernel : image.unpacked.bytes()));
  log::trace(log::Subject::kDevices, "kernel '{}' starts by {} at {:#x}", config.kernel, image.protocol,
             image.rip);
  return {};
}

}  // namespace ostler::machine
