// Products of a long matrix x [m,k], float or bfloat16, with thin ones in float32:
// those of an adapter. They read x once and would be done by then. A thin operand,
// and x itself if it is float, is cut into three bfloat16 whose sum it is exactly,
// the parts are multiplied by tensor cores, and the sums are float32; of products of
// two cut operands those below 2^-22 are left out. An infinite term makes the sum
// NaN, but thin_tall then computes it again without cutting.
#include "walk.cuh"

// thin_cut cuts two floats into pairs of bfloat16, the highest first: each takes
// the next 8 bits.
__device__ __forceinline__ void thin_cut(uint32_t (&part)[3], float x, float y) {
    part[0] = __byte_perm(__float_as_uint(x), __float_as_uint(y), 0x7632);
    x -= __uint_as_float(__float_as_uint(x) & 0xffff0000u), y -= __uint_as_float(__float_as_uint(y) & 0xffff0000u);
    part[1] = __byte_perm(__float_as_uint(x), __float_as_uint(y), 0x7632);
    x -= __uint_as_float(__float_as_uint(x) & 0xffff0000u), y -= __uint_as_float(__float_as_uint(y) & 0xffff0000u);
    part[2] = __byte_perm(__float_as_uint(x), __float_as_uint(y), 0x7632);
}

// thin_fragment is a fragment of an operand of mma_bf16 of N registers, in parts.
template <int N, int PARTS> struct ThinFragment {
    uint32_t v[PARTS][N];
    __device__ __forceinline__ void cut(int i, float x, float y) {
        uint32_t part[3];
        thin_cut(part, x, y);
#pragma unroll
        for (int p = 0; p < PARTS; p++) v[p][i] = part[p];
    }
};

// thin_each calls f(p, q) for the parts of both operands whose products count,
// those of small products first.
template <int PARTS, class F> __device__ __forceinline__ void thin_each(F f) {
#pragma unroll
    for (int s = 2; s >= 0; s--)
#pragma unroll
        for (int p = 0; p < PARTS; p++)
            if (s - p >= 0) f(p, s - p);
}

// ThinColumns are up to 16 columns u[i*ldu + j] = sum of x[i,t] * w[j*sj + t*st]; where
// terms lie together, sj is below 2^27.
struct ThinColumns {
    const float* w;
    float* u;
    long long sj, st;
    int ldu, cols;
};

// TallArgs are products u = alpha * x.w + beta * u. A part of the sums has split
// terms, a multiple of 128.
struct TallArgs {
    ThinColumns c[3];
    const void* x;
    float* parts;
    unsigned* tickets; // a 0 for each blockIdx.x, where there are parts
    long long ldx;
    int m, k, split;
    int vector; // terms of w lie together in whole vectors
    float alpha, beta;
};

