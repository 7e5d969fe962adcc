// Loops of vector and crypto instructions over a buffer that fits the second-level cache (vector NAME).
// A processor that lacks the instructions gets the answer "unsupported" with status 3.
#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

namespace {

constexpr std::size_t kBytes = 1 << 18;
alignas(64) std::uint8_t source[kBytes + 64], target[kBytes + 64];

std::uint64_t sum_of(const void* data, std::size_t size) {
  std::uint64_t sum = 0xcbf29ce484222325;
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  for (std::size_t i = 0; i < size; i += 8) {
    std::uint64_t word;
    memcpy(&word, bytes + i, 8);
    sum = (sum ^ word) * 0x100000001b3;
  }
  return sum;
}

// Letters to upper case, saturating arithmetic, a table lookup and a count.
[[gnu::target("avx2,popcnt")]] std::uint64_t avx2_bytes(int rounds) {
  const __m256i table = _mm256_setr_epi8(3, 7, 11, 2, 9, 14, 1, 0, 5, 12, 6, 4, 8, 15, 10, 13, 3, 7, 11, 2, 9,
                                         14, 1, 0, 5, 12, 6, 4, 8, 15, 10, 13);
  const __m256i low = _mm256_set1_epi8(15);
  std::uint64_t count = 0;
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < kBytes; i += 32) {
      const __m256i in = _mm256_load_si256(reinterpret_cast<const __m256i*>(source + i));
      const __m256i lower = _mm256_and_si256(_mm256_cmpgt_epi8(in, _mm256_set1_epi8('a' - 1)),
                                             _mm256_cmpgt_epi8(_mm256_set1_epi8('z' + 1), in));
      __m256i out = _mm256_sub_epi8(in, _mm256_and_si256(lower, _mm256_set1_epi8(32)));
      out = _mm256_xor_si256(out, _mm256_shuffle_epi8(table, _mm256_and_si256(out, low)));
      out = _mm256_adds_epu8(out, _mm256_avg_epu8(in, _mm256_srli_epi16(out, 3)));
      _mm256_store_si256(reinterpret_cast<__m256i*>(target + i), out);
      count += static_cast<std::uint64_t>(_mm_popcnt_u32(static_cast<unsigned>(_mm256_movemask_epi8(lower))));
    }
    source[round & 1023] ^= target[round * 37 & (kBytes - 1)];
  }
  return sum_of(target, kBytes) + count;
}

// 32-bit integers: multiply, shift by a variable, gather, permute, horizontal sums (the shape of a hash or a
// codec).
[[gnu::target("avx2")]] std::uint64_t avx2_words(int rounds) {
  __m256i state = _mm256_set1_epi32(0x1234567);
  const auto* table = reinterpret_cast<const int*>(source);
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < kBytes; i += 32) {
      const __m256i in = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i + 1));
      __m256i mixed = _mm256_mullo_epi32(_mm256_add_epi32(in, state), _mm256_set1_epi32(-1640531527));
      mixed = _mm256_xor_si256(mixed, _mm256_srlv_epi32(mixed, _mm256_setr_epi32(15, 13, 11, 9, 7, 5, 3, 1)));
      if ((i & 1023) == 0) {
        const __m256i index = _mm256_and_si256(mixed, _mm256_set1_epi32(0xffff));
        mixed = _mm256_add_epi32(mixed, _mm256_i32gather_epi32(table, _mm256_srli_epi32(index, 1), 4));
      }
      state = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0));
      _mm256_store_si256(reinterpret_cast<__m256i*>(target + i), mixed);
    }
  }
  return sum_of(target, kBytes) ^ sum_of(&state, sizeof state);
}

// y += a * x with fused multiply-add, then a maximum and a square root.
[[gnu::target("avx2,fma")]] std::uint64_t avx2_float(int rounds) {
  auto* x = reinterpret_cast<float*>(source);
  auto* y = reinterpret_cast<float*>(target);
  constexpr std::size_t kCount = kBytes / sizeof(float);
  for (std::size_t i = 0; i < kCount; ++i) x[i] = static_cast<float>(i * 7919 % 1009) / 1009, y[i] = 0;
  __m256 most = _mm256_setzero_ps();
  for (int round = 0; round < rounds; ++round) {
    const __m256 factor = _mm256_set1_ps(1.0F / static_cast<float>(round + 1));
    for (std::size_t i = 0; i < kCount; i += 8) {
      const __m256 out = _mm256_fmadd_ps(factor, _mm256_load_ps(x + i), _mm256_load_ps(y + i));
      most = _mm256_max_ps(most, _mm256_mul_ps(out, out));
      _mm256_store_ps(y + i, out);
    }
    most = _mm256_sqrt_ps(most);
  }
  return sum_of(target, kBytes) ^ sum_of(&most, sizeof most);
}

