// fp8.cuh has numbers of 8 bits, e4m3 (see quant.ToE4M3), and their matrix products,
// of sm_89 and of sm_90a.
#pragma once
#include "common.cuh"
#include "wgmma.cuh"

// e4m3_scale is quant.ScaleE4M3 of the number with the bits `most`, which is not
// negative; e4m3_inverse is 1 by a scale.
__device__ __forceinline__ float e4m3_scale(uint32_t most) {
    if (most >= 0x7f800000u) return __uint_as_float(0x7fffffffu);
    if (most == 0) return 1;
    const uint32_t e = (most >> 23) + ((most & 0x7fffffu) > 0x600000u);
    return __uint_as_float((e > 9 ? e - 8 : 1) << 23);
}

__device__ __forceinline__ float e4m3_inverse(float scale) { return scale == scale ? __uint_as_float((254u << 23) - __float_as_uint(scale)) : scale; }

// pack_e4m3 puts four numbers of e4m3 into one word, a in the lowest byte: rounded to
// nearest, ties to even, too large ones to the largest; a NaN stays one.
//
// mma_e4m3 adds to c (16 x 8) the product of a (16 x 32) and b (32 x 8), which lanes
// hold as mma_bf16 has it, two codes in place of one bfloat16.
//
// wgmma_e4m3<first>(d, a, b) begins d += a * b, d = a * b if first: 64 x 128 by 64 x 32
// and 32 x 128, both K-major: the k of a row are 128 bytes, and step i of 32 begins
// 32 * i bytes on. All else is as with wgmma.
#ifdef PIPE_EMU
namespace emu {
inline uint8_t e4m3_round(float v) {
    uint32_t b = __float_as_uint(v), sign = b >> 24 & 0x80;
    b &= 0x7fffffffu;
    if (b > 0x7f800000u) return 0x7f;
    if (b >= 0x43e00000u) return sign | 0x7e;
    if (b < 0x3c800000u) return sign | (__float_as_uint(__uint_as_float(b) + 16384.0f) - 0x46800000u);
    return sign | (b + 0x7ffffu + (b >> 20 & 1) - (120u << 23)) >> 20;
}
inline float e4m3_float(uint8_t c) {
    uint32_t sign = (uint32_t)(c & 0x80) << 24, e = c >> 3 & 15, m = c & 7;
    if (e == 15 && m == 7) return __uint_as_float(0x7fffffffu);
    if (e == 0) return __uint_as_float(sign | __float_as_uint((float)m * 0x1p-9f));
    return __uint_as_float(sign | (e + 120) << 23 | m << 20);
}
inline void e4m3_multiply(void** posts) {
    float a[16][32], b[32][8];
    for (int lane = 0; lane < 32; lane++) {
        const Product* p = static_cast<Product*>(posts[lane]);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++)
            for (int q = 0; q < 4; q++) a[g + i % 2 * 8][4 * t + i / 2 * 16 + q] = e4m3_float(p->a[i] >> 8 * q);
        for (int i = 0; i < 2; i++)
            for (int q = 0; q < 4; q++) b[4 * t + i * 16 + q][g] = e4m3_float(p->b[i] >> 8 * q);
    }
    for (int lane = 0; lane < 32; lane++) {
        float* c = static_cast<Product*>(posts[lane])->c;
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 32; k++) c[i] += a[g + i / 2 * 8][k] * b[k][2 * t + i % 2];
    }
}
struct Wgmma8 {
    float* d;
    uint64_t a, b;
    int lane, warp;
    bool first;
};
inline float wgmma8_element(uint64_t desc, int row, int k) {
    uint64_t x = ((desc & 0x3fff) << 4) + row / 8 * ((desc >> 32 & 0x3fff) << 4) + row % 8 * 128 + k;
    if (desc >> 62 != 1) die("wgmma: not a swizzle of 128 bytes");
    return e4m3_float(dynamic()[x ^ (x >> 7 & 7) << 4]);
}
inline void wgmma8_run(void* data) {
    const Wgmma8* w = (const Wgmma8*)data;
    int g = w->lane / 4, t = w->lane % 4;
    float a[2][32];
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 32; k++) a[i][k] = wgmma8_element(w->a, 16 * w->warp + g + 8 * i, k);
    for (int j = 0; j < 16; j++)
        for (int c = 0; c < 2; c++) {
            float lo = w->first ? 0 : w->d[4 * j + c], hi = w->first ? 0 : w->d[4 * j + 2 + c];
            for (int k = 0; k < 32; k++) {
                float b = wgmma8_element(w->b, 8 * j + 2 * t + c, k);
                lo += a[0][k] * b, hi += a[1][k] * b;
            }
            w->d[4 * j + c] = lo, w->d[4 * j + 2 + c] = hi;
        }
}
}  // namespace emu
inline uint32_t pack_e4m3(float a, float b, float c, float d) {
    return emu::e4m3_round(a) | (uint32_t)emu::e4m3_round(b) << 8 | (uint32_t)emu::e4m3_round(c) << 16 | (uint32_t)emu::e4m3_round(d) << 24;
}
inline void mma_e4m3(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    emu::Product p = {c, a, b};
    emu::warp(~0u, "mma_e4m3", &p, emu::e4m3_multiply);
}
template <bool first> inline void wgmma_e4m3(float (&d)[64], uint64_t a, uint64_t b) {
    emu::Wgmma8 w = {d, a, b, (int)emu::cur->lane, (int)emu::cur->warp % 4, first};
    emu::post(emu::products, emu::wgmma8_run, &w, sizeof w);
}
#else
__device__ __forceinline__ uint32_t pack_e4m3(float a, float b, float c, float d) {
    uint16_t lo, hi;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(lo) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(hi) : "f"(d), "f"(c));
    return lo | (uint32_t)hi << 16;
}
__device__ __forceinline__ void mma_e4m3(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#ifdef HAVE_WGMMA
#define WGMMA_E4M3(scale)                                                                                                  \
    "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"                                                              \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                               \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                     \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                     \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                                       \
    "}, %64, %65, " scale ", 1, 1;"
#define FP8_D4(i) "=f"(d[i]), "=f"(d[i + 1]), "=f"(d[i + 2]), "=f"(d[i + 3])
#define FP8_D16(i) FP8_D4(i), FP8_D4(i + 4), FP8_D4(i + 8), FP8_D4(i + 12)
template <bool first> __device__ __forceinline__ void wgmma_e4m3(float (&d)[64], uint64_t a, uint64_t b) {
    if (first)
        asm volatile(WGMMA_E4M3("0") : FP8_D16(0), FP8_D16(16), FP8_D16(32), FP8_D16(48) : "l"(a), "l"(b));
    else
        asm volatile(WGMMA_E4M3("1") : WGMMA_D32(0), WGMMA_D32(32) : "l"(a), "l"(b));
}
#endif
#endif
