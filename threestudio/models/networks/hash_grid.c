/* The multi-resolution hash encoding and its gradients, for `hash_kernel.py`, which calls them in
 * several threads at once: each has a range of points or levels, and nobody else writes there.
 *
 * Positions, fractions and weights are rounded as in the torch version (`hash_grid.py`), so that
 * both find the same cells; -ffp-contract=off keeps it so. A position that is NaN, or too large for
 * an integer, reads cell 0: its fraction is then NaN or 0, as in torch. */

#include <stdint.h>

#define MAX_DIMS 4
#define BLOCK 32 /* points */
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int64_t dims, features, levels;
    const float *scales;     /* [levels] */
    const uint64_t *factors; /* [levels dims], strides of a dense level, primes of a hashed one */
    const uint64_t *sizes;   /* [levels], rows of a table; a power of two if hashed */
    const uint64_t *starts;  /* [levels], first row of a table */
    const uint8_t *dense;    /* [levels] */
} Layout;

typedef struct {
    float sides[MAX_DIMS][2];     /* weights of the lower and upper end in each dimension */
    float weights[1 << MAX_DIMS]; /* of the corners */
    uint64_t rows[1 << MAX_DIMS];
} Cell;

/* Whether corner k is at the upper end of dimension d; the last dimension changes fastest. */
INLINE int upper(int k, int d, int dims) {
    return k >> (dims - 1 - d) & 1;
}

/* The remainder that is never negative. */
INLINE uint64_t wrap(uint64_t index, uint64_t size) {
    if (index < size)
        return index;
    int64_t rest = (int64_t)index % (int64_t)size;
    return (uint64_t)(rest < 0 ? rest + (int64_t)size : rest);
}

INLINE Cell find_cell(const Layout *layout, int64_t level, const float *x, int dims) {
    Cell cell;
    uint64_t terms[MAX_DIMS][2], size = layout->sizes[level];
    int dense = layout->dense[level];
    for (int d = 0; d < dims; d++) {
        float position = x[d] * layout->scales[level] + 0.5f;
        int fits = position > -9e18f && position < 9e18f; /* false for NaN */
        int64_t whole = fits ? (int64_t)position : 0;
        int below = fits && position < (float)whole; /* the cast rounds towards zero */
        float lowest = fits ? (float)whole - (float)below : position;
        uint64_t factor = layout->factors[level * dims + d];
        cell.sides[d][1] = position - lowest;
        cell.sides[d][0] = 1.0f - cell.sides[d][1];
        terms[d][0] = (uint64_t)(whole - below) * factor;
        terms[d][1] = terms[d][0] + factor;
    }
    for (int k = 0; k < 1 << dims; k++) {
        uint64_t index = 0;
        float weight = 1.0f;
        for (int d = 0; d < dims; d++) {
            uint64_t term = terms[d][upper(k, d, dims)];
            index = dense ? index + term : index ^ term;
            weight *= cell.sides[d][upper(k, d, dims)];
        }
        cell.rows[k] = layout->starts[level] + (dense ? wrap(index, size) : index & (size - 1));
        cell.weights[k] = weight;
    }
    return cell;
}

/* Find the cells of up to BLOCK points and ask for their rows, so that memory is read meanwhile. */
INLINE int64_t find_cells(Cell *cells, const Layout *layout, int64_t level, const float *x,
                          int64_t first, int64_t end, const float *values, int dims,
                          int features) {
    int64_t count = end - first < BLOCK ? end - first : BLOCK;
    for (int64_t i = 0; i < count; i++) {
        cells[i] = find_cell(layout, level, x + (first + i) * dims, dims);
        for (int k = 0; k < 1 << dims; k++)
            __builtin_prefetch(values + cells[i].rows[k] * features);
    }
    return count;
}

INLINE void encode_point(const Cell *cell, const float *table, float *restrict out, int dims,
                         int features) {
    for (int f = 0; f < features; f++)
        out[f] = 0.0f;
    for (int k = 0; k < 1 << dims; k++)
        for (int f = 0; f < features; f++)
            out[f] += cell->weights[k] * table[cell->rows[k] * features + f];
}

