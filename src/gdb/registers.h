// The registers that a debugger sees, in the order of the "g" packet: GDB's features org.gnu.gdb.i386.core,
// .sse, .segments and .avx (Debugging with GDB, §G.5.6 "i386 Features") and control registers in a feature of
// our own. All guests are described as x86-64, whatever mode they are in, since a connection has one
// description.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace ostler::x86 {
struct CpuState;
}

namespace ostler::gdb {

class Target;

inline constexpr size_t kLargestRegister = 16;
using RegisterBytes =
    std::array<std::byte, kLargestRegister>;  // little-endian; those that are used come first

struct Register {
  std::string_view feature, name, type, group;
  unsigned bits;
  // `index`: of the register among those of its kind.
  uint8_t index;
  void (*read)(Target& target, size_t cpu, uint8_t index, RegisterBytes& out);
  // False: the value is refused. Null: the register cannot be written.
  bool (*write)(Target& target, size_t cpu, uint8_t index, const RegisterBytes& value);

  size_t bytes() const { return bits / 8; }
};

// By register number.
std::span<const Register> registers();

// While the guest stands. `out` and `value` have bytes() bytes.
std::vector<std::byte> read_register(Target& target, size_t cpu, const Register& which);
// False: it cannot be written, or not with this value. Target::cpu_state_changed() is up to the caller.
bool write_register(Target& target, size_t cpu, const Register& which, std::span<const std::byte> value);

}  // namespace ostler::gdb
