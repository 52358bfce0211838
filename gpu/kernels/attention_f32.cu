// Attention with products of float32, for heads of any width up to 256: tiles
// in shared memory, a small tile of each product in the registers of a thread.
// Threads are 16 x 16: thread (x, y) has rows y·n.. and columns x, x+16, ...
#include "attention.cuh"

namespace {

constexpr int F32_THREADS = 256;

// load_tile copies rows of dim elements to rows of D+4 floats; what is beyond
// the valid rows, and columns beyond dim, become zeros.
template <int D, int ROWS>
__device__ __forceinline__ void load_tile(float* to, const void* from, int half, int vector, long long at, int ld, int dim, int valid) {
    constexpr int step = F32_THREADS / (D / 8);
    const int c = threadIdx.x % (D / 8) * 8;
    for (int r = threadIdx.x / (D / 8); r < ROWS; r += step) {
        float x[8];
        load_eight(x, from, half, vector, at + (long long)r * ld + c, r < valid ? dim - c : 0);
        *(float4*)(to + r * (D + 4) + c) = make_float4(x[0], x[1], x[2], x[3]);
        *(float4*)(to + r * (D + 4) + c + 4) = make_float4(x[4], x[5], x[6], x[7]);
    }
}

// dot_rows sets c[i][j] to the product of rows y·R+i of a and x+16·j of b.
template <int D, int R, int C> __device__ __forceinline__ void dot_rows(float (&c)[R][C], const float* a, const float* b, int dim) {
    const float* ar = a + threadIdx.x / 16 * R * (D + 4), *br = b + threadIdx.x % 16 * (D + 4);
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < C; j++) c[i][j] = 0;
#pragma unroll 2
    for (int k = 0; k < dim; k += 4) { // columns beyond dim are zeros
        float4 av[R];
#pragma unroll
        for (int i = 0; i < R; i++) av[i] = *(const float4*)(ar + i * (D + 4) + k);
#pragma unroll
        for (int j = 0; j < C; j++) {
            const float4 bv = *(const float4*)(br + 16 * j * (D + 4) + k);
#pragma unroll
            for (int i = 0; i < R; i++) {
                c[i][j] = fmaf(av[i].x, bv.x, c[i][j]);
                c[i][j] = fmaf(av[i].y, bv.y, c[i][j]);
                c[i][j] = fmaf(av[i].z, bv.z, c[i][j]);
                c[i][j] = fmaf(av[i].w, bv.w, c[i][j]);
            }
        }
    }
}

// add_rows adds p·b to c for rows y·R+i of p, N terms; c has columns
// 64·j+4·x.. of b.
template <int D, int R, int N> __device__ __forceinline__ void add_rows(float (&c)[R][D / 16], const float* p, const float* b) {
    const float* pr = p + threadIdx.x / 16 * R * (N + 4), *bc = b + threadIdx.x % 16 * 4;
#pragma unroll 1
    for (int k = 0; k < N; k += 4) {
        float4 pv[R];
#pragma unroll
        for (int i = 0; i < R; i++) pv[i] = *(const float4*)(pr + i * (N + 4) + k);
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int j = 0; j < D / 64; j++) {
                const float4 bv = *(const float4*)(bc + (k + n) * (D + 4) + 64 * j);
#pragma unroll
                for (int i = 0; i < R; i++) {
                    const float w = n == 0 ? pv[i].x : n == 1 ? pv[i].y : n == 2 ? pv[i].z : pv[i].w;
                    c[i][4 * j] = fmaf(w, bv.x, c[i][4 * j]);
                    c[i][4 * j + 1] = fmaf(w, bv.y, c[i][4 * j + 1]);
                    c[i][4 * j + 2] = fmaf(w, bv.z, c[i][4 * j + 2]);
                    c[i][4 * j + 3] = fmaf(w, bv.w, c[i][4 * j + 3]);
                }
            }
    }
}

// store_rows stores factor[i]·c[i] as rows y·R+i below rows.
template <int D, int R>
__device__ __forceinline__ void store_rows(void* to, int half, long long at, int ld, int dim, int rows, const float (&c)[R][D / 16], const float (&factor)[R]) {
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < R; i++) {
        if (y * R + i >= rows) continue;
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            const int col = j / 4 * 64 + x * 4 + j % 4;
            if (col < dim) store_one(to, half, at + (long long)(y * R + i) * ld + col, c[i][j] * factor[i]);
        }
    }
}

