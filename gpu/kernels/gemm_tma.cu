// Products of bfloat16 matrices on sm_90a, from descriptors of them: c = a.b, each
// stored with k along rows (..._n for a, ..._t for b) or along columns. A block is
// there for many tiles. One thread copies steps of 64 terms into a ring of buffers,
// also of the next tile while the two other warpgroups, of 64 rows each, store one.
// Blocks of a cluster have tiles below one another; each copies a part of b for all.
// The order of an element's sum depends on its row and column alone.
//
// Of experts, a row of tiles is one of a list, and b has their matrices below one
// another; or the terms of each are a sum of its own, whose last step they share with
// those of the next: what is not theirs becomes zero.
#include "experts.cuh"
#include "tma.cuh"

struct GemmTmaArgs {
    TileMap a, b, a2, b2; // of [m,k] boxes of 128 rows, of [n,k] BN / CLUSTER rows, else of 64 rows
    GemmArgs g;
    int group; // of gemm_tile
    int experts, rows;       // of all experts, for sums of their own
    const ExpertTile* tiles; // of the rows of experts
    const int* starts;       // of the terms of experts
};

enum Whose { OF_ALL, ROWS_OF_EXPERTS, SUMS_OF_EXPERTS };

// gemm_wait is the barrier of the warpgroups that multiply.
__device__ __forceinline__ void gemm_wait() {
#ifdef PIPE_EMU
    emu::named(1, 256);
#else
    asm volatile("bar.sync 1, 256;" ::: "memory");
#endif
}

// gemm_clear sets the rows of 128 bytes from `rest` on, of 64, to zero. A warpgroup does.
__device__ __forceinline__ void gemm_clear(unsigned char* rows, int rest) {
    for (int i = rest * 128 + threadIdx.x % 128 * 16; i < 8192; i += 128 * 16) *(uint4*)(rows + i) = uint4{0, 0, 0, 0};
}

