// Registers and memory.
#include "gdb/errors.h"
#include "gdb/packet.h"
#include "gdb/registers.h"
#include "gdb/session.h"

namespace ostler::gdb {
namespace {

// Two digits for each byte, or an escape, must fit into a packet.
constexpr size_t kMostBytes = (kMostPacket - 16) / 2;

const Register* by_number(const std::optional<uint64_t>& number) {
  return number && *number < registers().size() ? &registers()[*number] : nullptr;
}

struct Range {
  uint64_t address, length;
};
// "ADDRESS,LENGTH"
std::optional<Range> range(Fields& request) {
  const auto address = request.number();
  if (!address || !request.skip(',')) return std::nullopt;
  const auto length = request.number();
  if (!length) return std::nullopt;
  return Range{*address, *length};
}

}  // namespace

std::string Session::read_registers() {
  std::string out;
  for (const Register& each : registers()) out += to_hex(read_register(target_, current_, each));
  return out;
}

// Registers that cannot be written, or not so, are left out: a debugger sends back what it has read of them.
std::string Session::write_registers(Fields request) {
  const auto bytes = from_hex(request.rest());
  if (!bytes) return kInvalid;
  std::span<const std::byte> left(*bytes);
  for (const Register& each : registers()) {
    if (left.size() < each.bytes()) break;
    write_register(target_, current_, each, left.first(each.bytes()));
    left = left.subspan(each.bytes());
  }
  target_.cpu_state_changed(current_);
  return kOk;
}

std::string Session::read_one_register(Fields request) {
  const Register* which = by_number(request.number());
  if (which == nullptr || !request.done()) return kInvalid;
  return to_hex(read_register(target_, current_, *which));
}

std::string Session::write_one_register(Fields request) {
  const Register* which = by_number(request.number());
  if (which == nullptr || !request.skip('=')) return kInvalid;
  const auto bytes = from_hex(request.rest());
  if (!bytes || !write_register(target_, current_, *which, *bytes)) return kInvalid;
  target_.cpu_state_changed(current_);
  return kOk;
}

// As much as is mapped and is RAM; an error when that is nothing.
std::string Session::read_memory(Fields request, bool binary) {
  const auto what = range(request);
  if (!what || !request.done()) return kInvalid;
  std::vector<std::byte> bytes(std::min<uint64_t>(what->length, kMostBytes));
  bytes.resize(target_.read_memory(current_, what->address, bytes));
  if (bytes.empty() && what->length != 0) return kFault;
  if (!binary) return to_hex(bytes);
  return "b" + escape({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

std::string Session::write_memory(Fields request, bool binary) {
  const auto what = range(request);
  if (!what || !request.skip(':')) return kInvalid;
  std::vector<std::byte> bytes;
  if (binary) {
    const auto data = std::as_bytes(std::span(request.rest()));
    bytes.assign(data.begin(), data.end());
  } else if (auto decoded = from_hex(request.rest())) {
    bytes = *std::move(decoded);
  } else {
    return kInvalid;
  }
  if (bytes.size() != what->length) return kInvalid;
  return target_.write_memory(current_, what->address, bytes) ? kOk : kFault;
}

}  // namespace ostler::gdb
