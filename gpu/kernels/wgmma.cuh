// wgmma.cuh is the matrix product of a warpgroup on sm_90a: 64 x N += 64 x 16 by
// 16 x N, of bfloat16 operands in shared memory that descriptors describe. In the
// emulator a product reads through the same descriptors, when it is waited for.
//
// An operand is K-major when its k run along rows of 64 elements (128 bytes), or
// MN-major when its m or n do. Rows lie together in groups of 8, which are 1024
// bytes and begin at multiples of that; of row r, the 16 bytes with elements
// 8c..8c+7 are at (c ^ r % 8) * 16: swizzled_128.
//   K-major, R rows of m or n:   row r at r * 128; k step i of 16 begins 32 * i bytes on.
//   MN-major, K rows of k:       row k at k * 128; k step i of 16 begins 2048 * i bytes on;
//                                the next 64 of m or n begin `next` bytes on.
#pragma once
#include "common.cuh"

#if defined(PIPE_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA 1
#endif

// swizzled_128 is the offset in bytes of chunk c (16 bytes) of row r.
__device__ __forceinline__ int swizzled_128(int r, int c) { return r * 128 + ((c ^ (r & 7)) << 4); }

// wgmma_descriptor describes an operand at p, K-major (next 0) or MN-major.
// Adding bytes >> 4 moves it.
__device__ __forceinline__ uint64_t wgmma_descriptor(const unsigned char* p, int next) {
#ifdef PIPE_EMU
    uint64_t at = (uint64_t)(p - emu::dynamic());
#else
    uint64_t at = shared_address(p);
#endif
    return (at >> 4 & 0x3fff) | (uint64_t)(next ? next >> 4 : 1) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

// wgmma<N, mMajor, nMajor>(d, a, b) begins d += a * b, a MN-major if mMajor, b if
// nMajor.
// wgmma_fence comes before the first after d was touched, and before those that
// read what threads wrote to shared memory; wgmma_commit closes a group,
// wgmma_wait<n> waits for all but the newest n groups. wgmma_hold(d) keeps what uses d
// on its side of it: it belongs between the last wait and that, and before the first
// product. Lane l = 4g + t of warp w
// of the warpgroup has in d[4j..4j+1] row 16w+g, columns 8j+2t and the next, and
// in d[4j+2..4j+3] row 16w+g+8.
template <int N, bool mMajor, bool nMajor> __device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b);

