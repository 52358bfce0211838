// What products need before they begin: operands in bfloat16 or expanded to
// float32, and updates of low rank in two halves.
#include "common.cuh"
#include "dequant.cuh"

// UnpackArgs: dst [rows, ldd] (uint16_t or float), zeros behind cols, of rows of
// `stride` bytes. ldd is a multiple of 8.
struct UnpackArgs {
    void* dst;
    const unsigned char* src;
    long long stride;
    int rows, cols, ldd, unused;
};

template <int DT, bool half> __device__ __forceinline__ void unpack(const UnpackArgs& a, const float* table) {
    using F = Format<DT>;
    const bool whole = F::block > 8 || aligned<DT>(a.src, a.stride);
    const unsigned per = a.ldd / 8, all = per * (unsigned)a.rows;
    for (unsigned g = blockIdx.x * 256 + threadIdx.x; g < all; g += gridDim.x * 256) {
        const unsigned r = g / per, e = g % per * 8;
        const unsigned char* row = a.src + r * a.stride;
        float v[8];
        if (whole && e + 8 <= (unsigned)a.cols) {
            F::expand8(v, row + (long long)(e / F::block) * F::bytes, e % F::block / 8, table);
        } else if constexpr (F::block == 8) {
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = e + i < (unsigned)a.cols ? F::element(row, e + i) : 0;
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = 0;
        }
        if (half) {
            const uint4 w = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
            ((uint4*)a.dst)[g] = w;
        } else {
            ((float4*)a.dst)[2 * (long long)g] = make_float4(v[0], v[1], v[2], v[3]);
            ((float4*)a.dst)[2 * (long long)g + 1] = make_float4(v[4], v[5], v[6], v[7]);
        }
    }
}

#define UNPACK(name, DT)                       \
    KERNEL(unpack_half_##name, UnpackArgs, 256) { \
        SHARED(float, table, 16);              \
        fill_table<DT>(table);                 \
        __syncthreads();                       \
        unpack<DT, true>(a, table);            \
    }                                          \
    KERNEL(unpack_float_##name, UnpackArgs, 256) { \
        SHARED(float, table, 16);              \
        fill_table<DT>(table);                 \
        __syncthreads();                       \
        unpack<DT, false>(a, table);           \
    }
UNPACK(f32, F32)
UNPACK(f16, F16)
UNPACK(bf16, BF16)
UNPACK(q4_0, Q4_0)
UNPACK(q4_1, Q4_1)
UNPACK(q5_0, Q5_0)
UNPACK(q5_1, Q5_1)
UNPACK(q8_0, Q8_0)
UNPACK(q4_k, Q4_K)
UNPACK(q5_k, Q5_K)
UNPACK(q6_k, Q6_K)
UNPACK(nf4, NF4)

// LowArgs: the matrix u [m,r], times scale, and v, of which element (column j of
// c, term t) is v[j*sj + t*st], each as the sum of a bfloat16 (hi) and what that
// leaves rounded to bfloat16 (lo), 16 bits in all. Of the products of these four,
// lo u * lo v, the smallest, is left out:
//   left [m, 3*r8]    = hi u, hi u, lo u
//   right             = hi v, lo v, hi v, as [n, 3*r8] or, unless nk, [3*r8, ldn]
// r8 is r, made a multiple of 8 by zeros, as ldn is of n.
struct LowArgs {
    uint16_t *left, *right;
    const float *u, *v;
    long long sj, st;
    int m, n, r, r8, ldn, nk;
    float scale;
    int unused;
};

// low_part returns the part hi or lo of x.
__device__ __forceinline__ uint16_t low_part(float x, bool lo) {
    const uint16_t hi = bf16_round(x);
    if (!lo) return hi;
    const float rest = x - bf16_float(hi);
    return bf16_round(rest == rest && fabsf(rest) < 3e38f ? rest : 0);
}

KERNEL(low_rank, LowArgs, 256) {
    const unsigned k2 = 3 * a.r8, r8 = a.r8, left = (unsigned)a.m * k2, right = (unsigned)(a.nk ? a.n : a.ldn) * k2;
    for (unsigned e = blockIdx.x * 256 + threadIdx.x; e < left + right; e += gridDim.x * 256) {
        if (e < left) {
            const unsigned i = e / k2, q = e % k2, t = q % r8;
            a.left[e] = t < (unsigned)a.r ? low_part(a.scale * __ldg(a.u + (long long)i * a.r + t), q / r8 == 2) : 0;
            continue;
        }
        const unsigned f = e - left, j = a.nk ? f / k2 : f % a.ldn, q = a.nk ? f % k2 : f / a.ldn, t = q % r8;
        const bool there = t < (unsigned)a.r && j < (unsigned)a.n;
        a.right[f] = there ? low_part(__ldg(a.v + j * a.sj + t * a.st), q / r8 == 1) : 0;
    }
}
