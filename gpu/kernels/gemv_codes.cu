// Products of up to 64 rows of bfloat16 with weights that stream through shared
// memory: c [m,n] = x·wᵀ, of up to three weights at once. A block has 128 rows of
// a weight, 16 a warp, and a part of the terms, a chain: the sums of the chains of
// a row are added in their order by whichever block is last. What belongs to a
// row of x, its order of additions and the chains, does not depend on m.
#include "codes.cuh"
#include "gemv.cuh"

struct CodesWeight {
    void* c;
    const unsigned char* w;
    const float *scale, *bias, *u, *v;
    float* parts;       // [tiles, chains, m, 128]
    unsigned* counters; // [tiles], zeros before and after
    long long stride, ldc, sj, st;
    int n, r, flags;   // GemvFlags
    int first, chains; // first block; chains of each tile
    int length;        // terms of a chain, a multiple of those of a chunk
    float alpha, alpha2, beta;
    int unused;
};

struct CodesArgs {
    const uint16_t* x;
    long long ldx; // whole chunks of 16 bytes
    int m, k, count, unused;
    CodesWeight weights[3];
};

constexpr int CODES_ROWS = 128;

// mma_bf16_set is mma_bf16 from zero on.
__device__ __forceinline__ void mma_bf16_set(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    c[0] = c[1] = c[2] = c[3] = 0;
    mma_bf16(c, a, b);
}

// Stage is a chunk of all rows: those of the weight each in a slot, whose odd
// number of 16 bytes spreads rows over the banks, then those of x.
template <int DT, int NT> struct Stage {
    typedef Codes<DT> C;
    static constexpr int align = Format<DT>::align;
    static constexpr int pieces = (C::bytes + 16 - align + 15) / 16;
    static constexpr int slot = 16 * (pieces | 1);
    static constexpr int row = 2 * C::terms + (C::pairs ? 32 : 64); // of x
    static constexpr int weights = CODES_ROWS * slot, bytes = weights + 8 * NT * row;
};

// shift_of is where row j of a weight begins in its slot.
template <int DT> __device__ __forceinline__ int shift_of(const CodesWeight& w, int j, int k0) {
    if (Format<DT>::align == 16) return 0;
    return (int)((unsigned long long)(w.w + j * w.stride) + (unsigned)(k0 / Codes<DT>::terms * Codes<DT>::bytes)) & 15;
}

template <int DT, int NT> __device__ __forceinline__ void fetch(unsigned char* to, const CodesArgs& a, const CodesWeight& w, int j0, int k0) {
    typedef Stage<DT, NT> S;
    typedef Codes<DT> C;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool plain = Format<DT>::block == 8;
    const long long at = (long long)(k0 / C::terms) * C::bytes;
    const int left = a.k - k0, length = left < C::terms ? left / Format<DT>::block * Format<DT>::bytes : C::bytes;
    unsigned char* slots = to + warp * 16 * S::slot;
    j0 += warp * 16;
#pragma unroll
    for (int i = lane; i < 16 * S::pieces; i += 32) {
        const int r = i / S::pieces, p = i % S::pieces;
        const unsigned char* from = w.w + min(j0 + r, w.n - 1) * w.stride + at;
        const int shift = S::align == 16 ? 0 : (int)((unsigned long long)from & 15);
        const bool valid = 16 * p < shift + length;
        if (plain || valid) cp_async16(slots + r * S::slot + 16 * p, from - shift + 16 * p, valid);
    }
    unsigned char* xs = to + S::weights;
#pragma unroll
    for (int i = threadIdx.x; i < NT * C::terms; i += 256) {
        const int r = i / (C::terms / 8), p = i % (C::terms / 8);
        cp_async16(xs + r * S::row + 16 * p, a.x + r * a.ldx + k0 + 8 * p, r < a.m && k0 + 8 * p < a.k);
    }
}

