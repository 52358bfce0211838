// Products of up to 64 rows of bfloat16 with weights that stream through shared
// memory: c [m,n] = x·wᵀ, of up to three weights at once.
//
// The terms of a sum are divided into at most 8 parts, which are added in their
// order to chains of one or more, and those in theirs. What belongs to a row of x
// does not depend on m, nor on which kernel it is: for one or two rows a block has
// 16 rows of a weight, and each warp a part; for more a block has 128 rows, 16 a
// warp, and a chain, and whichever block of these rows is last adds the chains.
#include "codes.cuh"
#include "experts.cuh"

struct CodesWeight {
    void* c;
    const unsigned char* w;
    const float *scale, *bias, *u, *v;
    float* sums;        // [tiles, chains, m, 128]
    unsigned* counters; // [tiles], zeros before and after
    long long stride, ldc, sj, st;
    int n, r, flags;   // GemvFlags
    int first, chains; // first block; chains of each tile
    float alpha, alpha2, beta;
};

struct CodesArgs {
    const uint16_t* x;
    long long ldx; // whole chunks of 16 bytes
    int m, k, count;
    int part; // terms of a part, a multiple of those of a chunk
    CodesWeight weights[3];
};

// ExpertCodesArgs is a product of the rows of experts: of expert blockIdx.y of a class,
// those of part blockIdx.z.
struct ExpertCodesArgs {
    CodesWeight w; // of one expert; first is 0
    const uint16_t* x;
    long long ldx;
    int k, part;
    ExpertClass c;
    long long sums; // floats of an expert's part
    int tiles, unused;
};

struct ExpertX {
    const ExpertCodesArgs& of;
    const uint16_t* x;
    long long ldx;
    int m, k, part;
    int row; // of c, the first
};

// What belongs to a block's rows of x: the first row of c, and where sums and counters
// begin. They are worked out where they are needed: registers are few.
__device__ __forceinline__ int first_row(const CodesArgs&) { return 0; }
__device__ __forceinline__ int first_row(const ExpertX& x) { return x.row; }
__device__ __forceinline__ int sums_before(const ExpertX&) { return blockIdx.y * gridDim.z + blockIdx.z; }
__device__ __forceinline__ float* sums_of(const CodesArgs&, const CodesWeight& w) { return w.sums; }
__device__ __forceinline__ float* sums_of(const ExpertX& x, const CodesWeight& w) { return w.sums + sums_before(x) * x.of.sums; }
__device__ __forceinline__ unsigned* counters_of(const CodesArgs&, const CodesWeight& w) { return w.counters; }
__device__ __forceinline__ unsigned* counters_of(const ExpertX& x, const CodesWeight& w) { return w.counters + (long long)sums_before(x) * x.of.tiles; }

constexpr int CODES_ROWS = 128;

// mma_bf16_set is mma_bf16 from zero on.
__device__ __forceinline__ void mma_bf16_set(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    c[0] = c[1] = c[2] = c[3] = 0;
    mma_bf16(c, a, b);
}

// Slot is where a chunk of a row lies, an odd number of 16 bytes: so rows spread
// over the banks.
template <int DT> struct Slot {
    static constexpr int align = Format<DT>::align;
    static constexpr int pieces = (Codes<DT>::bytes + 16 - align + 15) / 16;
    static constexpr int bytes = 16 * (pieces | 1);
};

// Stage is a chunk of 128 rows, and behind it one of 8 NT rows of x.
template <int DT, int NT> struct Stage {
    static constexpr int row = 2 * Codes<DT>::terms + (Codes<DT>::pairs ? 32 : 64); // of x
    static constexpr int weights = CODES_ROWS * Slot<DT>::bytes, bytes = weights + 8 * NT * row;
};

// weight_of returns the weight that a block belongs to.
__device__ __forceinline__ const CodesWeight& weight_of(const CodesArgs& a) {
    const int block = blockIdx.x;
    return a.weights[(a.count > 1 && block >= a.weights[1].first) + (a.count > 2 && block >= a.weights[2].first)];
}

// chunk_of is where the chunk of row j of a weight from term k0 on begins.
template <int DT> __device__ __forceinline__ const unsigned char* chunk_of(const CodesWeight& w, int j, int k0) {
    return w.w + min(j, w.n - 1) * w.stride + (long long)(k0 / Codes<DT>::terms) * Codes<DT>::bytes;
}

