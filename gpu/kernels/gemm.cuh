// gemm.cuh is what the kernels of products of many rows share: their argument,
// the order of tiles, and what becomes of sums.
#pragma once
#include "common.cuh"
#include "rope.cuh"
#include "swiglu.cuh"
#include "wgmma.cuh"

// GemmArgs is c [m,n] = scale * (alpha * a.b + low + beta * c) + bias with row
// distances in elements. Kernels in float32 take low = u.v from r terms and
// low_alpha; those in bfloat16 take it as further terms a2, b2 of depth k2.
struct GemmArgs {
    void* c;
    const void *a, *b, *a2, *b2;
    const float *scale, *bias; // [n] or null
    float* parts;              // of a sum that is split: [split][m][n]
    const float *cos, *sin;    // [m,half]: c is rotated in heads of 2 half columns
    void *dgate, *dup;         // unless null: the gradient of SwiGLU for that c, of
    const void *gate, *up;     // the type of c and with its rows; dgate may be c
    long long lda, ldb, lda2, ldb2, ldc;
    int m, n, k, k2;
    int split;             // terms of a part, or steps of 64
    int flags;             // gemm_flags
    float alpha, alpha2, beta;
    int tiles_m, tiles_n;
    int half; // 0: c is not rotated; 32, 64 or 128
};

enum GemmFlags {
    GEMM_VECTOR_A = 1, // rows of a, b and c begin at, and are, whole vectors of 4 elements
    GEMM_VECTOR_B = 2,
    GEMM_VECTOR_C = 4, // and so do scale and bias
    GEMM_TRANS_2 = 8,  // b2 is stored [n,k2]
    GEMM_OUT_HALF = 16, // c is bfloat16; then beta is 0
    GEMM_WIDE_C = 32,   // rows of c begin at, and are, whole chunks of 16 bytes
    GEMM_STAGED = 64,   // gate and up come through shared memory; scale and bias are null
};

// gemm_tile turns a number into a tile: `group` rows of tiles are taken together,
// column by column, so that the operands of tiles that run at a time are few.
__device__ __forceinline__ void gemm_tile(int at, int tiles_m, int tiles_n, int& i, int& j, int group = 16) {
    int width = group * tiles_n, first = at / width * group;
    int rows = min(tiles_m - first, group);
    i = first + at % width % rows;
    j = at % width / rows;
}

// gemm_finish returns what element (i, j) becomes of a sum times alpha.
__device__ __forceinline__ float gemm_finish(const GemmArgs& g, int i, int j, float x) {
    if (g.beta != 0) x = fmaf(g.beta, ((const float*)g.c)[i * g.ldc + j], x);
    if (g.scale) x *= __ldg(g.scale + j);
    if (g.bias) x += __ldg(g.bias + j);
    return x;
}

// gemm_store sets element (i, j) to what becomes of the sum x.
__device__ __forceinline__ void gemm_store(const GemmArgs& g, int i, int j, float x) {
    x = gemm_finish(g, i, j, g.alpha * x);
    if (g.flags & GEMM_OUT_HALF)
        ((uint16_t*)g.c)[i * g.ldc + j] = bf16_round(x);
    else
        ((float*)g.c)[i * g.ldc + j] = x;
}

// gemm_store2 sets elements (i, j) and (i, j+1) to what becomes of the sums x, y.
__device__ __forceinline__ void gemm_store2(const GemmArgs& g, int i, int j, float x, float y) {
    if (i >= g.m || j >= g.n) return;
    if (!(g.flags & GEMM_VECTOR_C)) {
        gemm_store(g, i, j, x);
        if (j + 1 < g.n) gemm_store(g, i, j + 1, y);
        return;
    }
    x *= g.alpha, y *= g.alpha;
    const long long at = i * g.ldc + j;
    if (g.beta != 0) {
        const float2 old = *(const float2*)((const float*)g.c + at);
        x = fmaf(g.beta, old.x, x), y = fmaf(g.beta, old.y, y);
    }
    if (g.scale) {
        const float2 s = __ldg((const float2*)(g.scale + j));
        x *= s.x, y *= s.y;
    }
    if (g.bias) {
        const float2 s = __ldg((const float2*)(g.bias + j));
        x += s.x, y += s.y;
    }
    if (g.flags & GEMM_OUT_HALF)
        *(uint32_t*)((uint16_t*)g.c + at) = pack_bf16(x, y);
    else
        *(float2*)((float*)g.c + at) = make_float2(x, y);
}

// quad_swap exchanges, with the lane whose number differs in bit `by`, the higher of
// two words for its lower one: the lane with that bit keeps the higher.
__device__ __forceinline__ void quad_swap(uint32_t& lo, uint32_t& hi, int by) {
    const bool up = threadIdx.x & by;
    const uint32_t give = up ? lo : hi, got = __shfl_xor_sync(0xffffffffu, give, by);
    if (up)
        lo = got;
    else
        hi = got;
}

