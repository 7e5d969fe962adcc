/* Regular expressions by a backtracking matcher over a small program. */
#include <stdlib.h>
#include <string.h>

enum op { CHAR, ANY, SET, SPLIT, JUMP, BEGIN_, END_, MATCH };

struct step {
    enum op op;
    unsigned char c;
    int a, b;
    unsigned char set[32];
};

struct program {
    struct step *steps;
    int count, room;
};

static int emit(struct program *p, enum op op) {
    if (p->count == p->room) {
        p->room = p->room ? p->room * 2 : 16;
        p->steps = realloc(p->steps, (size_t)p->room * sizeof *p->steps);
    }
    memset(&p->steps[p->count], 0, sizeof *p->steps);
    p->steps[p->count].op = op;
    return p->count++;
}

static void open_gap(struct program *p, int at) {
    emit(p, JUMP);
    memmove(p->steps + at + 1, p->steps + at, (size_t)(p->count - at - 1) * sizeof *p->steps);
    for (int i = at + 1; i < p->count; i++) {
        if (p->steps[i].op == SPLIT || p->steps[i].op == JUMP) {
            p->steps[i].a += p->steps[i].a >= at;
            p->steps[i].b += p->steps[i].b >= at;
        }
    }
}

static const char *alternatives(struct program *p, const char *at);

static const char *set(struct program *p, const char *at) {
    struct step *s = &p->steps[emit(p, SET)];
    int negative = *at == '^';
    if (negative) at++;
    do {
        unsigned char low = (unsigned char)*at++, high = low;
        if (at[0] == '-' && at[1] && at[1] != ']') {
            high = (unsigned char)at[1];
            at += 2;
        }
        for (unsigned c = low; c <= high; c++) s->set[c >> 3] |= (unsigned char)(1u << (c & 7));
    } while (*at && *at != ']');
    if (negative) {
        for (int i = 0; i < 32; i++) s->set[i] = (unsigned char)~s->set[i];
    }
    return *at ? at + 1 : at;
}

static const char *atom(struct program *p, const char *at) {
    switch (*at) {
        case '.': emit(p, ANY); return at + 1;
        case '^': emit(p, BEGIN_); return at + 1;
        case '$': emit(p, END_); return at + 1;
        case '[': return set(p, at + 1);
        case '(':
            at = alternatives(p, at + 1);
            return *at == ')' ? at + 1 : at;
        case '\\':
            if (at[1]) at++;
            /* fall through */
        default: p->steps[emit(p, CHAR)].c = (unsigned char)*at; return at + 1;
    }
}

static const char *sequence(struct program *p, const char *at) {
    while (*at && *at != '|' && *at != ')') {
        int begin = p->count;
        at = atom(p, at);
        for (; *at == '*' || *at == '+' || *at == '?'; at++) {
            if (*at == '+') {
                int split = emit(p, SPLIT);
                p->steps[split].a = begin;
                p->steps[split].b = split + 1;
                continue;
            }
            open_gap(p, begin);
            p->steps[begin].op = SPLIT;
            p->steps[begin].a = begin + 1;
            if (*at == '*') p->steps[emit(p, JUMP)].a = begin;
            p->steps[begin].b = p->count;
        }
    }
    return at;
}

static const char *alternatives(struct program *p, const char *at) {
    int begin = p->count;
    at = sequence(p, at);
    while (*at == '|') {
        open_gap(p, begin);
        p->steps[begin].op = SPLIT;
        p->steps[begin].a = begin + 1;
        int jump = emit(p, JUMP);
        p->steps[begin].b = p->count;
        at = sequence(p, at + 1);
        p->steps[jump].a = p->count;
    }
    return at;
}

static const char *run(const struct program *p, int pc, const char *text, const char *at, int *fuel) {
    for (; (*fuel)-- > 0; pc++) {
        const struct step *s = &p->steps[pc];
        unsigned char c = (unsigned char)*at;
        const char *end;
        switch (s->op) {
            case CHAR: if (c != s->c) return NULL; at++; break;
            case ANY: if (!c) return NULL; at++; break;
            case SET: if (!c || !(s->set[c >> 3] >> (c & 7) & 1)) return NULL; at++; break;
            case BEGIN_: if (at != text) return NULL; break;
            case END_: if (c) return NULL; break;
            case JUMP: pc = s->a - 1; break;
            case SPLIT:
                if ((end = run(p, s->a, text, at, fuel))) return end;
                pc = s->b - 1;
                break;
            case MATCH: return at;
        }
    }
    return NULL;
}

int regex_search(const char *pattern, const char *text, size_t *begin, size_t *length) {
    struct program p = {0};
    int found = 0, fuel = 100000;
    alternatives(&p, pattern);
    emit(&p, MATCH);
    for (const char *at = text;; at++) {
        const char *end = run(&p, 0, text, at, &fuel);
        if (end) {
            *begin = (size_t)(at - text);
            *length = (size_t)(end - at);
            found = 1;
            break;
        }
        if (!*at) break;
    }
    free(p.steps);
    return found;
}
