/* A memory allocator with size classes and coalescing of neighbours over one arena. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define CLASSES 32
#define UNIT 16u

struct block {
    size_t size;        /* bytes with this header; lowest bit: in use */
    size_t before;      /* size of the block in front, 0 for the first */
    struct block *next, *previous;
};

struct arena {
    uint8_t *begin, *end;
    struct block *free[CLASSES];
    uint32_t present;
    size_t used, most, calls;
};

static size_t size_of(const struct block *b) { return b->size & ~(size_t)1; }
static struct block *after(const struct block *b) { return (struct block *)((uint8_t *)b + size_of(b)); }
static struct block *in_front(const struct block *b) {
    return b->before ? (struct block *)((uint8_t *)b - b->before) : NULL;
}

static int class_of(size_t size) {
    int c = 63 - __builtin_clzll(size / UNIT | 1);
    int fine = c > 2 ? (int)(size / UNIT >> (c - 1) & 1) : 0;
    c = 2 * c + fine;
    return c < CLASSES ? c : CLASSES - 1;
}

static void link_in(struct arena *a, struct block *b) {
    int c = class_of(size_of(b));
    b->previous = NULL;
    b->next = a->free[c];
    if (b->next) b->next->previous = b;
    a->free[c] = b;
    a->present |= 1u << c;
}

static void take_out(struct arena *a, struct block *b) {
    int c = class_of(size_of(b));
    if (b->previous) b->previous->next = b->next;
    else if (!(a->free[c] = b->next)) a->present &= ~(1u << c);
    if (b->next) b->next->previous = b->previous;
}

static void set_size(struct arena *a, struct block *b, size_t size, int used) {
    b->size = size | (size_t)used;
    if ((uint8_t *)after(b) < a->end) after(b)->before = size;
}

void arena_begin(struct arena *a, void *memory, size_t size) {
    memset(a, 0, sizeof *a);
    a->begin = memory;
    a->end = a->begin + size / UNIT * UNIT;
    struct block *b = memory;
    b->before = 0;
    set_size(a, b, (size_t)(a->end - a->begin), 0);
    link_in(a, b);
}

void *arena_take(struct arena *a, size_t size) {
    size = (size + 2 * sizeof(size_t) + UNIT - 1) / UNIT * UNIT;
    if (size < sizeof(struct block)) size = sizeof(struct block);
    a->calls++;
    for (uint32_t classes = a->present & ~((1u << class_of(size)) - 1); classes; classes &= classes - 1) {
        for (struct block *b = a->free[__builtin_ctz(classes)]; b; b = b->next) {
            if (size_of(b) < size) continue;
            size_t rest = size_of(b) - size;
            take_out(a, b);
            if (rest >= sizeof(struct block)) {
                b->size = size;
                after(b)->before = size;
                set_size(a, after(b), rest, 0);
                link_in(a, after(b));
            } else {
                size += rest;
            }
            set_size(a, b, size, 1);
            a->used += size;
            if (a->used > a->most) a->most = a->used;
            return (uint8_t *)b + 2 * sizeof(size_t);
        }
    }
    return NULL;
}

void arena_give(struct arena *a, void *memory) {
    if (!memory) return;
    struct block *b = (struct block *)((uint8_t *)memory - 2 * sizeof(size_t)), *other;
    assert(b->size & 1);
    size_t size = size_of(b);
    a->used -= size;
    other = after(b);
    if ((uint8_t *)other < a->end && !(other->size & 1)) {
        take_out(a, other);
        size += size_of(other);
    }
    other = in_front(b);
    if (other && !(other->size & 1)) {
        take_out(a, other);
        size += size_of(other);
        b = other;
    }
    set_size(a, b, size, 0);
    link_in(a, b);
}

int arena_check(const struct arena *a, FILE *out) {
    size_t used = 0, before = 0, blocks = 0;
    for (const struct block *b = (const struct block *)a->begin; (const uint8_t *)b < a->end; b = after(b), blocks++) {
        if (b->before != before || !size_of(b)) {
            fprintf(out, "block %zu is wrong\n", blocks);
            return 0;
        }
        if (b->size & 1) used += size_of(b);
        before = size_of(b);
    }
    fprintf(out, "%zu blocks, %zu of %zu bytes, at most %zu\n", blocks, used, (size_t)(a->end - a->begin), a->most);
    return used == a->used;
}