// shift_of is where it begins in its slot.
template <int DT> __device__ __forceinline__ int shift_of(const unsigned char* chunk) {
    return Format<DT>::align == 16 ? 0 : (int)((unsigned long long)chunk & 15);
}

// A lane copies some pieces of a chunk of a warp's 16 rows. Copies are where they
// are in the next chunk, and where they go to.
template <int DT> struct Copies {
    typedef Slot<DT> S;
    typedef Codes<DT> C;
    static constexpr int count = (16 * S::pieces + 31) / 32;
    static constexpr bool moves = C::bytes % 16 == 0; // all chunks of a row lie in their slots alike
    const unsigned char* base;
    int from[count], to[count]; // from base on, and in the slots
    unsigned whole;             // a bit for each that there is in a whole chunk

    __device__ __forceinline__ Copies(const CodesWeight& w, int j0, int k0) {
        whole = 0;
        base = chunk_of<DT>(w, j0, k0);
#pragma unroll
        for (int i = 0; i < count; i++) {
            const int at = threadIdx.x % 32 + 32 * i, r = min(at / S::pieces, 15), p = at % S::pieces;
            const unsigned char* chunk = chunk_of<DT>(w, j0 + r, k0);
            const int shift = shift_of<DT>(chunk);
            from[i] = (int)(chunk - base) - shift + 16 * p, to[i] = r * S::bytes + 16 * p;
            whole |= (unsigned)(at < 16 * S::pieces && 16 * p < shift + C::bytes) << i;
        }
    }

    // fetch starts to copy the next chunk, which begins at term k0.
    __device__ __forceinline__ void fetch(unsigned char* slots, const CodesWeight& w, int j0, int k0, int k) {
        if (moves && k - k0 >= C::terms) {
#pragma unroll
            for (int i = 0; i < count; i++)
                if (whole >> i & 1) cp_async16(slots + to[i], base + from[i], true);
            base += C::bytes;
            return;
        }
        const bool plain = Format<DT>::block == 8; // zeros behind the last term
        const int length = k - k0 < C::terms ? (k - k0) / Format<DT>::block * Format<DT>::bytes : C::bytes;
#pragma unroll 2
        for (int at = threadIdx.x % 32; at < 16 * S::pieces; at += 32) {
            const int r = at / S::pieces, p = at % S::pieces;
            const unsigned char* chunk = chunk_of<DT>(w, j0 + r, k0);
            const int shift = shift_of<DT>(chunk);
            const bool valid = 16 * p < shift + length;
            if (plain || valid) cp_async16(slots + r * S::bytes + 16 * p, chunk - shift + 16 * p, valid);
        }
    }
};

// Begins are where rows g and g+8 of a warp's 16 begin in the slots.
template <int DT> struct Begins {
    int at[2];
    __device__ __forceinline__ void find(const CodesWeight& w, int j0, int k0) {
        const int g = threadIdx.x % 32 / 4;
#pragma unroll
        for (int r = 0; r < 2; r++) at[r] = (g + 8 * r) * Slot<DT>::bytes + shift_of<DT>(chunk_of<DT>(w, j0 + g + 8 * r, k0));
    }
    __device__ __forceinline__ Begins(const CodesWeight& w, int j0, int k0) { find(w, j0, k0); }
    __device__ __forceinline__ void next(const CodesWeight& w, int j0, int k0) {
        if (!Copies<DT>::moves) find(w, j0, k0);
    }
};