// 8 warps: 2 groups of MT * 8 rows, whose 4 warps have every fourth 32 terms each.
// blockIdx.y is the part of k; the block that is the last to come adds the parts.
// The rows of x are the second operand, so that a lane's registers of it are those
// that it loads: which terms lanes take is chosen such that each loads 8 in a row.
template <int NT, bool half> struct Tall {
    static const int MT = half ? 8 : 4, W = half ? 4 : 8, ROWS = 2 * MT * 8, OWN = MT / 4;
    typedef uint32_t Rows[MT][W];
    typedef ThinFragment<4, 3> Weights[2]; // of 16 columns and 2 x 16 terms
    const TallArgs& a;
    int row, at, end; // the first row and term of the lane, the end of the part
    float d[MT][NT][4];

    __device__ __forceinline__ void load(Rows& x, int t) const {
        const unsigned char* p = (const unsigned char*)a.x + (row * a.ldx + t + at) * (half ? 2 : 4);
        const int left = t + at < end ? a.m - row : 0;
#pragma unroll
        for (int i = 0; i < MT; i++) {
#pragma unroll
            for (int q = 0; q < W / 4; q++) {
                const uint4 v = 8 * i < left ? __ldg((const uint4*)p + q) : uint4{0, 0, 0, 0};
                x[i][4 * q] = v.x, x[i][4 * q + 1] = v.y, x[i][4 * q + 2] = v.z, x[i][4 * q + 3] = v.w;
            }
            p += 8 * a.ldx * (half ? 2 : 4);
        }
    }

    // weights loads 8 terms of the lane's columns j and j + 8.
    template <bool vector> __device__ __forceinline__ void weights(float (&v)[2][8], const ThinColumns& c, int t) const {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int j = threadIdx.x % 32 / 4 + 8 * h;
            const bool in = j < c.cols && t + at < end;
            const float* p = vector ? c.w + (j * (int)c.sj + t + at) : c.w + j * c.sj + (t + at) * c.st; // registers
            if (vector) {
                const float4 lo = in ? __ldg((const float4*)p) : float4{0, 0, 0, 0}, hi = in ? __ldg((const float4*)p + 1) : float4{0, 0, 0, 0};
                v[h][0] = lo.x, v[h][1] = lo.y, v[h][2] = lo.z, v[h][3] = lo.w, v[h][4] = hi.x, v[h][5] = hi.y, v[h][6] = hi.z, v[h][7] = hi.w;
            } else {
#pragma unroll
                for (int e = 0; e < 8; e++, p += c.st) v[h][e] = in ? __ldg(p) : 0;
            }
        }
    }
    static __device__ __forceinline__ void cut(Weights& w, const float (&v)[2][8]) {
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int h = 0; h < 2; h++) w[e / 2].cut(e % 2 * 2 + h, v[h][2 * e], v[h][2 * e + 1]);
    }

    // add adds the products of 32 terms from t, of which v has the first weights; then
    // it has those of 128 terms on.
    template <bool vector> __device__ __forceinline__ void add(const Rows& x, float (&v)[2][8], int t) {
        if constexpr (half) {
#pragma unroll
            for (int n = 0; n < NT; n++) {
                Weights w;
                cut(w, v);
                weights<vector>(v, a.c[n + 1 < NT ? n + 1 : 0], n + 1 < NT ? t : t + 128);
#pragma unroll
                for (int s = 0; s < 2; s++)
                    thin_each<1>([&](int, int p) { // in this order none waits for the one before
#pragma unroll
                        for (int i = 0; i < MT; i++) {
                            const uint32_t b[2] = {x[i][2 * s], x[i][2 * s + 1]};
                            mma_bf16(d[i][n], w[s].v[p], b);
                        }
                    });
            }
        } else {
            Weights w[NT];
#pragma unroll
            for (int n = 0; n < NT; n++) {
                cut(w[n], v);
                weights<vector>(v, a.c[n + 1 < NT ? n + 1 : 0], n + 1 < NT ? t : t + 128);
            }
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int i = 0; i < MT; i += 2) {
                    ThinFragment<2, 3> b[2];
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        b[e / 2].cut(e % 2, __uint_as_float(x[i + e / 2][4 * s + e % 2 * 2]), __uint_as_float(x[i + e / 2][4 * s + e % 2 * 2 + 1]));
                    thin_each<3>([&](int p, int q) {
#pragma unroll
                        for (int n = 0; n < NT; n++)
#pragma unroll
                            for (int h = 0; h < 2; h++) mma_bf16(d[i + h][n], w[n][s].v[p], b[h].v[q]);
                    });
                }
        }
    }

    template <bool vector> __device__ __forceinline__ void sums(int t) {
        Rows x[2];
        float v[2][8];
        load(x[0], t);
        weights<vector>(v, a.c[0], t);
        for (; t < end; t += 256) {
            load(x[1], t + 128);
            add<vector>(x[0], v, t);
            if (t + 128 >= end) break;
            load(x[0], t + 256);
            add<vector>(x[1], v, t + 128);
        }
    }

    __device__ __forceinline__ float element(int r, int t) const {
        return half ? bf16_float(((const uint16_t*)a.x)[r * a.ldx + t]) : ((const float*)a.x)[r * a.ldx + t];
    }

    __device__ __forceinline__ void store(const ThinColumns& c, int r, int j, float sum) const {
        float* u = c.u + (long long)r * c.ldu + j;
        sum *= a.alpha;
        *u = a.beta != 0 ? fmaf(a.beta, *u, sum) : sum;
    }

    __device__ __forceinline__ void run(float* smem) {
        SHARED(unsigned, last, 1);
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4;
        const int group = warp / 4, q = warp % 4, first = blockIdx.y * a.split;
        end = min(a.k, first + a.split);
        row = blockIdx.x * ROWS + group * MT * 8 + g, at = lane % 4 * 8;
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int n = 0; n < NT; n++) d[i][n][0] = d[i][n][1] = d[i][n][2] = d[i][n][3] = 0;
        if (a.vector)
            sums<true>(first + q * 32);
        else
            sums<false>(first + q * 32);
        // Warp q of a group adds the sums of its warps for OWN times 8 rows.
        float4* all = (float4*)smem;
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int n = 0; n < NT; n++) all[((warp * MT + i) * NT + n) * 32 + lane] = make_float4(d[i][n][0], d[i][n][1], d[i][n][2], d[i][n][3]);
        __syncthreads();
        float v[OWN * NT][4];
        auto sum = [&](const float4* p, long long step, int count) {
#pragma unroll
            for (int n = 0; n < OWN * NT; n++) v[n][0] = v[n][1] = v[n][2] = v[n][3] = 0;
#pragma unroll 4
            for (int z = 0; z < count; z++)
#pragma unroll
                for (int n = 0; n < OWN * NT; n++) {
                    const float4 f = p[z * step + n * 32];
                    v[n][0] += f.x, v[n][1] += f.y, v[n][2] += f.z, v[n][3] += f.w;
                }
        };
        sum(all + (group * 4 * MT + q * OWN) * NT * 32 + lane, MT * NT * 32, 4);
        if (gridDim.y > 1) {
            float4* parts = (float4*)a.parts + (((long long)blockIdx.x * 2 + group) * MT + q * OWN) * NT * 32 + lane;
            const long long step = (long long)gridDim.x * 2 * MT * NT * 32;
#pragma unroll
            for (int n = 0; n < OWN * NT; n++) parts[blockIdx.y * step + n * 32] = make_float4(v[n][0], v[n][1], v[n][2], v[n][3]);
            __threadfence();
            __syncthreads();
            if (threadIdx.x == 0) last[0] = atomicAdd(a.tickets + blockIdx.x, 1u) == gridDim.y - 1;
            __syncthreads();
            if (!last[0]) return;
            if (threadIdx.x == 0) a.tickets[blockIdx.x] = 0;
            __threadfence();
            sum(parts, step, gridDim.y);
        }
        // A lane has rows 2t and 2t + 1 of 8, for t = lane % 4, and columns g and g + 8.
        const int i0 = row - g + q * OWN * 8;
        unsigned bad = 0; // what is not finite
