/* A left-leaning red-black tree with string keys. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct node *left, *right;
    int red;
    long value;
    char key[];
};

static int is_red(const struct node *n) { return n && n->red; }

static struct node *turn_left(struct node *n) {
    struct node *up = n->right;
    n->right = up->left;
    up->left = n;
    up->red = n->red;
    n->red = 1;
    return up;
}

static struct node *turn_right(struct node *n) {
    struct node *up = n->left;
    n->left = up->right;
    up->right = n;
    up->red = n->red;
    n->red = 1;
    return up;
}

static void flip(struct node *n) {
    n->red = !n->red;
    n->left->red = !n->left->red;
    n->right->red = !n->right->red;
}

static struct node *fix(struct node *n) {
    if (is_red(n->right) && !is_red(n->left)) n = turn_left(n);
    if (is_red(n->left) && is_red(n->left->left)) n = turn_right(n);
    if (is_red(n->left) && is_red(n->right)) flip(n);
    return n;
}

static struct node *insert(struct node *n, const char *key, long value) {
    if (!n) {
        n = calloc(1, sizeof *n + strlen(key) + 1);
        strcpy(n->key, key);
        n->value = value;
        n->red = 1;
        return n;
    }
    int order = strcmp(key, n->key);
    if (order < 0) n->left = insert(n->left, key, value);
    else if (order > 0) n->right = insert(n->right, key, value);
    else n->value += value;
    return fix(n);
}

static struct node *red_to_left(struct node *n) {
    flip(n);
    if (is_red(n->right->left)) {
        n->right = turn_right(n->right);
        n = turn_left(n);
        flip(n);
    }
    return n;
}

static struct node *remove_least(struct node *n) {
    if (!n->left) {
        free(n);
        return NULL;
    }
    if (!is_red(n->left) && !is_red(n->left->left)) n = red_to_left(n);
    n->left = remove_least(n->left);
    return fix(n);
}

static int depth(const struct node *n) {
    if (!n) return 0;
    int left = depth(n->left), right = depth(n->right);
    return 1 + (left > right ? left : right);
}

static long walk(const struct node *n, long (*visit)(const struct node *, long), long state) {
    if (!n) return state;
    state = walk(n->left, visit, state);
    state = visit(n, state);
    return walk(n->right, visit, state);
}

static long add(const struct node *n, long state) { return state * 31 + n->value + n->key[0]; }

struct node *tree_add(struct node *root, const char *key, long value) {
    root = insert(root, key, value);
    root->red = 0;
    return root;
}

struct node *tree_remove_least(struct node *root) {
    if (!root) return NULL;
    if (!is_red(root->left) && !is_red(root->right)) root->red = 1;
    root = remove_least(root);
    if (root) root->red = 0;
    return root;
}

const struct node *tree_find(const struct node *n, const char *key) {
    while (n) {
        int order = strcmp(key, n->key);
        if (!order) break;
        n = order < 0 ? n->left : n->right;
    }
    return n;
}

void tree_report(const struct node *root, FILE *out) {
    fprintf(out, "depth %d, sum %ld\n", depth(root), walk(root, add, 0));
}
