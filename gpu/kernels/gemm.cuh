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
    GEMM_VECTOR_A = 1, // rows of a, b and c are whole vectors of 16 bytes
    GEMM_VECTOR_B = 2,
    GEMM_VECTOR_C = 4,
    GEMM_TRANS_2 = 8,  // b2 is stored [n,k2]
    GEMM_OUT_HALF = 16,
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

// gemm_finish returns what an element becomes.
__device__ __forceinline__ float gemm_finish(float sum, float alpha, float scale, float bias) { return fmaf(alpha * sum, scale, bias); }

// gemm_store2 sets elements (i, j) and (i, j+1) to what becomes of the sums x, y.
__device__ __forceinline__ void gemm_store2(const GemmArgs& a, int i, int j, float x, float y) {
    if (i >= a.m || j >= a.n) return;
    const bool two = j + 1 < a.n;
    x *= a.alpha, y *= a.alpha;
    if (a.flags & GEMM_OUT_HALF) {
        uint16_t* c = (uint16_t*)a.c + i * a.ldc + j;
        if (a.scale) x *= __ldg(a.scale + j), y *= two ? __ldg(a.scale + j + 1) : 0;
        if (a.bias) x += __ldg(a.bias + j), y += two ? __ldg(a.bias + j + 1) : 0;
        if (two && a.flags & GEMM_VECTOR_C)
            *(uint32_t*)c = pack_bf16(x, y);
        else {
            c[0] = bf16_round(x);
            if (two) c[1] = bf16_round(y);
        }
        return;
    }
    float* c = (float*)a.c + i * a.ldc + j;
    if (two && a.flags & GEMM_VECTOR_C) {
        if (a.beta != 0) {
            const float2 old = *(const float2*)c;
            x = fmaf(a.beta, old.x, x), y = fmaf(a.beta, old.y, y);
        }
        if (a.scale) {
            const float2 s = __ldg((const float2*)(a.scale + j));
            x *= s.x, y *= s.y;
        }
        if (a.bias) {
            const float2 s = __ldg((const float2*)(a.bias + j));
            x += s.x, y += s.y;
        }
        *(float2*)c = make_float2(x, y);
        return;
    }
    if (a.beta != 0) x = fmaf(a.beta, c[0], x);
    if (a.scale) x *= __ldg(a.scale + j);
    if (a.bias) x += __ldg(a.bias + j);
    c[0] = x;
    if (!two) return;
    if (a.beta != 0) y = fmaf(a.beta, c[1], y);
    if (a.scale) y *= __ldg(a.scale + j + 1);
    if (a.bias) y += __ldg(a.bias + j + 1);
    c[1] = y;
}
