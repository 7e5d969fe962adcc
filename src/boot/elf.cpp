#include "boot/elf.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/bytes.h"

namespace ostler::boot {
namespace {

constexpr uint32_t kXenNotePhys32Entry = 18;
constexpr size_t kMostHeaders = 256;

struct Program {
  uint32_t type;
  uint64_t offset, paddr, file_size, memory_size, align;
};

// True when [offset, offset + size) lies inside `file`, without overflow.
bool inside(std::span<const uint8_t> file, uint64_t offset, uint64_t size) {
  return offset <= file.size() && size <= file.size() - offset;
}

template <class Header, class ProgramHeader>
Result<std::vector<Program>> programs(std::span<const uint8_t> file, uint64_t& entry) {
  if (file.size() < sizeof(Header)) return Error(ErrorKind::kCorrupt, "its ELF header is cut short");
  const auto header = load_le<Header>(file.data());
  entry = header.e_entry;
  if (header.e_machine != EM_X86_64 && header.e_machine != EM_386)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("it is built for ELF machine {}, not for x86", header.e_machine));
  if (header.e_phnum == 0 || header.e_phnum > kMostHeaders || header.e_phentsize != sizeof(ProgramHeader) ||
      !inside(file, header.e_phoff, uint64_t{header.e_phnum} * sizeof(ProgramHeader)))
    return Error(ErrorKind::kCorrupt, "its ELF program headers are missing or cut short");
  std::vector<Program> all;
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    const auto p = load_le<ProgramHeader>(file.data() + header.e_phoff + i * sizeof(ProgramHeader));
    all.push_back({p.p_type, p.p_offset, p.p_paddr, p.p_filesz, p.p_memsz, p.p_align});
  }
  return all;
}

// Notes are {namesz, descsz, type, name, desc}, name and desc padded to the segment's alignment of 4 or 8.
std::optional<uint32_t> find_pvh_note(std::span<const uint8_t> notes, uint64_t align) {
  const uint64_t pad = align == 8 ? 8 : 4;
  while (notes.size() >= 12) {
    const auto name_size = load_le<uint32_t>(notes.data());
    const auto desc_size = load_le<uint32_t>(notes.data() + 4);
    const auto type = load_le<uint32_t>(notes.data() + 8);
    const uint64_t desc = align_up(12 + uint64_t{name_size}, pad);
    const uint64_t next = align_up(desc + desc_size, pad);
    if (desc + desc_size > notes.size()) return std::nullopt;
    const bool xen = name_size == 4 && std::memcmp(notes.data() + 12, "Xen", 4) == 0;
    if (xen && type == kXenNotePhys32Entry && desc_size >= 4) return load_le<uint32_t>(notes.data() + desc);
    if (next > notes.size()) return std::nullopt;
    notes = notes.subspan(next);
  }
  return std::nullopt;
}

// One of a table's, without what a terminal would take for a command.
std::string name_at(std::span<const uint8_t> names, uint64_t at) {
  constexpr size_t kLongest = 255;
  std::string name;
  for (; at < names.size() && names[at] != 0 && name.size() < kLongest; ++at)
    name += names[at] > ' ' && names[at] < 0x7f ? static_cast<char>(names[at]) : '?';
  return name;
}