#pragma unroll
        for (int n = 0; n < OWN * NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int r = i0 + n / NT * 8 + lane % 4 * 2 + e % 2, j = g + e / 2 * 8;
                if (r >= a.m || j >= a.c[n % NT].cols) continue;
                if (v[n][e] - v[n][e] == 0)
                    store(a.c[n % NT], r, j, v[n][e]);
                else
                    bad |= 1u << (4 * n + e);
            }
        if (!__any_sync(0xffffffffu, bad != 0)) return;
        for (int e = 0; e < 4 * OWN * NT; e++)
            for (unsigned lanes = __ballot_sync(0xffffffffu, bad >> e & 1); lanes; lanes &= lanes - 1) {
                const int who = __ffs(lanes) - 1, r = i0 + e / 4 / NT * 8 + who % 4 * 2 + e % 2, j = who / 4 + e % 4 / 2 * 8;
                const ThinColumns& c = a.c[e / 4 % NT];
                float s = 0;
                for (int t = lane; t < a.k; t += 32) s = fmaf(element(r, t), __ldg(c.w + j * c.sj + t * c.st), s);
                s = warp_sum(s);
                if (lane == 0) store(c, r, j, s);
            }
    }
};

#define THIN_TALL(name, NT, half)         \
    KERNEL(name, TallArgs, 256) {         \
        DYNAMIC_SHARED(smem);             \
        Tall<NT, half> tall = {a};        \
        tall.run((float*)smem);           \
    }
