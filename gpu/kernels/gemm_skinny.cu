// Products of a bfloat16 matrix, which is read once, and a few rows or columns in
// float32, as adapters have them: no number loses anything. A float32 is the sum of
// three bfloat16 numbers, whose products with a bfloat16 are exact in float32.
//
// Fragments come straight from memory. Which term is which in a matrix instruction
// does not matter as long as it is the same in both operands, so a lane loads 16
// bytes that lie together and calls them its terms.
#include "gemm.cuh"

// SplitArgs: dst [3][rows][ld] = the parts of x, element (row j, term t) of which
// is at j*sj + t*st; zeros behind n and k. rows and ld are multiples of 8.
struct SplitArgs {
    uint16_t* dst;
    const float* x;
    long long sj, st;
    int n, k, rows, ld;
};

// rest_of is what bfloat16 leaves of x, 0 where that is not finite.
__device__ __forceinline__ float rest_of(float x, uint16_t part) {
    const float rest = x - bf16_float(part);
    return fabsf(rest) < 3e38f ? rest : 0;
}

KERNEL(skinny_split, SplitArgs, 256) {
    const unsigned ld = a.ld, size = a.rows * ld;
    for (unsigned e = blockIdx.x * 256 + threadIdx.x; e < size; e += gridDim.x * 256) {
        // Neighbours are together where they are in x.
        const unsigned j = a.st == 1 ? e / ld : e % a.rows, t = a.st == 1 ? e % ld : e / a.rows;
        const bool in = j < (unsigned)a.n && t < (unsigned)a.k;
        const float x = in ? __ldg(a.x + j * a.sj + t * a.st) : 0;
        const uint16_t hi = bf16_round(x);
        const float rest = rest_of(x, hi);
        const uint16_t mid = bf16_round(rest), lo = bf16_round(rest_of(rest, mid));
        uint16_t* to = a.dst + j * ld + t;
        to[0] = hi, to[size] = mid, to[2ll * size] = lo;
    }
}

// skinny_load puts DEPTH terms from t of 3 x 8 Q rows of the parts from row j0 into
// shared memory, LD apart.
template <int Q, int DEPTH, int LD> __device__ __forceinline__ void skinny_load(uint16_t* s, const GemmArgs& g, int j0, int t, int t1) {
    const uint16_t* b = (const uint16_t*)g.b;
    for (int e = threadIdx.x; e < 3 * 8 * Q * (DEPTH / 8); e += 128) {
        const int r = e / (DEPTH / 8), c = e % (DEPTH / 8) * 8, part = r / (8 * Q), j = j0 + r % (8 * Q);
        const bool in = j < g.k2 && t + c < t1; // k2: rows of a part
        cp_async16(s + r * LD + c, in ? b + ((long long)part * g.k2 + j) * g.ldb + t + c : b, in);
    }
    cp_async_commit();
}