// gemm_store_part stores the sums of part number `part`.
template <int BN> __device__ __forceinline__ void gemm_store_part(const GemmArgs& g, const float (&d)[BN / 2], int part, int m0, int n0) {
    const int i0 = m0 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4, j0 = n0 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (i0 + 8 * r >= g.m) continue;
        float* to = g.parts + ((long long)part * g.m + i0 + 8 * r) * g.n;
#pragma unroll
        for (int x = 0; x < BN / 8; x++) {
            const int j = j0 + 8 * x;
            const float *v = d + 4 * x + 2 * r;
            if (g.n % 2 == 0 && j < g.n) {
                *(float2*)(to + j) = make_float2(v[0], v[1]);
            } else {
                if (j < g.n) to[j] = v[0];
                if (j + 1 < g.n) to[j + 1] = v[1];
            }
        }
    }
}

// gemm_rotate rotates what a warpgroup holds, in heads of 16 H columns: the halves of
// a head are H blocks of 8 columns apart, in the same lane.
template <int BN, int H> __device__ __forceinline__ void gemm_rotate(const GemmArgs& g, float (&d)[BN / 2], int i0) {
#pragma unroll
    for (int q = 0; q < H; q++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int i = min(i0 + 8 * r, g.m - 1);
            const long long at = (long long)i * (8 * H) + 8 * q + threadIdx.x % 4 * 2;
            const float2 c = __ldg((const float2*)(g.cos + at)), s = __ldg((const float2*)(g.sin + at));
#pragma unroll
            for (int x = q; x < BN / 8; x += 2 * H) {
                float *lo = d + 4 * x + 2 * r, *hi = lo + 4 * H;
                rotate(lo[0], hi[0], c.x, s.x), rotate(lo[1], hi[1], c.y, s.y);
            }
        }
}

// gemm_store_tile sets the 64 rows from m0 and BN columns from n0 to what becomes of
// the sums that a warpgroup holds (see wgmma). In memory that allows it, lanes of a
// row trade elements first, so that each stores 16 bytes of a row.
template <int BN> __device__ __forceinline__ void gemm_store_tile(const GemmArgs& g, float (&d)[BN / 2], int m0, int n0) {
    const int lane = threadIdx.x % 32, t = lane % 4, i0 = m0 + threadIdx.x % 128 / 32 * 16 + lane / 4;
    if (!(g.flags & GEMM_WIDE_C)) {
#pragma unroll
        for (int x = 0; x < BN / 8; x++) {
            gemm_store2(g, i0, n0 + 8 * x + 2 * t, d[4 * x], d[4 * x + 1]);
            gemm_store2(g, i0 + 8, n0 + 8 * x + 2 * t, d[4 * x + 2], d[4 * x + 3]);
        }
        return;
    }
    float alpha = g.alpha;
    const float *scale = g.scale, *bias = g.bias;
    if (g.half) {
#pragma unroll
        for (int x = 0; x < BN / 8; x++) {
            const int j = n0 + 8 * x + 2 * t;
            float2 s = {1, 1}, o = {0, 0};
            if (scale && j < g.n) s = __ldg((const float2*)(scale + j));
            if (bias && j < g.n) o = __ldg((const float2*)(bias + j));
#pragma unroll
            for (int r = 0; r < 4; r += 2) d[4 * x + r] = alpha * d[4 * x + r] * s.x + o.x, d[4 * x + r + 1] = alpha * d[4 * x + r + 1] * s.y + o.y;
        }
        if (g.half == 32) gemm_rotate<BN, 4>(g, d, i0);
        if (g.half == 64) gemm_rotate<BN, 8>(g, d, i0);
        if constexpr (BN == 256)
            if (g.half == 128) gemm_rotate<BN, 16>(g, d, i0);
        alpha = 1, scale = bias = 0;
    }
    // What is read of memory is asked for early, for several stores together: they may not be
    // exchanged with it, and would each wait for it.
    if (g.flags & GEMM_OUT_HALF) {
#pragma unroll
        for (int x = 0; x < BN / 8; x += 4) {
            uint4 gates[2], ups[2];
            if (g.dgate) {
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int i = i0 + 8 * r, j = n0 + 8 * (x + t);
                    if (i >= g.m || j >= g.n) continue;
                    gates[r] = *(const uint4*)((const uint16_t*)g.gate + i * g.ldc + j), ups[r] = *(const uint4*)((const uint16_t*)g.up + i * g.ldc + j);
                }
            }
            uint32_t v[2][4]; // rows i0 and i0 + 8, blocks of 8 columns
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int j = n0 + 8 * (x + q) + 2 * t;
                const bool in = j < g.n;
                const float2 s = in && scale ? __ldg((const float2*)(scale + j)) : make_float2(1, 1);
                const float2 o = in && bias ? __ldg((const float2*)(bias + j)) : make_float2(0, 0);
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    float y = alpha * d[4 * (x + q) + 2 * r], z = alpha * d[4 * (x + q) + 2 * r + 1];
                    if (scale) y *= s.x, z *= s.y;
                    if (bias) y += o.x, z += o.y;
                    v[r][q] = pack_bf16(y, z);
                }
            }
            const int j = n0 + 8 * (x + t);