THIN_TALL(thin_tall_bf16_1, 1, true)
THIN_TALL(thin_tall_bf16_2, 2, true)
THIN_TALL(thin_tall_bf16_3, 3, true)
THIN_TALL(thin_tall_f32_1, 1, false)
THIN_TALL(thin_tall_f32_2, 2, false)
THIN_TALL(thin_tall_f32_3, 3, false)

// GradArgs are the parts of sums over rows, g[j,i] = sum of x[t,j] * u[t,i], and, with
// du, of sums over columns, d[t,i] = sum of x[t,j] * w[j,i]: i < r, at most 8 NT.
// They are as the fragments of mma_bf16 hold them. With y, x is multiplied with s
// first, which sets z, and column sums of the products of both as they were, those of
// a part in c, go with it.
struct GradArgs {
    const void* x;  // [m,n]
    const float* u; // [m,r]
    const float* w; // [n,r]
    float *g, *d;
    long long ldx, ldu, ldw;
    int m, n, r;
    int rows;   // of a part of g, a multiple of 16 and of the groups
    int stages; // of copies, at least 2
    int unused;
    const uint16_t* y; // [m,n], as z, of rows like those of x
    uint16_t* z;       // may be x
    const float* s;    // [n]
    float* c;          // [parts,n]
};

// thin_wait is the barrier of a group.
__device__ __forceinline__ void thin_wait(int group) {
#ifdef PIPE_EMU
    emu::named(1 + group, 256);
#else
    asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory");
#endif
}

// thin_store stores 16 bytes at once, which the compiler would not everywhere.
__device__ __forceinline__ void thin_store(void* to, uint4 v) {
#ifdef PIPE_EMU
    *(uint4*)to = v;
#else
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
#endif
}