INLINE void add_to_table(const Cell *cell, const float *grad, float *restrict out, int dims,
                         int features) {
    for (int k = 0; k < 1 << dims; k++)
        for (int f = 0; f < features; f++)
            out[cell->rows[k] * features + f] += cell->weights[k] * grad[f];
}

/* A weight is a product of sides; its slope in d is +-1 times the sides of the other dimensions. */
INLINE void add_to_point(const Cell *cell, float scale, const float *table, const float *grad,
                         float *restrict out, int dims, int features) {
    float slopes[MAX_DIMS] = {0.0f};
    for (int k = 0; k < 1 << dims; k++) {
        float value = 0.0f;
        for (int f = 0; f < features; f++)
            value += grad[f] * table[cell->rows[k] * features + f];
        for (int d = 0; d < dims; d++) {
            float slope = upper(k, d, dims) ? value : -value;
            for (int e = 0; e < dims; e++)
                slope *= e == d ? 1.0f : cell->sides[e][upper(k, e, dims)];
            slopes[d] += slope;
        }
    }
    for (int d = 0; d < dims; d++)
        out[d] += slopes[d] * scale;
}

INLINE void encode_sized(const Layout *layout, const float *x, const float *table, float *out,
                         int64_t begin, int64_t end, int dims, int features) {
    Cell cells[BLOCK];
    for (int64_t level = 0; level < layout->levels; level++)
        for (int64_t n = begin; n < end; n += BLOCK) {
            int64_t count = find_cells(cells, layout, level, x, n, end, table, dims, features);
            for (int64_t i = 0; i < count; i++)
                encode_point(&cells[i], table,
                             out + ((n + i) * layout->levels + level) * features, dims, features);
        }
}

INLINE void table_sized(const Layout *layout, const float *x, const float *grad, float *out,
                        int64_t points, int64_t begin, int64_t end, int dims, int features) {
    Cell cells[BLOCK];
    for (int64_t level = begin; level < end; level++)
        for (int64_t n = 0; n < points; n += BLOCK) {
            int64_t count = find_cells(cells, layout, level, x, n, points, out, dims, features);
            for (int64_t i = 0; i < count; i++)
                add_to_table(&cells[i], grad + ((n + i) * layout->levels + level) * features, out,
                             dims, features);
        }
}

INLINE void points_sized(const Layout *layout, const float *x, const float *table,
                         const float *grad, float *out, int64_t begin, int64_t end, int dims,
                         int features) {
    Cell cells[BLOCK];
    for (int64_t level = 0; level < layout->levels; level++)
        for (int64_t n = begin; n < end; n += BLOCK) {
            int64_t count = find_cells(cells, layout, level, x, n, end, table, dims, features);
            for (int64_t i = 0; i < count; i++)
                add_to_point(&cells[i], layout->scales[level], table,
                             grad + ((n + i) * layout->levels + level) * features,
                             out + (n + i) * dims, dims, features);
        }
}

/* The usual sizes are compiled apart, with loops unrolled: several times faster. */
#define DISPATCH(function, ...)                                                                  \
    if (layout->dims == 3 && layout->features == 2)                                              \
        function(layout, __VA_ARGS__, 3, 2);                                                     \
    else                                                                                         \
        function(layout, __VA_ARGS__, (int)layout->dims, (int)layout->features)

/* Encode the points from `begin` until `end`: x [N dims] -> out [N levels features]. */
void encode(const Layout *layout, const float *x, const float *table, float *out, int64_t begin,
            int64_t end) {
    DISPATCH(encode_sized, x, table, out, begin, end);
}

/* Add the gradient of the tables of the levels from `begin` until `end`, points in their order. */
void table_gradient(const Layout *layout, const float *x, const float *grad, float *out,
                    int64_t points, int64_t begin, int64_t end) {
    DISPATCH(table_sized, x, grad, out, points, begin, end);
}

/* Add the gradient of the points from `begin` until `end`, coarse levels first. */
void points_gradient(const Layout *layout, const float *x, const float *table, const float *grad,
                     float *out, int64_t begin, int64_t end) {
    DISPATCH(points_sized, x, table, grad, out, begin, end);
}
