// A guest CPU in 64-bit mode around the interpreter's vector handlers: one instruction at a time, with the
// data area of cases.h mapped at the same linear addresses and nothing else.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "x86/exception.h"
#include "x86/state.h"

namespace ostler::test {

enum class Mode : uint8_t {
  k64,
  k32,    // compatibility mode, flat segments
  kReal,  // DS, SS, ES: base kRealBase, limit 64 KiB; the data area is their first kDataSize bytes
};
inline constexpr uint64_t kRealBase = 0x10000;

class VectorGuest {
 public:
  VectorGuest();
  ~VectorGuest();
  void set_mode(Mode mode);
  void cpl_changed();  // after SS was written
  x86::CpuState& state();
  unsigned fpu_errors() const;  // calls of Environment::fpu_error()
  std::span<uint8_t> data();
  // Decodes, binds and runs `code`; the exception it raised.
  std::optional<x86::Exception> run(std::span<const uint8_t> code);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace ostler::test