template <int D, int F32_QUERIES, int F32_KEYS> __device__ __forceinline__ void attend(const AttentionArgs& a, unsigned char* smem) {
    constexpr int R = F32_QUERIES / 16, C = F32_KEYS / 16;
    const AttentionTile t = a.tiles[blockIdx.x / a.heads];
    const int head = blockIdx.x % a.heads, x = threadIdx.x % 16, y = threadIdx.x / 16;
    float* queries = (float*)smem, *keys = queries + F32_QUERIES * (D + 4), *probs = keys + F32_KEYS * (D + 4);
    const int last = t.sees + t.rows - 1;
    const long long from = (long long)t.q * a.ldq + head * a.dim, at = (long long)t.key * a.ldk + head / a.group * a.dim;
    load_tile<D, F32_QUERIES>(queries, a.q, a.half, a.vector, from, a.ldq, a.dim, t.rows);
    float out[R][D / 16], most[R], sum[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        most[i] = -INFINITY;
        sum[i] = 0;
#pragma unroll
        for (int j = 0; j < D / 16; j++) out[i][j] = 0;
    }
    for (int k0 = 0; k0 < last; k0 += F32_KEYS) {
        const long long rows = at + (long long)k0 * a.ldk;
        __syncthreads();
        load_tile<D, F32_KEYS>(keys, a.k, a.halfKeys, a.vector, rows, a.ldk, a.dim, last - k0);
        __syncthreads();
        float s[R][C];
        dot_rows<D, R, C>(s, queries, keys, a.dim);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const int sees = t.sees + y * R + i - k0;
            float m = most[i];
#pragma unroll
            for (int j = 0; j < C; j++) {
                s[i][j] = x + 16 * j < sees ? s[i][j] * a.scale : -INFINITY;
                m = fmaxf(m, s[i][j]);
            }
#pragma unroll
            for (int o = 8; o > 0; o >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, o));
            const float base = m == -INFINITY ? 0 : m, less = expf(most[i] - base);
            most[i] = m;
            sum[i] *= less;
#pragma unroll
            for (int j = 0; j < C; j++) {
                const float p = expf(s[i][j] - base);
                sum[i] += p;
                probs[(y * R + i) * (F32_KEYS + 4) + x + 16 * j] = p;
            }
#pragma unroll
            for (int j = 0; j < D / 16; j++) out[i][j] *= less;
        }
        __syncthreads();
        load_tile<D, F32_KEYS>(keys, a.v, a.halfKeys, a.vector, rows, a.ldk, a.dim, last - k0);
        __syncthreads();
        add_rows<D, R, F32_KEYS>(out, probs, keys);
    }
    float factor[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int o = 8; o > 0; o >>= 1) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], o);
        factor[i] = 1 / sum[i];
        if (x == 0 && y * R + i < t.rows) a.lse[(long long)(t.q + y * R + i) * a.heads + head] = most[i] + logf(sum[i]);
    }
    store_rows<D, R>(a.dst, a.half, from, a.ldq, a.dim, t.rows, out, factor);
}

} // namespace

// The small ones are for devices with little shared memory.
KERNEL(attention_f32_64, AttentionArgs, F32_THREADS) { DYNAMIC_SHARED(smem); attend<64, 64, 64>(a, smem); }
KERNEL(attention_f32_128, AttentionArgs, F32_THREADS) { DYNAMIC_SHARED(smem); attend<128, 64, 64>(a, smem); }
KERNEL(attention_f32_256, AttentionArgs, F32_THREADS) { DYNAMIC_SHARED(smem); attend<256, 64, 64>(a, smem); }
KERNEL_BOUNDS(attention_f32_small_256, AttentionArgs, F32_THREADS, 1) { DYNAMIC_SHARED(smem); attend<256, 32, 32>(a, smem); }