template <int BN, int STAGES, int CLUSTER, bool transA, bool transB, Whose WHOSE = OF_ALL> __device__ __forceinline__ void gemm_tma(const GemmTmaArgs& args, unsigned char* smem) {
#ifdef HAVE_WGMMA
    const int BM = 128, A_BYTES = BM * 128, STAGE = A_BYTES + BN * 128;
    const GemmArgs& g = args.g;
    Barrier *full = (Barrier*)(smem + STAGES * STAGE), *empty = full + STAGES;
    const int group = threadIdx.x / 128, lane = threadIdx.x % 32, rank = CLUSTER > 1 ? cluster_rank() : 0;
    const int tiles_m = (g.tiles_m + CLUSTER - 1) / CLUSTER, tiles = tiles_m * g.tiles_n; // of clusters
    const int steps1 = (g.k + 63) / 64, steps = WHOSE == OF_ALL ? steps1 + (g.k2 + 63) / 64 : steps1;
    const int split = WHOSE == OF_ALL && g.parts ? g.split : steps; // tiles of a part, then the next part
    const int items = WHOSE == SUMS_OF_EXPERTS ? args.experts * tiles : WHOSE == OF_ALL && g.parts ? (steps + split - 1) / split * tiles : tiles;
    // How many rows of tiles experts have is read where it is needed: registers are few.
    auto of_experts = [&] { return *(const volatile int*)&args.tiles->expert; };
    auto there = [&](int item) { return item < (WHOSE == ROWS_OF_EXPERTS ? of_experts() * g.tiles_n : items); };
    auto place = [&](int item, int& ti, int& tj) {
        if (WHOSE == ROWS_OF_EXPERTS)
            gemm_tile(item, of_experts(), g.tiles_n, ti, tj, args.group);
        else
            gemm_tile(item % tiles, tiles_m, g.tiles_n, ti, tj, args.group);
    };
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + i, 1);
            barrier_init(empty + i, 8 * CLUSTER); // warps that read
        }
        barrier_fence();
    }
    if (CLUSTER > 1)
        cluster_sync();
    else
        __syncthreads();
    int at = 0, phase = 0; // of the ring
    if (group == 0) {
        registers_shrink<CLUSTER == 1 ? 24 : 40>();
        if (threadIdx.x == 0) {
            tile_prefetch(&args.a);
            tile_prefetch(&args.b);
            for (int item = blockIdx.x / CLUSTER; there(item); item += gridDim.x / CLUSTER) {
                int ti, tj;
                place(item, ti, tj);
                int m0 = (ti * CLUSTER + rank) * BM, n0 = tj * BN, s0 = WHOSE == ROWS_OF_EXPERTS ? 0 : item / tiles * split, s1 = min(steps, s0 + split);
                int ka = 0, kb = 0; // first term in a and in b
                if constexpr (WHOSE == ROWS_OF_EXPERTS) {
                    const ExpertTile t = expert_tile(args.tiles, ti);
                    m0 = t.first;
                    if (transB)
                        n0 += t.expert * g.n;
                    else
                        kb = t.expert * g.k;
                }
                if constexpr (WHOSE == SUMS_OF_EXPERTS) {
                    int hi;
                    expert_rows(args.starts, item / tiles, args.rows, ka, hi);
                    kb = ka, s0 = 0, s1 = (hi - ka + 63) / 64;
                }
                for (int s = s0; s < s1; s++) {
                    barrier_wait(empty + at, phase ^ 1); // passes in the first round
                    barrier_expect(full + at, STAGE);
                    const TileMap *a = s < steps1 ? &args.a : &args.a2, *b = s < steps1 ? &args.b : &args.b2;
                    const int k = (s < steps1 ? s : s - steps1) * 64;
                    unsigned char* to = smem + at * STAGE;
                    if (!transA) {
                        tile_copy(to, a, ka + k, m0, full + at);
                    } else {
                        tile_copy(to, a, m0, ka + k, full + at);
                        tile_copy(to + 8192, a, m0 + 64, ka + k, full + at);
                    }
                    const int part = BN / CLUSTER * rank;
                    to += A_BYTES + part * 128;
                    if (transB) {
                        tile_copy_all<CLUSTER>(to, b, k, n0 + part, full + at);
                    } else {
#pragma unroll
                        for (int i = 0; i < BN / 64 / CLUSTER; i++) tile_copy_all<CLUSTER>(to + 8192 * i, b, n0 + part + 64 * i, kb + k, full + at);
                    }
                    if (++at == STAGES) at = 0, phase ^= 1;
                }
            }
        }
        if (CLUSTER > 1) cluster_sync(); // the others may still copy and arrive here
        return;
    }
    registers_grow<CLUSTER == 1 ? 240 : 232>();
    const int row = (group - 1) * 64;
    const uint64_t a0 = wgmma_descriptor(smem + row * 128, transA ? 8192 : 0), b0 = wgmma_descriptor(smem + A_BYTES, transB ? 0 : 8192);
    float d[BN / 2];
    for (int item = blockIdx.x / CLUSTER; there(item); item += gridDim.x / CLUSTER) {
        const int s0 = WHOSE == ROWS_OF_EXPERTS ? 0 : item / tiles * split;
        int left = min(steps - s0, split), lo = 0, hi = 0;
        if constexpr (WHOSE == SUMS_OF_EXPERTS) {
            expert_rows(args.starts, item / tiles, args.rows, lo, hi);
            left = (hi - lo + 63) / 64;
            if (left == 0) continue;
        }
#pragma unroll
        for (int i = 0; i < BN / 2; i++) d[i] = 0;
        wgmma_hold(d);
        for (bool first = true; left > 0; left--, first = false) {
            barrier_wait(full + at, phase);
            const int from = at * (STAGE >> 4);
            if constexpr (WHOSE == SUMS_OF_EXPERTS) {
                if (left == 1 && (hi - lo) % 64) {
                    unsigned char* stage = smem + at * STAGE;
                    gemm_clear(stage + row * 128, (hi - lo) % 64);
                    for (int i = group - 1; i < BN / 64; i += 2) gemm_clear(stage + A_BYTES + 8192 * i, (hi - lo) % 64);
                    fence_async();
                    gemm_wait();
                }
            }
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 4; i++) wgmma<BN, transA, !transB>(d, a0 + (from + (transA ? 128 : 2) * i), b0 + (from + (transB ? 2 : 128) * i));
            wgmma_commit();
            wgmma_wait<1>(); // the step before is done
            if (!first && lane < CLUSTER) barrier_arrive_at<CLUSTER>(empty + (at == 0 ? STAGES - 1 : at - 1), lane);
            if (++at == STAGES) at = 0, phase ^= 1;
        }
        wgmma_wait<0>();
        wgmma_hold(d);
        if (lane < CLUSTER) barrier_arrive_at<CLUSTER>(empty + (at == 0 ? STAGES - 1 : at - 1), lane);
        int ti, tj;
        place(item, ti, tj);
        const int m0 = (ti * CLUSTER + rank) * BM + row;
        if constexpr (WHOSE != OF_ALL) {
            GemmArgs of = g;
            int first = m0;
            if (WHOSE == ROWS_OF_EXPERTS) {
                const ExpertTile* t = args.tiles + 1 + ti;
                first = __ldg(&t->first) + row, of.m = __ldg(&t->end);
            } else {
                of.c = moved(g.c, item / tiles * (long long)g.m * g.ldc, false);
            }
            gemm_store_tile<BN>(of, d, first, tj * BN);
            continue;
        }
        if (g.parts)
            gemm_store_part<BN>(g, d, item / tiles, m0, tj * BN);
        else
            gemm_store_tile<BN>(g, d, m0, tj * BN);
    }
    if (CLUSTER > 1) cluster_sync();
