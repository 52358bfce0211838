// What the kernels of attention share: the work lists that the host makes of
// the segments, and products of tiles of bfloat16 in shared memory.
#pragma once
#include "common.cuh"

namespace {

// Queries q..q+rows of a segment; query q+r sees keys key..key+sees+r.
struct AttentionTile { int q, rows, key, sees; };

// Keys key..key+rows, of which each query of the sources reads all or the
// head: sources first..first+sources.
struct AttentionKeys { int key, rows, first, sources; };

// Queries q..q+rows: query q+i sees key rows up to diagonal+i.
struct AttentionSource { int q, rows, diagonal, none; };

struct AttentionArgs {
    void* dst;
    float* lse;
    const void *q, *k, *v;
    const AttentionTile* tiles;
    int heads, group, dim, ldq, ldk;
    int half, halfKeys; // q and dst are bfloat16; k and v are
    int vector;         // whether eight elements of a row can be read at once
    float scale;
};

struct AttentionGradArgs {
    void *dq, *dk, *dv;
    const void *q, *k, *v, *dy;
    const float *lse, *delta; // [heads, queries]; lse in base 2
    const AttentionTile* tiles;
    const AttentionKeys* keys;
    const AttentionSource* sources;
    int heads, group, dim, ldq, ldk, queries;
    int half; // the results are bfloat16, and without matrix products all but lse and delta
    int vector;
    float scale;
};

// afresh returns x. What is made of the result is made here, and not before a loop,
// where it would take registers.
__device__ __forceinline__ int afresh(int x) {
#ifndef PIPE_EMU
    asm volatile("" : "+r"(x));
#endif
    return x;
}

// store_two stores elements i and i+1, i even.
__device__ __forceinline__ void store_two(void* to, int half, long long i, float x, float y) {
    if (half) *(uint32_t*)((uint16_t*)to + i) = pack_bf16(x, y);
    else *(float2*)((float*)to + i) = make_float2(x, y);
}

__device__ __forceinline__ void store_one(void* to, int half, long long i, float x) {
    if (half) ((uint16_t*)to)[i] = bf16_round(x);
    else ((float*)to)[i] = x;
}

__device__ __forceinline__ float load_one(const void* from, int half, long long i) {
    return half ? bf16_float(((const uint16_t*)from)[i]) : ((const float*)from)[i];
}

__device__ __forceinline__ void spread(float* x, uint32_t p) {
    x[0] = __uint_as_float(p << 16);
    x[1] = __uint_as_float(p & 0xffff0000u);
}

// load_eight and load_four load elements from i on; from valid on they are
// zeros. vector: rows are multiples of 8, and lie where 16 bytes can be read.
__device__ __forceinline__ void load_eight(float (&x)[8], const void* from, int half, int vector, long long i, int valid) {
    if (!vector || valid < 8) {
#pragma unroll
        for (int j = 0; j < 8; j++) x[j] = j < valid ? load_one(from, half, i + j) : 0;
    } else if (half) {
        const uint4 p = *(const uint4*)((const uint16_t*)from + i);
        spread(x, p.x), spread(x + 2, p.y), spread(x + 4, p.z), spread(x + 6, p.w);
    } else {
        const float4 p = *(const float4*)((const float*)from + i), q = *(const float4*)((const float*)from + i + 4);
        x[0] = p.x, x[1] = p.y, x[2] = p.z, x[3] = p.w, x[4] = q.x, x[5] = q.y, x[6] = q.z, x[7] = q.w;
    }
}

__device__ __forceinline__ void load_four(float (&x)[4], const void* from, int half, int vector, long long i, int valid) {
    if (!vector || valid < 4) {
#pragma unroll
        for (int j = 0; j < 4; j++) x[j] = j < valid ? load_one(from, half, i + j) : 0;
    } else if (half) {
        const uint2 p = *(const uint2*)((const uint16_t*)from + i);
        spread(x, p.x), spread(x + 2, p.y);
    } else {
        const float4 p = *(const float4*)((const float*)from + i);
        x[0] = p.x, x[1] = p.y, x[2] = p.z, x[3] = p.w;
    }
}

// A QueryBlock goes through the queries that read the keys of t, M at a time: of
// each source, of each head of the group.
template <int M> struct QueryBlock {
    int source, head, i; // i: first query of the block
    AttentionSource s;

    __device__ __forceinline__ QueryBlock(const AttentionGradArgs& a, const AttentionKeys& t) : source(0) { enter(a, t); }

    // enter finds the first source, from the current one on, that reads any of t.
    __device__ __forceinline__ void enter(const AttentionGradArgs& a, const AttentionKeys& t) {
        for (head = 0; source < t.sources; source++) {
            s = a.sources[t.first + source];
            begin(t);
            if (i < s.rows) return;
        }
    }
    __device__ __forceinline__ void begin(const AttentionKeys& t) { i = max(0, t.key - s.diagonal) / M * M; }
    __device__ __forceinline__ void advance(const AttentionGradArgs& a, const AttentionKeys& t) {
        i += M;
        if (i < s.rows) return;
        begin(t);
        if (++head < a.group) return;
        source++;
        enter(a, t);
    }
};

constexpr float LN2 = 0.6931471805599453f;

// Tiles of D bfloat16 a row. The 16-byte pieces of a row are permuted by the
// row, so that the same piece of eight rows lies in different banks.
template <int D> constexpr int tile_row = D <= 64 ? 128 : 256; // bytes

template <int D> __device__ __forceinline__ int tile_at(int row, int piece) {
    return row * tile_row<D> + ((piece ^ (row & 7)) << 4);
}

// A thread copies the same piece of every step-th row of a tile.
template <int D, int THREADS> struct TilePart {
    static constexpr int pieces = tile_row<D> / 16, step = THREADS / pieces;
    static_assert(step % 8 == 0, "");
    const int row = threadIdx.x / pieces, piece = threadIdx.x % pieces, at = tile_at<D>(row, piece);
    __device__ __forceinline__ int from(int ld) const { return row * ld + piece * 8; }
};

// fetch_pair starts to copy rows of two matrices, from this thread's piece of the
// first row on, and moves from to the row behind them. The second matrix is
// apart bytes behind the first, its tile after bytes. Rows from valid on become
// zeros.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void fetch_pair(unsigned char* to, int after, const uint16_t*& from, long long apart, int ld, int valid) {
    const TilePart<D, THREADS> p;
#pragma unroll
    for (int r = 0; r < ROWS; r += p.step) {
        if (p.piece < D / 8) {
            unsigned char* const at = to + p.at + r * tile_row<D>;
            cp_async16(at, from, p.row + r < valid);
            cp_async16(at + after, (const char*)from + apart, p.row + r < valid);
        }
        from += p.step * ld;
    }
}