#ifdef PIPE_EMU
namespace emu {
struct Wgmma {
    float* d;
    uint64_t a, b;
    int n, lane, warp;
    bool mMajor, nMajor;
};
inline float wgmma_element(uint64_t desc, bool mnMajor, int mn, int k) {
    uint64_t at = (desc & 0x3fff) << 4, next = (desc >> 16 & 0x3fff) << 4, group = (desc >> 32 & 0x3fff) << 4;
    if (desc >> 62 != 1) die("wgmma: not a swizzle of 128 bytes");
    uint64_t x;
    if (mnMajor)
        x = at + mn / 64 * next + k / 8 * group + k % 8 * 128 + mn % 64 * 2;
    else
        x = at + mn / 8 * group + mn % 8 * 128 + k * 2;
    x ^= (x >> 7 & 7) << 4; // of the address, as the device does it
    const unsigned char* p = dynamic() + x;
    return bf16_float(*(const uint16_t*)p);
}
inline void wgmma_run(void* data) {
    const Wgmma* w = (const Wgmma*)data;
    int g = w->lane / 4, t = w->lane % 4;
    float a[2][16];
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 16; k++) a[i][k] = wgmma_element(w->a, w->mMajor, 16 * w->warp + g + 8 * i, k);
    for (int j = 0; j < w->n / 8; j++)
        for (int c = 0; c < 2; c++) {
            float lo = w->d[4 * j + c], hi = w->d[4 * j + 2 + c];
            for (int k = 0; k < 16; k++) {
                float b = wgmma_element(w->b, w->nMajor, 8 * j + 2 * t + c, k);
                lo += a[0][k] * b, hi += a[1][k] * b;
            }
            w->d[4 * j + c] = lo, w->d[4 * j + 2 + c] = hi;
        }
}
}  // namespace emu
template <int N, bool mMajor, bool nMajor> inline void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b) {
    emu::Wgmma w = {d, a, b, N, (int)emu::cur->lane, (int)emu::cur->warp % 4, mMajor, nMajor};
    emu::post(emu::products, emu::wgmma_run, &w, sizeof w);
}
inline void wgmma_fence() { emu::group("wgmma_fence", nullptr, nullptr); }
inline void wgmma_commit() { emu::commit(emu::products); }
template <int n> inline void wgmma_wait() { // of the whole warp
    emu::wait(emu::products, n);
    __syncwarp();
}
template <int n> inline void wgmma_hold(float (&)[n]) {}
inline void fence_async() {}
#elif defined(HAVE_WGMMA)
#define WGMMA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_D8(i) WGMMA_D4(i), WGMMA_D4(i + 4)
#define WGMMA_D32(i) WGMMA_D8(i), WGMMA_D8(i + 8), WGMMA_D8(i + 16), WGMMA_D8(i + 24)
template <bool mMajor, bool nMajor> __device__ __forceinline__ void wgmma_8(float (&d)[4], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3"
        "}, %4, %5, 1, 1, 1, %6, %7;"
        : WGMMA_D4(0)
        : "l"(a), "l"(b), "n"(mMajor ? 1 : 0), "n"(nMajor ? 1 : 0));
}
template <bool mMajor, bool nMajor> __device__ __forceinline__ void wgmma_16(float (&d)[8], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7"
        "}, %8, %9, 1, 1, 1, %10, %11;"
        : WGMMA_D8(0)
        : "l"(a), "l"(b), "n"(mMajor ? 1 : 0), "n"(nMajor ? 1 : 0));
}
template <bool mMajor, bool nMajor> __device__ __forceinline__ void wgmma_32(float (&d)[16], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
        "}, %16, %17, 1, 1, 1, %18, %19;"
        : WGMMA_D8(0), WGMMA_D8(8)
        : "l"(a), "l"(b), "n"(mMajor ? 1 : 0), "n"(nMajor ? 1 : 0));
}
template <bool mMajor, bool nMajor> __device__ __forceinline__ void wgmma_64(float (&d)[32], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, %32, %33, 1, 1, 1, %34, %35;"
        : WGMMA_D32(0)
        : "l"(a), "l"(b), "n"(mMajor ? 1 : 0), "n"(nMajor ? 1 : 0));
}
template <bool mMajor, bool nMajor> __device__ __forceinline__ void wgmma_128(float (&d)[64], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, 1, 1, 1, %66, %67;"
        : WGMMA_D32(0), WGMMA_D32(32)
        : "l"(a), "l"(b), "n"(mMajor ? 1 : 0), "n"(nMajor ? 1 : 0));
}
template <bool mMajor, bool nMajor> __device__ __forceinline__ void wgmma_256(float (&d)[128], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, 1, 1, 1, %130, %131;"
        : WGMMA_D32(0), WGMMA_D32(32), WGMMA_D32(64), WGMMA_D32(96)
        : "l"(a), "l"(b), "n"(mMajor ? 1 : 0), "n"(nMajor ? 1 : 0));
}
template <int N, bool mMajor, bool nMajor> __device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b) {
    if constexpr (N == 256)
        wgmma_256<mMajor, nMajor>(d, a, b);
    else if constexpr (N == 128)
        wgmma_128<mMajor, nMajor>(d, a, b);
    else if constexpr (N == 64)
        wgmma_64<mMajor, nMajor>(d, a, b);
    else if constexpr (N == 32)
        wgmma_32<mMajor, nMajor>(d, a, b);
    else if constexpr (N == 16)
        wgmma_16<mMajor, nMajor>(d, a, b);
    else
        wgmma_8<mMajor, nMajor>(d, a, b);
}
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int n> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory"); }
template <int n> __device__ __forceinline__ void wgmma_hold(float (&d)[n]) {
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+f"(d[i])::"memory");
}
// fence_async makes what this thread wrote to shared memory visible to wgmma, and has
// what it read there read before a tile copy writes.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#endif