[[gnu::target("avx2,fma")]] std::uint64_t avx2_double(int rounds) {
  auto* x = reinterpret_cast<double*>(source);
  constexpr std::size_t kCount = kBytes / sizeof(double);
  for (std::size_t i = 0; i < kCount; ++i) x[i] = static_cast<double>(i * 7919 % 1009) / 1009;
  __m256d a = _mm256_set1_pd(0.5), b = _mm256_set1_pd(0.25);
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < kCount; i += 8) {
      const __m256d p = _mm256_load_pd(x + i), q = _mm256_load_pd(x + i + 4);
      a = _mm256_fmadd_pd(p, _mm256_sub_pd(q, a), _mm256_set1_pd(0.125));
      b = _mm256_fnmadd_pd(q, _mm256_permute4x64_pd(a, 0x39), _mm256_blend_pd(p, b, 5));
    }
  }
  return sum_of(&a, sizeof a) ^ sum_of(&b, sizeof b);
}

// Sum of absolute differences, packing, alignment: what an image codec does with SSSE3.
[[gnu::target("ssse3,sse4.1")]] std::uint64_t sse_bytes(int rounds) {
  __m128i total = _mm_setzero_si128();
  for (int round = 0; round < rounds; ++round) {
    __m128i before = _mm_setzero_si128();
    for (std::size_t i = 0; i < kBytes; i += 16) {
      const __m128i in = _mm_load_si128(reinterpret_cast<const __m128i*>(source + i));
      total = _mm_add_epi64(total, _mm_sad_epu8(in, _mm_alignr_epi8(in, before, 3)));
      const __m128i low = _mm_cvtepu8_epi16(in), high = _mm_unpackhi_epi8(in, _mm_setzero_si128());
      const __m128i scaled = _mm_maddubs_epi16(in, _mm_set1_epi8(3));
      const __m128i out =
          _mm_packus_epi16(_mm_mulhi_epi16(_mm_slli_epi16(low, 6), scaled), _mm_abs_epi16(high));
      _mm_store_si128(reinterpret_cast<__m128i*>(target + i), _mm_max_epu8(out, before));
      before = in;
    }
    source[round & 1023] ^= target[round * 37 & (kBytes - 1)];
  }
  return sum_of(target, kBytes) ^ sum_of(&total, sizeof total);
}

// AES-128 in counter mode, eight blocks side by side (FIPS 197; SDM Vol. 1 §12.13).
template <int kConstant>
[[gnu::target("aes,sse4.1")]] __m128i next_key(__m128i key) {
  const __m128i assist = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(key, kConstant), 0xff);
  for (int i = 0; i < 3; ++i) key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
  return _mm_xor_si128(key, assist);
}

[[gnu::target("aes,sse4.1")]] std::uint64_t aes_ctr(int rounds) {
  __m128i keys[11];
  keys[0] = _mm_setr_epi32(0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c);
  keys[1] = next_key<0x01>(keys[0]);
  keys[2] = next_key<0x02>(keys[1]);
  keys[3] = next_key<0x04>(keys[2]);
  keys[4] = next_key<0x08>(keys[3]);
  keys[5] = next_key<0x10>(keys[4]);
  keys[6] = next_key<0x20>(keys[5]);
  keys[7] = next_key<0x40>(keys[6]);
  keys[8] = next_key<0x80>(keys[7]);
  keys[9] = next_key<0x1b>(keys[8]);
  keys[10] = next_key<0x36>(keys[9]);
  __m128i counter = _mm_setzero_si128();
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < kBytes; i += 128) {
      __m128i blocks[8];
      for (auto& block : blocks) {
        block = _mm_xor_si128(counter, keys[0]);
        counter = _mm_add_epi64(counter, _mm_set_epi64x(0, 1));
      }
      for (int k = 1; k < 10; ++k) {
        for (auto& block : blocks) block = _mm_aesenc_si128(block, keys[k]);
      }
      for (std::size_t b = 0; b < 8; ++b) {
        const auto* in = reinterpret_cast<const __m128i*>(source + i + b * 16);
        const __m128i out = _mm_xor_si128(_mm_aesenclast_si128(blocks[b], keys[10]), _mm_load_si128(in));
        _mm_store_si128(reinterpret_cast<__m128i*>(target + i + b * 16), out);
      }
    }
  }
  return sum_of(target, kBytes);
}

