// The elements of weights of every type, bit for bit as package quant expands
// them. Scales have 11 bits, with those of sub-blocks 17, and codes 5 where
// something is added: such products are exact, fused with the addition or not.
//
// A row is walked in groups of 8 elements:
//
//     SHARED(float, table, 16);
//     fill_table<DT>(table);                  // of NF4; nothing for the others
//     __syncthreads();
//     using F = Format<DT>;
//     const unsigned char* at = row + (long long)(i / F::block) * F::bytes;
//     F::expand8(out, at, i % F::block / 8, table);   // elements i..i+7, i % 8 == 0
//
// Blocks must begin at multiples of F::align, which those of quantised tensors
// always do. Rows of plain types may not: `aligned<DT>(row, stride)` tells, and
// F::element(row, i) reads any element of any row of them. A row of a plain type
// ends where it ends; no block of it reaches further than 8 elements.
#pragma once
#include "common.cuh"

// The values of tensor.DType.
enum DType { F32, F16, BF16, I32, U8, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, NF4 };

// code_float returns q - bias for small integers q >= 0, exactly, without a
// conversion: 2^23 + q is q in the mantissa.
__device__ __forceinline__ float code_float(uint32_t q, int bias) {
    return __uint_as_float(0x4b000000u | q) - (8388608.0f + (float)bias);
}

// Loads from addresses that are multiples of 2 and of 4.
__device__ __forceinline__ uint32_t load16(const unsigned char* p) { return __ldg((const unsigned short*)p); }
__device__ __forceinline__ uint32_t load16x2(const unsigned char* p) { return load16(p) | load16(p + 2) << 16; }
__device__ __forceinline__ uint32_t load32(const unsigned char* p) { return __ldg((const unsigned int*)p); }
__device__ __forceinline__ float load_half(const unsigned char* p) { return half_float((uint16_t)load16(p)); }

// byte_of returns byte i < 8 of two words.
__device__ __forceinline__ uint32_t byte_of(uint32_t lo, uint32_t hi, int i) {
    return (i < 4 ? lo >> 8 * i : hi >> 8 * (i - 4)) & 255;
}

static __device__ const float nf4_values[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
};

template <int DT> struct Format;

// fill_table sets table[16], in shared memory, to what the codes of DT stand
// for if DT needs that; __syncthreads must follow. Equal codes of a warp read
// one word and different codes different banks.
template <int DT> __device__ __forceinline__ void fill_table(float* table) {
    if (DT == NF4 && threadIdx.x < 16 && threadIdx.y == 0 && threadIdx.z == 0) table[threadIdx.x] = nf4_values[threadIdx.x];
}

// aligned reports whether rows from p on, stride bytes apart, can be read by
// expand8.
template <int DT> __device__ __forceinline__ bool aligned(const void* p, long long stride) {
    return ((unsigned long long)p | (unsigned long long)stride) % Format<DT>::align == 0;
}

template <> struct Format<F32> {
    static const int block = 8, bytes = 32, align = 16;
    static __device__ __forceinline__ float element(const unsigned char* row, long long i) { return __ldg((const float*)row + i); }
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        float4 lo = __ldg((const float4*)b), hi = __ldg((const float4*)b + 1);
        out[0] = lo.x, out[1] = lo.y, out[2] = lo.z, out[3] = lo.w;
        out[4] = hi.x, out[5] = hi.y, out[6] = hi.z, out[7] = hi.w;
    }
};

template <> struct Format<F16> {
    static const int block = 8, bytes = 16, align = 16;
    static __device__ __forceinline__ float element(const unsigned char* row, long long i) { return load_half(row + 2 * i); }
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        uint4 v = __ldg((const uint4*)b);
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = half_float((uint16_t)(w[i / 2] >> 16 * (i % 2)));
    }
};

template <> struct Format<BF16> {
    static const int block = 8, bytes = 16, align = 16;
    static __device__ __forceinline__ float element(const unsigned char* row, long long i) { return __uint_as_float(load16(row + 2 * i) << 16); }
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        uint4 v = __ldg((const uint4*)b);
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) out[2 * i] = __uint_as_float(w[i] << 16), out[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
};

// Of 32 elements, byte j holds element j in its low and j+16 in its high
// nibble: nibbles8 returns the codes of a group as the bytes of two words.
__device__ __forceinline__ void nibbles8(uint32_t& lo, uint32_t& hi, int shift) {
    lo = lo >> shift & 0x0f0f0f0fu, hi = hi >> shift & 0x0f0f0f0fu;
}

template <> struct Format<Q4_0> {
    static const int block = 32, bytes = 18, align = 2;
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        const float d = load_half(b);
        const unsigned char* q = b + 2 + 8 * (group & 1);
        uint32_t lo = load16x2(q), hi = load16x2(q + 4);
        nibbles8(lo, hi, 4 * (group >> 1));
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = d * code_float(byte_of(lo, hi, i), 8);
    }
};

template <> struct Format<Q4_1> {
    static const int block = 32, bytes = 20, align = 4;
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        const uint32_t dm = load32(b);
        const float d = half_float((uint16_t)dm), m = half_float((uint16_t)(dm >> 16));
        const unsigned char* q = b + 4 + 8 * (group & 1);
        uint32_t lo = load32(q), hi = load32(q + 4);
        nibbles8(lo, hi, 4 * (group >> 1));
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = d * code_float(byte_of(lo, hi, i), 0) + m;
    }
};

