// Small kernels made by hand, for the loaders' tests.
#pragma once

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "boot/image.h"

namespace ostler::boot::testing {

using Bytes = std::vector<uint8_t>;

inline constexpr uint32_t kLoadAddress = 0x1000000;
inline constexpr uint32_t kPvhEntry = kLoadAddress + 0x40;
inline constexpr std::string_view kPayload = "kernel text";

// An ELF64 file with one PT_LOAD of `memory_size` bytes at kLoadAddress and, if asked, a PVH note.
inline Bytes elf_kernel(bool with_note, uint64_t memory_size = 0x2000) {
  struct Note {
    uint32_t name_size = 4, desc_size = 4, type = 18;
    char name[4] = {'X', 'e', 'n', 0};
    uint32_t entry = kPvhEntry;
  } const note;
  constexpr size_t kText = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_machine = EM_X86_64;
  header.e_entry = kLoadAddress;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = with_note ? 2 : 1;
  Elf64_Phdr load{}, notes{};
  load.p_type = PT_LOAD;
  load.p_offset = kText;
  load.p_paddr = kLoadAddress;
  load.p_filesz = kPayload.size();
  load.p_memsz = memory_size;
  notes.p_type = PT_NOTE;
  notes.p_offset = kText + kPayload.size();
  notes.p_filesz = notes.p_memsz = sizeof note;
  notes.p_align = 4;
  Bytes file(kText + kPayload.size() + sizeof note);
  store_le(&file[0], header);
  store_le(&file[sizeof header], load);
  store_le(&file[sizeof header + sizeof load], notes);
  std::memcpy(&file[kText], kPayload.data(), kPayload.size());
  store_le(&file[kText + kPayload.size()], note);
  return file;
}

// A bzImage of protocol 2.15 whose payload is `payload`, one setup sector.
inline Bytes bzimage(const Bytes& payload) {
  constexpr size_t kProtected = 2 * 512, kPayloadAt = 0x300;
  Bytes file(kProtected + kPayloadAt + payload.size());
  file[0x1f1] = 1;
  store_le(&file[0x1fe], uint16_t{0xaa55});
  file[0x200] = 0xeb;
  file[0x201] = 0x66;
  std::memcpy(&file[0x202], "HdrS", 4);
  store_le(&file[0x206], uint16_t{0x20f});
  store_le(&file[0x22c], uint32_t{0x7fffffff});  // initrd_addr_max
  store_le(&file[0x236], uint16_t{3});           // 64-bit entry, above 4G
  store_le(&file[0x238], uint32_t{2047});        // longest command line
  store_le(&file[0x248], uint32_t{kPayloadAt});
  store_le(&file[0x24c], static_cast<uint32_t>(payload.size()));
  store_le(&file[0x258], uint64_t{kLoadAddress});
  store_le(&file[0x260], uint32_t{0x100000});
  std::memcpy(&file[kProtected + kPayloadAt], payload.data(), payload.size());
  return file;
}

inline Request request_for(const Bytes& kernel, uint64_t ram = 64u << 20) {
  Request request;
  request.kernel = kernel;
  request.kernel_path = "k";
  request.initrd_path = "i";
  request.command_line = "console=ttyS0";
  request.memory_map = {{{0}, 0x9fc00, E820Type::kRam}, {{0x100000}, ram - 0x100000, E820Type::kRam}};
  request.low_ram_end = ram;
  request.rsdp = {0xf0000};
  return request;
}

inline const Chunk* chunk_at(const Image& image, uint64_t address) {
  for (const Chunk& chunk : image.chunks)
    if (chunk.start.value == address) return &chunk;
  return nullptr;
}

inline std::string_view text_of(const Chunk& chunk, size_t length) {
  return {reinterpret_cast<const char*>(chunk.bytes().data()), length};
}

}  // namespace ostler::boot::testing