// c [m,n] of a [m,k] and the parts of a [n,k]: 8 Q columns (blockIdx.y) of 128 rows,
// 32 a warp. blockIdx.z is the part of k. Lane 4g + t loads 8 terms from 8t of row g.
template <int Q> __device__ __forceinline__ void skinny_tall(const GemmArgs& g, unsigned char* smem) {
    const int DEPTH = Q == 8 ? 64 : 128, LD = DEPTH + 32, BUFFER = 3 * 8 * Q * LD;
    uint16_t* sb = (uint16_t*)smem;
    const int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4, i0 = blockIdx.x * 128 + threadIdx.x / 32 * 32, j0 = blockIdx.y * 8 * Q;
    const int t0 = blockIdx.z * g.split, t1 = min(g.k, t0 + g.split);
    float d[2][Q][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int q = 0; q < Q; q++) d[i][q][0] = d[i][q][1] = d[i][q][2] = d[i][q][3] = 0;
    const uint16_t* a = (const uint16_t*)g.a + (long long)min(i0 + r, g.m - 1) * g.lda + 8 * c;
    skinny_load<Q, DEPTH, LD>(sb, g, j0, t0, t1);
    int buffer = 0;
    for (int t = t0; t < t1; t += DEPTH, buffer ^= 1) {
        uint4 x[DEPTH / 32][4]; // rows r, r+8, r+16, r+24
#pragma unroll
        for (int s = 0; s < DEPTH / 32; s++)
#pragma unroll
            for (int h = 0; h < 4; h++) {
                const bool in = i0 + r + 8 * h < g.m && t + 32 * s + 8 * c < t1;
                x[s][h] = in ? __ldg((const uint4*)(a + 8ll * h * g.lda + t + 32 * s)) : uint4{0, 0, 0, 0};
            }
        if (t + DEPTH < t1)
            skinny_load<Q, DEPTH, LD>(sb + (buffer ^ 1) * BUFFER, g, j0, t + DEPTH, t1);
        else
            cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
#pragma unroll
        for (int s = 0; s < DEPTH / 32; s++)
#pragma unroll
            for (int p = 0; p < 3; p++)
#pragma unroll
                for (int q = 0; q < Q; q++) {
                    const uint4 w = *(const uint4*)(sb + buffer * BUFFER + (p * 8 * Q + 8 * q + r) * LD + 32 * s + 8 * c);
                    const uint32_t b0[2] = {w.x, w.y}, b1[2] = {w.z, w.w};
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const uint4 &u = x[s][2 * i], &v = x[s][2 * i + 1];
                        const uint32_t f0[4] = {u.x, v.x, u.y, v.y}, f1[4] = {u.z, v.z, u.w, v.w};
                        mma_bf16(d[i][q], f0, b0);
                        mma_bf16(d[i][q], f1, b1);
                    }
                }
        __syncthreads();
    }
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int q = 0; q < Q; q++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = i0 + 16 * i + r + e / 2 * 8, col = j0 + 8 * q + 2 * c + e % 2;
                if (row >= g.m || col >= g.n) continue;
                if (g.parts)
                    g.parts[((long long)blockIdx.z * g.m + row) * g.n + col] = d[i][q][e];
                else
                    gemm_store(g, row, col, d[i][q][e]);
            }
}

// word_pairs makes of elements 0 and 1 of two rows the pairs of elements 0 and of
// elements 1.
__device__ __forceinline__ void word_pairs(uint32_t& x, uint32_t& y) {
    const uint32_t lo = (x & 0xffffu) | y << 16, hi = x >> 16 | (y & 0xffff0000u);
    x = lo, y = hi;
}

