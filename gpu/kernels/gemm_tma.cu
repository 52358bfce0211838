// Products of bfloat16 matrices on sm_90a, from descriptors of them: c = a.b, each
// stored with k along rows (..._n for a, ..._t for b) or along columns; or the sum of
// a few of them. A block is there for many tiles. One thread copies steps of 64 terms
// into a ring of buffers, also of the next tile while the two other warpgroups, of 64
// rows each, store one. What the gradient of SwiGLU reads comes through the ring too,
// behind the last step. The order of an element's sum depends on its row and column
// alone.
//
// Of experts, a row of tiles is one of a list, and b has their matrices below one
// another; or the terms of each are a sum of its own, whose last step they share with
// those of the next: what is not theirs becomes zero.
#include "experts.cuh"
#include "tma.cuh"

constexpr int MOST_SUMMANDS = 6; // mostSummands of multiply_half.go

struct GemmTmaArgs {
    TileMap a[MOST_SUMMANDS], b[MOST_SUMMANDS]; // of [m,k] boxes of 128 rows, of [n,k] BN rows, else of 64 rows
    TileMap gate, up;                           // boxes of 128 rows, if GEMM_STAGED
    GemmArgs g;
    int ends[MOST_SUMMANDS]; // the step behind the last of each
    int group;               // of gemm_tile
    int experts, rows;       // of all experts, for sums of their own
    int unused;
    const ExpertTile* tiles; // of the rows of experts
    const int* starts;       // of the terms of experts
};

enum Whose { OF_ALL, ROWS_OF_EXPERTS, SUMS_OF_EXPERTS };

// gemm_clear sets the rows of 128 bytes from `rest` on, of 64, to zero. A warpgroup does.
__device__ __forceinline__ void gemm_clear(unsigned char* rows, int rest) {
    for (int i = rest * 128 + threadIdx.x % 128 * 16; i < 8192; i += 128 * 16) *(uint4*)(rows + i) = uint4{0, 0, 0, 0};
}

// gemm_store_staged is gemm_store_tile where 64 columns of gate and, 16 KiB behind them,
// of up are in each of the buffers that come next: 128 rows, of which this warpgroup has
// those from `row` on.
template <int BN, int STAGES, int STAGE>
__device__ __forceinline__ void gemm_store_staged(const GemmArgs& g, float (&d)[BN / 2], int m0, int n0, int row, const unsigned char* smem, Barrier* full, Barrier* empty, Ring<STAGES>& ring) {
    const int lane = threadIdx.x % 32, t = lane % 4, r0 = threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
    for (int x = 0; x < BN / 8; x += 4) {
        if (x % 8 == 0) barrier_wait(full + ring.at, ring.phase);
        const unsigned char* stage = smem + ring.at * STAGE;
        uint32_t v[2][4]; // rows r0 and r0 + 8, blocks of 8 columns
#pragma unroll
        for (int q = 0; q < 4; q++)
#pragma unroll
            for (int r = 0; r < 2; r++) v[r][q] = pack_bf16(g.alpha * d[4 * (x + q) + 2 * r], g.alpha * d[4 * (x + q) + 2 * r + 1]);
        const int j = n0 + 8 * (x + t);
#pragma unroll
        for (int r = 0; r < 2; r++) { // lane t gets block t
            quad_swap(v[r][0], v[r][1], 1);
            quad_swap(v[r][2], v[r][3], 1);
            quad_swap(v[r][0], v[r][2], 2);
            quad_swap(v[r][1], v[r][3], 2);
            const unsigned char* at = stage + swizzled_128(row + r0 + 8 * r, x % 8 + t);
            const uint4 gate = *(const uint4*)at, up = *(const uint4*)(at + 16384);
            const int i = m0 + r0 + 8 * r;
            if (i >= g.m || j >= g.n) continue;
            const long long to = i * g.ldc + j;
            if (g.dgate != g.c) *(uint4*)((uint16_t*)g.c + to) = uint4{v[r][0], v[r][1], v[r][2], v[r][3]};
            uint4 a, b;
            swiglu_grad2(a.x, b.x, v[r][0], gate.x, up.x), swiglu_grad2(a.y, b.y, v[r][1], gate.y, up.y);
            swiglu_grad2(a.z, b.z, v[r][2], gate.z, up.z), swiglu_grad2(a.w, b.w, v[r][3], gate.w, up.w);
            *(uint4*)((uint16_t*)g.dgate + to) = a, *(uint4*)((uint16_t*)g.dup + to) = b;
        }
        if (x % 8 == 4) {
            fence_async(); // before copies that overwrite what was read
            __syncwarp();
            if (lane == 0) barrier_arrive(empty + ring.at);
            ring.next();
        }
    }
}