namespace {

// grad_step forms scores and their gradients for rows y·R+i of a tile that
// stays (x1, x2) and rows x+16·j of one that passes by (y1, y2), and adds to
// the gradients. Either has the queries; sees says what they see.
template <int D, int R, int C, bool KEYS, class Sees>
__device__ __forceinline__ void grad_step(const AttentionGradArgs& a, const float* x1, const float* x2, const float* y1, const float* y2, float* probs, float* grads,
                                          const float* lse, const float* delta, float (&g1)[R][D / 16], float (&g2)[R][D / 16], Sees sees) {
    constexpr int N = 16 * C;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    float s[R][C], dp[R][C];
    dot_rows<D, R, C>(s, x1, y1, a.dim);
    dot_rows<D, R, C>(dp, x2, y2, a.dim);
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < C; j++) {
            const int row = y * R + i, col = x + 16 * j, query = KEYS ? col : row;
            const bool seen = sees(row, col);
            const float p = seen ? exp2f(fmaf(s[i][j], a.scale * LOG2E, -lse[query])) : 0;
            if (KEYS) probs[row * (N + 4) + col] = p;
            grads[row * (N + 4) + col] = seen ? p * (dp[i][j] - delta[query]) * a.scale : 0;
        }
    __syncthreads();
    if (KEYS) add_rows<D, R, N>(g2, probs, y2);
    add_rows<D, R, N>(g1, grads, y1);
}

// ROWS are of the tile that stays, GRAD_STEP of the one that passes by.

// load_queries copies what belongs to queries: lse and delta. No query is a row
// of infinite lse.
template <int ROWS> __device__ __forceinline__ void load_sums(float* lse, float* delta, const AttentionGradArgs& a, int head, int q, int valid) {
    for (int i = threadIdx.x; i < ROWS; i += F32_THREADS) {
        const long long at = (long long)head * a.queries + q + i;
        lse[i] = i < valid ? a.lse[at] : INFINITY;
        delta[i] = i < valid ? a.delta[at] : 0;
    }
}

template <int D, int ROWS, int GRAD_STEP> __device__ __forceinline__ void query_grad(const AttentionGradArgs& a, unsigned char* smem) {
    constexpr int R = ROWS / 16, C = GRAD_STEP / 16;
    const AttentionTile t = a.tiles[blockIdx.x / a.heads];
    const int head = blockIdx.x % a.heads;
    float* x1 = (float*)smem, *x2 = x1 + ROWS * (D + 4), *y1 = x2 + ROWS * (D + 4), *y2 = y1 + GRAD_STEP * (D + 4);
    float* grads = y2 + GRAD_STEP * (D + 4), *lse = grads + ROWS * (GRAD_STEP + 4), *delta = lse + ROWS;
    const int last = t.sees + t.rows - 1;
    const long long from = (long long)t.q * a.ldq + head * a.dim, at = (long long)t.key * a.ldk + head / a.group * a.dim;
    load_tile<D, ROWS>(x1, a.q, a.half, a.vector, from, a.ldq, a.dim, t.rows);
    load_tile<D, ROWS>(x2, a.dy, a.half, a.vector, from, a.ldq, a.dim, t.rows);
    load_sums<ROWS>(lse, delta, a, head, t.q, t.rows);
    float dq[R][D / 16] = {}, one[R];
#pragma unroll
    for (int i = 0; i < R; i++) one[i] = 1;
    for (int k0 = 0; k0 < last; k0 += GRAD_STEP) {
        const long long rows = at + (long long)k0 * a.ldk;
        __syncthreads();
        load_tile<D, GRAD_STEP>(y1, a.k, a.half, a.vector, rows, a.ldk, a.dim, last - k0);
        load_tile<D, GRAD_STEP>(y2, a.v, a.half, a.vector, rows, a.ldk, a.dim, last - k0);
        __syncthreads();
        grad_step<D, R, C, false>(a, x1, x2, y1, y2, nullptr, grads, lse, delta, dq, dq, [&](int row, int col) { return k0 + col < t.sees + row; });
    }
    store_rows<D, R>(a.dq, a.half, from, a.ldq, a.dim, t.rows, dq, one);
}

