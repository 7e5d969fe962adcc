// The decoder beside Zydis on arbitrary bytes: coverage-guided form of decoder_zydis_test. First byte: the
// mode.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../unit/x86/zydis_compare.h"
#include "base/assert.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::vector<uint8_t> code(data + 1, data + size);
  code.resize(24);
  const auto result = ostler::x86::compare_with_zydis(code, static_cast<ostler::x86::CodeSize>(data[0] % 3));
  ASSERT(result.equal, result.detail.c_str());
  return 0;
}