template <class Header, class Section, class Entry>
void add_symbols(std::span<const uint8_t> file, std::vector<symbols::Symbol>& out) {
  if (file.size() < sizeof(Header)) return;
  const auto header = load_le<Header>(file.data());
  if (header.e_shentsize != sizeof(Section) ||
      !inside(file, header.e_shoff, uint64_t{header.e_shnum} * sizeof(Section)))
    return;
  const auto section = [&](unsigned i) {
    return load_le<Section>(file.data() + header.e_shoff + i * sizeof(Section));
  };
  for (unsigned i = 0; i < header.e_shnum; ++i) {
    const Section table = section(i);
    if (table.sh_type != SHT_SYMTAB || table.sh_link >= header.e_shnum) continue;
    const Section strings = section(table.sh_link);
    if (!inside(file, table.sh_offset, table.sh_size) || !inside(file, strings.sh_offset, strings.sh_size))
      return;
    const auto names = file.subspan(strings.sh_offset, strings.sh_size);
    for (uint64_t at = 0; at + sizeof(Entry) <= table.sh_size; at += sizeof(Entry)) {
      const auto entry = load_le<Entry>(file.data() + table.sh_offset + at);
      const unsigned type = entry.st_info & 15u;
      if ((type != STT_FUNC && type != STT_NOTYPE) || entry.st_shndx == SHN_UNDEF ||
          entry.st_shndx == SHN_ABS)
        continue;
      std::string name = name_at(names, entry.st_name);
      if (!name.empty()) out.push_back({entry.st_value, entry.st_size, std::move(name)});
    }
    return;  // there is one
  }
}

}  // namespace

bool is_elf(std::span<const uint8_t> file) {
  return file.size() >= EI_NIDENT && std::memcmp(file.data(), ELFMAG, SELFMAG) == 0;
}

Result<Elf> parse_elf(std::span<const uint8_t> file, uint64_t ram_end) {
  if (!is_elf(file)) return Error(ErrorKind::kCorrupt, "it is not an ELF file");
  Elf elf;
  elf.is64 = file[EI_CLASS] == ELFCLASS64;
  std::vector<Program> all;
  if (elf.is64) {
    TRY_ASSIGN(all, (programs<Elf64_Ehdr, Elf64_Phdr>(file, elf.entry)));
  } else {
    TRY_ASSIGN(all, (programs<Elf32_Ehdr, Elf32_Phdr>(file, elf.entry)));
  }
  uint64_t total = 0;
  for (const Program& p : all) {
    if (p.type != PT_LOAD && p.type != PT_NOTE) continue;
    if (!inside(file, p.offset, p.file_size))
      return Error(ErrorKind::kCorrupt, fmt::format("a segment at offset {:#x} is cut short", p.offset));
    const auto bytes = file.subspan(p.offset, p.file_size);
    if (p.type == PT_NOTE) {
      if (!elf.pvh_entry) elf.pvh_entry = find_pvh_note(bytes, p.align);
      continue;
    }
    if (p.memory_size == 0) continue;
    if (p.memory_size < p.file_size || p.paddr + p.memory_size < p.paddr)
      return Error(ErrorKind::kCorrupt, fmt::format("the segment at {:#x} has an impossible size", p.paddr));
    if (p.paddr + p.memory_size > ram_end)
      return Error(ErrorKind::kNoResource,
                   fmt::format("it needs memory up to {} MiB, the guest has {} MiB there; give more with -m",
                               (p.paddr + p.memory_size + (1u << 20) - 1) >> 20, ram_end >> 20));
    // Overlapping segments could otherwise ask for many times the guest's memory.
    total += p.memory_size;
    if (total > 2 * ram_end) return Error(ErrorKind::kCorrupt, "its segments overlap");
    elf.end = std::max(elf.end, p.paddr + p.memory_size);
    elf.segments.emplace_back(GuestPhys{p.paddr}, bytes, p.memory_size - p.file_size);
  }
  if (elf.segments.empty()) return Error(ErrorKind::kCorrupt, "it has no loadable segment");
  return elf;
}

std::vector<symbols::Symbol> parse_symbols(std::span<const uint8_t> file) {
  std::vector<symbols::Symbol> all;
  if (!is_elf(file)) return all;
  if (file[EI_CLASS] == ELFCLASS64)
    add_symbols<Elf64_Ehdr, Elf64_Shdr, Elf64_Sym>(file, all);
  else
    add_symbols<Elf32_Ehdr, Elf32_Shdr, Elf32_Sym>(file, all);
  return all;
}

}  // namespace ostler::boot
