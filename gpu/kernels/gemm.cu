// Products in float32: each element is one chain of fused multiply-adds over
// ascending k, whatever the tile, unless the sum is split into parts of terms.
#include "experts.cuh"

// gemm_load4 loads elements e..e+3 of p, float or bfloat16, of which `left` exist.
template <bool half> __device__ __forceinline__ float4 gemm_load4(const void* p, long long e, int left, bool vector) {
    if (half) {
        const uint16_t* from = (const uint16_t*)p + e;
        if (vector && left >= 4) {
            const uint2 v = __ldg((const uint2*)from);
            return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
        }
        return make_float4(left > 0 ? bf16_float(__ldg(from)) : 0, left > 1 ? bf16_float(__ldg(from + 1)) : 0, left > 2 ? bf16_float(__ldg(from + 2)) : 0,
                           left > 3 ? bf16_float(__ldg(from + 3)) : 0);
    }
    const float* from = (const float*)p + e;
    if (vector && left >= 4) return __ldg((const float4*)from);
    return make_float4(left > 0 ? __ldg(from) : 0, left > 1 ? __ldg(from + 1) : 0, left > 2 ? __ldg(from + 2) : 0, left > 3 ? __ldg(from + 3) : 0);
}

// A Slab copies DEPTH terms of R rows of an operand to shared memory, as
// [DEPTH][R + 4], through registers. The operand is stored [rows, terms], or with
// trans [terms, rows].
template <int R, bool trans> struct Slab {
    static const int DEPTH = 16, LD = R + 4, PER = R * DEPTH / 4 / 256;
    float4 v[PER];
    static __device__ __forceinline__ void place(int i, int& r, int& t) { // of the first of 4 elements
        const int at = threadIdx.x + i * 256;
        if (trans)
            r = at % (R / 4) * 4, t = at / (R / 4);
        else
            r = at / 4, t = at % 4 * 4;
    }
    __device__ __forceinline__ void load(const float* p, long long ld, int r0, int rows, int t0, int terms, bool vector) {
#pragma unroll
        for (int i = 0; i < PER; i++) {
            int r, t;
            place(i, r, t);
            r += r0, t += t0;
            const int left = trans ? (t < terms ? rows - r : 0) : (r < rows ? terms - t : 0);
            v[i] = gemm_load4<false>(p, trans ? t * ld + r : r * ld + t, left, vector);
        }
    }
    __device__ __forceinline__ void store(float* s) const {
#pragma unroll
        for (int i = 0; i < PER; i++) {
            int r, t;
            place(i, r, t);
            if (trans) {
                *(float4*)(s + t * LD + r) = v[i];
            } else {
                s[t * LD + r] = v[i].x, s[(t + 1) * LD + r] = v[i].y;
                s[(t + 2) * LD + r] = v[i].z, s[(t + 3) * LD + r] = v[i].w;
            }
        }
    }
};

// gemm_terms adds the products of a slab. A thread has rows ty*4.. and, when the
// tile has 128, also those 64 further on; columns likewise.
template <int B, int T> __device__ __forceinline__ void gemm_terms(float (&d)[T][T], const float* sa, const float* sb, int ty, int tx) {
    const int LD = B + 4;
#pragma unroll
    for (int t = 0; t < 16; t++) {
        float x[T], y[T];
#pragma unroll
        for (int h = 0; h < T / 4; h++) {
            *(float4*)(x + 4 * h) = *(const float4*)(sa + t * LD + 64 * h + ty * 4);
            *(float4*)(y + 4 * h) = *(const float4*)(sb + t * LD + 64 * h + tx * 4);
        }
#pragma unroll
        for (int i = 0; i < T; i++)
#pragma unroll
            for (int j = 0; j < T; j++) d[i][j] = fmaf(x[i], y[j], d[i][j]);
    }
}

