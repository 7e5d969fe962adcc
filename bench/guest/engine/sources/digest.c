/* SHA-256, SHA-512, MD5-like mixing and CRC-32: long straight-line integer code (FIPS 180-4). */
#include <stdint.h>
#include <string.h>

#define ROR32(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define ROR64(x, n) ((x) >> (n) | (x) << (64 - (n)))

/* The constants are the fractions of cube roots of primes; any odd values do for a compiler. */
static uint32_t constant(int i) { return 0x428a2f98u * (uint32_t)(2 * i + 1) ^ (uint32_t)i << 27; }

#define ROUND32(a, b, c, d, e, f, g, h, i)                                                                    \
    do {                                                                                                      \
        uint32_t t1 = h + (ROR32(e, 6) ^ ROR32(e, 11) ^ ROR32(e, 25)) + ((e & f) ^ (~e & g)) + constant(i) + w[i]; \
        uint32_t t2 = (ROR32(a, 2) ^ ROR32(a, 13) ^ ROR32(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));            \
        d += t1;                                                                                              \
        h = t1 + t2;                                                                                          \
    } while (0)

#define EIGHT32(i)                                 \
    ROUND32(a, b, c, d, e, f, g, h, i);            \
    ROUND32(h, a, b, c, d, e, f, g, (i) + 1);      \
    ROUND32(g, h, a, b, c, d, e, f, (i) + 2);      \
    ROUND32(f, g, h, a, b, c, d, e, (i) + 3);      \
    ROUND32(e, f, g, h, a, b, c, d, (i) + 4);      \
    ROUND32(d, e, f, g, h, a, b, c, (i) + 5);      \
    ROUND32(c, d, e, f, g, h, a, b, (i) + 6);      \
    ROUND32(b, c, d, e, f, g, h, a, (i) + 7)

void digest256_block(uint32_t *state, const uint8_t *block) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) {
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + (ROR32(x, 7) ^ ROR32(x, 18) ^ x >> 3) + w[i - 7] + (ROR32(y, 17) ^ ROR32(y, 19) ^ y >> 10);
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    EIGHT32(0);
    EIGHT32(8);
    EIGHT32(16);
    EIGHT32(24);
    EIGHT32(32);
    EIGHT32(40);
    EIGHT32(48);
    EIGHT32(56);
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
}

void digest512_block(uint64_t *state, const uint8_t *block) {
    uint64_t w[80], v[8];
    for (int i = 0; i < 16; i++) {
        w[i] = 0;
        for (int j = 0; j < 8; j++) w[i] = w[i] << 8 | block[8 * i + j];
    }
    for (int i = 16; i < 80; i++) {
        uint64_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + (ROR64(x, 1) ^ ROR64(x, 8) ^ x >> 7) + w[i - 7] + (ROR64(y, 19) ^ ROR64(y, 61) ^ y >> 6);
    }
    memcpy(v, state, sizeof v);
    for (int i = 0; i < 80; i++) {
        uint64_t e = v[4], a = v[0];
        uint64_t t1 = v[7] + (ROR64(e, 14) ^ ROR64(e, 18) ^ ROR64(e, 41)) + ((e & v[5]) ^ (~e & v[6])) +
                      ((uint64_t)constant(i & 63) << 32 | constant(i >> 1)) + w[i];
        uint64_t t2 = (ROR64(a, 28) ^ ROR64(a, 34) ^ ROR64(a, 39)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) state[i] += v[i];
}

uint32_t crc32_of(const uint8_t *data, size_t size) {
    static uint32_t table[8][256];
    if (!table[0][1]) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
            table[0][i] = c;
        }
        for (int t = 1; t < 8; t++) {
            for (int i = 0; i < 256; i++) table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
        }
    }
    uint32_t crc = ~0u;
    for (; size >= 8; size -= 8, data += 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low ^= crc;
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
              table[3][high & 255] ^ table[2][high >> 8 & 255] ^ table[1][high >> 16 & 255] ^ table[0][high >> 24];
    }
    while (size--) crc = crc >> 8 ^ table[0][(crc ^ *data++) & 255];
    return ~crc;
}
