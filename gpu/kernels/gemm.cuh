// gemm.cuh is what the kernels of products of many rows share: their argument,
// the order of tiles, and what becomes of sums.
#pragma once
#include "common.cuh"

// GemmArgs is c [m,n] = scale * (alpha * a.b + low + beta * c) + bias with row
// distances in elements. Kernels in float32 take low = u.v from r terms and
// low_alpha; those in bfloat16 take it as further terms a2, b2 of depth k2.
struct GemmArgs {
    void* c;
    const void *a, *b, *a2, *b2;
    const float *scale, *bias; // [n] or null
    float* parts;              // of a sum that is split: [split][m][n]
    long long lda, ldb, lda2, ldb2, ldc;
    int m, n, k, k2;
    int split;             // terms of a part
    int flags;             // gemm_flags
    float alpha, alpha2, beta;
    int tiles_m, tiles_n;
};

enum GemmFlags {
    GEMM_VECTOR_A = 1, // rows of a, b and c begin at, and are, whole vectors of 4 elements
    GEMM_VECTOR_B = 2,
    GEMM_VECTOR_C = 4, // and so do scale and bias
    GEMM_TRANS_2 = 8,  // b2 is stored [n,k2]
    GEMM_OUT_HALF = 16, // c is bfloat16; then beta is 0
};

// gemm_tile turns a number into a tile: GROUP rows of tiles are taken together,
// column by column, so that the operands of tiles that run at a time are few.
__device__ __forceinline__ void gemm_tile(int at, int tiles_m, int tiles_n, int& i, int& j) {
    const int GROUP = 16;
    int width = GROUP * tiles_n, first = at / width * GROUP;
    int rows = min(tiles_m - first, GROUP);
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