#endif
}

#define GEMM_TMA(name, BN, STAGES, CLUSTER, transA, transB)       \
    KERNEL_CLUSTER(name, GemmTmaArgs, 384, CLUSTER) {             \
        DYNAMIC_SHARED(smem);                                     \
        gemm_tma<BN, STAGES, CLUSTER, transA, transB>(a, smem);   \
    }
GEMM_TMA(gemm_tma_nt_256x2, 256, 4, 2, false, true)
GEMM_TMA(gemm_tma_nn_256x2, 256, 4, 2, false, false)
GEMM_TMA(gemm_tma_tn_256x2, 256, 4, 2, true, false)
GEMM_TMA(gemm_tma_nt_256, 256, 4, 1, false, true)
GEMM_TMA(gemm_tma_nn_256, 256, 4, 1, false, false)
GEMM_TMA(gemm_tma_tn_256, 256, 4, 1, true, false)
GEMM_TMA(gemm_tma_nt_128, 128, 6, 1, false, true)
GEMM_TMA(gemm_tma_nn_128, 128, 6, 1, false, false)
GEMM_TMA(gemm_tma_tn_128, 128, 6, 1, true, false)

#define GEMM_TMA_EXPERTS(name, BN, STAGES, transA, transB, WHOSE)     \
    KERNEL_CLUSTER(name, GemmTmaArgs, 384, 1) {                       \
        DYNAMIC_SHARED(smem);                                         \
        gemm_tma<BN, STAGES, 1, transA, transB, WHOSE>(a, smem);      \
    }
GEMM_TMA_EXPERTS(gemm_tma_experts_nt_256, 256, 4, false, true, ROWS_OF_EXPERTS)
GEMM_TMA_EXPERTS(gemm_tma_experts_nn_256, 256, 4, false, false, ROWS_OF_EXPERTS)
GEMM_TMA_EXPERTS(gemm_tma_experts_tn_256, 256, 4, true, false, SUMS_OF_EXPERTS)
GEMM_TMA_EXPERTS(gemm_tma_experts_nt_128, 128, 6, false, true, ROWS_OF_EXPERTS)
GEMM_TMA_EXPERTS(gemm_tma_experts_nn_128, 128, 6, false, false, ROWS_OF_EXPERTS)
GEMM_TMA_EXPERTS(gemm_tma_experts_tn_128, 128, 6, true, false, SUMS_OF_EXPERTS)
