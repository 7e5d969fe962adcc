/* Unsigned numbers of any size: schoolbook arithmetic, powers modulo n, decimal text. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMBS 128

struct big {
    int size;
    uint32_t limb[LIMBS];
};

static void trim(struct big *x) {
    while (x->size && !x->limb[x->size - 1]) x->size--;
}

void big_set(struct big *x, uint64_t value) {
    memset(x, 0, sizeof *x);
    x->limb[0] = (uint32_t)value;
    x->limb[1] = (uint32_t)(value >> 32);
    x->size = 2;
    trim(x);
}

int big_compare(const struct big *a, const struct big *b) {
    if (a->size != b->size) return a->size < b->size ? -1 : 1;
    for (int i = a->size; i-- > 0;) {
        if (a->limb[i] != b->limb[i]) return a->limb[i] < b->limb[i] ? -1 : 1;
    }
    return 0;
}

void big_add(struct big *out, const struct big *a, const struct big *b) {
    uint64_t carry = 0;
    int size = a->size > b->size ? a->size : b->size;
    for (int i = 0; i < size || carry; i++) {
        if (i == LIMBS) break;
        carry += (uint64_t)(i < a->size ? a->limb[i] : 0) + (i < b->size ? b->limb[i] : 0);
        out->limb[i] = (uint32_t)carry;
        carry >>= 32;
        out->size = i + 1;
    }
    trim(out);
}

void big_subtract(struct big *out, const struct big *a, const struct big *b) {
    int64_t borrow = 0;
    for (int i = 0; i < a->size; i++) {
        borrow += (int64_t)a->limb[i] - (i < b->size ? b->limb[i] : 0);
        out->limb[i] = (uint32_t)borrow;
        borrow >>= 32;
    }
    out->size = a->size;
    trim(out);
}

void big_multiply(struct big *out, const struct big *a, const struct big *b) {
    struct big result = {0};
    for (int i = 0; i < a->size; i++) {
        uint64_t carry = 0;
        for (int j = 0; j < b->size && i + j < LIMBS; j++) {
            carry += (uint64_t)a->limb[i] * b->limb[j] + result.limb[i + j];
            result.limb[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
        if (i + b->size < LIMBS) result.limb[i + b->size] = (uint32_t)carry;
    }
    result.size = a->size + b->size > LIMBS ? LIMBS : a->size + b->size;
    trim(&result);
    *out = result;
}

static uint32_t divide_small(struct big *x, uint32_t by) {
    uint64_t rest = 0;
    for (int i = x->size; i-- > 0;) {
        rest = rest << 32 | x->limb[i];
        x->limb[i] = (uint32_t)(rest / by);
        rest %= by;
    }
    trim(x);
    return (uint32_t)rest;
}

void big_modulo(struct big *out, const struct big *a, const struct big *n) {
    struct big rest = {0};
    for (int i = a->size * 32; i-- > 0;) {
        big_add(&rest, &rest, &rest);
        if (a->limb[i / 32] >> (i % 32) & 1) {
            rest.limb[0] |= 1;
            if (!rest.size) rest.size = 1;
        }
        if (big_compare(&rest, n) >= 0) big_subtract(&rest, &rest, n);
    }
    *out = rest;
}

void big_power(struct big *out, const struct big *base, const struct big *exponent, const struct big *n) {
    struct big result, square = *base;
    big_set(&result, 1);
    for (int i = 0; i < exponent->size * 32; i++) {
        if (exponent->limb[i / 32] >> (i % 32) & 1) {
            big_multiply(&result, &result, &square);
            big_modulo(&result, &result, n);
        }
        big_multiply(&square, &square, &square);
        big_modulo(&square, &square, n);
    }
    *out = result;
}

char *big_text(const struct big *x, char *buffer, size_t room) {
    struct big rest = *x;
    char *at = buffer + room;
    *--at = 0;
    do {
        uint32_t digits = divide_small(&rest, 1000000000);
        for (int i = 0; i < 9 && at > buffer && (digits || rest.size || i == 0); i++) {
            *--at = (char)('0' + digits % 10);
            digits /= 10;
        }
    } while (rest.size && at > buffer);
    return at;
}
