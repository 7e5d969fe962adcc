#include "acpi/smbios.h"

#include <algorithm>
#include <initializer_list>

#include "acpi/table_writer.h"
#include "base/bytes.h"

namespace ostler::acpi {
namespace {

// One structure: header, formatted area, strings. Text fields hold the 1-based number of a string.
class Structure {
 public:
  Structure(uint8_t type, uint16_t handle)
      : bytes_{type, 0, static_cast<uint8_t>(handle), static_cast<uint8_t>(handle >> 8)} {}

  Structure& put(uint64_t value, unsigned count) {
    for (unsigned i = 0; i < count; ++i) bytes_.push_back(static_cast<uint8_t>(value >> (8 * i)));
    return *this;
  }
  Structure& text(const std::string& value) {
    if (value.empty()) return put(0, 1);
    strings_.insert(strings_.end(), value.begin(), value.end());
    strings_.push_back(0);
    return put(++count_, 1);
  }
  void append_to(Bytes& table) {
    bytes_[1] = static_cast<uint8_t>(bytes_.size());
    table.insert(table.end(), bytes_.begin(), bytes_.end());
    table.insert(table.end(), strings_.begin(), strings_.end());
    if (strings_.empty()) table.push_back(0);
    table.push_back(0);
  }

 private:
  Bytes bytes_, strings_;
  uint8_t count_ = 0;
};

constexpr char kManufacturer[] = "Ostler";

}  // namespace

Smbios build_smbios(const SmbiosDescription& machine, GuestPhys table_address) {
  Bytes table;
  {  // Type 0, BIOS information: virtual machine bit set, targeted content distribution
    Structure s(0, 0);
    s.text(kManufacturer)
        .text("0.1")
        .put(0xe800, 2)
        .text("01/01/2026")
        .put(0, 1)
        .put(1u << 3, 8)
        .put(0x14, 2);
    s.put(0, 1).put(0, 1).put(0xff, 1).put(0xff, 1);
    s.append_to(table);
  }
  {  // Type 1, system
    Structure s(1, 0x100);
    s.text(kManufacturer).text(machine.product).text(machine.version).text("");
    for (const uint8_t byte : machine.uuid) s.put(byte, 1);
    s.put(6, 1).text("").text(machine.vm_name);  // woken by the power switch
    s.append_to(table);
  }
  {  // Type 3, chassis: other, states safe, security none
    Structure s(3, 0x300);
    s.text(kManufacturer)
        .put(1, 1)
        .text(machine.version)
        .text("")
        .text("")
        .put(3, 1)
        .put(3, 1)
        .put(3, 1)
        .put(2, 1);
    s.put(0, 4).put(0, 1).put(0, 1).put(0, 1).put(0, 1).text("");
    s.append_to(table);
  }
  for (unsigned cpu = 0; cpu < machine.cpus; ++cpu) {  // Type 4, processor: one socket each
    Structure s(4, static_cast<uint16_t>(0x400 + cpu));
    s.text("CPU " + std::to_string(cpu))
        .put(3, 1)
        .put(1, 1)
        .text(kManufacturer)
        .put(0, 8)
        .text(machine.cpu_brand);
    s.put(0, 1).put(0, 2).put(2000, 2).put(2000, 2).put(0x41, 1).put(1, 1).put(0xffff, 2).put(0xffff, 2).put(
        0xffff, 2);
    s.text("")
        .text("")
        .text("")
        .put(1, 1)
        .put(1, 1)
        .put(1, 1)
        .put(1u << 2, 2)
        .put(1, 2)
        .put(1, 2)
        .put(1, 2)
        .put(1, 2);
    s.append_to(table);
  }
  {  // Type 16, physical memory array: system memory, ECC none
    Structure s(16, 0x1000);
    s.put(1, 1).put(3, 1).put(3, 1).put(0x80000000, 4).put(0xfffe, 2).put(1, 2).put(machine.memory_bytes, 8);
    s.append_to(table);
  }
  {  // Type 17, memory device
    Structure s(17, 0x1100);
    const uint64_t mebibytes = machine.memory_bytes >> 20;
    const bool extended = mebibytes >= 0x7fff;
    s.put(0x1000, 2).put(0xfffe, 2).put(0xffff, 2).put(0xffff, 2).put(extended ? 0x7fff : mebibytes, 2);
    s.put(9, 1)
        .put(0, 1)
        .text("DIMM 0")
        .text("")
        .put(7, 1)
        .put(2, 2)
        .put(0, 2)
        .text(kManufacturer)
        .text("")
        .text("")
        .text("");
    s.put(0, 1).put(extended ? mebibytes : 0, 4).put(0, 2).put(0, 2).put(0, 2).put(0, 2);
    s.append_to(table);
  }
  {  // Type 19, mapped address of the array, in the extended form
    Structure s(19, 0x1300);
    s.put(0xffffffff, 4)
        .put(0xffffffff, 4)
        .put(0x1000, 2)
        .put(1, 1)
        .put(0, 8)
        .put(machine.memory_bytes - 1, 8);
    s.append_to(table);
  }
  {  // Type 32, boot status: no errors
    Structure s(32, 0x2000);
    s.put(0, 6).put(0, 1);
    s.append_to(table);
  }
  Structure(127, 0x7f00).append_to(table);

  Smbios out;
  out.entry_point.assign(24, 0);
  std::copy_n("_SM3_", 5, out.entry_point.begin());
  out.entry_point[6] = 24;
  out.entry_point[7] = 3;  // version 3.0
  out.entry_point[10] = 1;
  store_le(&out.entry_point[12], static_cast<uint32_t>(table.size()));
  store_le(&out.entry_point[16], table_address.value);
  out.entry_point[5] = checksum(out.entry_point.data(), 24);
  out.table = std::move(table);
  return out;
}

}  // namespace ostler::acpi
