// RMSNorm, its gradient, and the rotation of positions.
//
// T threads work on a row and keep it in registers: a warp, or a block of 256 or
// 512. Each has K pieces of 4 columns, T·4 columns apart. Rows that are wider, or
// do not lie on multiples of 16 bytes, are read twice.
#include "rope.cuh"
#include "walk.cuh"

// row_sum adds up the numbers of the T threads of a row, in the same order each
// time, for all of them. part[2][16] is shared by a block; its halves take turns,
// so that one barrier is enough.
template <int T> __device__ __forceinline__ float row_sum(float v, float* part, int turn) {
    v = warp_sum(v);
    if (T == 32) return v;
    const int lane = threadIdx.x & 31;
    part += 16 * (turn & 1);
    if (lane == 0) part[threadIdx.x >> 5] = v;
    __syncthreads();
    return warp_sum(lane < T / 32 ? part[lane % 16] : 0.0f);
}

struct NormArgs {
    void* dst;
    float *rstd, *sum;
    const float* x;
    const void* y; // it and sum are of add_rmsnorm
    const float* w;
    long long rows, cols;
    float eps;
    int half; // y is bfloat16
};

// dst is of type D.
template <int T, int K, bool ADD, class D> __device__ __forceinline__ void norm(const NormArgs& a) {
    SHARED(float, part, 32);
    const int t = threadIdx.x % T;
    const long long row = T == 32 ? (long long)blockIdx.x * 8 + threadIdx.x / 32 : blockIdx.x;
    if (row >= a.rows) return; // a whole warp
    const long long base = row * a.cols;
    const int cols = (int)a.cols;
    float v[K][4];
#pragma unroll
    for (int k = 0; k < K; k++) {
        const int c = (k * T + t) * 4;
        v[k][0] = v[k][1] = v[k][2] = v[k][3] = 0.0f;
        if (c < cols) load<4>(v[k], a.x + base + c);
    }
    if (ADD) {
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * T + t) * 4;
            float y[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            if (c < cols && a.half) load<4>(y, (const uint16_t*)a.y + base + c);
            else if (c < cols) load<4>(y, (const float*)a.y + base + c);
#pragma unroll
            for (int e = 0; e < 4; e++) v[k][e] += y[e];
        }
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * T + t) * 4;
            if (c < cols) store<4>(a.sum + base + c, v[k]);
        }
    }
    float squares = 0.0f;
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int e = 0; e < 4; e++) squares = fmaf(v[k][e], v[k][e], squares);
    const float rstd = 1.0f / sqrtf(row_sum<T>(squares, part, 0) / (float)cols + a.eps);
    if (t == 0) a.rstd[row] = rstd;
#pragma unroll
    for (int k = 0; k < K; k++) {
        const int c = (k * T + t) * 4;
        if (c >= cols) break;
        float w[4];
        load<4>(w, a.w + c);
#pragma unroll
        for (int e = 0; e < 4; e++) w[e] *= rstd * v[k][e];
        store<4>((D*)a.dst + base + c, w);
    }
}

// norm_any is for rows of any width, a block each.
template <bool ADD, class D> __device__ __forceinline__ void norm_any(const NormArgs& a) {
    SHARED(float, part, 32);
    const long long base = blockIdx.x * a.cols;
    const float* x = ADD ? a.sum : a.x;
    float squares = 0.0f;
    for (long long c = threadIdx.x; c < a.cols; c += 256) {
        float v = a.x[base + c];
        if (ADD) a.sum[base + c] = v = v + (a.half ? bf16_float(((const uint16_t*)a.y)[base + c]) : ((const float*)a.y)[base + c]);
        squares = fmaf(v, v, squares);
    }
    const float rstd = 1.0f / sqrtf(row_sum<256>(squares, part, 0) / (float)a.cols + a.eps);
    if (threadIdx.x == 0) a.rstd[blockIdx.x] = rstd;
    for (long long c = threadIdx.x; c < a.cols; c += 256) {
        const float v = rstd * x[base + c] * a.w[c];
        store<1>((D*)a.dst + base + c, &v);
    }
}