// A group of 8 warps has 512 columns (blockIdx.x), a warp 64 of them; of the rows of
// a part (blockIdx.y) a group takes 16 at a time, in turn with the other group if
// there is one. A warp copies its tiles of 16 x 64 to shared memory itself, some
// steps ahead, and takes each of them for both products. Where they are scaled, the
// tiles of y, which those of z replace, lie before those of x, and half is of z.
enum Scaled { UNSCALED, SCALED_HALF, SCALED_FLOAT }; // by the type of x
template <int NT, bool half, bool both, Scaled scaled = UNSCALED> struct Grad {
    static const int TILE = (half ? 2048 : 4096) + (scaled == UNSCALED ? 0 : scaled == SCALED_HALF ? 2048 : 4096);
    static const bool late = both && (!half || scaled != UNSCALED) && NT == 2; // has no registers to load u some time ahead
    const GradArgs& a;
    float d[4][NT][4]; // of 16 columns each
    float sums[8];     // of products with y: lane % 8 has 8 columns, lane / 8 every fourth row

    // place returns where 16 bytes of a tile lie: such that neither rows nor columns
    // that lanes read at a time meet in a bank.
    static __device__ __forceinline__ int place(int r, int chunk) {
        return half ? r * 128 + (chunk ^ r % 8) * 16 : r * 256 + (chunk ^ r % 4 * 2) * 16;
    }

    // copy begins to copy the tile of rows from t and columns from j.
    __device__ __forceinline__ void copy(unsigned char* tile, int t, int j) const {
        if constexpr (scaled == UNSCALED) {
            rows_of<half>(tile, a.x, t, j);
        } else {
            rows_of<true>(tile, a.y, t, j);
            rows_of<scaled == SCALED_HALF>(tile + 2048, a.x, t, j);
        }
        cp_async_commit();
    }
    template <bool narrow> __device__ __forceinline__ void rows_of(unsigned char* tile, const void* x, int t, int j) const {
        const int lane = threadIdx.x % 32, CHUNKS = narrow ? 8 : 16, PER = narrow ? 8 : 4, STEP = 32 / CHUNKS;
        const int r = lane / CHUNKS, c = lane % CHUNKS, left = j + c * PER < a.n ? a.m - t - r : 0; // rows that exist
        const unsigned char* from = (const unsigned char*)x + ((t + r) * a.ldx + j + c * PER) * (narrow ? 2 : 4);
#pragma unroll
        for (int e = 0; e < 16; e += STEP) {
            const int at = narrow == half ? place(r + e, c) : c % 2 * 2048 + place(r + e, c / 2); // as scale reads it
            cp_async16(tile + at, e < left ? from : x, e < left);
            from += STEP * a.ldx * (narrow ? 2 : 4);
        }
    }

    // scale puts z in the place of y, and stores its rows before end. A lane has 8
    // columns of every fourth row, of which it takes 4 at a time.
    __device__ __forceinline__ void scale(unsigned char* tile, const float* by, int t, int end, int j) {
        const int lane = threadIdx.x % 32, r = lane / 8, c = lane % 8, left = j + c * 8 < a.n ? end - t - r : 0;
        uint16_t* to = a.z + ((t + r) * a.ldx + j + c * 8);
#pragma unroll
        for (int e = 0; e < 16; e += 4) {
            unsigned char* at = tile + place(r + e, c);
            uint32_t z[4];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float x[4], y[4];
                load<4>(y, (const uint16_t*)at + 4 * h);
                if (scaled == SCALED_FLOAT)
                    load<4>(x, (const float*)(at + 2048 + 2048 * h));
                else
                    load<4>(x, (const uint16_t*)(at + 2048) + 4 * h);
                const float4 s = *(const float4*)(by + 8 * c + 4 * h);
#pragma unroll
                for (int i = 0; i < 4; i++) sums[4 * h + i] = fmaf(x[i], y[i], sums[4 * h + i]);
                z[2 * h] = z[2 * h + 1] = 0; // of rows that there are not, whatever s is
                if (e < left) z[2 * h] = pack_bf16(x[0] * s.x, x[1] * s.y), z[2 * h + 1] = pack_bf16(x[2] * s.z, x[3] * s.w);
            }
            const uint4 q = {z[0], z[1], z[2], z[3]};
            *(uint4*)at = q;
            if (e < left) thin_store(to, q);
            to += 4 * a.ldx;
        }
    }

    // Of 16 rows of a tile of float as terms, a lane has those from lane % 4 on, 4
    // apart, which lie alike; of bfloat16 those that ldmatrix gives it.
    static __device__ __forceinline__ int term(int e) { return half ? threadIdx.x % 4 * 2 + e % 2 + e / 2 * 8 : threadIdx.x % 4 + 4 * e; }

    // rows loads what of u belongs to the tile: 4 rows of a column a lane.
    __device__ __forceinline__ void rows(float (&u)[NT][4], int t) const {
        const int first = t + term(0), left = a.m - first, i = threadIdx.x % 32 / 4;
        const float* from = a.u + first * a.ldu + i;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = half ? e % 2 + e / 2 * 8 : 4 * e; // term(e) - term(0)
#pragma unroll
            for (int n = 0; n < NT; n++) u[n][e] = r < left && 8 * n + i < a.r ? __ldg(from + r * a.ldu + 8 * n) : 0;
        }
    }

    // across and down are elements 16 i to 16 i + 15 of 16 rows of the tile, as the first
    // operand with columns and with rows as terms. The places of one i, and of others
    // with the same low bits, are a constant apart.
    __device__ __forceinline__ void across(ThinFragment<4, half ? 1 : 3>& f, const unsigned char* tile, int i) const {
        const int lane = threadIdx.x % 32;
        if constexpr (half) {
            ldmatrix_x4(f.v[0], tile + place(lane % 16, 2 * i + lane / 16));
        } else {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int at = place(lane / 4, i % 2 * 4 + e / 2 * 2 + lane % 4 / 2) + lane % 2 * 8;
                const float2 x = *(const float2*)(tile + at + e % 2 * 2048 + i / 2 * 128);
                f.cut(e, x.x, x.y);
            }
        }
    }
    __device__ __forceinline__ void down(ThinFragment<4, half ? 1 : 3>& f, const unsigned char* tile, int i) const {
        const int lane = threadIdx.x % 32;
        if constexpr (half) {
            ldmatrix_x4_trans(f.v[0], tile + place(lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
        } else {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int at = place(lane % 4, i % 2 * 4 + e % 2 * 2 + lane / 16) + lane / 4 % 4 * 4;
                const float* x = (const float*)(tile + at + e / 2 * 2048 + i / 2 * 128);
                f.cut(e, x[0], x[256]);
            }
        }
    }

    __device__ __forceinline__ void run(unsigned char* smem) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, groups = blockDim.x / 256, group = warp / 8;
        const int j0 = blockIdx.x * 512 + warp % 8 * 64, first = blockIdx.y * a.rows, end = min(a.m, first + a.rows), step = 16 * groups;
        unsigned char* ring = smem + warp * a.stages * TILE;
        float* swap = (float*)(smem + groups * 8 * a.stages * TILE); // [2][groups][8][NT][32][4]
        float* by = swap + 2 * groups * 8 * NT * 128 + warp % 8 * 64;  // s of the warp's columns
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int n = 0; n < NT; n++) d[i][n][0] = d[i][n][1] = d[i][n][2] = d[i][n][3] = 0;
        int t = first + group * 16;
        for (int s = 0; s + 1 < a.stages; s++) copy(ring + s * TILE, s * step + t < end ? s * step + t : a.m, j0);
        float s[2]; // on its way with w
        if constexpr (scaled != UNSCALED) {
#pragma unroll
            for (int i = 0; i < 2; i++) s[i] = j0 + lane + 32 * i < a.n ? __ldg(a.s + j0 + lane + 32 * i) : 0;
        }
        ThinFragment<2, 3> w[both ? 4 : 1][NT];
        if constexpr (both) {
#pragma unroll
            for (int s = 0; s < 4; s++)
#pragma unroll
                for (int n = 0; n < NT; n++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        const int j = j0 + 16 * s + lane % 4 * 2 + 8 * e, i = 8 * n + lane / 4;
                        const float x = j < a.n && i < a.r ? __ldg(a.w + j * a.ldw + i) : 0;
                        const float y = j + 1 < a.n && i < a.r ? __ldg(a.w + (j + 1) * a.ldw + i) : 0;
                        w[s][n].cut(e, x, y);
                    }
        }
        float u[NT][4];
        rows(u, t < end ? t : a.m);
        if constexpr (scaled != UNSCALED) {
#pragma unroll
            for (int i = 0; i < 8; i++) sums[i] = 0;
            if (group == 0) by[lane] = s[0], by[lane + 32] = s[1];
            __syncthreads();
        }
        int at = 0, flip = 0; // where in the ring, and which half of swap
        for (int base = first; base < end; base += step, t += step, flip ^= 1) {
            wait();
            __syncwarp();
            unsigned char* tile = ring + at * TILE;
            {
                const int next = t + (a.stages - 1) * step, to = at == 0 ? a.stages - 1 : at - 1;
                copy(ring + to * TILE, next < end ? next : a.m, j0);
            }
            at = at + 1 == a.stages ? 0 : at + 1;
            if constexpr (scaled != UNSCALED) {
                scale(tile, by, t, end, j0);
                __syncwarp();
            }
            ThinFragment<2, 3> b[NT];
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) b[n].cut(e, u[n][2 * e], u[n][2 * e + 1]);
            const int parts = half ? 1 : 3;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                ThinFragment<4, parts> f;
                down(f, tile, i);
                thin_each<parts>([&](int p, int q) {
#pragma unroll
                    for (int n = 0; n < NT; n++) mma_bf16(d[i][n], f.v[p], b[n].v[q]);
                });
            }
            if (!late) rows(u, t + step < end ? t + step : a.m);
            if constexpr (both) {
                float v[NT][4];
#pragma unroll
                for (int n = 0; n < NT; n++) v[n][0] = v[n][1] = v[n][2] = v[n][3] = 0;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    ThinFragment<4, parts> f;
                    across(f, tile, i);
                    thin_each<parts>([&](int p, int q) {
#pragma unroll
                        for (int n = 0; n < NT; n++) mma_bf16(v[n], f.v[p], w[i][n].v[q]);
                    });
                }
                if (late) rows(u, t + step < end ? t + step : a.m);
                float* mine = swap + (flip * groups + group) * (8 * NT * 128);