// fetch_tile does so with one matrix, from its first element on.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void fetch_tile(unsigned char* to, const uint16_t* from, int ld, int valid) {
    const TilePart<D, THREADS> p;
    from += p.from(ld);
#pragma unroll
    for (int r = 0; r < ROWS; r += p.step) {
        if (p.piece < D / 8) cp_async16(to + p.at + r * tile_row<D>, from, p.row + r < valid);
        from += p.step * ld;
    }
}

// times_rows sets c = x·yᵀ for 16·M rows of x and 8·N rows of y.
template <int D, int M, int N>
__device__ __forceinline__ void times_rows(float (&c)[M][N][4], const unsigned char* x, const unsigned char* y) {
    const int lane = threadIdx.x & 31, turn = lane & 7;
    const unsigned char* xr = x + (lane & 15) * tile_row<D>, *yr = y + ((lane >> 4) * 8 + turn) * tile_row<D>;
    const int xp = ((lane >> 4) ^ turn) << 4, yp = (((lane >> 3) & 1) ^ turn) << 4;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) c[m][n][i] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t fx[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) ldmatrix_x4(fx[m], xr + m * 16 * tile_row<D> + (xp ^ (k << 5)));
#pragma unroll
        for (int n = 0; n < N / 2; n++) {
            uint32_t fy[4];
            ldmatrix_x4(fy, yr + n * 16 * tile_row<D> + (yp ^ (k << 5)));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(c[m][2 * n], fx[m], fy);
                mma_bf16(c[m][2 * n + 1], fx[m], fy + 2);
            }
        }
    }
}

// add_product adds p·y to c for 16·M rows of p, which lie in registers, and
// 16·K rows of y. SPARE: no addresses are kept from one call to the next.
template <int D, int M, int K, bool SPARE = false>
__device__ __forceinline__ void add_product(float (&c)[M][D / 8][4], const uint32_t (&p)[M][K][4], const unsigned char* y) {
    const int lane = threadIdx.x & 31, turn = lane & 7;
    const unsigned char* yr = y + (lane & 15) * tile_row<D>;
    int yp = ((lane >> 4) ^ turn) << 4;
    if (SPARE) yp = afresh(yp);
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t fy[4];
            ldmatrix_x4_trans(fy, yr + k * 16 * tile_row<D> + (yp ^ (n << 5)));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(c[m][2 * n], p[m][k], fy);
                mma_bf16(c[m][2 * n + 1], p[m][k], fy + 2);
            }
        }
}

// as_operand rounds the result of a product to the left operand of another.
template <int M, int K>
__device__ __forceinline__ void as_operand(uint32_t (&p)[M][K][4], const float (&c)[M][2 * K][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int k = 0; k < K; k++) {
            p[m][k][0] = pack_bf16(c[m][2 * k][0], c[m][2 * k][1]);
            p[m][k][1] = pack_bf16(c[m][2 * k][2], c[m][2 * k][3]);
            p[m][k][2] = pack_bf16(c[m][2 * k + 1][0], c[m][2 * k + 1][1]);
            p[m][k][3] = pack_bf16(c[m][2 * k + 1][2], c[m][2 * k + 1][3]);
        }
}

} // namespace