// fetch_x starts to copy a chunk of the rows of x; zeros behind the last term.
template <int DT, int NT, class A> __device__ __forceinline__ void fetch_x(unsigned char* xs, const A& a, int k0) {
    constexpr int terms = Codes<DT>::terms;
#pragma unroll
    for (int i = threadIdx.x; i < NT * terms; i += 256) {
        const int r = i / (terms / 8), p = i % (terms / 8);
        if (r < a.m) cp_async16(xs + r * Stage<DT, NT>::row + 16 * p, a.x + r * a.ldx + k0 + 8 * p, k0 + 8 * p < a.k);
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

// SharedX is a chunk of 8 NT rows of x in shared memory.
template <int DT, int NT> struct SharedX {
    const unsigned char* p;
    __device__ __forceinline__ void load(uint32_t v[4], int j, int i) const {
        load_x<Codes<DT>::pairs>(v, p + (8 * j + threadIdx.x % 32 / 4) * Stage<DT, NT>::row + 64 * i, threadIdx.x % 4);
    }
};

// GlobalX is a lane's row of x where it is, from a chunk on, of so many terms.
template <int DT> struct GlobalX {
    const uint16_t* p;
    int terms;
    __device__ __forceinline__ void load(uint32_t v[4], int, int i) const {
        const int t = threadIdx.x % 4;
        if (Format<DT>::block > 8 || 32 * i + 8 * t < terms) {
            load_x<Codes<DT>::pairs>(v, (const unsigned char*)(p + 32 * i), t);
            return;
        }
        v[0] = v[1] = v[2] = v[3] = 0;
    }
};

// add_group adds the products of group i of a chunk. rows are where rows g and g+8
// of a warp's 16 begin. Columns behind those of x
// are whatever lies there.
template <int DT, int NT, class X>
__device__ __forceinline__ void add_group(float (&d)[NT][4], const typename Codes<DT>::State* state, const unsigned char* const rows[2], const X& of_x, int i, const uint32_t* table) {
    typedef Codes<DT> C;
    const int t = threadIdx.x % 4;
    const uint32_t ones[4] = {TWO_ONES, TWO_ONES, TWO_ONES, TWO_ONES};
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
        uint32_t x[4];
        of_x.load(x, j, i);
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

// add_chunk adds the products of the first groups of a chunk.
template <int DT, int NT, class X> __device__ __forceinline__ void add_chunk(float (&d)[NT][4], const unsigned char* const rows[2], const X& of_x, int groups, const uint32_t* table) {
    typedef Codes<DT> C;
    typename C::State state[2];
    C::start(state[0], rows[0]), C::start(state[1], rows[1]);
    constexpr int all = C::terms / 32;
    [[maybe_unused]] constexpr int unroll = NT > 2 ? 1 : DT == Q5_1 ? 1 : DT == F16 || DT == BF16 ? 4 : 2; // more would spill
    if (groups == all) {
#pragma unroll unroll
        for (int i = 0; i < all; i++) add_group<DT, NT>(d, state, rows, of_x, i, table);
        return;
    }
#pragma unroll 1
    for (int i = 0; i < groups; i++) add_group<DT, NT>(d, state, rows, of_x, i, table);
}

// gemv_codes is the kernel of 128 rows of a weight. A is CodesArgs, or what it has of x.
template <int DT, int NT, int STAGES, class A>
__device__ __forceinline__ void gemv_codes(const A& a, const CodesWeight& w, unsigned char* smem, unsigned* last, uint32_t* table) {
    typedef Stage<DT, NT> S;
    constexpr int terms = Codes<DT>::terms;
    const int tile = (blockIdx.x - w.first) / w.chains, chain = (blockIdx.x - w.first) % w.chains, j0 = tile * CODES_ROWS;
    const int length = (a.k + a.part - 1) / a.part * a.part; // of all parts
    const int parts = (length / a.part + w.chains - 1) / w.chains;
    const int begin = chain * parts * a.part, end = min(a.k, begin + parts * a.part), chunks = (end - begin + terms - 1) / terms, per = a.part / terms;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
    const int row = warp * 16 + lane / 4; // and 8 behind it
    float d[NT][4], all[NT][4];
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
        for (int q = 0; q < 4; q++) d[j][q] = 0;
    const int first = j0 + warp * 16; // row of this warp
    Copies<DT> copies(w, first, begin);
    Begins<DT> begins(w, first, begin);
    unsigned char* const mine = smem + warp * 16 * Slot<DT>::bytes;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < chunks) {
            copies.fetch(mine + s * S::bytes, w, first, begin + s * terms, a.k);
            fetch_x<DT, NT>(smem + s * S::bytes + S::weights, a, begin + s * terms);
        }
        cp_async_commit();
    }
    if (DT == NF4) codes_table(table);
    int stage = 0, left = per;
    for (int i = 0; i < chunks; i++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        const int ahead = begin + (i + STAGES - 1) * terms, k0 = begin + i * terms;
        if (i + STAGES - 1 < chunks) {
            const int to = (stage == 0 ? STAGES - 1 : stage - 1) * S::bytes;
            copies.fetch(mine + to, w, first, ahead, a.k);
            fetch_x<DT, NT>(smem + to + S::weights, a, ahead);
        }
        cp_async_commit();
        begins.next(w, first, k0);
        const unsigned char *at = mine + stage * S::bytes, *rows[2] = {at + begins.at[0], at + begins.at[1]};
        const SharedX<DT, NT> x = {smem + stage * S::bytes + S::weights};
        add_chunk<DT, NT>(d, rows, x, min(terms, end - k0 + 31) / 32, table);
        stage = stage == STAGES - 1 ? 0 : stage + 1;
        if (--left > 0 && i < chunks - 1) continue; // the part goes on
        left = per;
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                all[j][q] = i < per ? d[j][q] : all[j][q] + d[j][q];
                d[j][q] = 0;
            }
    }
    if (w.chains == 1) {
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int i = 8 * j + 2 * t + q % 2, col = j0 + row + 8 * (q / 2);
                if (i < a.m && col < w.n) gemv_store(w, first_row(a) + i, col, all[j][q]);
            }
        return;
    }
    const long long size = (long long)a.m * CODES_ROWS;
    float* sums = sums_of(a, w) + tile * w.chains * size;
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const int i = 8 * j + 2 * t + q % 2;
            if (i < a.m) sums[chain * size + i * CODES_ROWS + row + 8 * (q / 2)] = all[j][q];
        }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *last = atomicAdd(counters_of(a, w) + tile, 1u);
    __syncthreads();
    if (*last != (unsigned)w.chains - 1) return;
    __threadfence();
    for (int o = threadIdx.x; o < size; o += 256) {
        float sum = __ldcg(sums + o);
        for (int z = 1; z < w.chains; z++) sum += __ldcg(sums + z * size + o);
        const int col = j0 + o % CODES_ROWS;
        if (col < w.n) gemv_store(w, first_row(a) + o / CODES_ROWS, col, sum);
    }
    if (threadIdx.x == 0) counters_of(a, w)[tile] = 0;
}