// load_x loads the terms of a lane of a group of a row of x.
template <int pairs> __device__ __forceinline__ void load_x(uint32_t v[4], const unsigned char* p, int t) {
    if (pairs) {
        const uint2 lo = *(const uint2*)(p + 8 * t), hi = *(const uint2*)(p + 32 + 8 * t);
        v[0] = lo.x, v[1] = lo.y, v[2] = hi.x, v[3] = hi.y;
    } else {
        const uint4 q = *(const uint4*)(p + 16 * t);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    }
}

// add_chunk adds the products of a chunk of `groups` groups.
template <int DT, int NT> __device__ __forceinline__ void add_chunk(float (&d)[NT][4], const unsigned char* rows[2], const unsigned char* xs, int m, int groups, const uint32_t* table) {
    typedef Codes<DT> C;
    typedef Stage<DT, NT> S;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint32_t ones[4] = {TWO_ONES, TWO_ONES, TWO_ONES, TWO_ONES};
    typename C::State state[2];
    C::start(state[0], rows[0]), C::start(state[1], rows[1]);
#pragma unroll
    for (int i = 0; i < C::terms / 32; i++) {
        if (i >= groups) break;
        uint32_t w[2][4];
        C::codes(w[0], state[0], rows[0], i, t, table), C::codes(w[1], state[1], rows[1], i, t, table);
        const uint32_t lo[4] = {w[0][0], w[1][0], w[0][1], w[1][1]}, hi[4] = {w[0][2], w[1][2], w[0][3], w[1][3]};
        float s[2][2], least[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            s[0][r] = C::scaled ? C::scale(state[r], rows[r], i, 0) : 1;
            s[1][r] = C::scaled == 2 ? C::scale(state[r], rows[r], i, 1) : 1;
            least[r] = C::minimum ? C::least(state[r], rows[r], i) : 0;
        }
#pragma unroll
        for (int j = 0; j < NT; j++) {
            if (NT > 1 && 8 * j >= m) break;
            uint32_t x[4];
            load_x<C::pairs>(x, xs + (8 * j + g) * S::row + 64 * i, t);
            if (C::scaled == 0) {
                mma_bf16(d[j], lo, x), mma_bf16(d[j], hi, x + 2);
                continue;
            }
            float c[4];
            mma_bf16_set(c, lo, x);
            if (C::scaled == 2) {
#pragma unroll
                for (int q = 0; q < 4; q++) d[j][q] = fmaf(s[0][q / 2], c[q], d[j][q]);
                mma_bf16_set(c, hi, x + 2);
            } else {
                mma_bf16(c, hi, x + 2);
            }
#pragma unroll
            for (int q = 0; q < 4; q++) d[j][q] = fmaf(s[C::scaled - 1][q / 2], c[q], d[j][q]);
            if (C::minimum) {
                mma_bf16_set(c, ones, x), mma_bf16(c, ones, x + 2);
#pragma unroll
                for (int q = 0; q < 4; q++) d[j][q] = fmaf(least[q / 2], c[q], d[j][q]);
            }
        }
    }
}

