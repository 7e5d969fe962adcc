// Code to try a decoder or a translator on: that of this program and its libraries.
#pragma once

#include <link.h>

#include <cstdint>
#include <span>
#include <vector>

namespace ostler::bt {

// Their executable segments.
inline std::vector<std::span<const uint8_t>> real_code() {
  std::vector<std::span<const uint8_t>> found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        for (const auto& segment : std::span(info->dlpi_phdr, info->dlpi_phnum)) {
          if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
          static_cast<std::vector<std::span<const uint8_t>>*>(out)->emplace_back(
              reinterpret_cast<const uint8_t*>(info->dlpi_addr + segment.p_vaddr), segment.p_memsz);
        }
        return 0;
      },
      &found);
  return found;
}

}  // namespace ostler::bt
