// Products of up to 64 rows of bfloat16 with weights of bfloat16 on sm_90a, from
// descriptors of them: c [m,n] = x·wᵀ, of up to three weights at once. What limits
// them is the memory, so all multiprocessors read as much.
//
// The steps of 64 terms of all tiles of a weight, of 128 rows, lie in a row, and each of
// its blocks takes as many of them, one after the other. One thread copies them into a ring
// of buffers; two warpgroups multiply 64 rows of the weight each by the rows of x, which
// are the columns of wgmma: it multiplies by 8 N of them. A tile of which several blocks
// have steps is a sum of their sums, in the order of its terms, which whichever of them
// is last adds. So what belongs to a row of x and a weight depends neither on m nor on the
// other weights.
#include "gemv.cuh"
#include "tma.cuh"

struct StreamWeight {
    TileMap map; // boxes of 128 rows
    void* c;
    const float *scale, *bias, *u, *v;
    float* sums;        // [blocks, 2, m, 128]: of the first tile of a block, and of another
    unsigned* counters; // [tiles], zeros before and after
    long long ldc, sj, st;
    int n, r, flags; // GemvFlags
    int tiles, blocks, first; // its blocks, from block `first` on, the first block following the last one
    float alpha, alpha2, beta;
    int unused[3]; // to whole 64 bytes
};

struct StreamArgs {
    TileMap x; // boxes of 8 N rows
    StreamWeight weights[3];
    int m, count, steps; // steps of a tile
    int unused[13];
};

constexpr int STREAM_ROWS = 128;

// A StreamPart is what block number `block` of a weight takes of its steps.
struct StreamPart {
    int tile, step; // the first
    int left;       // steps

    __device__ __forceinline__ StreamPart(const StreamWeight& w, int steps, int block) {
        const long long all = (long long)w.tiles * steps, begin = all * block / w.blocks;
        tile = (int)(begin / steps), step = (int)(begin % steps), left = (int)(all * (block + 1) / w.blocks - begin);
    }
};

// stream_number is the number of this block among those of a weight; it is none of them if that
// is not less than w.blocks.
__device__ __forceinline__ int stream_number(const StreamWeight& w) { return ((int)blockIdx.x - w.first + gridDim.x) % gridDim.x; }

// stream_block is the block that has a step.
__device__ __forceinline__ int stream_block(const StreamWeight& w, int steps, long long step) {
    const long long all = (long long)w.tiles * steps;
    int b = (int)(step * w.blocks / all);
    while (all * (b + 1) / w.blocks <= step) b++; // the quotient was rounded down
    return b;
}

// stream_sums is where a block that has a part of a tile stores its sums.
__device__ __forceinline__ float* stream_sums(const StreamArgs& a, const StreamWeight& w, int block, int tile) {
    return w.sums + (2ll * block + (StreamPart(w, a.steps, block).tile == tile ? 0 : 1)) * a.m * STREAM_ROWS;
}

