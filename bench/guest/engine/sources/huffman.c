/* Huffman coding of a buffer, with canonical codes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SYMBOLS 256
#define LONGEST 15

struct item {
    uint64_t weight;
    int left, right;
};

struct heap {
    int count;
    int items[2 * SYMBOLS];
};

static void push(struct heap *h, const struct item *all, int item) {
    int at = h->count++;
    while (at > 0) {
        int up = (at - 1) / 2;
        if (all[h->items[up]].weight <= all[item].weight) break;
        h->items[at] = h->items[up];
        at = up;
    }
    h->items[at] = item;
}

static int pop(struct heap *h, const struct item *all) {
    int top = h->items[0], last = h->items[--h->count], at = 0;
    for (;;) {
        int child = 2 * at + 1;
        if (child >= h->count) break;
        if (child + 1 < h->count && all[h->items[child + 1]].weight < all[h->items[child]].weight) child++;
        if (all[last].weight <= all[h->items[child]].weight) break;
        h->items[at] = h->items[child];
        at = child;
    }
    h->items[at] = last;
    return top;
}

static void assign(const struct item *all, int item, int depth, uint8_t *lengths) {
    if (item < SYMBOLS) {
        lengths[item] = (uint8_t)(depth > LONGEST ? LONGEST : depth ? depth : 1);
        return;
    }
    assign(all, all[item].left, depth + 1, lengths);
    assign(all, all[item].right, depth + 1, lengths);
}

void huffman_lengths(const uint64_t *weights, uint8_t *lengths) {
    struct item all[2 * SYMBOLS];
    struct heap heap = {0};
    int used = SYMBOLS;
    memset(lengths, 0, SYMBOLS);
    for (int i = 0; i < SYMBOLS; i++) {
        all[i].weight = weights[i];
        if (weights[i]) push(&heap, all, i);
    }
    if (!heap.count) return;
    while (heap.count > 1) {
        int a = pop(&heap, all), b = pop(&heap, all);
        all[used].weight = all[a].weight + all[b].weight;
        all[used].left = a;
        all[used].right = b;
        push(&heap, all, used++);
    }
    assign(all, heap.items[0], 0, lengths);
    /* Too long codes were cut: lengthen others until Kraft's sum fits. */
    for (;;) {
        uint32_t sum = 0;
        int best = -1;
        for (int i = 0; i < SYMBOLS; i++) {
            if (!lengths[i]) continue;
            sum += 1u << (LONGEST - lengths[i]);
            if (lengths[i] < LONGEST && (best < 0 || lengths[i] > lengths[best])) best = i;
        }
        if (sum <= 1u << LONGEST || best < 0) break;
        lengths[best]++;
    }
}

void huffman_codes(const uint8_t *lengths, uint16_t *codes) {
    int counts[LONGEST + 1] = {0};
    uint16_t next[LONGEST + 2] = {0};
    for (int i = 0; i < SYMBOLS; i++) counts[lengths[i]]++;
    counts[0] = 0;
    for (int i = 1; i <= LONGEST; i++) next[i] = (uint16_t)((next[i - 1] + counts[i - 1]) << 1);
    for (int i = 0; i < SYMBOLS; i++) codes[i] = lengths[i] ? next[lengths[i]]++ : 0;
}

size_t huffman_encode(const uint8_t *in, size_t size, uint8_t *out, size_t room) {
    uint64_t weights[SYMBOLS] = {0}, bits = 0;
    uint8_t lengths[SYMBOLS];
    uint16_t codes[SYMBOLS];
    int held = 0;
    size_t written = 0;
    for (size_t i = 0; i < size; i++) weights[in[i]]++;
    huffman_lengths(weights, lengths);
    huffman_codes(lengths, codes);
    for (size_t i = 0; i < size; i++) {
        bits = bits << lengths[in[i]] | codes[in[i]];
        held += lengths[in[i]];
        while (held >= 8) {
            if (written == room) return 0;
            out[written++] = (uint8_t)(bits >> (held -= 8));
        }
    }
    if (held && written < room) out[written++] = (uint8_t)(bits << (8 - held));
    return written;
}
