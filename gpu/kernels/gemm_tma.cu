// Products of bfloat16 matrices on sm_90a, from descriptors of them: c = a.b, each
// stored with k along rows (..._n for a, ..._t for b) or along columns. A block is
// there for many tiles. One thread copies steps of 64 terms into a ring of buffers,
// also of the next tile while the two other warpgroups, of 64 rows each, store one.
// The order of an element's sum depends on its row and column alone.
#include "gemm.cuh"
#include "tma.cuh"

struct GemmTmaArgs {
    TileMap a, b, a2, b2; // of [m,k] boxes of 128 rows, of [n,k] BN rows, else of 64 rows
    GemmArgs g;
};

template <int BN, int STAGES, bool transA, bool transB> __device__ __forceinline__ void gemm_tma(const GemmTmaArgs& args, unsigned char* smem) {
#ifdef HAVE_WGMMA
    const int BM = 128, A_BYTES = BM * 128, STAGE = A_BYTES + BN * 128;
    const GemmArgs& g = args.g;
    Barrier *full = (Barrier*)(smem + STAGES * STAGE), *empty = full + STAGES;
    const int group = threadIdx.x / 128, tiles = g.tiles_m * g.tiles_n;
    const int steps1 = (g.k + 63) / 64, steps = steps1 + (g.k2 + 63) / 64;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + i, 1);
            barrier_init(empty + i, 8); // warps that read
        }
        barrier_fence();
    }
    __syncthreads();
    int at = 0, phase = 0; // of the ring
    if (group == 0) {
        registers_shrink<24>();
        if (threadIdx.x != 0) return;
        tile_prefetch(&args.a);
        tile_prefetch(&args.b);
        bool first = true; // nothing to wait for yet
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            int ti, tj;
            gemm_tile(tile, g.tiles_m, g.tiles_n, ti, tj);
            const int m0 = ti * BM, n0 = tj * BN;
            for (int s = 0; s < steps; s++) {
                if (!first) barrier_wait(empty + at, phase ^ 1);
                barrier_expect(full + at, STAGE);
                const TileMap *a = s < steps1 ? &args.a : &args.a2, *b = s < steps1 ? &args.b : &args.b2;
                const int k = (s < steps1 ? s : s - steps1) * 64;
                unsigned char* to = smem + at * STAGE;
                if (!transA) {
                    tile_copy(to, a, k, m0, full + at);
                } else {
                    tile_copy(to, a, m0, k, full + at);
                    tile_copy(to + 8192, a, m0 + 64, k, full + at);
                }
                to += A_BYTES;
                if (transB) {
                    tile_copy(to, b, k, n0, full + at);
                } else {
                    for (int i = 0; i < BN / 64; i++) tile_copy(to + 8192 * i, b, n0 + 64 * i, k, full + at);
                }
                if (++at == STAGES) at = 0, phase ^= 1, first = false;
            }
        }
        return;
    }
    registers_grow<240>();
    const int row = (group - 1) * 64;
    const uint64_t a0 = wgmma_descriptor(smem + row * 128, transA ? 8192 : 0), b0 = wgmma_descriptor(smem + A_BYTES, transB ? 0 : 8192);
    float d[BN / 2];
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int ti, tj;
        gemm_tile(tile, g.tiles_m, g.tiles_n, ti, tj);
#pragma unroll
        for (int i = 0; i < BN / 2; i++) d[i] = 0;
        wgmma_hold(d);
        int before = -1; // buffer whose products may still run
        for (int s = 0; s < steps; s++) {
            barrier_wait(full + at, phase);
            const int from = at * (STAGE >> 4);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 4; i++) wgmma<BN, transA, !transB>(d, a0 + (from + (transA ? 128 : 2) * i), b0 + (from + (transB ? 2 : 128) * i));
            wgmma_commit();
            wgmma_wait<1>();
            if (before >= 0 && threadIdx.x % 32 == 0) barrier_arrive(empty + before);
            before = at;
            if (++at == STAGES) at = 0, phase ^= 1;
        }
        wgmma_wait<0>();
        wgmma_hold(d);
        if (before >= 0 && threadIdx.x % 32 == 0) barrier_arrive(empty + before);
        gemm_store_tile<BN>(g, d, ti * BM + row, tj * BN);
    }
#endif
}

#define GEMM_TMA(name, BN, STAGES, transA, transB)          \
    KERNEL(name, GemmTmaArgs, 384) {                        \
        DYNAMIC_SHARED(smem);                               \
        gemm_tma<BN, STAGES, transA, transB>(a, smem);      \
    }
GEMM_TMA(gemm_tma_nt_256, 256, 4, false, true)
GEMM_TMA(gemm_tma_nn_256, 256, 4, false, false)
GEMM_TMA(gemm_tma_tn_256, 256, 4, true, false)
GEMM_TMA(gemm_tma_nt_128, 128, 6, false, true)
GEMM_TMA(gemm_tma_nn_128, 128, 6, false, false)
GEMM_TMA(gemm_tma_tn_128, 128, 6, true, false)
