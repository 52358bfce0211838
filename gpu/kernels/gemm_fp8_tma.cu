// Products of e4m3 matrices on sm_90a, from descriptors of them: c = sa . a.bᵀ . sb + low,
// a and b stored with k along rows, sa and sb scales of their rows. A block is there for
// many tiles, as in gemm_tma.cu: one thread copies steps of 128 terms, or of 64 of the
// update of low rank, which is bfloat16.
//
// The tensor cores add products of e4m3 with about 14 bits. So a step is a sum of its
// own, which is added to those before it in float32.
#include "gemm.cuh"
#include "fp8.cuh"
#include "tma.cuh"

struct GemmFp8TmaArgs {
    TileMap a, b, a2, b2; // boxes of 128 rows, and of BN rows
    GemmArgs g;
    const float *sa, *sb; // [m], [n] or null
    int group;            // of gemm_tile
};

// fp8_scale multiplies what a warpgroup holds (see wgmma) by the scales of rows and columns.
template <int BN> __device__ __forceinline__ void fp8_scale(const GemmFp8TmaArgs& args, float (&d)[BN / 2], int m0, int n0) {
    const int i0 = m0 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4, j0 = n0 + threadIdx.x % 4 * 2;
    const float lo = __ldg(args.sa + min(i0, args.g.m - 1)), hi = __ldg(args.sa + min(i0 + 8, args.g.m - 1));
#pragma unroll
    for (int x = 0; x < BN / 8; x++) {
        const int j = j0 + 8 * x;
        const float u = args.sb && j < args.g.n ? __ldg(args.sb + j) : 1, v = args.sb && j + 1 < args.g.n ? __ldg(args.sb + j + 1) : 1;
        d[4 * x] = d[4 * x] * lo * u, d[4 * x + 1] = d[4 * x + 1] * lo * v;
        d[4 * x + 2] = d[4 * x + 2] * hi * u, d[4 * x + 3] = d[4 * x + 3] * hi * v;
    }
}

template <int BN, int STAGES> __device__ __forceinline__ void gemm_fp8_tma(const GemmFp8TmaArgs& args, unsigned char* smem) {
#ifdef HAVE_WGMMA
    const int BM = 128, A_BYTES = BM * 128, STAGE = A_BYTES + BN * 128;
    const GemmArgs& g = args.g;
    Barrier *full = (Barrier*)(smem + STAGES * STAGE), *empty = full + STAGES;
    const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
    const int tiles = g.tiles_m * g.tiles_n;
    const int steps8 = (g.k + 127) / 128, steps = steps8 + (g.k2 + 63) / 64;
    const int split = g.parts ? g.split : steps, items = g.parts ? (steps + split - 1) / split * tiles : tiles; // tiles of a part, then the next part
    ring_begin<STAGES>(full, empty, 8);
    Ring<STAGES> ring;
    if (group == 0) {
        registers_shrink<24>();
        if (threadIdx.x == 0) {
            tile_prefetch(&args.a);
            tile_prefetch(&args.b);
            for (int item = blockIdx.x; item < items; item += gridDim.x) {
                int ti, tj;
                gemm_tile(item % tiles, g.tiles_m, g.tiles_n, ti, tj, args.group);
                const int m0 = ti * BM, n0 = tj * BN, s0 = item / tiles * split, s1 = min(steps, s0 + split);
                for (int s = s0; s < s1; s++) {
                    barrier_wait(empty + ring.at, ring.phase ^ 1); // passes in the first round
                    barrier_expect(full + ring.at, STAGE);
                    const TileMap *a = s < steps8 ? &args.a : &args.a2, *b = s < steps8 ? &args.b : &args.b2;
                    const int k = s < steps8 ? s * 128 : (s - steps8) * 64;
                    unsigned char* to = smem + ring.at * STAGE;
                    tile_copy(to, a, k, m0, full + ring.at);
                    tile_copy(to + A_BYTES, b, k, n0, full + ring.at);
                    ring.next();
                }
            }
        }
        return;
    }
    registers_grow<240>();
    const int row = (group - 1) * 64;
    const uint64_t a0 = wgmma_descriptor(smem + row * 128, 0), b0 = wgmma_descriptor(smem + A_BYTES, 0);
    float sum[BN / 2], d[64];
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
        const int s0 = item / tiles * split, s1 = min(steps, s0 + split), end8 = min(s1, steps8);
        int ti, tj, s = s0;
        gemm_tile(item % tiles, g.tiles_m, g.tiles_n, ti, tj, args.group);
        const int m0 = ti * BM + row, n0 = tj * BN;
#pragma unroll
        for (int i = 0; i < BN / 2; i++) sum[i] = 0;
        for (; s < end8; s++) {
            barrier_wait(full + ring.at, ring.phase);
            const int from = ring.at * (STAGE >> 4);
#pragma unroll
            for (int h = 0; h < BN / 128; h++) {
                wgmma_fence();
                wgmma_e4m3<true>(d, a0 + from, b0 + (from + 1024 * h));
#pragma unroll
                for (int i = 1; i < 4; i++) wgmma_e4m3<false>(d, a0 + (from + 2 * i), b0 + (from + 1024 * h + 2 * i));
                wgmma_commit();
                wgmma_wait<0>();
                wgmma_hold(d);
                if (h == BN / 128 - 1 && lane == 0) barrier_arrive(empty + ring.at);
#pragma unroll
                for (int i = 0; i < 64; i++) sum[64 * h + i] += d[i];
            }
            ring.next();
        }
        if (end8 > s0) fp8_scale<BN>(args, sum, m0, n0);
        for (; s < s1; s++) {
            barrier_wait(full + ring.at, ring.phase);
            const int from = ring.at * (STAGE >> 4);
            wgmma_hold(sum);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 4; i++) wgmma<BN, false, false>(sum, a0 + (from + 2 * i), b0 + (from + 2 * i));
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_hold(sum);
            if (lane == 0) barrier_arrive(empty + ring.at);
            ring.next();
        }
        wgmma_hold(sum); // else some are added to later, when there is no room for their parts
        if (g.parts)
            gemm_store_part<BN>(g, sum, item / tiles, m0, n0);
        else
            gemm_store_tile<BN>(g, sum, m0, n0);
    }
#endif
}

#define GEMM_FP8_TMA(name, BN, STAGES)   \
    KERNEL(name, GemmFp8TmaArgs, 384) {  \
        DYNAMIC_SHARED(smem);            \
        gemm_fp8_tma<BN, STAGES>(a, smem); \
    }
GEMM_FP8_TMA(gemm_fp8_tma_256, 256, 4)
GEMM_FP8_TMA(gemm_fp8_tma_128, 128, 6)