template <int BN, int STAGES, bool transA, bool transB, Whose WHOSE = OF_ALL> __device__ __forceinline__ void gemm_tma(const GemmTmaArgs& args, unsigned char* smem) {
#ifdef HAVE_WGMMA
    constexpr int BM = 128, A_BYTES = BM * 128, STAGE = A_BYTES + BN * 128;
    const GemmArgs& g = args.g;
    Barrier *full = (Barrier*)(smem + STAGES * STAGE), *empty = full + STAGES;
    const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
    const int tiles = g.tiles_m * g.tiles_n, steps = WHOSE == OF_ALL ? args.ends[MOST_SUMMANDS - 1] : (g.k + 63) / 64;
    const int split = WHOSE == OF_ALL && g.parts ? g.split : steps; // tiles of a part, then the next part
    const int items = WHOSE == SUMS_OF_EXPERTS ? args.experts * tiles : WHOSE == OF_ALL && g.parts ? (steps + split - 1) / split * tiles : tiles;
    const bool staged = WHOSE == OF_ALL && !transA && (g.flags & GEMM_STAGED);
    // How many rows of tiles experts have is read where it is needed: registers are few.
    auto of_experts = [&] { return *(const volatile int*)&args.tiles->expert; };
    auto there = [&](int item) { return item < (WHOSE == ROWS_OF_EXPERTS ? of_experts() * g.tiles_n : items); };
    auto place = [&](int item, int& ti, int& tj) {
        if (WHOSE == ROWS_OF_EXPERTS)
            gemm_tile(item, of_experts(), g.tiles_n, ti, tj, args.group);
        else
            gemm_tile(item % tiles, g.tiles_m, g.tiles_n, ti, tj, args.group);
    };
    ring_begin<STAGES>(full, empty, 8);
    Ring<STAGES> ring;
    if (group == 0) {
        registers_shrink<24>();
        if (threadIdx.x == 0) {
            tile_prefetch(args.a);
            tile_prefetch(args.b);
            for (int item = blockIdx.x; there(item); item += gridDim.x) {
                int ti, tj;
                place(item, ti, tj);
                int m0 = ti * BM, n0 = tj * BN, s0 = WHOSE == ROWS_OF_EXPERTS ? 0 : item / tiles * split, s1 = min(steps, s0 + split);
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
                int x = 0, begin = 0; // a summand, and its first step
                for (int s = s0; s < s1; s++) {
                    if (WHOSE == OF_ALL)
                        while (s >= args.ends[x]) begin = args.ends[x++];
                    barrier_wait(empty + ring.at, ring.phase ^ 1); // passes in the first round
                    barrier_expect(full + ring.at, STAGE);
                    const TileMap *a = args.a + x, *b = args.b + x;
                    const int k = (s - begin) * 64;
                    unsigned char* to = smem + ring.at * STAGE;
                    if (!transA) {
                        tile_copy(to, a, ka + k, m0, full + ring.at);
                    } else {
                        tile_copy(to, a, m0, ka + k, full + ring.at);
                        tile_copy(to + 8192, a, m0 + 64, ka + k, full + ring.at);
                    }
                    to += A_BYTES;
                    if (transB) {
                        tile_copy(to, b, k, n0, full + ring.at);
                    } else {
#pragma unroll
                        for (int i = 0; i < BN / 64; i++) tile_copy(to + 8192 * i, b, n0 + 64 * i, kb + k, full + ring.at);
                    }
                    ring.next();
                }
                if constexpr (WHOSE == OF_ALL && !transA) {
                    const int end = staged ? n0 + BN : n0;
#pragma unroll 1
                    for (int j = n0; j < end; j += 64) {
                        barrier_wait(empty + ring.at, ring.phase ^ 1);
                        barrier_expect(full + ring.at, 2 * 16384);
                        unsigned char* to = smem + ring.at * STAGE;
                        tile_copy(to, &args.gate, j, m0, full + ring.at);
                        tile_copy(to + 16384, &args.up, j, m0, full + ring.at);
                        ring.next();
                    }
                }
            }
        }
        return;
    }
    registers_grow<240>();
    const int row = (group - 1) * 64;
    const uint64_t a0 = wgmma_descriptor(smem + row * 128, transA ? 8192 : 0), b0 = wgmma_descriptor(smem + A_BYTES, transB ? 0 : 8192);
    float d[BN / 2];
    for (int item = blockIdx.x; there(item); item += gridDim.x) {
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
            barrier_wait(full + ring.at, ring.phase);
            const int from = ring.at * (STAGE >> 4);
            if constexpr (WHOSE == SUMS_OF_EXPERTS) {
                if (left == 1 && (hi - lo) % 64) {
                    unsigned char* stage = smem + ring.at * STAGE;
                    gemm_clear(stage + row * 128, (hi - lo) % 64);
                    for (int i = group - 1; i < BN / 64; i += 2) gemm_clear(stage + A_BYTES + 8192 * i, (hi - lo) % 64);
                    fence_async();
                    pair_sync();
                }
            }
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 4; i++) wgmma<BN, transA, !transB>(d, a0 + (from + (transA ? 128 : 2) * i), b0 + (from + (transB ? 2 : 128) * i));
            wgmma_commit();
            wgmma_wait<1>(); // the step before is done
            if (!first && lane == 0) barrier_arrive(empty + ring.before());
            ring.next();
        }
        wgmma_wait<0>();
        wgmma_hold(d);
        if (lane == 0) barrier_arrive(empty + ring.before());
        int ti, tj;
        place(item, ti, tj);
        const int m0 = ti * BM + row;
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
        else if (staged)
            gemm_store_staged<BN, STAGES, STAGE>(g, d, m0, tj * BN, row, smem, full, empty, ring);
        else
            gemm_store_tile<BN>(g, d, m0, tj * BN);
    }