template <int NT, int STAGES> __device__ __forceinline__ void gemv_tma(const StreamArgs& a, unsigned char* smem, unsigned* last) {
#ifdef HAVE_WGMMA
    constexpr int WEIGHTS = STREAM_ROWS * 128, STAGE = WEIGHTS + 8 * NT * 128;
    Barrier *full = (Barrier*)(smem + STAGES * STAGE), *empty = full + STAGES;
    const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
    if (threadIdx.x == 256) {
        tile_prefetch(&a.x);
        for (int x = 0; x < a.count; x++) tile_prefetch(&a.weights[x].map);
    }
    ring_begin<STAGES>(full, empty, 8);
    Ring<STAGES> ring;
    if (group == 2) {
        if (threadIdx.x != 256) return;
        for (int x = 0; x < a.count; x++) {
            const StreamWeight& w = a.weights[x];
            const int block = stream_number(w);
            if (block >= w.blocks) continue;
            StreamPart part(w, a.steps, block);
            for (; part.left > 0; part.left--) {
                unsigned char* to = smem + ring.at * STAGE;
                barrier_wait(empty + ring.at, ring.phase ^ 1); // passes in the first round
                barrier_expect(full + ring.at, STAGE);
                tile_copy(to, &w.map, part.step * 64, part.tile * STREAM_ROWS, full + ring.at);
                tile_copy(to + WEIGHTS, &a.x, part.step * 64, 0, full + ring.at);
                ring.next();
                if (++part.step == a.steps) part.step = 0, part.tile++;
            }
        }
        return;
    }
    const int row = group * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4; // and 8 behind it
    const uint64_t w0 = wgmma_descriptor(smem + group * 64 * 128, 0), x0 = wgmma_descriptor(smem + WEIGHTS, 0);
    float d[4 * NT];
    for (int x = 0; x < a.count; x++) {
        const StreamWeight& w = a.weights[x];
        const int block = stream_number(w);
        if (block >= w.blocks) continue;
        StreamPart part(w, a.steps, block);
        for (; part.left > 0; part.tile++, part.step = 0) {
            const int steps = min(a.steps - part.step, part.left);
            part.left -= steps;
#pragma unroll
            for (int q = 0; q < 4 * NT; q++) d[q] = 0;
            wgmma_hold(d);
            for (int s = 0; s < steps; s++) {
                barrier_wait(full + ring.at, ring.phase);
                const int from = ring.at * (STAGE >> 4);
                wgmma_fence();
#pragma unroll
                for (int q = 0; q < 4; q++) wgmma<8 * NT, false, false>(d, w0 + (from + 2 * q), x0 + (from + 2 * q));
                wgmma_commit();
                wgmma_wait<1>(); // the step before is done
                if (s > 0 && lane == 0) barrier_arrive(empty + ring.before());
                ring.next();
            }
            wgmma_wait<0>();
            wgmma_hold(d);
            if (lane == 0) barrier_arrive(empty + ring.before());
            const int j0 = part.tile * STREAM_ROWS;
            if (steps == a.steps) {
#pragma unroll
                for (int i = 0; i < NT; i++)
#pragma unroll
                    for (int q = 0; q < 4; q++) {
                        const int m = 8 * i + lane % 4 * 2 + q % 2, n = j0 + row + 8 * (q / 2);
                        if (m < a.m && n < w.n) gemv_store(w, m, n, d[4 * i + q]);
                    }
                continue;
            }
            float* mine = stream_sums(a, w, block, part.tile);
#pragma unroll
            for (int i = 0; i < NT; i++)
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    const int m = 8 * i + lane % 4 * 2 + q % 2;
                    if (m < a.m) mine[m * STREAM_ROWS + row + 8 * (q / 2)] = d[4 * i + q];
                }
            const int b0 = stream_block(w, a.steps, (long long)part.tile * a.steps), b1 = stream_block(w, a.steps, (long long)(part.tile + 1) * a.steps - 1);
            __threadfence();
            pair_sync();
            if (threadIdx.x == 0) *last = atomicAdd(w.counters + part.tile, 1u);
            pair_sync();
            if (*last != (unsigned)(b1 - b0)) continue;
            __threadfence();
            const float *first = stream_sums(a, w, b0, part.tile), *others = w.sums + 2ll * (b0 + 1) * a.m * STREAM_ROWS; // the tile is the first of those
            for (int o = threadIdx.x; o < a.m * STREAM_ROWS; o += 256) {
                float sum = __ldcg(first + o);
                const float* next = others + o;
#pragma unroll 4
                for (int b = b0; b < b1; b++, next += 2ll * a.m * STREAM_ROWS) sum += __ldcg(next);
                const int n = j0 + o % STREAM_ROWS;
                if (n < w.n) gemv_store(w, o / STREAM_ROWS, n, sum);
            }
            if (threadIdx.x == 0) w.counters[part.tile] = 0;
        }
    }
#endif
}

#define GEMV_TMA(name, NT, STAGES)                \
    KERNEL(name, StreamArgs, 384) {               \
        DYNAMIC_SHARED(smem);                     \
        SHARED(unsigned, last, 1);                \
        gemv_tma<NT, STAGES>(a, smem, last);      \
    }
GEMV_TMA(gemv_tma_1, 1, 8)
GEMV_TMA(gemv_tma_2, 2, 8)
GEMV_TMA(gemv_tma_4, 4, 8)
GEMV_TMA(gemv_tma_8, 8, 8)
