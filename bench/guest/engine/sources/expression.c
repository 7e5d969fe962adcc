/* A small language: expressions and assignments compiled to a stack machine, and the machine. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum code { PUSH, LOAD, STORE, ADD, SUB, MUL, DIV, POW, NEG, LESS, EQUAL, CALL, JUMP_ZERO, JUMP, STOP };

struct command {
    enum code code;
    union {
        double number;
        int index;
    } u;
};

struct machine {
    struct command code[4096];
    int count, depth;
    double variables[64];
    char names[64][16];
    int named;
    const char *at;
    const char *error;
};

static const struct { const char *name; double (*call)(double); } functions[] = {
    {"sin", sin}, {"cos", cos}, {"sqrt", sqrt}, {"exp", exp}, {"log", log}, {"floor", floor},
};

static void expression(struct machine *m);

static int put(struct machine *m, enum code code) {
    if (m->count == sizeof m->code / sizeof *m->code) {
        m->error = "too long";
        m->count--;
    }
    m->code[m->count].code = code;
    m->code[m->count].u.number = 0;
    return m->count++;
}

static void blank(struct machine *m) {
    while (isspace((unsigned char)*m->at)) m->at++;
}

static int take(struct machine *m, const char *word) {
    blank(m);
    size_t length = strlen(word);
    if (strncmp(m->at, word, length) != 0) return 0;
    if (isalpha((unsigned char)*word) && isalnum((unsigned char)m->at[length])) return 0;
    m->at += length;
    return 1;
}

static int variable(struct machine *m, const char *name, size_t length) {
    if (length > 15) length = 15;
    for (int i = 0; i < m->named; i++) {
        if (strlen(m->names[i]) == length && memcmp(m->names[i], name, length) == 0) return i;
    }
    if (m->named == 64) {
        m->error = "too many names";
        return 0;
    }
    memcpy(m->names[m->named], name, length);
    m->names[m->named][length] = 0;
    return m->named++;
}

static void primary(struct machine *m) {
    if (++m->depth > 100) m->error = "too deep";
    blank(m);
    if (m->error) return;
    if (isdigit((unsigned char)*m->at)) {
        char *end;
        m->code[put(m, PUSH)].u.number = strtod(m->at, &end);
        m->at = end;
    } else if (take(m, "(")) {
        expression(m);
        if (!take(m, ")")) m->error = "no )";
    } else if (take(m, "-")) {
        primary(m);
        put(m, NEG);
    } else if (isalpha((unsigned char)*m->at)) {
        const char *name = m->at;
        while (isalnum((unsigned char)*m->at)) m->at++;
        size_t length = (size_t)(m->at - name);
        for (int i = 0; i < (int)(sizeof functions / sizeof *functions); i++) {
            if (strlen(functions[i].name) == length && memcmp(functions[i].name, name, length) == 0 && take(m, "(")) {
                expression(m);
                if (!take(m, ")")) m->error = "no )";
                m->code[put(m, CALL)].u.index = i;
                m->depth--;
                return;
            }
        }
        m->code[put(m, LOAD)].u.index = variable(m, name, length);
    } else {
        m->error = "no value";
    }
    m->depth--;
}

static void power(struct machine *m) {
    primary(m);
    if (take(m, "^")) {
        power(m);
        put(m, POW);
    }
}

static void product(struct machine *m) {
    power(m);
    for (;;) {
        if (take(m, "*")) power(m), put(m, MUL);
        else if (take(m, "/")) power(m), put(m, DIV);
        else return;
    }
}

static void sum(struct machine *m) {
    product(m);
    for (;;) {
        if (take(m, "+")) product(m), put(m, ADD);
        else if (take(m, "-")) product(m), put(m, SUB);
        else return;
    }
}

static void expression(struct machine *m) {
    sum(m);
    if (take(m, "<")) sum(m), put(m, LESS);
    else if (take(m, "==")) sum(m), put(m, EQUAL);
}

static void statement(struct machine *m) {
    if (take(m, "{")) {
        while (!m->error && !take(m, "}")) statement(m);
    } else if (take(m, "if")) {
        expression(m);
        int over = put(m, JUMP_ZERO);
        statement(m);
        m->code[over].u.index = m->count;
    } else if (take(m, "while")) {
        int begin = m->count;
        expression(m);
        int over = put(m, JUMP_ZERO);
        statement(m);
        m->code[put(m, JUMP)].u.index = begin;
        m->code[over].u.index = m->count;
    } else {
        blank(m);
        const char *name = m->at;
        while (isalnum((unsigned char)*m->at)) m->at++;
        int index = variable(m, name, (size_t)(m->at - name));
        if (!take(m, "=")) m->error = "no =";
        expression(m);
        m->code[put(m, STORE)].u.index = index;
        if (!take(m, ";")) m->error = "no ;";
    }
}

const char *compile(struct machine *m, const char *text) {
    memset(m, 0, sizeof *m);
    for (m->at = text, blank(m); *m->at && !m->error; blank(m)) statement(m);
    put(m, STOP);
    return m->error;
}

long execute(struct machine *m, long fuel) {
    double stack[256], *top = stack;
    for (const struct command *c = m->code; fuel-- > 0; c++) {
        if (top - stack > 250) return -1;
        switch (c->code) {
            case PUSH: *++top = c->u.number; break;
            case LOAD: *++top = m->variables[c->u.index]; break;
            case STORE: m->variables[c->u.index] = *top--; break;
            case ADD: top--; *top += top[1]; break;
            case SUB: top--; *top -= top[1]; break;
            case MUL: top--; *top *= top[1]; break;
            case DIV: top--; *top /= top[1]; break;
            case POW: top--; *top = pow(*top, top[1]); break;
            case LESS: top--; *top = *top < top[1]; break;
            case EQUAL: top--; *top = *top == top[1]; break;
            case NEG: *top = -*top; break;
            case CALL: *top = functions[c->u.index].call(*top); break;
            case JUMP_ZERO: if (*top-- == 0) c = m->code + c->u.index - 1; break;
            case JUMP: c = m->code + c->u.index - 1; break;
            case STOP: return fuel;
        }
    }
    return fuel;
}