#endif
}

#define GEMM_TMA(name, BN, STAGES, transA, transB)       \
    KERNEL(name, GemmTmaArgs, 384) {                     \
        DYNAMIC_SHARED(smem);                            \
        gemm_tma<BN, STAGES, transA, transB>(a, smem);   \
    }
GEMM_TMA(gemm_tma_nt_256, 256, 4, false, true)
GEMM_TMA(gemm_tma_nn_256, 256, 4, false, false)
GEMM_TMA(gemm_tma_tn_256, 256, 4, true, false)
GEMM_TMA(gemm_tma_nt_128, 128, 6, false, true)
GEMM_TMA(gemm_tma_nn_128, 128, 6, false, false)
GEMM_TMA(gemm_tma_tn_128, 128, 6, true, false)

#define GEMM_TMA_EXPERTS(name, BN, STAGES, transA, transB, WHOSE)   \
    KERNEL(name, GemmTmaArgs, 384) {                                \
        DYNAMIC_SHARED(smem);                                       \
        gemm_tma<BN, STAGES, transA, transB, WHOSE>(a, smem);       \
    }
GEMM_TMA_EXPERTS(gemm_tma_experts_nt_256, 256, 4, false, true, ROWS_OF_EXPERTS)
GEMM_TMA_EXPERTS(gemm_tma_experts_nn_256, 256, 4, false, false, ROWS_OF_EXPERTS)
GEMM_TMA_EXPERTS(gemm_tma_experts_tn_256, 256, 4, true, false, SUMS_OF_EXPERTS)
GEMM_TMA_EXPERTS(gemm_tma_experts_nt_128, 128, 6, false, true, ROWS_OF_EXPERTS)
GEMM_TMA_EXPERTS(gemm_tma_experts_nn_128, 128, 6, false, false, ROWS_OF_EXPERTS)
GEMM_TMA_EXPERTS(gemm_tma_experts_tn_128, 128, 6, true, false, SUMS_OF_EXPERTS)
