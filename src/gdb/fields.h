// Reading the fields of a remote protocol packet (Debugging with GDB, appendix E "Remote Serial Protocol"),
// and hexadecimal digits. The client is not trusted: whatever does not fit is nullopt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ostler::gdb {

// Two lower-case digits for each byte, in memory order.
std::string to_hex(std::span<const std::byte> bytes);
std::string to_hex(std::string_view text);
// nullopt: an odd number of digits, or something else than digits.
std::optional<std::vector<std::byte>> from_hex(std::string_view digits);

// Which threads a packet means. vCPU i is thread i + 1 of process 1.
struct ThreadId {
  static constexpr int64_t kAll = -1, kAny = 0;
  int64_t process = kAny, thread = kAny;

  bool includes(size_t cpu) const {
    return (process == kAll || process == kAny || process == 1) &&
           (thread == kAll || thread == kAny || thread == static_cast<int64_t>(cpu) + 1);
  }
};

// A cursor over a packet. What a failed call has consumed is not defined.
class Fields {
 public:
  explicit Fields(std::string_view text) : rest_(text) {}

  std::string_view rest() const { return rest_; }
  bool done() const { return rest_.empty(); }
  bool skip(char c);
  bool skip(std::string_view word);
  std::string_view until(char c);       // up to `c`, which is skipped, or all that is left
  std::optional<uint64_t> number();     // 1 to 16 hexadecimal digits
  std::optional<ThreadId> thread_id();  // "1", "-1", "p1.2", "p1", "p-1.-1"

 private:
  std::optional<int64_t> id();
  std::string_view rest_;
};

}  // namespace ostler::gdb
