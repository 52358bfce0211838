// Operations on each element, and sums over columns.
#include "swiglu.cuh"
#include "walk.cuh"

struct PointwiseArgs {
    void *dst, *more;
    const void *x, *y, *z;
    long long n;
    float scale;
    int vec;
};

template <int HALF> __device__ __forceinline__ void add(const PointwiseArgs& a) {
    const float scale = a.scale;
    void* const dst[] = {a.dst};
    const void* const src[] = {a.x, a.y};
    pointwise<2, 1, HALF>(dst, src, a.n, a.vec, [=](float* out, const float* in, long long) { out[0] = fmaf(scale, in[1], in[0]); });
}

// Names tell which of dst, x and y are bfloat16.
KERNEL(add, PointwiseArgs, 256) { add<0>(a); }
KERNEL(add_x, PointwiseArgs, 256) { add<1>(a); }
KERNEL(add_y, PointwiseArgs, 256) { add<2>(a); }
KERNEL(add_xy, PointwiseArgs, 256) { add<3>(a); }
KERNEL(add_dst, PointwiseArgs, 256) { add<16>(a); }
KERNEL(add_dst_x, PointwiseArgs, 256) { add<17>(a); }
KERNEL(add_dst_y, PointwiseArgs, 256) { add<18>(a); }
KERNEL(add_dst_xy, PointwiseArgs, 256) { add<19>(a); }

template <int HALF> __device__ __forceinline__ void swiglu(const PointwiseArgs& a) {
    void* const dst[] = {a.dst};
    const void* const src[] = {a.x, a.y};
    pointwise<2, 1, HALF>(dst, src, a.n, a.vec, [](float* out, const float* in, long long) { out[0] = in[0] * sigmoid(in[0]) * in[1]; });
}

KERNEL(swiglu, PointwiseArgs, 256) { swiglu<0>(a); }
KERNEL(swiglu_half, PointwiseArgs, 256) { swiglu<0x13>(a); }

template <int HALF> __device__ __forceinline__ void swiglu_grad(const PointwiseArgs& a) {
    void* const dst[] = {a.dst, a.more};
    const void* const src[] = {a.x, a.y, a.z}; // gate, up, dy
    pointwise<3, 2, HALF>(dst, src, a.n, a.vec, [](float* out, const float* in, long long) {
        swiglu_grad(out[0], out[1], in[2], in[0], in[1], HALF ? near_sigmoid(in[0]) : sigmoid(in[0]));
    });
}

KERNEL(swiglu_grad, PointwiseArgs, 256) { swiglu_grad<0>(a); }
KERNEL(swiglu_grad_half, PointwiseArgs, 256) { swiglu_grad<0x37>(a); }

struct DropoutArgs {
    void* dst;
    const void* x;
    long long n;
    unsigned long long seed;
    float p, scale;
    int vec;
};

// uniform returns number i of a sequence in [0, 1) (Steele et al. 2014,
// SplitMix64): package cpu has the same.
__device__ __forceinline__ float uniform(unsigned long long seed, long long i) {
    unsigned long long z = seed + (unsigned long long)(i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (float)(unsigned)((z ^ z >> 31) >> 40) * 5.9604644775390625e-8f; // 2^-24
}

template <int HALF> __device__ __forceinline__ void dropout(const DropoutArgs& a) {
    const unsigned long long seed = a.seed;
    const float p = a.p, scale = a.scale;
    void* const dst[] = {a.dst};
    const void* const src[] = {a.x};
    pointwise<1, 1, HALF>(dst, src, a.n, a.vec, [=](float* out, const float* in, long long i) { out[0] = uniform(seed, i) >= p ? scale * in[0] : 0.0f; });
}

KERNEL(dropout, DropoutArgs, 256) { dropout<0>(a); }
KERNEL(dropout_half, DropoutArgs, 256) { dropout<0x11>(a); }

struct RowArgs {
    void* dst;
    const void* x;
    const float* s; // a number for each column or row
    long long rows, cols;
    int shift;
};

// by_row calls f(x, s) on the elements of a matrix and W numbers s, of their
// columns or, if ROWS, of their row.
template <int W, bool ROWS, class T, class F> __device__ __forceinline__ void by_row(const RowArgs& a, F f) {
    const Tile t(a.shift);
    const long long col = t.item * W;
    if (col >= a.cols) return;
    float s[W], v[TILE_ROWS][W];
    if (!ROWS) load<W>(s, a.s + col);
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = t.row + u * t.step;
        if (row < a.rows) load<W>(v[u], (const T*)a.x + row * a.cols + col);
    }
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = t.row + u * t.step;
        if (row >= a.rows) break;
        const float by = ROWS ? a.s[row] : 0.0f;
#pragma unroll
        for (int e = 0; e < W; e++) v[u][e] = f(v[u][e], ROWS ? by : s[e]);
        store<W>((T*)a.dst + row * a.cols + col, v[u]);
    }
}

struct Plus {
    __device__ __forceinline__ float operator()(float x, float s) const { return x + s; }
};
struct Times {
    __device__ __forceinline__ float operator()(float x, float s) const { return x * s; }
};

