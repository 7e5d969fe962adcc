// ACPI Machine Language, built from the inside out (ACPI 6.5 §20.2). Each function returns the encoding of
// one term; terms are concatenated with block().
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

namespace ostler::acpi::aml {

using Term = std::vector<uint8_t>;

Term block(std::initializer_list<Term> terms);
void append(Term& to, const Term& term);

// A name path: "\\_SB.PCI0", "^LNKA", "_CRS". Segments shorter than four letters are padded with '_'.
Term path(std::string_view name);

Term integer(uint64_t value);
Term string(std::string_view text);
Term buffer(std::span<const uint8_t> bytes);
Term package(std::initializer_list<Term> elements);
Term package(const std::vector<Term>& elements);  // at most 255
Term eisa_id(std::string_view id);                // "PNP0A03" as a compressed integer

Term name(std::string_view path, const Term& value);
Term scope(std::string_view path, const Term& body);
Term device(std::string_view path, const Term& body);
Term method(std::string_view path, unsigned arguments, bool serialized, const Term& body);

enum class RegionSpace : uint8_t { kSystemMemory = 0, kSystemIo = 1, kPciConfig = 2 };
enum class FieldAccess : uint8_t { kAny = 0, kByte = 1, kWord = 2, kDword = 3 };
struct FieldUnit {
  std::string_view name;  // empty: reserved bits
  unsigned bits;
};
Term operation_region(std::string_view path, RegionSpace space, uint64_t offset, uint64_t length);
Term field(std::string_view region, FieldAccess access,
           std::initializer_list<FieldUnit> units);  // lock none, preserve

Term arg(unsigned index);    // 0..6
Term local(unsigned index);  // 0..7
Term store(const Term& value, const Term& target);
Term return_(const Term& value);
Term if_(const Term& predicate, const Term& body);
Term else_(const Term& body);
Term and_(const Term& a, const Term& b);  // no target
Term or_(const Term& a, const Term& b);   // no target
Term equal(const Term& a, const Term& b);
Term notify(std::string_view object, uint8_t value);
Term create_dword_field(const Term& buffer_object, uint64_t byte_index, std::string_view path);

// ---- resource descriptors (ACPI 6.5 §6.4); resources() adds the end tag and makes the buffer ----
Term resources(std::initializer_list<Term> descriptors);
Term resources(const Term& descriptors);
Term io_ports(uint16_t first, uint16_t last_base, uint8_t alignment, uint8_t length);
Term irq_isa(unsigned irq);  // edge, high, exclusive
enum class Trigger : uint8_t { kLevelHigh, kLevelLow, kEdgeHigh };
Term irq_extended(std::initializer_list<uint32_t> gsis, Trigger trigger, bool shared);
Term memory32_fixed(uint32_t base, uint32_t length, bool writable);
Term bus_numbers(uint16_t first, uint16_t last);
Term io_window(uint16_t first, uint16_t last);
Term memory_window32(uint32_t first, uint32_t last, bool cacheable);
Term memory_window64(uint64_t first, uint64_t last, bool cacheable);

}  // namespace ostler::acpi::aml