template <> struct Format<Q5_0> {
    static const int block = 32, bytes = 22, align = 2;
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        const float d = load_half(b);
        const uint32_t fifth = load16(b + 2 + (group >> 1) * 2) >> 8 * (group & 1);
        const unsigned char* q = b + 6 + 8 * (group & 1);
        uint32_t lo = load16x2(q), hi = load16x2(q + 4);
        nibbles8(lo, hi, 4 * (group >> 1));
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = d * code_float(byte_of(lo, hi, i) | (fifth >> i & 1) << 4, 16);
    }
};

template <> struct Format<Q5_1> {
    static const int block = 32, bytes = 24, align = 4;
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        const uint32_t dm = load32(b), fifth = load32(b + 4) >> 8 * group;
        const float d = half_float((uint16_t)dm), m = half_float((uint16_t)(dm >> 16));
        const unsigned char* q = b + 8 + 8 * (group & 1);
        uint32_t lo = load32(q), hi = load32(q + 4);
        nibbles8(lo, hi, 4 * (group >> 1));
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = d * code_float(byte_of(lo, hi, i) | (fifth >> i & 1) << 4, 0) + m;
    }
};

template <> struct Format<Q8_0> {
    static const int block = 32, bytes = 34, align = 2;
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        const float d = load_half(b);
        const unsigned char* q = b + 2 + 8 * group;
        const uint32_t lo = load16x2(q) ^ 0x80808080u, hi = load16x2(q + 4) ^ 0x80808080u;
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = d * code_float(byte_of(lo, hi, i), 128);
    }
};

// k_scales returns scale and minimum of sub-block j < 8 of a super-block that
// begins with d, dmin and 12 bytes of 6-bit numbers.
__device__ __forceinline__ void k_scales(float& scale, float& minimum, const unsigned char* b, int j) {
    const uint32_t dm = load32(b);
    const unsigned char* q = b + 4;
    uint32_t sc, mn;
    if (j < 4) {
        sc = __ldg(q + j) & 63, mn = __ldg(q + j + 4) & 63;
    } else {
        const uint32_t both = __ldg(q + j + 4);
        sc = (both & 15) | (uint32_t)__ldg(q + j - 4) >> 6 << 4, mn = both >> 4 | (uint32_t)__ldg(q + j) >> 6 << 4;
    }
    scale = half_float((uint16_t)dm) * code_float(sc, 0);
    minimum = half_float((uint16_t)(dm >> 16)) * code_float(mn, 0);
}

template <> struct Format<Q4_K> {
    static const int block = 256, bytes = 144, align = 16;
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        float s, m;
        k_scales(s, m, b, group >> 2);
        const uint2 q = __ldg((const uint2*)(b + 16 + 32 * (group >> 3) + 8 * (group & 3)));
        uint32_t lo = q.x, hi = q.y;
        nibbles8(lo, hi, group & 4);
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = s * code_float(byte_of(lo, hi, i), 0) - m;
    }
};

template <> struct Format<Q5_K> {
    static const int block = 256, bytes = 176, align = 16;
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        float s, m;
        k_scales(s, m, b, group >> 2);
        const uint2 q = __ldg((const uint2*)(b + 48 + 32 * (group >> 3) + 8 * (group & 3)));
        const uint2 fifth = __ldg((const uint2*)(b + 16 + 8 * (group & 3)));
        uint32_t lo = q.x, hi = q.y;
        nibbles8(lo, hi, group & 4);
        lo |= (fifth.x >> (group >> 2) & 0x01010101u) << 4, hi |= (fifth.y >> (group >> 2) & 0x01010101u) << 4;
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = s * code_float(byte_of(lo, hi, i), 0) - m;
    }
};

template <> struct Format<Q6_K> {
    static const int block = 256, bytes = 210, align = 2;
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float*) {
        const int n = group >> 4, r = group >> 2 & 3, l = 8 * (group & 3); // half, quarter of it, first byte
        const unsigned char *ql = b + 64 * n + 32 * (r & 1) + l, *qh = b + 128 + 32 * n + l;
        const float sub = code_float(__ldg(b + 192 + (group >> 1)) ^ 128u, 128); // of 16 elements, signed
        const float s = load_half(b + 208) * sub;
        uint32_t lo = load16x2(ql), hi = load16x2(ql + 4);
        nibbles8(lo, hi, 4 * (r >> 1));
        lo |= (load16x2(qh) >> 2 * r & 0x03030303u) << 4, hi |= (load16x2(qh + 4) >> 2 * r & 0x03030303u) << 4;
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = s * code_float(byte_of(lo, hi, i), 32);
    }
};

template <> struct Format<NF4> {
    static const int block = 64, bytes = 36, align = 4;
    static __device__ __forceinline__ void expand8(float out[8], const unsigned char* b, int group, const float* table) {
        const float d = __uint_as_float(load32(b));
        const uint32_t q = load32(b + 4 + 4 * group); // byte j: element 2j high, 2j+1 low
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = d * table[q >> (8 * (i / 2) + 4 * (1 - i % 2)) & 15];
    }
};