#define NORM(name, T, K)                                                                               \
    KERNEL(rmsnorm_##name, NormArgs, (T > 256 ? T : 256)) { norm<T, K, false, float>(a); }             \
    KERNEL(add_rmsnorm_##name, NormArgs, (T > 256 ? T : 256)) { norm<T, K, true, float>(a); }          \
    KERNEL(rmsnorm_half_##name, NormArgs, (T > 256 ? T : 256)) { norm<T, K, false, uint16_t>(a); }     \
    KERNEL(add_rmsnorm_half_##name, NormArgs, (T > 256 ? T : 256)) { norm<T, K, true, uint16_t>(a); }
NORM(128, 32, 1)
NORM(256, 32, 2)
NORM(640, 32, 5)
NORM(1024, 32, 8)
NORM(2048, 256, 2)
NORM(4096, 256, 4)
NORM(8192, 512, 4)
NORM(16384, 512, 8)
KERNEL(rmsnorm_any, NormArgs, 256) { norm_any<false, float>(a); }
KERNEL(add_rmsnorm_any, NormArgs, 256) { norm_any<true, float>(a); }
KERNEL(rmsnorm_half_any, NormArgs, 256) { norm_any<false, uint16_t>(a); }
KERNEL(add_rmsnorm_half_any, NormArgs, 256) { norm_any<true, uint16_t>(a); }

struct NormGradArgs {
    float *dx, *parts; // parts [blocks, cols]: what the rows of a block add to dw
    const float *x, *w, *rstd, *dy, *add; // add may be null
    long long rows, cols;
};

// With g = rstd·w⊙dy: dx = g - x·(rstd²/n)·Σ g⊙x + add. Blocks take rows in turn.
template <int T, int K, bool DW> __device__ __forceinline__ void norm_grad(const NormGradArgs& a) {
    SHARED(float, part, 32);
    const int t = threadIdx.x % T, cols = (int)a.cols;
    float dw[K][4];
#pragma unroll
    for (int k = 0; k < K; k++) dw[k][0] = dw[k][1] = dw[k][2] = dw[k][3] = 0.0f;
    const long long each = T == 32 ? 8 : 1, own = T == 32 ? threadIdx.x / 32 : 0;
    int turn = 0;
    for (long long row = blockIdx.x * each + own; row < a.rows; row += gridDim.x * each, turn++) {
        const long long base = row * a.cols;
        const float rstd = a.rstd[row];
        float x[K][4], g[K][4];
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * T + t) * 4;
            x[k][0] = x[k][1] = x[k][2] = x[k][3] = g[k][0] = g[k][1] = g[k][2] = g[k][3] = 0.0f;
            if (c < cols) load<4>(x[k], a.x + base + c), load<4>(g[k], a.dy + base + c);
        }
        float dot = 0.0f;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * T + t) * 4;
            if (c >= cols) break;
            float w[4];
            load<4>(w, a.w + c);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                g[k][e] *= rstd;
                if (DW) dw[k][e] = fmaf(g[k][e], x[k][e], dw[k][e]);
                g[k][e] *= w[e];
                dot = fmaf(g[k][e], x[k][e], dot);
            }
        }
        const float by = -rstd * rstd * row_sum<T>(dot, part, turn) / (float)cols;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * T + t) * 4;
            if (c >= cols) break;
#pragma unroll
            for (int e = 0; e < 4; e++) g[k][e] = fmaf(by, x[k][e], g[k][e]);
            if (a.add) {
                float more[4];
                load<4>(more, a.add + base + c);
#pragma unroll
                for (int e = 0; e < 4; e++) g[k][e] += more[e];
            }
            store<4>(a.dx + base + c, g[k]);
        }
    }
    if constexpr (DW && T == 32) { // the warps of a block have the same columns
        SHARED(float, sums, 8 * 128 * K);
#pragma unroll
        for (int k = 0; k < K; k++) store<4>(sums + (threadIdx.x / 32 * K + k) * 128 + t * 4, dw[k]);
        __syncthreads();
        for (int c = threadIdx.x; c < cols; c += 256) {
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) sum += sums[i * 128 * K + c];
            a.parts[blockIdx.x * a.cols + c] = sum;
        }
    } else if constexpr (DW) {
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * T + t) * 4;
            if (c < cols) store<4>(a.parts + blockIdx.x * a.cols + c, dw[k]);
        }
    }
}

