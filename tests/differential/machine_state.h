// What a differential test compares: the user-visible state of a 64-bit processor before and after one
// instruction, and how the instruction ended. The host runner and the guest runner fill in the same
// structures.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "x86/instruction.h"

namespace ostler::differential {

// Addresses that exist both in this process and in the guest, with the same contents and permissions.
//
//   kCode      kCodePages pages, read and execute; every byte that is not under test is kFiller (#UD in
//   64-bit code) kData      kDataPages pages, read and write; a hole before and after kReadOnly  one page,
//   read only; a hole after
inline constexpr uint64_t kCode = 0x1000'0000, kData = 0x2000'0000, kReadOnly = 0x3000'0000;
inline constexpr size_t kCodePages = 64, kDataPages = 2, kPageBytes = 4096;
inline constexpr size_t kDataBytes = kDataPages * kPageBytes;
inline constexpr uint8_t kFiller = 0xcc;

// The standard form of an XSAVE area with x87, SSE and AVX (SDM Vol. 1 §13.4).
struct alignas(64) XsaveImage {
  uint8_t legacy[512];  // FXSAVE64 image
  uint64_t xstate_bv, xcomp_bv, reserved[6];
  uint8_t ymm_high[16][16];

  XsaveImage() {
    std::memset(static_cast<void*>(this), 0, sizeof *this);
    xstate_bv = 7;
    const uint16_t fcw = 0x37f;
    const uint32_t mxcsr = 0x1f80;
    std::memcpy(legacy, &fcw, sizeof fcw);
    std::memcpy(legacy + 24, &mxcsr, sizeof mxcsr);
  }
  // YMM register `i` as 32 bytes.
  void get_ymm(unsigned i, uint8_t (&out)[32]) const {
    std::memcpy(out, legacy + 160 + 16 * i, 16);
    std::memcpy(out + 16, ymm_high[i], 16);
  }
  void set_ymm(unsigned i, const uint8_t (&in)[32]) {
    std::memcpy(legacy + 160 + 16 * i, in, 16);
    std::memcpy(ymm_high[i], in + 16, 16);
  }
};
static_assert(sizeof(XsaveImage) == 832);

inline constexpr uint8_t kTimeout = 0xff;  // Outcome::vector of code that does not end

struct MachineState {
  std::array<uint64_t, 16> gpr{};  // by x86::GprIndex
  uint64_t rip = 0;
  uint64_t rflags = 0x202;
  uint64_t gs_base = 0;
  XsaveImage vector;
};

// How the code ended. Without a fault of its own the next one is the filler's #BP, reported at its own
// RIP.
struct Outcome {
  MachineState state;  // rip: of the faulting instruction, which is the filler when all went well
  uint8_t vector = 0;  // of the exception
  uint32_t error = 0;  // its error code, 0 when it has none
  uint64_t cr2 = 0;    // #PF
  std::array<uint8_t, kDataBytes> data{};
};

struct TestCase {
  std::vector<uint8_t> code;  // one instruction or a stream of them, less than a page
  uint64_t address = kCode;   // where it lies; anywhere in the code pages
  MachineState state;         // rip is ignored
  // k64 or k32: compatibility mode with flat segments, but for GS. General registers are below 4 GiB then.
  x86::CodeSize code_size = x86::CodeSize::k64;
  std::array<uint8_t, kDataBytes> data{};
  std::array<uint8_t, kPageBytes> read_only{};
};

}  // namespace ostler::differential
