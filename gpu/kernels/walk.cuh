// Ways to walk over elements, for operations that are bound by memory: a thread
// first loads all it is to work on, and then computes and stores, so that enough
// bytes are on their way.
#pragma once
#include "common.cuh"

// load and store move W floats or bfloat16; those of 4 are at addresses of 16
// and 8 bytes.
template <int W> __device__ __forceinline__ void load(float v[W], const float* p) {
    if (W == 4) {
        const float4 q = *(const float4*)p;
        v[0] = q.x, v[1 % W] = q.y, v[2 % W] = q.z, v[3 % W] = q.w;
    } else {
        v[0] = *p;
    }
}

template <int W> __device__ __forceinline__ void load(float v[W], const uint16_t* p) {
    if (W == 4) {
        const uint2 q = *(const uint2*)p;
        v[0] = __uint_as_float(q.x << 16), v[1 % W] = __uint_as_float(q.x & 0xffff0000u);
        v[2 % W] = __uint_as_float(q.y << 16), v[3 % W] = __uint_as_float(q.y & 0xffff0000u);
    } else {
        v[0] = bf16_float(*p);
    }
}

template <int W> __device__ __forceinline__ void store(float* p, const float v[W]) {
    if (W == 4) {
        float4 q;
        q.x = v[0], q.y = v[1 % W], q.z = v[2 % W], q.w = v[3 % W];
        *(float4*)p = q;
    } else {
        *p = v[0];
    }
}

template <int W> __device__ __forceinline__ void store(uint16_t* p, const float v[W]) {
    if (W == 4) {
        uint2 q;
        q.x = pack_bf16(v[0], v[1 % W]), q.y = pack_bf16(v[2 % W], v[3 % W]);
        *(uint2*)p = q;
    } else {
        *p = bf16_round(v[0]);
    }
}

// FLAT is how many elements a block of pointwise takes.
#define FLAT_THREADS 256
#define FLAT (FLAT_THREADS * 8)

// pointwise calls f(out, in, i), which sets OUT results of the IN operands'
// elements i, for the elements of a block. Operand k is bfloat16 if bit k of HALF
// is set, result k if bit 4+k is. vec: all pointers are multiples of 16.
template <int IN, int OUT, int HALF, class F>
__device__ __forceinline__ void pointwise(void* const (&dst)[OUT], const void* const (&src)[IN], long long n, int vec, F f) {
    const int U = FLAT / FLAT_THREADS / 4;
    const long long base = (long long)blockIdx.x * FLAT;
    if (!vec || base + FLAT > n) {
        for (long long i = base + threadIdx.x; i < n && i < base + FLAT; i += FLAT_THREADS) {
            float in[IN], out[OUT];
#pragma unroll
            for (int k = 0; k < IN; k++) in[k] = HALF >> k & 1 ? bf16_float(((const uint16_t*)src[k])[i]) : ((const float*)src[k])[i];
            f(out, in, i);
#pragma unroll
            for (int k = 0; k < OUT; k++) {
                if (HALF >> (4 + k) & 1) ((uint16_t*)dst[k])[i] = bf16_round(out[k]);
                else ((float*)dst[k])[i] = out[k];
            }
        }
        return;
    }
    float v[U][IN][4];
#pragma unroll
    for (int u = 0; u < U; u++)
#pragma unroll
        for (int k = 0; k < IN; k++) {
            const long long at = base + (u * FLAT_THREADS + threadIdx.x) * 4;
            if (HALF >> k & 1) load<4>(v[u][k], (const uint16_t*)src[k] + at);
            else load<4>(v[u][k], (const float*)src[k] + at);
        }
#pragma unroll
    for (int u = 0; u < U; u++) {
        const long long at = base + (u * FLAT_THREADS + threadIdx.x) * 4;
        float w[OUT][4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float in[IN], out[OUT];
#pragma unroll
            for (int k = 0; k < IN; k++) in[k] = v[u][k][e];
            f(out, in, at + e);
#pragma unroll
            for (int k = 0; k < OUT; k++) w[k][e] = out[k];
        }
#pragma unroll
        for (int k = 0; k < OUT; k++) {
            if (HALF >> (4 + k) & 1) store<4>((uint16_t*)dst[k] + at, w[k]);
            else store<4>((float*)dst[k] + at, w[k]);
        }
    }
}

// A Tile is the place of a thread in a matrix of items: 1 << shift threads of a
// block of 256 lie along a row, and each has TILE_ROWS rows. Blocks x are
// beneath, y beside each other.
#define TILE_ROWS 4
struct Tile {
    long long item, row;
    int step; // from one row of a thread to the next
    __device__ __forceinline__ Tile(int shift) {
        item = (long long)blockIdx.y << shift | (threadIdx.x & ((1 << shift) - 1));
        step = 256 >> shift;
        row = (long long)blockIdx.x * (TILE_ROWS * step) + (threadIdx.x >> shift);
    }
};
