/* Parses and prints JSON. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { NUL, FALSE_, TRUE_, NUMBER, STRING, ARRAY, OBJECT };

struct value {
    enum kind kind;
    double number;
    char *text, *key;
    struct value *first, *next;
};

struct parser {
    const char *at, *end;
    int depth;
    const char *error;
};

static void skip(struct parser *p) {
    while (p->at < p->end && isspace((unsigned char)*p->at)) p->at++;
}

static struct value *fail(struct parser *p, const char *why) {
    if (!p->error) p->error = why;
    return NULL;
}

static struct value *make(enum kind kind) {
    struct value *v = calloc(1, sizeof *v);
    if (v) v->kind = kind;
    return v;
}

void json_free(struct value *v) {
    while (v) {
        struct value *next = v->next;
        json_free(v->first);
        free(v->text);
        free(v->key);
        free(v);
        v = next;
    }
}

static int hex(struct parser *p, unsigned *out) {
    unsigned code = 0;
    for (int i = 0; i < 4; i++) {
        if (p->at >= p->end || !isxdigit((unsigned char)*p->at)) return 0;
        int c = tolower((unsigned char)*p->at++);
        code = code << 4 | (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *out = code;
    return 1;
}

static char *put_utf8(char *out, unsigned code) {
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xc0 | code >> 6);
        *out++ = (char)(0x80 | (code & 63));
    } else {
        *out++ = (char)(0xe0 | code >> 12);
        *out++ = (char)(0x80 | (code >> 6 & 63));
        *out++ = (char)(0x80 | (code & 63));
    }
    return out;
}

static char *string(struct parser *p) {
    if (p->at >= p->end || *p->at != '"') return NULL;
    const char *begin = ++p->at;
    while (p->at < p->end && *p->at != '"') p->at += *p->at == '\\' ? 2 : 1;
    if (p->at >= p->end) return NULL;
    const char *stop = p->at;
    char *text = malloc((size_t)(stop - begin) * 2 + 1), *out = text;
    for (p->at = begin; p->at < stop;) {
        char c = *p->at++;
        if (c != '\\') {
            *out++ = c;
            continue;
        }
        unsigned code;
        switch (*p->at++) {
            case 'n': *out++ = '\n'; break;
            case 't': *out++ = '\t'; break;
            case 'r': *out++ = '\r'; break;
            case 'b': *out++ = '\b'; break;
            case 'f': *out++ = '\f'; break;
            case 'u':
                if (!hex(p, &code)) {
                    free(text);
                    return NULL;
                }
                out = put_utf8(out, code);
                break;
            default: *out++ = p->at[-1];
        }
    }
    *out = 0;
    p->at = stop + 1;
    return text;
}

static struct value *any(struct parser *p);

static struct value *list(struct parser *p, enum kind kind, char close) {
    struct value *v = make(kind), **tail = &v->first;
    p->at++;
    for (skip(p); p->at < p->end && *p->at != close; skip(p)) {
        char *key = NULL;
        if (kind == OBJECT) {
            if (!(key = string(p))) break;
            skip(p);
            if (p->at >= p->end || *p->at++ != ':') {
                free(key);
                break;
            }
        }
        struct value *item = any(p);
        if (!item) {
            free(key);
            break;
        }
        item->key = key;
        *tail = item;
        tail = &item->next;
        skip(p);
        if (p->at < p->end && *p->at == ',') p->at++;
    }
    if (p->at < p->end && *p->at == close) {
        p->at++;
        return v;
    }
    json_free(v);
    return fail(p, "unfinished list");
}

static struct value *any(struct parser *p) {
    static const struct { const char *word; enum kind kind; } words[] = {{"null", NUL}, {"false", FALSE_}, {"true", TRUE_}};
    skip(p);
    if (p->at >= p->end) return fail(p, "nothing there");
    if (++p->depth > 200) return fail(p, "too deep");
    struct value *v = NULL;
    if (*p->at == '{') {
        v = list(p, OBJECT, '}');
    } else if (*p->at == '[') {
        v = list(p, ARRAY, ']');
    } else if (*p->at == '"') {
        char *text = string(p);
        if (!text) return fail(p, "bad string");
        (v = make(STRING))->text = text;
    } else if (*p->at == '-' || isdigit((unsigned char)*p->at)) {
        char *end;
        v = make(NUMBER);
        v->number = strtod(p->at, &end);
        p->at = end;
    } else {
        for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
            size_t n = strlen(words[i].word);
            if ((size_t)(p->end - p->at) >= n && memcmp(p->at, words[i].word, n) == 0) {
                v = make(words[i].kind);
                p->at += n;
            }
        }
        if (!v) return fail(p, "unknown word");
    }
    p->depth--;
    return v;
}

struct value *json_parse(const char *text, const char **error) {
    struct parser p = {text, text + strlen(text), 0, NULL};
    struct value *v = any(&p);
    skip(&p);
    if (v && p.at != p.end) p.error = "more after the value";
    *error = p.error;
    return v;
}

void json_print(const struct value *v, int indent, FILE *out) {
    for (; v; v = v->next) {
        fprintf(out, "%*s", indent, "");
        if (v->key) fprintf(out, "\"%s\": ", v->key);
        switch (v->kind) {
            case NUL: fputs("null", out); break;
            case FALSE_: fputs("false", out); break;
            case TRUE_: fputs("true", out); break;
            case NUMBER: fprintf(out, "%.17g", v->number); break;
            case STRING: fprintf(out, "\"%s\"", v->text); break;
            case ARRAY:
            case OBJECT:
                fputs(v->kind == ARRAY ? "[\n" : "{\n", out);
                json_print(v->first, indent + 2, out);
                fprintf(out, "%*s%c", indent, "", v->kind == ARRAY ? ']' : '}');
                break;
        }
        fputs(v->next ? ",\n" : "\n", out);
    }
}
