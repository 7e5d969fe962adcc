#include "boot/image.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "boot/bzimage.h"
#include "boot/decompress.h"
#include "boot/elf.h"
#include "boot/multiboot.h"
#include "boot/pvh.h"
#include "x86/state.h"

namespace ostler::boot {
namespace {

constexpr uint16_t kCode32Selector = 0x08, kDataSelector = 0x10, kCode64Selector = 0x18, kTssSelector = 0x20;
// Access rights (SDM 3C §25.4.1): present, S, code readable accessed / data writable accessed.
constexpr uint32_t kCode32Rights = 0xc09b, kCode64Rights = 0xa09b, kDataRights = 0xc093, kTss32Rights = 0x8b,
                   kLdtUnusable = x86::Segment::kUnusable;

x86::Segment flat(uint16_t selector, uint32_t rights) {
  return {.base = 0, .limit = 0xffffffff, .attributes = rights, .selector = selector};
}

Error named(const Request& request, Error error) {
  return std::move(error).with_context(fmt::format("-kernel '{}'", request.kernel_path));
}

Result<Image> load_elf(const Request& request, std::span<const uint8_t> file) {
  TRY_ASSIGN(Elf elf, parse_elf(file, request.low_ram_end));
  if (!elf.pvh_entry)
    return Error(ErrorKind::kUnsupported,
                 "it has neither a PVH note nor a multiboot header; for Linux, build with CONFIG_PVH=y or "
                 "use the bzImage");
  return load_pvh(request, std::move(elf));
}

Result<Image> load_unpacked(const Request& request, Unpacked kernel) {
  auto image = load_elf(request, kernel.bytes());
  if (image) image->unpacked = std::move(kernel);
  return image;
}

Result<Image> load_bzimage(const Request& request) {
  if (request.protocol == Request::Protocol::kLinux64) return load_linux64(request);
  // An unpacked kernel may be larger than guest RAM only by its lies.
  auto vmlinux = unpack_vmlinux(request.kernel, request.low_ram_end + (64u << 20));
  if (vmlinux && is_elf(vmlinux->bytes())) {
    auto image = load_unpacked(request, *std::move(vmlinux));
    if (image || request.protocol == Request::Protocol::kPvh ||
        image.error().kind() != ErrorKind::kUnsupported)
      return image;
  } else if (!vmlinux && (request.protocol == Request::Protocol::kPvh ||
                          vmlinux.error().kind() != ErrorKind::kUnsupported)) {
    return std::move(vmlinux).error();
  }
  return load_linux64(request);  // older or unusual kernels unpack themselves
}

}  // namespace

void Image::apply(x86::CpuState& state) const {
  const bool long64 = entry == Entry::kLong64;
  state.gpr.fill(0);
  state.gpr[x86::kRax] = rax;
  state.gpr[x86::kRbx] = rbx;
  state.gpr[x86::kRsi] = rsi;
  state.rip = rip;
  state.set_rflags(x86::rflags::kFixed1);
  for (auto& segment : state.seg) segment = flat(kDataSelector, kDataRights);
  state.seg[x86::kCs] = long64 ? flat(kCode64Selector, kCode64Rights) : flat(kCode32Selector, kCode32Rights);
  state.ldtr = {.base = 0, .limit = 0, .attributes = kLdtUnusable, .selector = 0};
  state.tr = {.base = 0, .limit = 0x67, .attributes = kTss32Rights, .selector = kTssSelector};
  state.gdtr = {kGdtAddress.value, 0x27};
  state.idtr = {0, 0};
  state.cr0 = x86::cr0::kPe | x86::cr0::kEt | (long64 ? x86::cr0::kPg | x86::cr0::kNe : 0);
  state.cr3 = long64 ? kPageTablesAddress.value : 0;
  state.cr4 = long64 ? x86::cr4::kPae : 0;
  state.msr.efer = long64 ? x86::efer::kLme | x86::efer::kLma : 0;
  // As firmware leaves them: everything write-back. With MTRRs off, Linux does without PAT too.
  constexpr uint64_t kEnabled = 3u << 10, kWriteBack = 6;
  state.msr.mtrr_def_type = kEnabled | kWriteBack;
  for (uint64_t& fixed : state.msr.mtrr_fixed) fixed = 0x0606060606060606;
}

Result<void> check_segments(const std::vector<Chunk>& segments) {
  for (const Chunk& segment : segments) {
    const uint64_t start = segment.start.value, end = start + segment.size();
    if (start < kLoaderDataEnd || (start < kFirmwareDataEnd && end > kFirmwareDataStart))
      return Error(
          ErrorKind::kUnsupported,
          fmt::format("its segment at {:#x} lies where boot data goes; link it to 1 MiB or above", start));
  }
  return {};
}

Result<GuestPhys> place_initrd(const Request& request, uint64_t kernel_end, uint64_t limit) {
  // The top of low RAM below any reserved or ACPI area.
  uint64_t top = 0;
  for (const E820Entry& entry : request.memory_map)
    if (entry.type == E820Type::kRam && entry.start.value + entry.size <= request.low_ram_end)
      top = std::max(top, entry.start.value + entry.size);
  top = std::min(top, limit);
  const uint64_t floor = align_up(std::max(kernel_end, kBelowInitrd), kPageSize);
  const uint64_t size = request.initrd.size();
  if (size > top || align_down(top - size, kPageSize) < floor)
    return Error(
        ErrorKind::kNoResource,
        fmt::format(
            "-initrd '{}': {} MiB do not fit beside the kernel in {} MiB of guest memory; give more with -m",
            request.initrd_path, (size + (1u << 20) - 1) >> 20, top >> 20));
  return GuestPhys{align_down(top - size, kPageSize)};
}

Result<Image> load_kernel(const Request& request) {
  const auto file = request.kernel;
  auto image = [&]() -> Result<Image> {
    if (file.empty()) return Error(ErrorKind::kCorrupt, "it is empty");
    if (is_bzimage(file)) return load_bzimage(request);
    if (const auto header = find_multiboot_header(file)) return load_multiboot(request, *header);
    if (is_elf(file)) return load_elf(request, file);
    if (!compression_of(file).empty()) {
      TRY_ASSIGN(Unpacked unpacked, decompress(file, request.low_ram_end + (64u << 20)));
      if (is_elf(unpacked.bytes())) return load_unpacked(request, std::move(unpacked));
    }
    return Error(ErrorKind::kUnsupported, "it is neither a bzImage nor an ELF or multiboot kernel");
  }();
  if (!image) {
    if (image.error().message().starts_with("-initrd")) return image;
    return named(request, std::move(image).error());
  }
  // GDT matching apply(): null, 32-bit code, data, 64-bit code, TSS.
  const uint64_t gdt[] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff, 0x00008b0000000067};
  std::vector<uint8_t> table(sizeof gdt);
  std::memcpy(table.data(), gdt, sizeof gdt);
  image->chunks.emplace_back(kGdtAddress, std::move(table));
  return image;
}

}  // namespace ostler::boot
