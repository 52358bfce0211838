// experts.cuh is how the blocks of products find the rows of experts, which only the
// device knows. The lists are data: what they say is held to what there is.
#pragma once
#include "gemm.cuh"
#include "gemv.cuh"

constexpr int MOST_EXPERTS = 1024; // of tensor.MostExperts

// expert_rows sets lo and hi to the rows of expert e of so many in all.
__device__ __forceinline__ void expert_rows(const int* starts, int e, int rows, int& lo, int& hi) {
    lo = min(max(__ldg(starts + e), 0), rows);
    hi = min(max(__ldg(starts + e + 1), lo), rows);
}

// An ExpertTile is some rows of an expert, from first on; it has rows until end. The
// first of a list says in expert how many follow.
struct alignas(16) ExpertTile {
    int expert, first, end, unused;
};

__device__ __forceinline__ ExpertTile expert_tile(const ExpertTile* tiles, int i) {
    const int4 t = __ldg((const int4*)tiles + 1 + i);
    return ExpertTile{t.x, t.y, t.z, 0};
}

// ExpertGemmArgs is a product of the rows of experts, whose matrices lie below one
// another in b, or of the terms of each expert, whose results lie so in c.
struct ExpertGemmArgs {
    GemmArgs g;              // of one expert, but for m and k
    const ExpertTile* tiles; // of the rows
    const int* starts;       // of the terms
    int rows, unused;        // of all experts
};

// moved is p and n elements on, of 2 or 4 bytes.
__device__ __forceinline__ void* moved(const void* p, long long n, bool half) { return (char*)p + n * (half ? 2 : 4); }

// rows_of_expert makes g the product of a block's tile of rows, which are the first of
// it, and sets tj to the tile's columns, or returns false where there is no such tile.
template <bool half, bool transB> __device__ __forceinline__ bool rows_of_expert(GemmArgs& g, const ExpertGemmArgs& a, int& tj) {
    const int count = __ldg(&a.tiles->expert);
    if ((long long)blockIdx.x >= (long long)count * g.tiles_n) return false;
    int ti;
    gemm_tile(blockIdx.x, count, g.tiles_n, ti, tj);
    const ExpertTile t = expert_tile(a.tiles, ti);
    g.m = t.end - t.first;
    g.a = moved(g.a, t.first * g.lda, half);
    g.b = moved(g.b, (long long)t.expert * (transB ? g.n : g.k) * g.ldb, half);
    g.c = moved(g.c, t.first * g.ldc, g.flags & GEMM_OUT_HALF);
    return true;
}

// An ExpertClass is the experts with at least and at most so many rows.
struct ExpertClass {
    const int* starts; // [experts+1]
    int experts, rows; // of all experts
    int least, most;
};

// expert_of_class finds number i of a class, with its rows, or returns false where there
// is none. Whole warps call it.
__device__ __forceinline__ bool expert_of_class(const ExpertClass& c, int i, int& e, int& lo, int& hi) {
    const int lane = threadIdx.x % 32;
    for (int first = 0; first < c.experts; first += 32) {
        int b = 0, d = 0;
        if (first + lane < c.experts) expert_rows(c.starts, first + lane, c.rows, b, d);
        unsigned found = __ballot_sync(0xffffffffu, d - b >= c.least && d - b <= c.most);
        const int n = __popc(found);
        if (i < n) {
            for (; i > 0; i--) found &= found - 1;
            const int who = __ffs((int)found) - 1;
            e = first + who, lo = __shfl_sync(0xffffffffu, b, who), hi = __shfl_sync(0xffffffffu, d, who);
            return true;
        }
        i -= n;
    }
    return false;
}

// ExpertGemvArgs is a product of few rows: of expert blockIdx.y of a class, those of
// part blockIdx.z.
struct ExpertGemvArgs {
    GemvArgs g; // of one expert, but for m
    ExpertClass c;
};

// few_of_expert makes g the product of a block's rows, at most so many, or returns false
// where there are none.
template <int MOST> __device__ __forceinline__ bool few_of_expert(GemvArgs& g, const ExpertGemvArgs& a) {
    int e, lo, hi;
    if (!expert_of_class(a.c, blockIdx.y, e, lo, hi)) return false;
    lo += MOST * blockIdx.z;
    if (lo >= hi) return false;
    g.m = min(hi - lo, MOST);
    g.x = moved(g.x, lo * g.ldx, g.flags & GEMV_X_HALF);
    g.w += (long long)e * g.n * g.stride;
    g.c = moved(g.c, lo * g.ldc, g.flags & GEMV_OUT_HALF);
    return true;
}