#pragma unroll
                for (int n = 0; n < NT; n++) ((float4*)mine)[(warp % 8 * NT + n) * 32 + lane] = make_float4(v[n][0], v[n][1], v[n][2], v[n][3]);
                thin_wait(group);
                const int tiles = (a.m + 15) / 16;
                for (int e = threadIdx.x % 256; e < NT * 128 && t < end; e += 256) {
                    float sum = mine[e];
#pragma unroll
                    for (int s = 1; s < 8; s++) sum += mine[s * NT * 128 + e];
                    a.d[((long long)blockIdx.x * tiles + t / 16) * (NT * 128) + e] = sum;
                }
            } else {
                __syncwarp();
            }
        }
        cp_async_wait<0>();
        if constexpr (scaled != UNSCALED) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], 8);
                sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], 16);
            }
        }
        if (groups > 1) { // the first adds what the second has
            __syncthreads();
            float4* all = (float4*)smem + warp % 8 * 4 * NT * 32 + lane;
            float* columns = (float*)smem + 8 * 4 * NT * 128 + warp % 8 * 64 + lane * 8;
            if (group == 1) {
                if (scaled != UNSCALED && lane < 8)
#pragma unroll
                    for (int i = 0; i < 8; i++) columns[i] = sums[i];
#pragma unroll
                for (int e = 0; e < 4 * NT; e++) all[e * 32] = make_float4(d[e / NT][e % NT][0], d[e / NT][e % NT][1], d[e / NT][e % NT][2], d[e / NT][e % NT][3]);
            }
            __syncthreads();
            if (group == 1) return;
            if (scaled != UNSCALED && lane < 8)
#pragma unroll
                for (int i = 0; i < 8; i++) sums[i] += columns[i];
#pragma unroll
            for (int e = 0; e < 4 * NT; e++) {
                const float4 f = all[e * 32];
                float* s = d[e / NT][e % NT];
                s[0] += f.x, s[1] += f.y, s[2] += f.z, s[3] += f.w;
            }
        }
        if (scaled != UNSCALED && lane < 8 && j0 + lane * 8 < a.n) {
            float4* c = (float4*)(a.c + (long long)blockIdx.y * a.n + j0 + lane * 8);
            c[0] = make_float4(sums[0], sums[1], sums[2], sums[3]), c[1] = make_float4(sums[4], sums[5], sums[6], sums[7]);
        }
        float4* to = (float4*)a.g + (((long long)blockIdx.y * gridDim.x + blockIdx.x) * 8 + warp % 8) * 4 * NT * 32 + lane;
