#include "acpi/aml.h"

#include <algorithm>
#include <string>

#include "base/assert.h"

namespace ostler::acpi::aml {
namespace {

void put(Term& to, uint64_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) to.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

// PkgLength counts itself (ACPI 6.5 §20.2.4).
Term with_length(const Term& body) {
  Term out;
  const size_t size = body.size();
  if (size + 1 < 0x40) {
    out.push_back(static_cast<uint8_t>(size + 1));
  } else {
    unsigned extra = 1;
    while (size + 1 + extra >= (size_t{1} << (4 + 8 * extra))) ++extra;
    ASSERT(extra <= 3, "tables are far below 256 MiB");
    const size_t total = size + 1 + extra;
    out.push_back(static_cast<uint8_t>(extra << 6 | (total & 15)));
    put(out, total >> 4, extra);
  }
  append(out, body);
  return out;
}

Term op(std::initializer_list<uint8_t> opcode, std::initializer_list<Term> terms) {
  Term out(opcode);
  for (const Term& term : terms) append(out, term);
  return out;
}

Term sized(std::initializer_list<uint8_t> opcode, std::initializer_list<Term> terms) {
  Term out(opcode);
  append(out, with_length(block(terms)));
  return out;
}

void put_segment(Term& to, std::string_view segment) {
  ASSERT(!segment.empty() && segment.size() <= 4, "name segments in the tables' source have 1 to 4 letters");
  for (size_t i = 0; i < 4; ++i) to.push_back(static_cast<uint8_t>(i < segment.size() ? segment[i] : '_'));
}

// Address space descriptors (§6.4.3.5): resource type, flags, then five fields of `width` bytes.
Term address_space(uint8_t tag, unsigned width, uint8_t type, uint8_t type_flags, uint64_t first,
                   uint64_t last) {
  constexpr uint8_t kMinFixed = 1 << 2, kMaxFixed = 1 << 3;
  Term out{tag};
  put(out, 3 + 5 * width, 2);
  out.push_back(type);
  out.push_back(kMinFixed | kMaxFixed);
  out.push_back(type_flags);
  put(out, 0, width);  // granularity
  put(out, first, width);
  put(out, last, width);
  put(out, 0, width);  // translation
  put(out, last - first + 1, width);
  return out;
}

}  // namespace

void append(Term& to, const Term& term) {
  to.insert(to.end(), term.begin(), term.end());
}

Term block(std::initializer_list<Term> terms) {
  Term out;
  for (const Term& term : terms) append(out, term);
  return out;
}

Term path(std::string_view text) {
  Term out;
  while (!text.empty() && (text[0] == '\\' || text[0] == '^')) {
    out.push_back(static_cast<uint8_t>(text[0]));
    text.remove_prefix(1);
  }
  if (text.empty()) {
    out.push_back(0);  // NullName
    return out;
  }
  const auto segments = static_cast<size_t>(std::count(text.begin(), text.end(), '.')) + 1;
  if (segments == 2) out.push_back(0x2e);
  if (segments > 2) {
    out.push_back(0x2f);
    out.push_back(static_cast<uint8_t>(segments));
  }
  while (!text.empty()) {
    const size_t dot = text.find('.');
    put_segment(out, text.substr(0, dot));
    text = dot == std::string_view::npos ? std::string_view{} : text.substr(dot + 1);
  }
  return out;
}

Term integer(uint64_t value) {
  if (value <= 1) return {static_cast<uint8_t>(value)};
  Term out;
  const unsigned bytes = value <= 0xff ? 1 : value <= 0xffff ? 2 : value <= 0xffffffff ? 4 : 8;
  out.push_back(bytes == 1 ? 0x0a : bytes == 2 ? 0x0b : bytes == 4 ? 0x0c : 0x0e);
  put(out, value, bytes);
  return out;
}

Term string(std::string_view text) {
  Term out{0x0d};
  out.insert(out.end(), text.begin(), text.end());
  out.push_back(0);
  return out;
}

Term buffer(std::span<const uint8_t> bytes) {
  return sized({0x11}, {integer(bytes.size()), Term(bytes.begin(), bytes.end())});
}

Term package(const std::vector<Term>& elements) {
  ASSERT(elements.size() <= 255, "callers split longer packages");
  Term body{static_cast<uint8_t>(elements.size())};
  for (const Term& element : elements) append(body, element);
  return sized({0x12}, {body});
}

Term package(std::initializer_list<Term> elements) {
  return package(std::vector<Term>(elements));
}

Term eisa_id(std::string_view id) {
  ASSERT(id.size() == 7, "three letters and four hexadecimal digits");
  const auto letter = [&](size_t i) { return static_cast<uint32_t>(id[i] - '@') & 31; };
  const auto product = static_cast<uint32_t>(std::stoul(std::string(id.substr(3)), nullptr, 16));
  const uint32_t value = letter(0) << 26 | letter(1) << 21 | letter(2) << 16 | product;
  return integer(__builtin_bswap32(value));
}

Term name(std::string_view where, const Term& value) {
  return op({0x08}, {path(where), value});
}
Term scope(std::string_view where, const Term& body) {
  return sized({0x10}, {path(where), body});
}
Term device(std::string_view where, const Term& body) {
  return sized({0x5b, 0x82}, {path(where), body});
}
Term method(std::string_view where, unsigned arguments, bool serialized, const Term& body) {
  return sized({0x14}, {path(where), Term{static_cast<uint8_t>(arguments | (serialized ? 8 : 0))}, body});
}

Term operation_region(std::string_view where, RegionSpace space, uint64_t offset, uint64_t length) {
  return op({0x5b, 0x80}, {path(where), Term{static_cast<uint8_t>(space)}, integer(offset), integer(length)});
}

Term field(std::string_view region, FieldAccess access, std::initializer_list<FieldUnit> units) {
  Term body = path(region);
  body.push_back(static_cast<uint8_t>(access));
  for (const FieldUnit& unit : units) {
    if (unit.name.empty())
      body.push_back(0);
    else
      put_segment(body, unit.name);
    // A field's width is encoded like a PkgLength that does not count itself.
    if (unit.bits < 0x40) {
      body.push_back(static_cast<uint8_t>(unit.bits));
    } else {
      body.push_back(static_cast<uint8_t>(1 << 6 | (unit.bits & 15)));
      body.push_back(static_cast<uint8_t>(unit.bits >> 4));
    }
  }
  return sized({0x5b, 0x81}, {body});
}

Term arg(unsigned index) {
  return {static_cast<uint8_t>(0x68 + index)};
}
Term local(unsigned index) {
  return {static_cast<uint8_t>(0x60 + index)};
}
Term store(const Term& value, const Term& target) {
  return op({0x70}, {value, target});
}
Term return_(const Term& value) {
  return op({0xa4}, {value});
}
Term if_(const Term& predicate, const Term& body) {
  return sized({0xa0}, {predicate, body});
}
Term else_(const Term& body) {
  return sized({0xa1}, {body});
}
Term and_(const Term& a, const Term& b) {
  return op({0x7b}, {a, b, Term{0}});
}
Term or_(const Term& a, const Term& b) {
  return op({0x7d}, {a, b, Term{0}});
}
Term equal(const Term& a, const Term& b) {
  return op({0x93}, {a, b});
}
Term notify(std::string_view object, uint8_t value) {
  return op({0x86}, {path(object), integer(value)});
}
Term create_dword_field(const Term& buffer_object, uint64_t byte_index, std::string_view where) {
  return op({0x8a}, {buffer_object, integer(byte_index), path(where)});
}

Term resources(const Term& descriptors) {
  Term all = descriptors;
  all.push_back(0x79);  // end tag, checksum 0: treated as correct
  all.push_back(0);
  return buffer(all);
}

Term resources(std::initializer_list<Term> descriptors) {
  return resources(block(descriptors));
}

Term io_ports(uint16_t first, uint16_t last_base, uint8_t alignment, uint8_t length) {
  Term out{0x47, 1};  // decodes 16 bits
  put(out, first, 2);
  put(out, last_base, 2);
  out.push_back(alignment);
  out.push_back(length);
  return out;
}

Term irq_isa(unsigned irq) {
  Term out{0x22};
  put(out, 1u << irq, 2);
  return out;
}

Term irq_extended(std::initializer_list<uint32_t> gsis, Trigger trigger, bool shared) {
  uint8_t flags = 1;  // consumer
  if (trigger == Trigger::kEdgeHigh) flags |= 1 << 1;
  if (trigger == Trigger::kLevelLow) flags |= 1 << 2;
  if (shared) flags |= 1 << 3;
  Term out{0x89};
  put(out, 2 + 4 * gsis.size(), 2);
  out.push_back(flags);
  out.push_back(static_cast<uint8_t>(gsis.size()));
  for (const uint32_t gsi : gsis) put(out, gsi, 4);
  return out;
}

Term memory32_fixed(uint32_t base, uint32_t length, bool writable) {
  Term out{0x86};
  put(out, 9, 2);
  out.push_back(writable ? 1 : 0);
  put(out, base, 4);
  put(out, length, 4);
  return out;
}

Term bus_numbers(uint16_t first, uint16_t last) {
  return address_space(0x88, 2, 2, 0, first, last);
}
Term io_window(uint16_t first, uint16_t last) {
  return address_space(0x88, 2, 1, 3, first, last);
}
Term memory_window32(uint32_t first, uint32_t last, bool cacheable) {
  return address_space(0x87, 4, 0, static_cast<uint8_t>(1 | (cacheable ? 2 : 0)), first, last);
}
Term memory_window64(uint64_t first, uint64_t last, bool cacheable) {
  return address_space(0x8a, 8, 0, static_cast<uint8_t>(1 | (cacheable ? 2 : 0)), first, last);
}

}  // namespace ostler::acpi::aml