// 256 threads, a tile of B x B, B = 16 T, in row ti and column tj of tiles: its sums of the terms t0..t1.
template <int B, bool transA, bool transB> __device__ __forceinline__ void gemm_float(const GemmArgs& g, float* smem, int ti, int tj, int t0, int t1) {
    const int T = B / 16, SLAB = 16 * (B + 4);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const int m0 = ti * B, n0 = tj * B;
    const bool va = g.flags & GEMM_VECTOR_A, vb = g.flags & GEMM_VECTOR_B;
    Slab<B, transA> a;
    Slab<B, !transB> b;
    float d[T][T];
#pragma unroll
    for (int i = 0; i < T; i++)
#pragma unroll
        for (int j = 0; j < T; j++) d[i][j] = 0;
    a.load((const float*)g.a, g.lda, m0, g.m, t0, t1, va);
    b.load((const float*)g.b, g.ldb, n0, g.n, t0, t1, vb);
    int buffer = 0;
    for (int t = t0; t < t1; t += 16, buffer ^= 1) {
        float *sa = smem + buffer * 2 * SLAB, *sb = sa + SLAB;
        a.store(sa);
        b.store(sb);
        __syncthreads();
        if (t + 16 < t1) {
            a.load((const float*)g.a, g.lda, m0, g.m, t + 16, t1, va);
            b.load((const float*)g.b, g.ldb, n0, g.n, t + 16, t1, vb);
        }
        gemm_terms<B, T>(d, sa, sb, ty, tx);
    }
    if (g.parts) {
        float* p = g.parts + (long long)blockIdx.z * g.m * g.n;
#pragma unroll
        for (int i = 0; i < T; i++)
#pragma unroll
            for (int j = 0; j < T; j++) {
                const int r = m0 + i / 4 * 64 + ty * 4 + i % 4, c = n0 + j / 4 * 64 + tx * 4 + j % 4;
                if (r < g.m && c < g.n) p[(long long)r * g.n + c] = d[i][j];
            }
        return;
    }
    float alpha = g.alpha;
    if (g.k2 > 0) {
#pragma unroll
        for (int i = 0; i < T; i++)
#pragma unroll
            for (int j = 0; j < T; j++) d[i][j] *= g.alpha;
        alpha = 1;
        for (int t = 0; t < g.k2; t += 16) { // few: not worth a pipeline
            __syncthreads();
            for (int e = threadIdx.x; e < 16 * B; e += 256) {
                const int r = e / 16, at = t + e % 16, lane = e % 16;
                float u = 0, v = 0;
                if (at < g.k2) {
                    if (m0 + r < g.m) u = g.alpha2 * __ldg((const float*)g.a2 + (m0 + r) * g.lda2 + at);
                    if (n0 + r < g.n) v = __ldg((const float*)g.b2 + (g.flags & GEMM_TRANS_2 ? (n0 + r) * g.ldb2 + at : at * g.ldb2 + n0 + r));
                }
                smem[lane * (B + 4) + r] = u, smem[SLAB + lane * (B + 4) + r] = v;
            }
            __syncthreads();
            gemm_terms<B, T>(d, smem, smem + SLAB, ty, tx);
        }
    }
#pragma unroll
    for (int i = 0; i < T; i++)
#pragma unroll
        for (int h = 0; h < T / 4; h++) {
            const int r = m0 + i / 4 * 64 + ty * 4 + i % 4, c = n0 + h * 64 + tx * 4;
            if (r >= g.m) continue;
            float x[4];
#pragma unroll
            for (int j = 0; j < 4; j++) x[j] = alpha * d[i][4 * h + j];
            if (!(g.flags & GEMM_VECTOR_C)) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (c + j >= g.n) continue;
                    const float y = gemm_finish(g, r, c + j, x[j]);
                    if (g.flags & GEMM_OUT_HALF)
                        ((uint16_t*)g.c)[r * g.ldc + c + j] = bf16_round(y);
                    else
                        ((float*)g.c)[r * g.ldc + c + j] = y;
                }
                continue;
            }
            if (c >= g.n) continue;
#pragma unroll
            for (int j = 0; j < 4; j++) x[j] = gemm_finish(g, r, c + j, x[j]);
            if (g.flags & GEMM_OUT_HALF)
                *(uint2*)((uint16_t*)g.c + r * g.ldc + c) = uint2{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])};
            else
                *(float4*)((float*)g.c + r * g.ldc + c) = make_float4(x[0], x[1], x[2], x[3]);
        }
}

#define GEMM_FLOAT(name, B, transA, transB, blocks)      \
    KERNEL_BOUNDS(name, GemmArgs, 256, blocks) {         \
        SHARED(float, smem, 4 * 16 * (B + 4));           \
        int ti, tj;                                      \
        gemm_tile(blockIdx.x, a.tiles_m, a.tiles_n, ti, tj); \
        const int t0 = blockIdx.z * a.split;             \
        gemm_float<B, transA, transB>(a, smem, ti, tj, t0, min(a.k, t0 + a.split)); \
    }
GEMM_FLOAT(gemm_nn_128, 128, false, false, 1)
GEMM_FLOAT(gemm_nt_128, 128, false, true, 1)
GEMM_FLOAT(gemm_tn_128, 128, true, false, 2)
GEMM_FLOAT(gemm_tt_128, 128, true, true, 1)
GEMM_FLOAT(gemm_nn_64, 64, false, false, 3)
GEMM_FLOAT(gemm_nt_64, 64, false, true, 3)
GEMM_FLOAT(gemm_tn_64, 64, true, false, 3)
GEMM_FLOAT(gemm_tt_64, 64, true, true, 3)

