// The symbol tables of ELF files: this program's own, and ones that lie.
#include <elf.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "boot/elf.h"
#include "kernels.h"

extern "C" [[gnu::noinline, gnu::used]] int ostler_symbol_of_a_test(int value) {
  asm volatile("" : "+r"(value));
  return value + 1;
}

namespace ostler::boot {
namespace {

using testing::Bytes;

TEST(ParseSymbols, FindsAFunctionOfThisProgram) {
  auto self = MappedFile::open("/proc/self/exe", "this program");
  ASSERT_TRUE(self.has_value()) << self.error().message();
  const auto all = parse_symbols(self->bytes());
  const auto mine = std::ranges::find(all, "ostler_symbol_of_a_test", &symbols::Symbol::name);
  ASSERT_NE(mine, all.end());
  EXPECT_GT(mine->size, 0u);
  // The program may be loaded anywhere in pages.
  EXPECT_EQ(mine->address % 4096, reinterpret_cast<uint64_t>(&ostler_symbol_of_a_test) % 4096);
}

// A file with nothing but a symbol table of one function, `name`, at 0x1234.
struct Table {
  Elf64_Ehdr header{};
  Elf64_Shdr sections[2]{};
  Elf64_Sym symbol{};
  std::string names = std::string("\0", 1);

  explicit Table(const std::string& name) {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_shoff = sizeof header;
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = 2;
    sections[0].sh_type = SHT_SYMTAB;
    sections[0].sh_link = 1;
    sections[0].sh_offset = sizeof header + sizeof sections;
    sections[0].sh_size = sizeof symbol;
    sections[1].sh_offset = sections[0].sh_offset + sizeof symbol;
    symbol.st_name = 1;
    symbol.st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC);
    symbol.st_shndx = 1;
    symbol.st_value = 0x1234;
    symbol.st_size = 8;
    names += name + '\0';
    sections[1].sh_size = names.size();
  }
  std::vector<symbols::Symbol> parse() const {
    Bytes file(sizeof header + sizeof sections + sizeof symbol + names.size());
    uint8_t* at = file.data();
    const auto put = [&](const void* data, size_t size) {
      std::memcpy(at, data, size);
      at += size;
    };
    put(&header, sizeof header);
    put(sections, sizeof sections);
    put(&symbol, sizeof symbol);
    put(names.data(), names.size());
    return parse_symbols(file);
  }
};

TEST(ParseSymbols, OfAFunction) {
  const auto all = Table("start_kernel").parse();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].name, "start_kernel");
  EXPECT_EQ(all[0].address, 0x1234u);
  EXPECT_EQ(all[0].size, 8u);
}

TEST(ParseSymbols, NamesAreShownAsTheyMayBe) {
  EXPECT_EQ(Table("a\x1b[2Jb c").parse().at(0).name, "a?[2Jb?c");
  EXPECT_EQ(Table(std::string(1000, 'x')).parse().at(0).name.size(), 255u);
  EXPECT_TRUE(Table("").parse().empty());
  Table not_ended("name");
  not_ended.names.pop_back();
  --not_ended.sections[1].sh_size;
  EXPECT_EQ(not_ended.parse().at(0).name, "name");
}

TEST(ParseSymbols, TablesThatLieHaveNone) {
  const auto changed = [](auto change) {
    Table table("name");
    change(table);
    return table.parse().size();
  };
  EXPECT_EQ(changed([](Table& t) { t.header.e_shoff = ~uint64_t{0}; }), 0u);
  EXPECT_EQ(changed([](Table& t) { t.header.e_shnum = 0xffff; }), 0u);
  EXPECT_EQ(changed([](Table& t) { t.header.e_shentsize = 1; }), 0u);
  EXPECT_EQ(changed([](Table& t) { t.sections[0].sh_link = 2; }), 0u);
  EXPECT_EQ(changed([](Table& t) { t.sections[0].sh_size = ~uint64_t{0}; }), 0u);
  EXPECT_EQ(changed([](Table& t) { t.sections[0].sh_offset = ~uint64_t{0} - 7; }), 0u);
  EXPECT_EQ(changed([](Table& t) { t.sections[1].sh_size = 1 << 20; }), 0u);
  EXPECT_EQ(changed([](Table& t) { t.symbol.st_name = ~0u; }), 0u);
  EXPECT_EQ(changed([](Table& t) { t.symbol.st_shndx = SHN_UNDEF; }), 0u);
  EXPECT_EQ(changed([](Table& t) { t.symbol.st_info = STT_OBJECT; }), 0u);
  EXPECT_TRUE(parse_symbols({}).empty());
  EXPECT_TRUE(parse_symbols(testing::elf_kernel(true)).empty());
}

}  // namespace
}  // namespace ostler::boot
