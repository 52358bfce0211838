// gemv.cuh is what the products of few rows share: c [m,n] of x [m,k] and a
// weight [n,k] of any type, which is read once, expanded in registers. Blocks
// have 8 warps, which share the terms; a row's sum does not depend on m.
#pragma once
#include "common.cuh"
#include "dequant.cuh"

// GemvArgs is c = scale * (alpha * x.w^T + low + beta * c) + bias, low = alpha2 * u.v
// with u [m,r] and element (column j, term t) of v at j*sj + t*st.
struct GemvArgs {
    void* c;
    const void* x;
    const unsigned char* w;
    const float *scale, *bias, *u, *v;
    long long stride; // of the weight's rows, in bytes
    long long ldx, ldc, sj, st;
    int m, n, k, r;
    int flags; // gemv_flags
    float alpha, alpha2, beta;
};

enum GemvFlags {
    GEMV_X_HALF = 1,   // x is bfloat16
    GEMV_X_VECTOR = 2, // rows of x are whole vectors of 16 bytes
    GEMV_OUT_HALF = 4, // c is bfloat16
};

// gemv_store sets element (i, j) to what becomes of its sum.
template <class A> __device__ __forceinline__ void gemv_store(const A& a, int i, int j, float sum) {
    float y = a.alpha * sum;
    if (a.r > 0) {
        float low = 0;
        for (int t = 0; t < a.r; t++) low = fmaf(__ldg(a.u + (long long)i * a.r + t), __ldg(a.v + j * a.sj + t * a.st), low);
        y = fmaf(a.alpha2, low, y);
    }
    if (a.flags & GEMV_OUT_HALF) {
        if (a.scale) y *= __ldg(a.scale + j);
        if (a.bias) y += __ldg(a.bias + j);
        ((uint16_t*)a.c)[i * a.ldc + j] = bf16_round(y);
        return;
    }
    float* c = (float*)a.c + i * a.ldc + j;
    if (a.beta != 0) y = fmaf(a.beta, *c, y);
    if (a.scale) y *= __ldg(a.scale + j);
    if (a.bias) y += __ldg(a.bias + j);
    *c = y;
}

// gemv_weight expands elements e..e+7 of a row of k.
template <int DT> __device__ __forceinline__ void gemv_weight(float v[8], const unsigned char* row, int e, int k, bool whole, const float* table) {
    using F = Format<DT>;
    if (whole && e + 8 <= k) {
        F::expand8(v, row + (long long)(e / F::block) * F::bytes, e % F::block / 8, table);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = 0;
    if constexpr (F::block == 8) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (e + i < k) v[i] = F::element(row, e + i);
    }
}

// gemv_x loads elements e..e+7 of row i of x.
__device__ __forceinline__ void gemv_x(float v[8], const GemvArgs& a, int i, int e) {
    if (a.flags & GEMV_X_HALF) {
        const uint16_t* x = (const uint16_t*)a.x + i * a.ldx + e;
        if (a.flags & GEMV_X_VECTOR && e + 8 <= a.k) {
            Format<BF16>::expand8(v, (const unsigned char*)x, 0, 0);
            return;
        }
#pragma unroll
        for (int q = 0; q < 8; q++) v[q] = e + q < a.k ? bf16_float(__ldg(x + q)) : 0;
        return;
    }
    const float* x = (const float*)a.x + i * a.ldx + e;
    if (a.flags & GEMV_X_VECTOR && e + 8 <= a.k) {
        Format<F32>::expand8(v, (const unsigned char*)x, 0, 0);
        return;
    }
#pragma unroll
    for (int q = 0; q < 8; q++) v[q] = e + q < a.k ? __ldg(x + q) : 0;
}

// GEMV_TYPES calls a macro for each type.
#define GEMV_TYPES(M) \
    M(f32, F32) M(f16, F16) M(bf16, BF16) M(q4_0, Q4_0) M(q4_1, Q4_1) M(q5_0, Q5_0) M(q5_1, Q5_1) M(q8_0, Q8_0) M(q4_k, Q4_K) M(q5_k, Q5_K) M(q6_k, Q6_K) M(nf4, NF4)