#pragma unroll
        for (int e = 0; e < 4 * NT; e++) to[e * 32] = make_float4(d[e / NT][e % NT][0], d[e / NT][e % NT][1], d[e / NT][e % NT][2], d[e / NT][e % NT][3]);
    }

    __device__ __forceinline__ void wait() const { // all but the newest stages - 2
        switch (a.stages) {
        case 2: cp_async_wait<0>(); break;
        case 3: cp_async_wait<1>(); break;
        case 4: cp_async_wait<2>(); break;
        default: cp_async_wait<3>(); break;
        }
    }
};

#define THIN_GRAD(name, NT, threads, ...) \
    KERNEL(name, GradArgs, threads) {       \
        DYNAMIC_SHARED(smem);               \
        Grad<NT, __VA_ARGS__> grad = {a};   \
        grad.run(smem);                     \
    }
THIN_GRAD(thin_outer_bf16_1, 1, 512, true, false)
THIN_GRAD(thin_outer_bf16_2, 2, 512, true, false)
THIN_GRAD(thin_outer_bf16_4, 4, 256, true, false)
THIN_GRAD(thin_outer_f32_1, 1, 512, false, false)
THIN_GRAD(thin_outer_f32_2, 2, 512, false, false)
THIN_GRAD(thin_outer_f32_4, 4, 256, false, false)
THIN_GRAD(thin_both_bf16_1, 1, 512, true, true)
THIN_GRAD(thin_both_bf16_2, 2, 512, true, true)
THIN_GRAD(thin_both_bf16_4, 4, 256, true, true)
THIN_GRAD(thin_both_f32_1, 1, 512, false, true)
THIN_GRAD(thin_both_f32_2, 2, 512, false, true)
THIN_GRAD(thin_both_f32_4, 4, 256, false, true)
THIN_GRAD(thin_scaled_bf16_1, 1, 512, true, true, SCALED_HALF)
THIN_GRAD(thin_scaled_bf16_2, 2, 512, true, true, SCALED_HALF)
THIN_GRAD(thin_scaled_bf16_4, 4, 256, true, true, SCALED_HALF)
THIN_GRAD(thin_scaled_f32_1, 1, 512, true, true, SCALED_FLOAT)
THIN_GRAD(thin_scaled_f32_2, 2, 512, true, true, SCALED_FLOAT)
THIN_GRAD(thin_scaled_f32_4, 4, 256, true, true, SCALED_FLOAT)