// r [s,n] of the parts of a [s,k] and of b [k,n], in GemmArgs as b and a: 8 Q rows
// (blockIdx.y) of 256 columns, 64 a warp. blockIdx.z is the part of k. Lane 4g + t
// loads 8 columns from 8g of rows 4t..4t+3 of every 16. Then c is r or, with the flag
// GEMM_TRANS_2, r transposed.
template <int Q> __device__ __forceinline__ void skinny_outer(const GemmArgs& g, unsigned char* smem) {
    const int DEPTH = Q == 8 ? 64 : 128, LD = DEPTH + 16, BUFFER = 3 * 8 * Q * LD;
    uint16_t* sb = (uint16_t*)smem;
    const bool turned = g.flags & GEMM_TRANS_2;
    const int rows = turned ? g.n : g.m, cols = turned ? g.m : g.n;
    const int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4, j0 = blockIdx.y * 8 * Q, col = blockIdx.x * 256 + threadIdx.x / 32 * 64 + 8 * r;
    const int t0 = blockIdx.z * g.split, t1 = min(g.k, t0 + g.split);
    float d[4][Q][4];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int q = 0; q < Q; q++) d[i][q][0] = d[i][q][1] = d[i][q][2] = d[i][q][3] = 0;
    const uint16_t* x = (const uint16_t*)g.a + col;
    skinny_load<Q, DEPTH, LD>(sb, g, j0, t0, t1);
    int buffer = 0;
    for (int t = t0; t < t1; t += DEPTH, buffer ^= 1) {
        if (t + DEPTH < t1)
            skinny_load<Q, DEPTH, LD>(sb + (buffer ^ 1) * BUFFER, g, j0, t + DEPTH, t1);
        else
            cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        const int STEPS = 2; // in flight
#pragma unroll
        for (int s0 = 0; s0 < DEPTH / 16; s0 += STEPS) {
            uint4 v[STEPS][4];
#pragma unroll
            for (int s = 0; s < STEPS; s++)
#pragma unroll
                for (int h = 0; h < 4; h++) {
                    const int at = t + 16 * (s0 + s) + 4 * c + h;
                    v[s][h] = at < t1 && col < cols ? __ldg((const uint4*)(x + at * g.lda)) : uint4{0, 0, 0, 0};
                }
#pragma unroll
            for (int s = 0; s < STEPS; s++) {
                word_pairs(v[s][0].x, v[s][1].x), word_pairs(v[s][2].x, v[s][3].x);
                word_pairs(v[s][0].y, v[s][1].y), word_pairs(v[s][2].y, v[s][3].y);
                word_pairs(v[s][0].z, v[s][1].z), word_pairs(v[s][2].z, v[s][3].z);
                word_pairs(v[s][0].w, v[s][1].w), word_pairs(v[s][2].w, v[s][3].w);
                const uint32_t f[4][4] = {{v[s][0].x, v[s][1].x, v[s][2].x, v[s][3].x},
                                          {v[s][0].y, v[s][1].y, v[s][2].y, v[s][3].y},
                                          {v[s][0].z, v[s][1].z, v[s][2].z, v[s][3].z},
                                          {v[s][0].w, v[s][1].w, v[s][2].w, v[s][3].w}};
#pragma unroll
                for (int p = 0; p < 3; p++)
#pragma unroll
                    for (int q = 0; q < Q; q++) {
                        const uint2 w = *(const uint2*)(sb + buffer * BUFFER + (p * 8 * Q + 8 * q + r) * LD + 16 * (s0 + s) + 4 * c);
                        const uint32_t b[2] = {w.x, w.y};
#pragma unroll
                        for (int i = 0; i < 4; i++) mma_bf16(d[i][q], f[i], b);
                    }
            }
        }
        __syncthreads();
    }
    cp_async_wait<0>();
    if (col >= cols) return;
    // d[i][q][e] is of row 8q + 2c + e%2 and column 2i + e/2 of the lane's 8.
    float* p = g.parts ? g.parts + (long long)blockIdx.z * g.m * g.n : 0;
#pragma unroll
    for (int q = 0; q < Q; q++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int row = j0 + 8 * q + 2 * c + e;
            if (row >= rows) continue;
            if (p && !turned) {
                float4* to = (float4*)(p + (long long)row * g.n + col);
                to[0] = make_float4(d[0][q][e], d[0][q][2 + e], d[1][q][e], d[1][q][2 + e]);
                to[1] = make_float4(d[2][q][e], d[2][q][2 + e], d[3][q][e], d[3][q][2 + e]);
                continue;
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float y = d[i / 2][q][i % 2 * 2 + e];
                if (p)
                    p[(long long)(col + i) * g.n + row] = y;
                else if (turned)
                    gemm_store(g, col + i, row, y);
                else
                    gemm_store(g, row, col + i, y);
            }
        }
}

#define SKINNY(Q, blocks)                                        \
    KERNEL_BOUNDS(skinny_tall_##Q, GemmArgs, 128, blocks) {      \
        DYNAMIC_SHARED(smem);                                    \
        skinny_tall<Q>(a, smem);                                 \
    }                                                            \
    KERNEL_BOUNDS(skinny_outer_##Q, GemmArgs, 128, blocks) {     \
        DYNAMIC_SHARED(smem);                                    \
        skinny_outer<Q>(a, smem);                                \
    }
SKINNY(2, 3)
SKINNY(4, 2)
SKINNY(8, 2)