// Rows of experts, and sums of the terms of each expert (blockIdx.y).
#define GEMM_EXPERTS(name, B, transB, blocks)                  \
    KERNEL_BOUNDS(name, ExpertGemmArgs, 256, blocks) {         \
        SHARED(float, smem, 4 * 16 * (B + 4));                 \
        GemmArgs g = a.g;                                      \
        int tj;                                                \
        if (!rows_of_expert<false, transB>(g, a, tj)) return;  \
        gemm_float<B, false, transB>(g, smem, 0, tj, 0, g.k);  \
    }
GEMM_EXPERTS(gemm_experts_nn_128, 128, false, 1)
GEMM_EXPERTS(gemm_experts_nt_128, 128, true, 1)
GEMM_EXPERTS(gemm_experts_nn_64, 64, false, 3)
GEMM_EXPERTS(gemm_experts_nt_64, 64, true, 3)

#define GEMM_EXPERTS_OUTER(name, B, blocks)                            \
    KERNEL_BOUNDS(name, ExpertGemmArgs, 256, blocks) {                 \
        SHARED(float, smem, 4 * 16 * (B + 4));                         \
        int lo, hi, ti, tj;                                            \
        expert_rows(a.starts, blockIdx.y, a.rows, lo, hi);             \
        if (lo == hi) return;                                          \
        GemmArgs g = a.g;                                              \
        g.c = moved(g.c, (long long)blockIdx.y * g.m * g.ldc, false);  \
        gemm_tile(blockIdx.x, g.tiles_m, g.tiles_n, ti, tj);           \
        gemm_float<B, true, false>(g, smem, ti, tj, lo, hi);           \
    }
GEMM_EXPERTS_OUTER(gemm_experts_tn_128, 128, 2)
GEMM_EXPERTS_OUTER(gemm_experts_tn_64, 64, 3)

// gemm_parts adds the parts of a sum in their order.
KERNEL(gemm_parts, GemmArgs, 256) {
    const long long size = (long long)a.m * a.n;
    const int parts = a.k2;
    for (long long e = blockIdx.x * 256ll + threadIdx.x; e < size; e += gridDim.x * 256ll) {
        float sum = a.parts[e];
        for (int p = 1; p < parts; p++) sum += a.parts[p * size + e];
        gemm_store(a, (int)(e / a.n), (int)(e % a.n), sum);
    }
}

// Few columns: c [m,n] of a [m,k] (float or bfloat16), which is read once, and b [n,k] or [k,n] in
// groups of 16 columns (blockIdx.y). A warp has 4 rows, its lanes 4 terms each of
// every 128; a block of 16 warps keeps b's terms in shared memory. blockIdx.z is
// the part of k. Without parts there is one.
template <bool half, bool transB> __device__ __forceinline__ void gemm_tall(const GemmArgs& g, float* sb) {
    const int N = 16, ROWS = 4, DEPTH = 256, LD = DEPTH;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int i0 = (blockIdx.x * 16 + warp) * ROWS, n0 = blockIdx.y * N, t0 = blockIdx.z * g.split, t1 = min(g.k, t0 + g.split);
    const bool va = g.flags & GEMM_VECTOR_A, vb = g.flags & GEMM_VECTOR_B;
    const float* W = (const float*)g.b;
    float d[ROWS][N];
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < N; j++) d[i][j] = 0;
    auto load = [&](float4 (&x)[ROWS], int t) {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            x[i] = gemm_load4<half>(g.a, i0 * g.lda + i * (int)g.lda + t, i0 + i < g.m ? t1 - t : 0, va);
        }
    };
    for (int t = t0; t < t1; t += DEPTH) {
        float4 x[2][ROWS];
        load(x[0], t + lane * 4);
        __syncthreads();
        if (transB) { // [n,k]: 4 terms a thread
            for (int e = threadIdx.x; e < N * DEPTH / 4; e += 512) {
                const int j = e / (DEPTH / 4), at = e % (DEPTH / 4) * 4, left = n0 + j < g.n ? t1 - t - at : 0;
                *(float4*)(sb + j * LD + at) = gemm_load4<false>(W, (n0 + j) * g.ldb + t + at, left, vb);
            }
        } else { // [k,n]: 16 columns of a term lie together
            for (int e = threadIdx.x; e < N * DEPTH; e += 512) {
                const int j = e % N, at = e / N;
                sb[j * LD + at] = t + at < t1 && n0 + j < g.n ? __ldg(W + (t + at) * g.ldb + n0 + j) : 0;
            }
        }
        __syncthreads();
        load(x[1], t + 128 + lane * 4);
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float4 w = *(const float4*)(sb + j * LD + h * 128 + lane * 4);
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    float s = d[i][j];
                    s = fmaf(x[h][i].x, w.x, s), s = fmaf(x[h][i].y, w.y, s);
                    d[i][j] = fmaf(x[h][i].w, w.w, fmaf(x[h][i].z, w.z, s));
                }
            }
    }
    // The sums of the lanes: lane l ends with element l and l + 32 of 64.
    float* v = &d[0][0];