// gemv_rows is the kernel of 16 rows of a weight. red is memory for [8][8][16].
template <int DT, int STAGES, class A> __device__ __forceinline__ void gemv_rows(const A& a, const CodesWeight& w, unsigned char* smem, float* red, uint32_t* table) {
    constexpr int terms = Codes<DT>::terms, bytes = 16 * Slot<DT>::bytes;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, j0 = (blockIdx.x - w.first) * 16;
    const int begin = min(a.k, warp * a.part), end = min(a.k, begin + a.part), chunks = (end - begin + terms - 1) / terms;
    unsigned char* const mine = smem + warp * STAGES * bytes;
    const uint16_t* const of_x = a.x + min(g, a.m - 1) * a.ldx;
    Copies<DT> copies(w, j0, begin);
    Begins<DT> begins(w, j0, begin);
    float d[1][4] = {{0, 0, 0, 0}};
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < chunks) copies.fetch(mine + s * bytes, w, j0, begin + s * terms, a.k);
        cp_async_commit();
    }
    if (DT == NF4) {
        codes_table(table);
        __syncthreads();
    }
    int stage = 0;
    for (int i = 0; i < chunks; i++) {
        cp_async_wait<STAGES - 2>();
        __syncwarp();
        const int k0 = begin + i * terms;
        if (i + STAGES - 1 < chunks) copies.fetch(mine + (stage == 0 ? STAGES - 1 : stage - 1) * bytes, w, j0, k0 + (STAGES - 1) * terms, a.k);
        cp_async_commit();
        begins.next(w, j0, k0);
        const unsigned char *at = mine + stage * bytes, *rows[2] = {at + begins.at[0], at + begins.at[1]};
        const GlobalX<DT> x = {of_x + k0, end - k0};
        add_chunk<DT, 1>(d, rows, x, min(terms, end - k0 + 31) / 32, table);
        stage = stage == STAGES - 1 ? 0 : stage + 1;
    }
#pragma unroll
    for (int q = 0; q < 4; q++) red[(warp * 8 + 2 * t + q % 2) * 16 + g + 8 * (q / 2)] = d[0][q];
    __syncthreads();
    const int parts = (a.k + a.part - 1) / a.part, each = (parts + w.chains - 1) / w.chains;
    if ((int)threadIdx.x < 16 * a.m) {
        const int i = threadIdx.x / 16, j = threadIdx.x % 16;
        float sum = 0;
        for (int p = 0; p < parts; p += each) {
            float chain = red[(p * 8 + i) * 16 + j];
            for (int q = p + 1; q < min(parts, p + each); q++) chain += red[(q * 8 + i) * 16 + j];
            sum = p == 0 ? chain : sum + chain;
        }
        if (j0 + j < w.n) gemv_store(w, first_row(a) + i, j0 + j, sum);
    }
}