template <int DT, int NT, int STAGES> __device__ __forceinline__ void gemv_codes(const CodesArgs& a, unsigned char* smem, unsigned* last, const uint32_t* table) {
    typedef Stage<DT, NT> S;
    typedef Codes<DT> C;
    const int block = blockIdx.x;
    const CodesWeight& w = a.weights[(a.count > 1 && block >= a.weights[1].first) + (a.count > 2 && block >= a.weights[2].first)];
    const int tile = (block - w.first) / w.chains, chain = (block - w.first) % w.chains, j0 = tile * CODES_ROWS;
    const int begin = chain * w.length, end = min(a.k, begin + w.length), chunks = (end - begin + C::terms - 1) / C::terms;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int row = warp * 16 + g; // and 8 behind it
    float d[NT][4];
#pragma unroll
    for (int j = 0; j < NT; j++) d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < chunks) fetch<DT, NT>(smem + s * S::bytes, a, w, j0, begin + s * C::terms);
        cp_async_commit();
    }
    int stage = 0;
    for (int i = 0; i < chunks; i++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        const int ahead = i + STAGES - 1, k0 = begin + i * C::terms;
        if (ahead < chunks) fetch<DT, NT>(smem + (stage == 0 ? STAGES - 1 : stage - 1) * S::bytes, a, w, j0, begin + ahead * C::terms);
        cp_async_commit();
        const unsigned char* at = smem + stage * S::bytes;
        const unsigned char* rows[2];
#pragma unroll
        for (int r = 0; r < 2; r++) rows[r] = at + (row + 8 * r) * S::slot + shift_of<DT>(w, min(j0 + row + 8 * r, w.n - 1), k0);
        add_chunk<DT, NT>(d, rows, at + S::weights, a.m, min(C::terms, end - k0 + 31) / 32, table);
        stage = stage == STAGES - 1 ? 0 : stage + 1;
    }
    if (w.chains == 1) {
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int i = 8 * j + 2 * t + q % 2, col = j0 + row + 8 * (q / 2);
                if (i < a.m && col < w.n) gemv_store(w, i, col, d[j][q]);
            }
        return;
    }
    const long long size = (long long)a.m * CODES_ROWS;
    float* parts = w.parts + tile * w.chains * size;
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const int i = 8 * j + 2 * t + q % 2;
            if (i < a.m) parts[chain * size + i * CODES_ROWS + row + 8 * (q / 2)] = d[j][q];
        }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *last = atomicAdd(w.counters + tile, 1u);
    __syncthreads();
    if (*last != (unsigned)w.chains - 1) return;
    __threadfence();
    for (int o = threadIdx.x; o < size; o += 256) {
        float sum = __ldcg(parts + o);
        for (int z = 1; z < w.chains; z++) sum += __ldcg(parts + z * size + o);
        const int col = j0 + o % CODES_ROWS;
        if (col < w.n) gemv_store(w, o / CODES_ROWS, col, sum);
    }
    if (threadIdx.x == 0) w.counters[tile] = 0;
}

// The kernels, by groups of 8 rows of x. Stages fit so that several blocks of few
// rows share a multiprocessor; blocks of two groups as the registers allow.
#define GEMV_CODES(name, DT, NT, STAGES, BLOCKS)                       \
    KERNEL_BOUNDS(gemv_codes_##name##_##NT, CodesArgs, 256, BLOCKS) {  \
        DYNAMIC_SHARED(smem);                                          \
        SHARED(unsigned, last, 1);                                     \
        gemv_codes<DT, NT, STAGES>(a, smem, last, 0);                  \
    }
#define GEMV_ALL(name, DT, BLOCKS) GEMV_CODES(name, DT, 1, 2, 3) GEMV_CODES(name, DT, 2, 2, BLOCKS) GEMV_CODES(name, DT, 8, 3, 1)
GEMV_ALL(f16, F16, 3)
GEMV_ALL(bf16, BF16, 3)
GEMV_ALL(q4_0, Q4_0, 3)
GEMV_ALL(q4_1, Q4_1, 3)
GEMV_ALL(q5_0, Q5_0, 3)
GEMV_ALL(q5_1, Q5_1, 2)
GEMV_ALL(q8_0, Q8_0, 2)
GEMV_ALL(q4_k, Q4_K, 2)
GEMV_ALL(q5_k, Q5_K, 2)
GEMV_ALL(q6_k, Q6_K, 2)

#define GEMV_NF4(NT, STAGES, BLOCKS)                                \
    KERNEL_BOUNDS(gemv_codes_nf4_##NT, CodesArgs, 256, BLOCKS) {    \
        DYNAMIC_SHARED(smem);                                       \
        SHARED(unsigned, last, 1);                                  \
        SHARED(uint32_t, table, 256 * NF4_COPIES);                  \
        codes_table(table);                                         \
        gemv_codes<NF4, NT, STAGES>(a, smem, last, table);          \
    }
GEMV_NF4(1, 2, 3)
GEMV_NF4(2, 2, 3)
GEMV_NF4(8, 3, 1)
