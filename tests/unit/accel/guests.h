// Guest code in assembly: GUEST(name, ".code16", "…") is an array of its bytes.
#pragma once

#include <cstdint>
#include <span>

#define GUEST(name, code, text)                                                                              \
  asm(".pushsection .rodata\n" code "\n" #name "_begin:\n" text "\n" #name "_end:\n.code64\n.popsection\n"); \
  extern "C" {                                                                                               \
  extern const uint8_t name##_begin[], name##_end[];                                                         \
  }                                                                                                          \
  inline std::span<const uint8_t> name() {                                                                   \
    return {name##_begin, static_cast<size_t>(name##_end - name##_begin)};                                   \
  }