// Carry-less products folded as in a CRC or GHASH.
[[gnu::target("pclmul,sse4.1")]] std::uint64_t ghash(int rounds) {
  __m128i a = _mm_set1_epi32(0x5bd1e995), b = _mm_set1_epi32(0x1b873593);
  const __m128i key = _mm_set_epi64x(0x1c6e41596154442, 0x154442bd4c6e4159);
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < kBytes; i += 32) {
      const __m128i p = _mm_load_si128(reinterpret_cast<const __m128i*>(source + i));
      const __m128i q = _mm_load_si128(reinterpret_cast<const __m128i*>(source + i + 16));
      a = _mm_xor_si128(
          p, _mm_xor_si128(_mm_clmulepi64_si128(a, key, 0x00), _mm_clmulepi64_si128(a, key, 0x11)));
      b = _mm_xor_si128(
          q, _mm_xor_si128(_mm_clmulepi64_si128(b, key, 0x00), _mm_clmulepi64_si128(b, key, 0x11)));
    }
  }
  return sum_of(&a, sizeof a) ^ sum_of(&b, sizeof b);
}

[[gnu::target("sha,sse4.1")]] std::uint64_t sha_ni(int rounds) {
  __m128i a = _mm_set1_epi32(0x6a09e667), b = _mm_set1_epi32(0x510e527f);
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < kBytes; i += 64) {
      __m128i words[4];
      for (std::size_t w = 0; w < 4; ++w) {
        words[w] = _mm_load_si128(reinterpret_cast<const __m128i*>(source + i + w * 16));
      }
      for (std::size_t w = 0; w < 16; ++w) {
        const __m128i word = words[w & 3];
        b = _mm_sha256rnds2_epu32(b, a, word);
        a = _mm_sha256rnds2_epu32(a, b, _mm_shuffle_epi32(word, 0x0e));
        const __m128i next = _mm_sha256msg1_epu32(word, words[(w + 1) & 3]);
        words[w & 3] = _mm_sha256msg2_epu32(_mm_add_epi32(next, words[(w + 2) & 3]), words[(w + 3) & 3]);
      }
    }
  }
  return sum_of(&a, sizeof a) ^ sum_of(&b, sizeof b);
}

[[gnu::target("sse4.2")]] std::uint64_t crc32(int rounds) {
  std::uint64_t a = 1, b = 2, c = 3;
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i + 24 <= kBytes; i += 24) {
      std::uint64_t words[3];
      memcpy(words, source + i, sizeof words);
      a = _mm_crc32_u64(a, words[0]);
      b = _mm_crc32_u64(b, words[1]);
      c = _mm_crc32_u64(c, words[2]);
    }
  }
  return a ^ b << 11 ^ c << 22;
}

bool has_sha() {
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  asm("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return (ebx >> 29 & 1) != 0;
}

struct Kernel {
  const char* name;
  bool supported;
  std::uint64_t (*run)(int rounds);
  int rounds;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  std::uint32_t seed = 1;
  for (auto& byte : source) byte = static_cast<std::uint8_t>((seed = seed * 1664525 + 1013904223) >> 24);
  const bool avx2 = __builtin_cpu_supports("avx2"), fma = avx2 && __builtin_cpu_supports("fma");
  const Kernel kernels[] = {
      {"avx2-bytes", avx2, avx2_bytes, 5000},
      {"avx2-words", avx2, avx2_words, 3000},
      {"avx2-float", fma, avx2_float, 1000},
      {"avx2-double", fma, avx2_double, 1500},
      {"sse-bytes", static_cast<bool>(__builtin_cpu_supports("sse4.1")), sse_bytes, 10000},
      {"aes-ctr", static_cast<bool>(__builtin_cpu_supports("aes")), aes_ctr, 1500},
      {"ghash", static_cast<bool>(__builtin_cpu_supports("pclmul")), ghash, 6000},
      {"sha-ni", has_sha(), sha_ni, 1200},
      {"crc32", static_cast<bool>(__builtin_cpu_supports("sse4.2")), crc32, 3000},
  };
  for (const Kernel& kernel : kernels) {
    if (name != kernel.name) continue;
    if (!kernel.supported) {
      puts("unsupported");
      return 3;
    }
    printf("%016llx\n", static_cast<unsigned long long>(kernel.run(kernel.rounds)));
    return 0;
  }
  return 2;
}