#define NORM_GRAD(name, T, K) \
    KERNEL(rmsnorm_grad_##name, NormGradArgs, (T > 256 ? T : 256)) { norm_grad<T, K, false>(a); }
#define NORM_GRAD_W(name, T, K) \
    KERNEL(rmsnorm_grad_w_##name, NormGradArgs, (T > 256 ? T : 256)) { norm_grad<T, K, true>(a); }
NORM_GRAD(128, 32, 1)
NORM_GRAD(256, 32, 2)
NORM_GRAD(640, 32, 5)
NORM_GRAD(1024, 32, 8)
NORM_GRAD(2048, 256, 2)
NORM_GRAD(4096, 256, 4)
NORM_GRAD(8192, 512, 4)
NORM_GRAD(16384, 512, 8)
NORM_GRAD_W(128, 32, 1)
NORM_GRAD_W(256, 32, 2)
NORM_GRAD_W(640, 32, 5)
NORM_GRAD_W(1024, 32, 8)
NORM_GRAD_W(2048, 256, 2)
NORM_GRAD_W(4096, 256, 4)

KERNEL(rmsnorm_grad_any, NormGradArgs, 256) {
    SHARED(float, part, 32);
    const long long base = blockIdx.x * a.cols;
    const float rstd = a.rstd[blockIdx.x];
    float dot = 0.0f;
    for (long long c = threadIdx.x; c < a.cols; c += 256) dot = fmaf(rstd * a.dy[base + c] * a.w[c], a.x[base + c], dot);
    const float by = -rstd * rstd * row_sum<256>(dot, part, 0) / (float)a.cols;
    for (long long c = threadIdx.x; c < a.cols; c += 256) {
        const float v = fmaf(by, a.x[base + c], rstd * a.dy[base + c] * a.w[c]);
        a.dx[base + c] = a.add ? v + a.add[base + c] : v;
    }
}

struct RotationArgs {
    float *cos, *sin; // [tokens, half]
    const int* pos;
    const float* inv;
    long long n;
    int half;
};

// Angles are float32 products; their sines are rounded from float64.
KERNEL(rotation, RotationArgs, 256) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= a.n) return;
    double s, c;
    sincos((double)((float)a.pos[i / a.half] * a.inv[i % a.half]), &s, &c);
    a.cos[i] = (float)c;
    a.sin[i] = (float)s;
}

struct RopeArgs {
    void *x, *y; // of cols and of more columns
    const float *cos, *sin;
    long long rows, cols, more;
    int half, shift;
    float sign;
};

// An item is W pairs of elements, half a head apart.
template <int W, class T> __device__ __forceinline__ void rope(const RopeArgs& a) {
    const Tile tile(a.shift);
    if (tile.item >= (a.cols + a.more) / (2 * W)) return;
    const bool first = tile.item < a.cols / (2 * W);
    const int item = (int)tile.item - (first ? 0 : (int)(a.cols / (2 * W)));
    const long long cols = first ? a.cols : a.more;
    const int each = a.half / W; // items of a head
    const int head = item / each, i = (item - head * each) * W;
    T* const base = (T*)(first ? a.x : a.y) + head * 2 * a.half + i;
    float lo[TILE_ROWS][W], hi[TILE_ROWS][W];
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = tile.row + u * tile.step;
        if (row >= a.rows) break;
        const T* x = base + row * cols;
        load<W>(lo[u], x), load<W>(hi[u], x + a.half);
    }
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = tile.row + u * tile.step;
        if (row >= a.rows) break;
        float c[W], s[W];
        load<W>(c, a.cos + row * a.half + i), load<W>(s, a.sin + row * a.half + i);
#pragma unroll
        for (int e = 0; e < W; e++) {
            rotate(lo[u][e], hi[u][e], c[e], a.sign * s[e]);
        }
        T* x = base + row * cols;
        store<W>(x, lo[u]), store<W>(x + a.half, hi[u]);
    }
}

KERNEL(rope_1, RopeArgs, 256) { rope<1, float>(a); }
KERNEL(rope_4, RopeArgs, 256) { rope<4, float>(a); }
KERNEL(rope_half_1, RopeArgs, 256) { rope<1, uint16_t>(a); }
KERNEL(rope_half_4, RopeArgs, 256) { rope<4, uint16_t>(a); }