KERNEL(add_row_1, RowArgs, 256) { by_row<1, false, float>(a, Plus()); }
KERNEL(add_row_4, RowArgs, 256) { by_row<4, false, float>(a, Plus()); }
KERNEL(add_row_half_1, RowArgs, 256) { by_row<1, false, uint16_t>(a, Plus()); }
KERNEL(add_row_half_4, RowArgs, 256) { by_row<4, false, uint16_t>(a, Plus()); }
KERNEL(scale_cols_1, RowArgs, 256) { by_row<1, false, float>(a, Times()); }
KERNEL(scale_cols_4, RowArgs, 256) { by_row<4, false, float>(a, Times()); }
KERNEL(scale_rows_1, RowArgs, 256) { by_row<1, true, float>(a, Times()); }
KERNEL(scale_rows_4, RowArgs, 256) { by_row<4, true, float>(a, Times()); }
KERNEL(scale_rows_half_1, RowArgs, 256) { by_row<1, true, uint16_t>(a, Times()); }
KERNEL(scale_rows_half_4, RowArgs, 256) { by_row<4, true, uint16_t>(a, Times()); }

// Sums over columns are formed in two steps: the sums of parts of the rows, and
// their sums. A block sums 32*W columns of a part; each of its warps takes every
// eighth row. Blocks x are beside, y beneath each other: those that run at a time
// read whole rows.
struct PartArgs {
    float* parts; // [parts of rows, cols]
    void* dx;     // s⊙x, or null
    const void *x, *y;
    const float* s; // y and s may be null
    long long rows, cols, part; // part: rows of one
};

enum Summed { PLAIN, SCALED, NORMED };

// The summand of an element: x; x·y, where s·x is set too; x·y·s of the row.
// x is of type T, y of type Y, dx of type D.
template <int W, Summed KIND, class T, class Y, class D> __device__ __forceinline__ void sum_part(const PartArgs& a) {
    SHARED(float, sums, 8 * 32 * W);
    const int U = 4, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const long long col = ((long long)blockIdx.x * 32 + lane) * W;
    const long long first = (long long)blockIdx.y * a.part, end = min(first + a.part, a.rows);
    float sum[W], s[W];
#pragma unroll
    for (int e = 0; e < W; e++) sum[e] = 0.0f;
    if (col < a.cols) {
        if (KIND == SCALED) load<W>(s, a.s + col);
        for (long long r = first + warp; r < end; r += 8 * U) {
            float x[U][W], y[U][W], by[U];
#pragma unroll
            for (int u = 0; u < U; u++) {
                if (r + 8 * u >= end) break;
                const long long at = (r + 8 * u) * a.cols + col;
                load<W>(x[u], (const T*)a.x + at);
                if (KIND != PLAIN) load<W>(y[u], (const Y*)a.y + at);
                if (KIND == NORMED) by[u] = a.s[r + 8 * u];
            }
#pragma unroll
            for (int u = 0; u < U; u++) {
                if (r + 8 * u >= end) break;
#pragma unroll
                for (int e = 0; e < W; e++) {
                    if (KIND == PLAIN) sum[e] += x[u][e];
                    if (KIND == SCALED) sum[e] = fmaf(x[u][e], y[u][e], sum[e]), x[u][e] *= s[e];
                    if (KIND == NORMED) sum[e] = fmaf(by[u] * x[u][e], y[u][e], sum[e]);
                }
                if (KIND == SCALED) store<W>((D*)a.dx + (r + 8 * u) * a.cols + col, x[u]);
            }
        }
    }
#pragma unroll
    for (int e = 0; e < W; e++) sums[warp * 32 * W + lane * W + e] = sum[e];
    __syncthreads();
    const long long mine = (long long)blockIdx.x * 32 * W + threadIdx.x;
    if (threadIdx.x < 32 * W && mine < a.cols) {
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) total += sums[i * 32 * W + threadIdx.x];
        a.parts[blockIdx.y * a.cols + mine] = total;
    }
}

#define SUM(name, KIND, T, Y, D)                                             \
    KERNEL(sum_##name##_1, PartArgs, 256) { sum_part<1, KIND, T, Y, D>(a); } \
    KERNEL_BOUNDS(sum_##name##_4, PartArgs, 256, 3) { sum_part<4, KIND, T, Y, D>(a); }
SUM(plain, PLAIN, float, float, float)
SUM(plain_half, PLAIN, uint16_t, uint16_t, float)
SUM(normed, NORMED, float, float, float)
// of x, y and dx: f float, h bfloat16
SUM(scaled_fff, SCALED, float, float, float)
SUM(scaled_hff, SCALED, uint16_t, float, float)
SUM(scaled_fhf, SCALED, float, uint16_t, float)
SUM(scaled_hhf, SCALED, uint16_t, uint16_t, float)
SUM(scaled_ffh, SCALED, float, float, uint16_t)
SUM(scaled_hfh, SCALED, uint16_t, float, uint16_t)
SUM(scaled_fhh, SCALED, float, uint16_t, uint16_t)
SUM(scaled_hhh, SCALED, uint16_t, uint16_t, uint16_t)

struct SumArgs {
    float* dst;
    const float *parts, *m; // m divides the sums, unless it is null
    long long n, cols;      // of parts
};

// A block adds up 32 columns; each of its warps takes every eighth part.
KERNEL(sum_parts, SumArgs, 256) {
    SHARED(double, sums, 8 * 32);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const long long col = (long long)blockIdx.x * 32 + lane;
    double sum = 0.0;
    if (col < a.cols) {
#pragma unroll 8
        for (long long i = warp; i < a.n; i += 8) sum += (double)a.parts[i * a.cols + col];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp != 0 || col >= a.cols) return;
    for (int i = 1; i < 8; i++) sum += sums[i * 32 + lane];
    if (a.m) {
        const double m = (double)a.m[col];
        if (m == 0.0 && sum == 0.0) return; // counts as 0
        sum /= m;
    }
    a.dst[col] += (float)sum;
}
