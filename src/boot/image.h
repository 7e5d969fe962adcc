// What a loader produces: bytes for guest memory and the state in which the first vCPU starts. Loaders touch
// no guest memory themselves, so they are tested and fuzzed without a machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "boot/e820.h"
#include "boot/unpacked.h"
#include "memory/address.h"

namespace ostler::x86 {
struct CpuState;
}

namespace ostler::boot {

// Bytes for guest memory: made by a loader, or a piece of a file, which lives as long as the Request and the
// Image do.
class Chunk {
 public:
  Chunk(GuestPhys at, std::vector<uint8_t> made) : start(at), made_(std::move(made)), bytes_(made_) {}
  Chunk(GuestPhys at, std::span<const uint8_t> borrowed, uint64_t zero_bytes = 0)
      : start(at), zeros(zero_bytes), bytes_(borrowed) {}
  Chunk(Chunk&&) = default;
  Chunk& operator=(Chunk&&) = default;

  GuestPhys start;
  uint64_t zeros = 0;  // so many bytes of 0 follow
  std::span<const uint8_t> bytes() const { return bytes_; }
  uint64_t size() const { return bytes_.size() + zeros; }

 private:
  std::vector<uint8_t> made_;
  std::span<const uint8_t> bytes_;  // moving a vector leaves its elements where they are
};

enum class Entry {
  kProtected32,  // PVH, multiboot: paging off, flat 4 GiB segments
  kLong64,       // Linux 64-bit boot protocol: identity page tables, flat 64-bit segments
};

struct Image {
  std::vector<Chunk> chunks;
  Unpacked unpacked;  // the kernel that chunks are pieces of, if it was packed
  Entry entry = Entry::kProtected32;
  bool long_mode = false;  // the kernel is 64-bit, however it is entered
  uint64_t rip = 0;
  uint64_t rax = 0, rbx = 0, rsi = 0;  // protocol arguments
  std::string protocol;                // "PVH", "Linux 64-bit", "multiboot": for the log

  // Registers, segments, control registers and GDT contents for the boot vCPU.
  void apply(x86::CpuState& state) const;
};

// What the loaders are told.
struct Request {
  std::span<const uint8_t> kernel;
  std::string kernel_path;  // for messages
  std::span<const uint8_t> initrd;
  std::string initrd_path;
  std::string command_line;
  E820Map memory_map;
  uint64_t low_ram_end = 0;  // bytes of RAM from address 0, below the PCI hole
  GuestPhys rsdp;            // 0: none
  enum class Protocol { kAuto, kPvh, kLinux64 } protocol = Protocol::kAuto;
};

// Fixed low-memory places used by the loaders; docs/memory_map.md.
inline constexpr GuestPhys kGdtAddress{0x500};
inline constexpr GuestPhys kStartInfoAddress{0x6000};
inline constexpr GuestPhys kZeroPageAddress{0x7000};
inline constexpr GuestPhys kPageTablesAddress{0x9000};  // 6 pages
inline constexpr GuestPhys kCommandLineAddress{0x20000};
inline constexpr uint64_t kCommandLineSpace = 0x10000;
inline constexpr uint64_t kBelowInitrd = 0x100000;
// Where boot data goes: loader structures in low memory, firmware tables below 1 MiB. Kernels stay out of it.
inline constexpr uint64_t kLoaderDataEnd = 0x30000, kFirmwareDataStart = 0x9fc00, kFirmwareDataEnd = 0xf4000;

// Error when one of `segments` would overwrite boot data.
Result<void> check_segments(const std::vector<Chunk>& segments);

// Chooses by the file's format: bzImage, ELF with a PVH note, multiboot 1.
Result<Image> load_kernel(const Request& request);

// Where an initrd of `size` bytes goes: as high as possible below `limit` (exclusive) and the end of low RAM.
// Error when it would reach down to `kernel_end`.
Result<GuestPhys> place_initrd(const Request& request, uint64_t kernel_end, uint64_t limit);

}  // namespace ostler::boot
