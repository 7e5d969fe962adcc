/* Conway's life on bit boards, path finding on a grid, and sorting: three short classics. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 64

void life_step(uint64_t *rows) {
    uint64_t out[SIZE];
    for (int y = 0; y < SIZE; y++) {
        uint64_t ones = 0, twos = 0, fours = 0;
        for (int dy = -1; dy <= 1; dy++) {
            uint64_t row = rows[(y + dy) & (SIZE - 1)];
            uint64_t parts[3] = {row << 1 | row >> 63, row, row >> 1 | row << 63};
            for (int i = 0; i < 3; i++) {
                if (dy == 0 && i == 1) continue;
                uint64_t carry = ones & parts[i], more = twos & carry;
                ones ^= parts[i];
                twos ^= carry;
                fours |= more;
            }
        }
        out[y] = twos & ~fours & (ones | rows[y]);
    }
    memcpy(rows, out, sizeof out);
}

struct cell {
    int cost, from, place;
};

struct queue {
    int count;
    int items[SIZE * SIZE];
    struct cell cells[SIZE * SIZE];
};

static void move_up(struct queue *q, int at) {
    int item = q->items[at];
    for (; at && q->cells[q->items[(at - 1) / 2]].cost > q->cells[item].cost; at = (at - 1) / 2) {
        q->items[at] = q->items[(at - 1) / 2];
        q->cells[q->items[at]].place = at;
    }
    q->items[at] = item;
    q->cells[item].place = at;
}

static int first(struct queue *q) {
    int top = q->items[0], item = q->items[--q->count], at = 0;
    for (int child; (child = 2 * at + 1) < q->count; at = child) {
        if (child + 1 < q->count && q->cells[q->items[child + 1]].cost < q->cells[q->items[child]].cost) child++;
        if (q->cells[q->items[child]].cost >= q->cells[item].cost) break;
        q->items[at] = q->items[child];
        q->cells[q->items[at]].place = at;
    }
    q->items[at] = item;
    q->cells[item].place = at;
    return top;
}

int shortest(const uint64_t *walls, int from, int to) {
    struct queue *q = calloc(1, sizeof *q);
    for (int i = 0; i < SIZE * SIZE; i++) q->cells[i].cost = INT32_MAX / 2, q->cells[i].place = -1;
    q->cells[from].cost = 0;
    q->items[0] = from;
    q->cells[from].place = 0;
    q->count = 1;
    while (q->count) {
        int here = first(q), x = here % SIZE, y = here / SIZE;
        if (here == to) break;
        for (int d = 0; d < 8; d++) {
            static const int dx[] = {1, 1, 0, -1, -1, -1, 0, 1}, dy[] = {0, 1, 1, 1, 0, -1, -1, -1};
            int nx = x + dx[d], ny = y + dy[d];
            if (nx < 0 || ny < 0 || nx >= SIZE || ny >= SIZE || (walls[ny] >> nx & 1)) continue;
            int next = ny * SIZE + nx, cost = q->cells[here].cost + (d & 1 ? 14 : 10);
            if (cost >= q->cells[next].cost) continue;
            if (q->cells[next].place < 0) q->cells[next].place = q->count, q->items[q->count++] = next;
            q->cells[next].cost = cost;
            q->cells[next].from = here;
            move_up(q, q->cells[next].place);
        }
    }
    int cost = q->cells[to].cost;
    free(q);
    return cost;
}

static void insertion(uint32_t *a, int n) {
    for (int i = 1; i < n; i++) {
        uint32_t x = a[i];
        int j = i;
        for (; j && a[j - 1] > x; j--) a[j] = a[j - 1];
        a[j] = x;
    }
}

void quick(uint32_t *a, int n) {
    while (n > 24) {
        uint32_t p = a[0], q = a[n / 2], r = a[n - 1];
        uint32_t pivot = p < q ? (q < r ? q : p < r ? r : p) : (p < r ? p : q < r ? r : q);
        int i = -1, j = n;
        for (;;) {
            while (a[++i] < pivot) {}
            while (a[--j] > pivot) {}
            if (i >= j) break;
            uint32_t swap = a[i];
            a[i] = a[j];
            a[j] = swap;
        }
        quick(a, j + 1);
        a += j + 1;
        n -= j + 1;
    }
    insertion(a, n);
}

void radix(uint32_t *a, uint32_t *spare, size_t n) {
    for (int shift = 0; shift < 32; shift += 8) {
        size_t counts[257] = {0};
        for (size_t i = 0; i < n; i++) counts[(a[i] >> shift & 255) + 1]++;
        for (int i = 0; i < 256; i++) counts[i + 1] += counts[i];
        for (size_t i = 0; i < n; i++) spare[counts[a[i] >> shift & 255]++] = a[i];
        memcpy(a, spare, n * sizeof *a);
    }
}