// codes_of_expert finds a block's rows, at most so many, and their weight, or returns
// false where there are none.
template <int MOST> __device__ __forceinline__ bool codes_of_expert(const ExpertCodesArgs& a, CodesWeight& w, int& row, int& m) {
    int e, lo, hi;
    if (!expert_of_class(a.c, blockIdx.y, e, lo, hi)) return false;
    row = lo + MOST * blockIdx.z;
    if (row >= hi) return false;
    m = min(hi - row, MOST);
    w.w += (long long)e * w.n * w.stride;
    return true;
}

// The kernels: of 16 rows, for one or two rows of x; and of 128, by groups of 8
// rows of x. Stages fit so that several blocks of few rows share a multiprocessor.
#define GEMV_ROWS(name, DT, STAGES, TABLE)                               \
    KERNEL_BOUNDS(gemv_rows_##name, CodesArgs, 256, 3) {                 \
        DYNAMIC_SHARED(smem);                                            \
        SHARED(float, red, 8 * 8 * 16);                                  \
        SHARED(uint32_t, table, TABLE);                                  \
        gemv_rows<DT, STAGES>(a, weight_of(a), smem, red, table);        \
    }                                                                    \
    KERNEL_BOUNDS(gemv_experts_rows_##name, ExpertCodesArgs, 256, 3) {   \
        DYNAMIC_SHARED(smem);                                            \
        SHARED(float, red, 8 * 8 * 16);                                  \
        SHARED(uint32_t, table, TABLE);                                  \
        int row, m;                                                      \
        CodesWeight w = a.w;                                             \
        if (!codes_of_expert<2>(a, w, row, m)) return;                   \
        const ExpertX x = {a, a.x + row * a.ldx, a.ldx, m, a.k, a.part, row}; \
        gemv_rows<DT, STAGES>(x, w, smem, red, table);                   \
    }
#define GEMV_CODES(name, DT, NT, STAGES, BLOCKS, TABLE)                  \
    KERNEL_BOUNDS(gemv_codes_##name##_##NT, CodesArgs, 256, BLOCKS) {    \
        DYNAMIC_SHARED(smem);                                            \
        SHARED(unsigned, last, 1);                                       \
        SHARED(uint32_t, table, TABLE);                                  \
        gemv_codes<DT, NT, STAGES>(a, weight_of(a), smem, last, table);  \
    }                                                                    \
    KERNEL_BOUNDS(gemv_experts_codes_##name##_##NT, ExpertCodesArgs, 256, BLOCKS) { \
        DYNAMIC_SHARED(smem);                                            \
        SHARED(unsigned, last, 1);                                       \
        SHARED(uint32_t, table, TABLE);                                  \
        int row, m;                                                      \
        CodesWeight w = a.w;                                             \
        if (!codes_of_expert<8 * NT>(a, w, row, m)) return;              \
        const ExpertX x = {a, a.x + row * a.ldx, a.ldx, m, a.k, a.part, row}; \
        gemv_codes<DT, NT, STAGES>(x, w, smem, last, table);             \
    }
#define GEMV_ALL(name, DT, STAGES, BLOCKS1, BLOCKS4, TABLE)                          \
    GEMV_ROWS(name, DT, STAGES, TABLE)                                               \
    GEMV_CODES(name, DT, 1, 2, BLOCKS1, TABLE) GEMV_CODES(name, DT, 2, 2, 2, TABLE)  \
    GEMV_CODES(name, DT, 4, 2, BLOCKS4, TABLE) GEMV_CODES(name, DT, 8, 3, 1, TABLE)
GEMV_ALL(f16, F16, 2, 3, 2, 1)
GEMV_ALL(bf16, BF16, 2, 3, 2, 1)
GEMV_ALL(q4_0, Q4_0, 3, 3, 2, 1)
GEMV_ALL(q4_1, Q4_1, 3, 3, 1, 1)
GEMV_ALL(q5_0, Q5_0, 2, 3, 2, 1)
GEMV_ALL(q5_1, Q5_1, 2, 2, 1, 1)
GEMV_ALL(q8_0, Q8_0, 2, 2, 1, 1)
GEMV_ALL(q4_k, Q4_K, 3, 2, 1, 1)
GEMV_ALL(q5_k, Q5_K, 2, 3, 1, 1)
GEMV_ALL(q6_k, Q6_K, 2, 3, 2, 1)
GEMV_ALL(nf4, NF4, 2, 2, 1, 256 * NF4_COPIES)