#pragma unroll
    for (int o = 16, n = 64; o > 0; o >>= 1, n >>= 1)
#pragma unroll
        for (int e = 0; e < 64; e++)
            if (e < n / 2) {
                const bool up = lane & o;
                const float give = up ? v[e] : v[e + n / 2], keep = up ? v[e + n / 2] : v[e];
                v[e] = keep + __shfl_xor_sync(0xffffffffu, give, o);
            }
    // Lane bits chose, from the highest, which half of the elements it kept.
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const int at = lane * 2 + e, i = i0 + at / N, j = n0 + at % N;
        if (i >= g.m || j >= g.n) continue;
        if (g.parts)
            g.parts[((long long)blockIdx.z * g.m + i) * g.n + j] = v[e];
        else
            gemm_store(g, i, j, v[e]);
    }
}
#define GEMM_TALL(name, half, transB)      \
    KERNEL(name, GemmArgs, 512) {          \
        SHARED(float, sb, 16 * 256);       \
        gemm_tall<half, transB>(a, sb);    \
    }
GEMM_TALL(gemm_tall_nt, false, true)
GEMM_TALL(gemm_tall_nn, false, false)
GEMM_TALL(gemm_tall_half_nt, true, true)
GEMM_TALL(gemm_tall_half_nn, true, false)

// An outer sum: r [s,n] of a [k,s] and b [k,n] (float or bfloat16), which is read once; s in groups of
// 16 (blockIdx.y), 4 columns a thread. blockIdx.z is the part of k. Then c is r
// (m = s) or, with the flag GEMM_TRANS_2, r transposed (n and m changed).
template <bool half> __device__ __forceinline__ void gemm_outer(const GemmArgs& a, float* sa) {
    const int S = 16, DEPTH = 128;
    const bool turned = a.flags & GEMM_TRANS_2, vb = a.flags & GEMM_VECTOR_B;
    const int rows = turned ? a.n : a.m, cols = turned ? a.m : a.n;
    const int j0 = (blockIdx.x * 128 + threadIdx.x) * 4, s0 = blockIdx.y * S, t0 = blockIdx.z * a.split, t1 = min(a.k, t0 + a.split);
    const float* A = (const float*)a.a;
    float d[S][4];
#pragma unroll
    for (int i = 0; i < S; i++) d[i][0] = d[i][1] = d[i][2] = d[i][3] = 0;
    const int left = cols - j0;
    for (int t = t0; t < t1; t += DEPTH) {
        const int end = min(DEPTH, t1 - t);
        __syncthreads();
        for (int e = threadIdx.x; e < end * S; e += 128) {
            const int i = e % S, at = e / S;
            sa[e] = s0 + i < rows ? __ldg(A + (t + at) * a.lda + s0 + i) : 0;
        }
        __syncthreads();
        auto add = [&](const float4& x, int at) {
#pragma unroll
            for (int q = 0; q < S / 4; q++) {
                const float4 s = *(const float4*)(sa + at * S + 4 * q);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float y = i == 0 ? s.x : i == 1 ? s.y : i == 2 ? s.z : s.w;
                    float* r = d[4 * q + i];
                    r[0] = fmaf(y, x.x, r[0]), r[1] = fmaf(y, x.y, r[1]), r[2] = fmaf(y, x.z, r[2]), r[3] = fmaf(y, x.w, r[3]);
                }
            }
        };
        if (left <= 0) continue;
        int at = 0;
        for (; at + 8 <= end; at += 8) {
            float4 v[8];
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = gemm_load4<half>(a.b, (t + at + i) * a.ldb + j0, left, vb);
#pragma unroll
            for (int i = 0; i < 8; i++) add(v[i], at + i);
        }
        for (; at < end; at++) add(gemm_load4<half>(a.b, (t + at) * a.ldb + j0, left, vb), at);
    }
    float* p = a.parts ? a.parts + (long long)blockIdx.z * a.m * a.n : 0;
#pragma unroll
    for (int i = 0; i < S; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (s0 + i >= rows || j >= left) continue;
            const int r = turned ? j0 + j : s0 + i, c = turned ? s0 + i : j0 + j;
            if (p)
                p[(long long)r * a.n + c] = d[i][j];
            else
                gemm_store(a, r, c, d[i][j]);
        }
}
KERNEL(gemm_outer_f32, GemmArgs, 128) {
    SHARED(float, sa, 128 * 16);
    gemm_outer<false>(a, sa);
}
KERNEL(gemm_outer_bf16, GemmArgs, 128) {
    SHARED(float, sa, 128 * 16);
    gemm_outer<true>(a, sa);
}