template <int D, int ROWS, int GRAD_STEP> __device__ __forceinline__ void key_grad(const AttentionGradArgs& a, unsigned char* smem) {
    constexpr int R = ROWS / 16, C = GRAD_STEP / 16;
    const int kvHeads = a.heads / a.group, kv = blockIdx.x % kvHeads;
    const AttentionKeys t = a.keys[blockIdx.x / kvHeads];
    float* x1 = (float*)smem, *x2 = x1 + ROWS * (D + 4), *y1 = x2 + ROWS * (D + 4), *y2 = y1 + GRAD_STEP * (D + 4);
    float* grads = y2 + GRAD_STEP * (D + 4), *probs = grads + ROWS * (GRAD_STEP + 4), *lse = probs + ROWS * (GRAD_STEP + 4), *delta = lse + GRAD_STEP;
    const long long at = (long long)t.key * a.ldk + kv * a.dim;
    load_tile<D, ROWS>(x1, a.k, a.half, a.vector, at, a.ldk, a.dim, t.rows);
    load_tile<D, ROWS>(x2, a.v, a.half, a.vector, at, a.ldk, a.dim, t.rows);
    float dk[R][D / 16] = {}, dv[R][D / 16] = {}, one[R];
#pragma unroll
    for (int i = 0; i < R; i++) one[i] = 1;
    for (int n = 0; n < t.sources; n++) {
        const AttentionSource s = a.sources[t.first + n];
        const int diagonal = t.key - s.diagonal; // query i sees keys up to i-diagonal of the tile
        for (int head = kv * a.group; head < (kv + 1) * a.group; head++)
            for (int i = max(0, diagonal) / GRAD_STEP * GRAD_STEP; i < s.rows; i += GRAD_STEP) {
                const long long from = (long long)(s.q + i) * a.ldq + head * a.dim;
                __syncthreads();
                load_tile<D, GRAD_STEP>(y1, a.q, a.half, a.vector, from, a.ldq, a.dim, s.rows - i);
                load_tile<D, GRAD_STEP>(y2, a.dy, a.half, a.vector, from, a.ldq, a.dim, s.rows - i);
                load_sums<GRAD_STEP>(lse, delta, a, head, s.q + i, s.rows - i);
                __syncthreads();
                grad_step<D, R, C, true>(a, x1, x2, y1, y2, probs, grads, lse, delta, dk, dv, [&](int row, int col) { return row + diagonal <= i + col && i + col < s.rows; });
            }
    }
    store_rows<D, R>(a.dk, a.half, at, a.ldk, a.dim, t.rows, dk, one);
    store_rows<D, R>(a.dv, a.half, at, a.ldk, a.dim, t.rows, dv, one);
}

} // namespace

// The small ones are for devices with little shared memory.
KERNEL(attention_dq_f32_64, AttentionGradArgs, F32_THREADS) { DYNAMIC_SHARED(smem); query_grad<64, 64, 32>(a, smem); }
KERNEL(attention_dq_f32_128, AttentionGradArgs, F32_THREADS) { DYNAMIC_SHARED(smem); query_grad<128, 64, 32>(a, smem); }
KERNEL_BOUNDS(attention_dq_f32_256, AttentionGradArgs, F32_THREADS, 1) { DYNAMIC_SHARED(smem); query_grad<256, 32, 32>(a, smem); }
KERNEL_BOUNDS(attention_dq_f32_small_128, AttentionGradArgs, F32_THREADS, 1) { DYNAMIC_SHARED(smem); query_grad<128, 32, 32>(a, smem); }
KERNEL_BOUNDS(attention_dq_f32_small_256, AttentionGradArgs, F32_THREADS, 1) { DYNAMIC_SHARED(smem); query_grad<256, 16, 16>(a, smem); }
KERNEL_BOUNDS(attention_dk_f32_64, AttentionGradArgs, F32_THREADS, 1) { DYNAMIC_SHARED(smem); key_grad<64, 64, 32>(a, smem); }
KERNEL_BOUNDS(attention_dk_f32_128, AttentionGradArgs, F32_THREADS, 1) { DYNAMIC_SHARED(smem); key_grad<128, 64, 32>(a, smem); }
KERNEL_BOUNDS(attention_dk_f32_256, AttentionGradArgs, F32_THREADS, 1) { DYNAMIC_SHARED(smem); key_grad<256, 32, 32>(a, smem); }
KERNEL_BOUNDS(attention_dk_f32_small_128, AttentionGradArgs, F32_THREADS, 1) { DYNAMIC_SHARED(smem); key_grad<128, 32, 32>(a, smem); }
KERNEL_BOUNDS(attention_dk_f32_small_256, AttentionGradArgs, F32_THREADS, 1) { DYNAMIC_SHARED(smem); key_grad<256, 16, 16>(a, smem); }
