// Products of warpgroups for attention, in addition to wgmma.cuh: with the left
// operand in registers, and of tiles that lie in panels.
#pragma once
#include "attention.cuh"
#include "wgmma.cuh"

#ifdef HAVE_WGMMA

namespace {

// product begins d = a·b, or d += a·b, of 64 rows of a and 16 terms; b is as in
// wgmma. product_of does so with a in registers, laid out as that of mma_bf16
// with a warp's 16 rows. hold keeps the compiler from touching d before.
template <int N, bool nMajor> __device__ __forceinline__ void product(float (&d)[N / 2], uint64_t a, uint64_t b, bool add);
template <int N, bool nMajor> __device__ __forceinline__ void product_of(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add);

template <int N> __device__ __forceinline__ void hold(float (&d)[N]) {
#ifndef PIPE_EMU
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

// renew keeps the compiler from holding what it derives from x in registers.
__device__ __forceinline__ void renew([[maybe_unused]] uint64_t& x) {
#ifndef PIPE_EMU
    asm volatile("" : "+l"(x));
#endif
}

#ifdef PIPE_EMU

struct Begun {
    float* d;
    uint64_t a, b;
    int n, lane, warp;
    bool nMajor, add, registers;
    uint16_t own[2][16]; // rows g and g+8 of a
};

void finish(void* data) {
    Begun* p = (Begun*)data;
    const int g = p->lane / 4, t = p->lane % 4;
    if (!p->registers)
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 16; k++) p->own[i][k] = bf16_round(emu::wgmma_element(p->a, false, 16 * p->warp + g + 8 * i, k));
    for (int j = 0; j < p->n / 8; j++)
        for (int c = 0; c < 2; c++) {
            float* const lo = p->d + 4 * j + c, *const hi = lo + 2;
            if (!p->add) *lo = *hi = 0;
            for (int k = 0; k < 16; k++) {
                const float b = emu::wgmma_element(p->b, p->nMajor, 8 * j + 2 * t + c, k);
                *lo += bf16_float(p->own[0][k]) * b, *hi += bf16_float(p->own[1][k]) * b;
            }
        }
}

template <int N, bool nMajor> void product(float (&d)[N / 2], uint64_t a, uint64_t b, bool add) {
    Begun p = {d, a, b, N, (int)emu::cur->lane, (int)emu::cur->warp % 4, nMajor, add, false, {}};
    emu::post(emu::products, finish, &p, sizeof p);
}

template <int N, bool nMajor> void product_of(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
    struct Post { const uint32_t* a; Begun* p; };
    Begun p = {d, 0, b, N, (int)emu::cur->lane, (int)emu::cur->warp % 4, nMajor, add, true, {}};
    Post post = {a, &p};
    emu::group("wgmma", &post, [](void** posts) {
        for (int i = 0; i < 128; i++)
            for (int t = 0; t < 4; t++)
                for (int r = 0; r < 4; r++) {
                    const uint32_t x = ((Post*)posts[i / 4 * 4 + t])->a[r];
                    uint16_t* to = ((Post*)posts[i])->p->own[r % 2] + r / 2 * 8 + 2 * t;
                    to[0] = x & 0xffff, to[1] = x >> 16;
                }
    });
    emu::post(emu::products, finish, &p, sizeof p);
}

#else

#define D32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define D64 D32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

template <int N, bool nMajor> __device__ __forceinline__ void product(float (&d)[N / 2], uint64_t a, uint64_t b, bool add) {
    if constexpr (N == 64)
        asm volatile("{.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" D32 "}, %32, %33, p, 1, 1, 0, %35;}"
                     : WGMMA_D32(0) : "l"(a), "l"(b), "r"((int)add), "n"((int)nMajor));
    else
        asm volatile("{.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" D64 "}, %64, %65, p, 1, 1, 0, %67;}"
                     : WGMMA_D32(0), WGMMA_D32(32) : "l"(a), "l"(b), "r"((int)add), "n"((int)nMajor));
}

template <int N, bool nMajor> __device__ __forceinline__ void product_of(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
    if constexpr (N == 64)
        asm volatile("{.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" D32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;}"
                     : WGMMA_D32(0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"((int)nMajor));
    else
        asm volatile("{.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" D64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;}"
                     : WGMMA_D32(0), WGMMA_D32(32) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"((int)nMajor));
}

#endif

// Tiles of D bfloat16 a row lie in panels of 64 columns, each as wgmma.cuh says.
constexpr int THREADS = 256;

template <int D, int ROWS> struct PanelPart : TilePart<D, THREADS> {
    using Part = TilePart<D, THREADS>;
    const int to = (Part::piece >> 3) * ROWS * 128 + swizzled_128(Part::row, Part::piece & 7);
};

// fetch starts to copy rows of a matrix from this thread's piece of the first
// on; rows from valid on become zeros.
template <int D, int ROWS> __device__ __forceinline__ void fetch(unsigned char* to, const uint16_t* from, int ld, int valid) {
    const PanelPart<D, ROWS> p;
#pragma unroll
    for (int r = 0; r < ROWS; r += p.step) {
        cp_async16(to + p.to + r * 128, from, p.row + r < valid);
        from += p.step * ld;
    }
}

// round_rows copies rows of float32 and rounds them.
template <int D, int ROWS> __device__ __forceinline__ void round_rows(unsigned char* to, const float* from, int ld, int valid) {
    const PanelPart<D, ROWS> p;
#pragma unroll 4
    for (int r = 0; r < ROWS; r += p.step) {
        float4 x = {0, 0, 0, 0}, y = {0, 0, 0, 0};
        if (p.row + r < valid) {
            x = *(const float4*)from;
            y = *(const float4*)(from + 4);
        }
        from += p.step * ld;
        uint4 bits = {pack_bf16(x.x, x.y), pack_bf16(x.z, x.w), pack_bf16(y.x, y.y), pack_bf16(y.z, y.w)};
        *(uint4*)(to + p.to + r * 128) = bits;
    }
}

// rows_by_rows begins c = x·yᵀ of 64 rows of x and N rows of y; their panels have
// X and Y rows.
template <int D, int N, int X, int Y> __device__ __forceinline__ void rows_by_rows(float (&c)[N / 2], uint64_t x, uint64_t y) {
#pragma unroll
    for (int k = 0; k < D / 16; k++)
        product<N, false>(c, x + k / 4 * X * 8 + k % 4 * 2, y + k / 4 * Y * 8 + k % 4 * 2, k > 0);
}

// across is the difference between the descriptors of an operand whose terms lie
// along rows and across them, in panels of ROWS rows.
template <int ROWS> constexpr uint64_t across = (uint64_t)(ROWS * 128 / 16 - 1) << 16;

// add_rows begins c += p·y, of 64 rows of p, in registers, and 16·K rows of y.
template <int D, int K> __device__ __forceinline__ void add_rows(float (&c)[D / 2], const uint32_t (&p)[K][4], uint64_t y, bool add) {
#pragma unroll
    for (int k = 0; k < K; k++) product_of<D, true>(c, p[k], y + k * 128, add || k > 0);
}

template <int K> __device__ __forceinline__ void to_operand(uint32_t (&p)[K][4], const float (&c)[8 * K]) {
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) p[k][i] = pack_bf16(c[8 * k + 2 * i], c[8 * k + 2 * i + 1]);
}

// store_row stores this thread's elements of row h of c, times factor.
template <int D> __device__ __forceinline__ void store_row(void* to, int half, long long at, const float (&c)[D / 2], int h, float factor) {
    if (half) {
#pragma unroll
        for (int n = 0; n < D / 8; n++) *(uint32_t*)((uint16_t*)to + at + n * 8) = pack_bf16(c[4 * n + 2 * h] * factor, c[4 * n + 2 * h + 1] * factor);
    } else {
#pragma unroll
        for (int n = 0; n < D / 8; n++) *(float2*)((float*)to + at + n * 8) = make_float2(c[4 * n + 2 * h] * factor, c[4 * n + 2 * h + 1] * factor);
    }
}

// warpgroup is the number of this thread's warpgroup, the same for all lanes.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(~0u, threadIdx.x >> 7, 0); }

// arrived waits for the copies of all threads, which products then see.
__device__ __forceinline__ void arrived() {
    fence_async();
    __syncthreads();
}

} // namespace

#endif
