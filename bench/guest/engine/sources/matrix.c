/* Linear algebra on small dense matrices: LU with pivots, QR, eigenvalues by Jacobi's method. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct matrix {
    int rows, columns;
    double *at;
};

#define AT(m, i, j) ((m)->at[(size_t)(i) * (size_t)(m)->columns + (size_t)(j)])

struct matrix matrix_make(int rows, int columns) {
    struct matrix m = {rows, columns, calloc((size_t)rows * (size_t)columns, sizeof(double))};
    return m;
}

void matrix_multiply(struct matrix *out, const struct matrix *a, const struct matrix *b) {
    for (int i = 0; i < a->rows; i++) {
        for (int j = 0; j < b->columns; j++) {
            double sum = 0;
            for (int k = 0; k < a->columns; k++) sum += AT(a, i, k) * AT(b, k, j);
            AT(out, i, j) = sum;
        }
    }
}

int matrix_lu(struct matrix *m, int *order) {
    int sign = 1, n = m->rows;
    for (int i = 0; i < n; i++) order[i] = i;
    for (int k = 0; k < n; k++) {
        int best = k;
        for (int i = k + 1; i < n; i++) {
            if (fabs(AT(m, i, k)) > fabs(AT(m, best, k))) best = i;
        }
        if (AT(m, best, k) == 0) return 0;
        if (best != k) {
            for (int j = 0; j < n; j++) {
                double swap = AT(m, k, j);
                AT(m, k, j) = AT(m, best, j);
                AT(m, best, j) = swap;
            }
            int swap = order[k];
            order[k] = order[best];
            order[best] = swap;
            sign = -sign;
        }
        for (int i = k + 1; i < n; i++) {
            double factor = AT(m, i, k) /= AT(m, k, k);
            for (int j = k + 1; j < n; j++) AT(m, i, j) -= factor * AT(m, k, j);
        }
    }
    return sign;
}

void matrix_solve(const struct matrix *lu, const int *order, const double *b, double *x) {
    int n = lu->rows;
    for (int i = 0; i < n; i++) {
        x[i] = b[order[i]];
        for (int j = 0; j < i; j++) x[i] -= AT(lu, i, j) * x[j];
    }
    for (int i = n; i-- > 0;) {
        for (int j = i + 1; j < n; j++) x[i] -= AT(lu, i, j) * x[j];
        x[i] /= AT(lu, i, i);
    }
}

void matrix_qr(struct matrix *a, struct matrix *r) {
    int m = a->rows, n = a->columns;
    for (int k = 0; k < n; k++) {
        double norm = 0;
        for (int i = 0; i < m; i++) norm += AT(a, i, k) * AT(a, i, k);
        norm = sqrt(norm);
        AT(r, k, k) = norm;
        if (norm == 0) continue;
        for (int i = 0; i < m; i++) AT(a, i, k) /= norm;
        for (int j = k + 1; j < n; j++) {
            double dot = 0;
            for (int i = 0; i < m; i++) dot += AT(a, i, k) * AT(a, i, j);
            AT(r, k, j) = dot;
            for (int i = 0; i < m; i++) AT(a, i, j) -= dot * AT(a, i, k);
        }
    }
}

int matrix_eigen(struct matrix *a, double *values) {
    int n = a->rows, sweeps = 0;
    for (; sweeps < 60; sweeps++) {
        double rest = 0;
        for (int p = 0; p < n; p++) {
            for (int q = p + 1; q < n; q++) rest += AT(a, p, q) * AT(a, p, q);
        }
        if (rest < 1e-20) break;
        for (int p = 0; p < n; p++) {
            for (int q = p + 1; q < n; q++) {
                if (AT(a, p, q) == 0) continue;
                double theta = (AT(a, q, q) - AT(a, p, p)) / (2 * AT(a, p, q));
                double t = (theta >= 0 ? 1 : -1) / (fabs(theta) + sqrt(theta * theta + 1));
                double c = 1 / sqrt(t * t + 1), s = t * c;
                for (int k = 0; k < n; k++) {
                    double x = AT(a, k, p), y = AT(a, k, q);
                    AT(a, k, p) = c * x - s * y;
                    AT(a, k, q) = s * x + c * y;
                }
                for (int k = 0; k < n; k++) {
                    double x = AT(a, p, k), y = AT(a, q, k);
                    AT(a, p, k) = c * x - s * y;
                    AT(a, q, k) = s * x + c * y;
                }
            }
        }
    }
    for (int i = 0; i < n; i++) values[i] = AT(a, i, i);
    return sweeps;
}

void matrix_print(const struct matrix *m, FILE *out) {
    for (int i = 0; i < m->rows; i++) {
        for (int j = 0; j < m->columns; j++) fprintf(out, "%s%10.4f", j ? " " : "", AT(m, i, j));
        fputc('\n', out);
    }
}