// GradSumArgs add the parts of GradArgs in their order: out[j*sj + i*si] = alpha * sum
// + beta * out for the sums over rows, and du = alpha * sum, unless it is null; with
// c, dm[j] += sum / scale[j], where 0/0 counts as 0.
struct GradSumArgs {
    const float *g, *d, *c, *scale;
    float *out, *du, *dm;
    long long sj, si, ldu;
    int m, n, r, nt;
    int parts, blocks; // of rows, of columns
    float alpha, beta;
};

// thin_add adds N parts that are step apart, which are all on their way at a time.
template <int N> __device__ __forceinline__ void thin_add(float (&v)[4], const float4* from, long long step) {
    float4 f[N];
#pragma unroll
    for (int q = 0; q < N; q++) f[q] = __ldg(from + q * step);
#pragma unroll
    for (int q = 0; q < N; q++) v[0] += f[q].x, v[1] += f[q].y, v[2] += f[q].z, v[3] += f[q].w;
}

KERNEL_BOUNDS(thin_grad_sum, GradSumArgs, 256, 2) {
    const int own = a.nt * 32;
    const long long sums = (long long)a.blocks * 32 * own, rows = (a.m + 15) / 16 * own, both = sums + (a.du ? rows : 0), all = both + (a.c ? a.n : 0);
    for (long long e = blockIdx.x * 256ll + threadIdx.x; e < all; e += gridDim.x * 256ll) {
        if (e >= both) {
            const long long j = e - both;
            double sum = 0;
#pragma unroll 8
            for (int z = 0; z < a.parts; z++) sum += (double)__ldg(a.c + (long long)z * a.n + j);
            const double m = (double)__ldg(a.scale + j);
            if (m != 0 || sum != 0) a.dm[j] += (float)(sum / m);
            continue;
        }
        const bool down = e < sums;
        const float4* from = down ? (const float4*)a.g + e : (const float4*)a.d + (e - sums);
        const long long step = down ? sums : rows;
        const int count = down ? a.parts : a.blocks;
        float v[4] = {0, 0, 0, 0};
        int z = 0;
        for (; z + 16 <= count; z += 16) thin_add<16>(v, from + z * step, step);
        if (z + 8 <= count) thin_add<8>(v, from + z * step, step), z += 8;
        if (z + 4 <= count) thin_add<4>(v, from + z * step, step), z += 4;
        for (; z < count; z++) thin_add<1>(v, from + z * step, step);
        const long long at = down ? e : e - sums, i0 = at / own * 16 + at % 32 / 4;
        const int c = at % own / 32 * 8 + at % 4 * 2;
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const long long j = i0 + q / 2 * 8;
            const int i = c + q % 2;
            if (j >= (down ? a.n : a.m) || i >= a.r) continue;
            if (!down) {
                a.du[j * a.ldu + i] = a.alpha * v[q];
                continue;
            }
            float* to = a.out + j * a.sj + i * a.si;
            *to = a.beta != 0 ? fmaf(a.beta, *to, a.alpha * v[q]) : a.alpha * v[q];
        }
    }
}