#pragma unroll
            for (int r = 0; r < 2; r++) { // lane t gets block t
                quad_swap(v[r][0], v[r][1], 1);
                quad_swap(v[r][2], v[r][3], 1);
                quad_swap(v[r][0], v[r][2], 2);
                quad_swap(v[r][1], v[r][3], 2);
                const int i = i0 + 8 * r;
                if (i >= g.m || j >= g.n) continue;
                const long long at = i * g.ldc + j;
                if (g.dgate != g.c) *(uint4*)((uint16_t*)g.c + at) = uint4{v[r][0], v[r][1], v[r][2], v[r][3]};
                if (g.dgate) {
                    const uint4 gate = gates[r], up = ups[r];
                    uint4 a, b;
                    swiglu_grad2(a.x, b.x, v[r][0], gate.x, up.x), swiglu_grad2(a.y, b.y, v[r][1], gate.y, up.y);
                    swiglu_grad2(a.z, b.z, v[r][2], gate.z, up.z), swiglu_grad2(a.w, b.w, v[r][3], gate.w, up.w);
                    *(uint4*)((uint16_t*)g.dgate + at) = a, *(uint4*)((uint16_t*)g.dup + at) = b;
                }
            }
        }
        return;
    }
    float4 olds[2][2];
#pragma unroll
    for (int x = 0; x < BN / 8; x += 2) {
        if (g.beta != 0 && x % 4 == 0) {
#pragma unroll
            for (int q = 0; q < 2; q++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int i = i0 + 8 * r, j = n0 + 8 * (x + 2 * q + t % 2) + t / 2 * 4;
                    if (i < g.m && j < g.n) olds[q][r] = *(const float4*)((const float*)g.c + i * g.ldc + j);
                }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            uint32_t v[4];
#pragma unroll
            for (int q = 0; q < 2; q++) v[q] = __float_as_uint(d[4 * x + 2 * r + q]), v[2 + q] = __float_as_uint(d[4 * x + 4 + 2 * r + q]);
            quad_swap(v[0], v[2], 1);
            quad_swap(v[1], v[3], 1);
            const int i = i0 + 8 * r, j = n0 + 8 * (x + t % 2) + t / 2 * 4;
            if (i >= g.m || j >= g.n) continue;
            float4* to = (float4*)((float*)g.c + i * g.ldc + j);
            float4 y = {alpha * __uint_as_float(v[0]), alpha * __uint_as_float(v[1]), alpha * __uint_as_float(v[2]), alpha * __uint_as_float(v[3])};
            if (g.beta != 0) {
                const float4 old = olds[x / 2 % 2][r];
                y.x = fmaf(g.beta, old.x, y.x), y.y = fmaf(g.beta, old.y, y.y), y.z = fmaf(g.beta, old.z, y.z), y.w = fmaf(g.beta, old.w, y.w);
            }
            if (scale) {
                const float4 s = __ldg((const float4*)(scale + j));
                y.x *= s.x, y.y *= s.y, y.z *= s.z, y.w *= s.w;
            }
            if (bias) {
                const float4 s = __ldg((const float4*)(bias + j));
                y.x += s.x, y.y += s.y, y.z += s.z, y.w += s.w;
            }
            if (g.dgate != g.c) *to = y;
            if (g.dgate) {
                const long long at = i * g.ldc + j;
                const float4 gate = *(const float4*)((const float*)g.gate + at), up = *(const float4*)((const float*)g.up + at);
                const float dy[4] = {y.x, y.y, y.z, y.w}, gs[4] = {gate.x, gate.y, gate.z, gate.w}, us[4] = {up.x, up.y, up.z, up.w};
                float a[4], b[4];
#pragma unroll
                for (int q = 0; q < 4; q++) swiglu_grad(a[q], b[q], dy[q], gs[q], us[q], sigmoid(gs[q]));
                *(float4*)((float*)g.dgate + at) = make_float4(a[0], a[1], a[2], a[3]);
                *(float4*)((float*)g.dup + at) = make_float4(b[0], b[1], b[2], b[3]);
            }
        }
    }
}
