#include "acpi/table_writer.h"

#include "base/bytes.h"

namespace ostler::acpi {
namespace {
constexpr size_t kLengthAt = 4, kChecksumAt = 9;
}

TableWriter::TableWriter(std::string_view signature, uint8_t revision) {
  const auto text = [&](std::string_view value) { out_.insert(out_.end(), value.begin(), value.end()); };
  text(signature);
  u32(0).u8(revision).u8(0);
  text("OSTLER");
  text("OSTLERPC");
  u32(1);
  text("OSTL");
  u32(1);
}

TableWriter& TableWriter::put(uint64_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) out_.push_back(static_cast<uint8_t>(value >> (8 * i)));
  return *this;
}

TableWriter& TableWriter::zeros(size_t count) {
  out_.resize(out_.size() + count);
  return *this;
}

TableWriter& TableWriter::bytes(const Bytes& bytes) {
  out_.insert(out_.end(), bytes.begin(), bytes.end());
  return *this;
}

TableWriter& TableWriter::address(uint8_t space, unsigned bits, unsigned bytes_wide, uint64_t where) {
  const uint8_t access = bytes_wide == 1 ? 1 : bytes_wide == 2 ? 2 : bytes_wide == 4 ? 3 : 4;
  return u8(space).u8(bits).u8(0).u8(where == 0 ? 0 : access).u64(where);
}

Bytes TableWriter::finish() {
  store_le(&out_[kLengthAt], static_cast<uint32_t>(out_.size()));
  out_[kChecksumAt] = checksum(out_.data(), out_.size());
  return std::move(out_);
}

uint8_t checksum(const uint8_t* data, size_t size) {
  uint8_t sum = 0;
  for (size_t i = 0; i < size; ++i) sum = static_cast<uint8_t>(sum + data[i]);
  return static_cast<uint8_t>(-sum);
}

}  // namespace ostler::acpi
