// The norms of DoRA. A weight in bfloat16 is read once and multiplied with the few
// rows of A by matrix instructions; A is rounded to bfloat16, or the sum of three
// bfloat16 numbers, whose products with a bfloat16 are exact in float32.
//
// Weights are cut into tiles of 256 rows and these into chunks of 64 terms. Each
// block takes as many chunks of all of them as the others, in order, so that it may
// begin and end within a tile: what it has of a tile is a part of the sum, in a slot
// of its own.
#include "common.cuh"

#define DORA_ROWS 256
#define DORA_TERMS 64

#define DORA_MOST 16 // weights at a time

// DoraWeight: parts [slots][r][n] of a.w^T and aa = a.a^T [r,r] of w [n,k] and a [r,k].
struct DoraWeight {
    float *parts, *aa;
    const uint16_t* w;
    const float* a;
    int n, k;
    int tiles, chunks; // of the rows, and of a tile
    int first;         // of the chunks of all weights
    int vec;           // a begins at a multiple of 16 bytes
};

// DoraArgs are weights with A of r rows.
struct DoraArgs {
    DoraWeight of[DORA_MOST];
    int count, r;
    int all; // chunks
    int unused;
};

// A DoraPlace is a chunk.
struct DoraPlace {
    int weight, tile, chunk;
    __device__ __forceinline__ void find(const DoraArgs& a, int at) {
        for (weight = 0; weight + 1 < a.count && a.of[weight + 1].first <= at; weight++)
            ;
        tile = (at - a.of[weight].first) / a.of[weight].chunks, chunk = (at - a.of[weight].first) % a.of[weight].chunks;
    }
    __device__ __forceinline__ void step(const DoraArgs& a) {
        if (++chunk < a.of[weight].chunks) return;
        chunk = 0;
        if (++tile == a.of[weight].tiles) tile = 0, weight++;
    }
};

// dora_owner returns which of so many blocks has a chunk.
__device__ __forceinline__ int dora_owner(long long chunk, long long blocks, long long all) {
    return (int)(((chunk + 1) * blocks - 1) / all);
}

// dora_load loads elements k..k+3 of row j of r of a, zeros where it ends.
__device__ __forceinline__ float4 dora_load(const DoraWeight& a, int r, int j, int k) {
    if (j >= r || k >= a.k) return float4{0, 0, 0, 0};
    const float* p = a.a + (long long)j * a.k + k; // k is a multiple of 8
    if (a.vec) return __ldg((const float4*)p);
    return float4{__ldg(p), __ldg(p + 1), __ldg(p + 2), __ldg(p + 3)};
}

// dora_squares sets the share that a block has of all aa: squares of Q rows and
// columns in turn.
template <int Q> __device__ __forceinline__ void dora_squares(const DoraArgs& all, float* red) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = all.r, side = (r + Q - 1) / Q, each = side * (side + 1) / 2;
    for (int p = blockIdx.y * gridDim.x + blockIdx.x; p < each * all.count; p += gridDim.x * gridDim.y) {
        const DoraWeight& a = all.of[p / each];
        int i = 0, j = p % each; // row i of the lower triangle begins after i*(i+1)/2 others
        while (j > i) j -= ++i;
        float sum[Q][Q];
#pragma unroll
        for (int u = 0; u < Q; u++)
#pragma unroll
            for (int v = 0; v < Q; v++) sum[u][v] = 0;
#pragma unroll(Q == 4 ? 1 : 4)
        for (int k = threadIdx.x * 4; k < a.k; k += 1024) {
            float4 x[Q], y[Q];
#pragma unroll
            for (int u = 0; u < Q; u++) x[u] = dora_load(a, r, i * Q + u, k), y[u] = dora_load(a, r, j * Q + u, k);
#pragma unroll
            for (int u = 0; u < Q; u++)
#pragma unroll
                for (int v = 0; v < Q; v++) {
                    sum[u][v] = fmaf(x[u].x, y[v].x, sum[u][v]);
                    sum[u][v] = fmaf(x[u].y, y[v].y, sum[u][v]);
                    sum[u][v] = fmaf(x[u].z, y[v].z, sum[u][v]);
                    sum[u][v] = fmaf(x[u].w, y[v].w, sum[u][v]);
                }
        }
#pragma unroll
        for (int u = 0; u < Q; u++)
#pragma unroll
            for (int v = 0; v < Q; v++) {
                const float s = warp_sum(sum[u][v]);
                if (lane == 0) red[warp * Q * Q + u * Q + v] = s;
            }
        __syncthreads();
        const int u = i * Q + threadIdx.x / Q, v = j * Q + threadIdx.x % Q;
        if (threadIdx.x < Q * Q && u < r && v < r) {
            float s = red[threadIdx.x];
            for (int w = 1; w < 8; w++) s += red[w * Q * Q + threadIdx.x];
            a.aa[(long long)u * r + v] = a.aa[(long long)v * r + u] = s;
        }
        __syncthreads();
    }
}

// rest_of is what bfloat16 leaves of x, 0 where that is not finite.
__device__ __forceinline__ float rest_of(float x, uint16_t part) {
    const float rest = x - bf16_float(part);
    return fabsf(rest) < 3e38f ? rest : 0;
}

// dora_weight puts a chunk of a tile into a buffer: the 16 bytes c of row r are at
// c ^ r % 8.
__device__ __forceinline__ void dora_weight(const DoraWeight& a, uint16_t* to, int tile, int chunk) {
    const int r = threadIdx.x / 8, c = threadIdx.x % 8, k = chunk * DORA_TERMS + 8 * c, left = k < a.k ? a.n - tile * DORA_ROWS - r : 0;
    const uint16_t* from = a.w + (long long)(tile * DORA_ROWS + r) * a.k + k;
#pragma unroll
    for (int i = 0; i < DORA_ROWS / 32; i++) {
        cp_async16(to + (r + 32 * i) * DORA_TERMS + 8 * (c ^ r % 8), 32 * i < left ? from : a.w, 32 * i < left);
        from += 32ll * a.k;
    }
}

// A block multiplies with 8 NT rows of a, in PARTS numbers each; a warp has 32 rows
// of the weight. With AHEAD, a thread copies what it will round of a for a chunk
// with the weight of the chunk before; without, it loads that a chunk ahead.
template <int NT, int PARTS, int STAGES, bool AHEAD> __device__ __forceinline__ void dora_stream(const DoraArgs& a, unsigned char* smem, float* red) {
    const int COLS = 8 * NT, LD = DORA_TERMS + 8, STAGE = DORA_ROWS * DORA_TERMS;
    const int ROUNDS = NT > 8 ? 4 : 1, LOADS = COLS * DORA_TERMS / 4 / 256 / ROUNDS; // of a chunk of a, and of a round
    uint16_t *const sw = (uint16_t*)smem, *const sa = sw + STAGES * STAGE;          // sa[2][PARTS][COLS][LD]
    float4* const raw = (float4*)(sa + 2 * PARTS * COLS * LD) + threadIdx.x;         // [STAGES][LOADS][256] of AHEAD
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, j0 = blockIdx.y * COLS;
    const int first = (int)((long long)a.all * blockIdx.x / gridDim.x), last = (int)((long long)a.all * (blockIdx.x + 1) / gridDim.x);
    // What is loaded next, and what is multiplied.
    int next = first, to_stage = 0, stage = 0;
    DoraPlace coming, at;
    at.find(a, first);
    coming = at;
    auto load = [&]() {
        if (next < last) {
            dora_weight(a.of[coming.weight], sw + to_stage * STAGE, coming.tile, coming.chunk);
            coming.step(a);
            if (AHEAD && ++next < last) {
                const DoraWeight& w = a.of[coming.weight];
#pragma unroll
                for (int l = 0; l < LOADS; l++) {
                    const int e = l * 256 + threadIdx.x, j = j0 + e / 16, k = coming.chunk * DORA_TERMS + e % 16 * 4;
                    float4* to = raw + (to_stage * LOADS + l) * 256;
                    const bool in = j < a.r && k < w.k;
                    if (w.vec)
                        cp_async16(to, in ? w.a + (long long)j * w.k + k : w.a, in);
                    else
                        *to = dora_load(w, a.r, j, k);
                }
            }
            if (!AHEAD) next++;
            to_stage = to_stage + 1 == STAGES ? 0 : to_stage + 1;
        }
        cp_async_commit();
    };
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) load();
    dora_squares<(NT < 8 ? 2 : 4)>(a, red);

    float4 x[LOADS];
    auto take = [&](const DoraPlace& p, int round) {
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            const int e = (round * LOADS + l) * 256 + threadIdx.x;
            x[l] = dora_load(a.of[p.weight], a.r, j0 + e / 16, p.chunk * DORA_TERMS + e % 16 * 4);
        }
    };
    auto put = [&](uint16_t* to, int round) {
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            const int e = (round * LOADS + l) * 256 + threadIdx.x;
            float4 v = x[l];
#pragma unroll
            for (int p = 0; p < PARTS; p++) {
                const uint2 q = {pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)};
                *(uint2*)(to + (p * COLS + e / 16) * LD + e % 16 * 4) = q;
                if (p + 1 < PARTS) {
                    v.x = rest_of(v.x, (uint16_t)q.x), v.y = rest_of(v.y, (uint16_t)(q.x >> 16));
                    v.z = rest_of(v.z, (uint16_t)q.y), v.w = rest_of(v.w, (uint16_t)(q.y >> 16));
                }
            }
        }
    };
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) take(at, i), put(sa, i);

    float d[2][NT][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int q = 0; q < NT; q++) d[i][q][0] = d[i][q][1] = d[i][q][2] = d[i][q][3] = 0;
    for (int now = first; now < last; now++) {
        const int flip = (now - first) % 2;
        DoraPlace following = at; // the next chunk, or this one where it is the last
        if (now + 1 < last) following.step(a);
        uint16_t* const to = sa + (1 - flip) * PARTS * COLS * LD;
        if (!AHEAD && ROUNDS == 1) take(following, 0);
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        load();
        if (AHEAD)
#pragma unroll
            for (int l = 0; l < LOADS; l++) x[l] = raw[(stage * LOADS + l) * 256];
        const uint16_t *const w = sw + stage * STAGE, *const b = sa + flip * PARTS * COLS * LD;
        stage = stage + 1 == STAGES ? 0 : stage + 1;
#pragma unroll
        for (int s = 0; s < DORA_TERMS / 16; s++) {
            if (ROUNDS > 1) {
                if (s > 0) put(to, s - 1);
                take(following, s);
            }
            uint32_t f[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int r = warp * 32 + 16 * i + lane % 16;
                ldmatrix_x4(f[i], w + r * DORA_TERMS + 8 * ((2 * s + lane / 16) ^ r % 8));
            }
#pragma unroll
            for (int p = 0; p < PARTS; p++)
#pragma unroll
                for (int q = 0; q < NT; q += 2) {
                    uint32_t h[4];
                    ldmatrix_x4(h, b + (p * COLS + 8 * q + lane / 16 * 8 + lane % 8) * LD + 16 * s + lane / 8 % 2 * 8);
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        mma_bf16(d[i][q], f[i], h);
                        mma_bf16(d[i][q + 1], f[i], h + 2);
                    }
                }
        }
        if (!AHEAD || now + 1 < last) put(to, ROUNDS - 1); // no more of a was copied
        const bool whole = at.chunk + 1 == a.of[at.weight].chunks;
        const DoraPlace is = at;
        at = following;
        if (!whole && now + 1 < last) continue;
        const DoraWeight& of = a.of[is.weight];
        const int slot = blockIdx.x - dora_owner(of.first + is.tile * of.chunks, gridDim.x, a.all);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int q = 0; q < NT; q++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int row = is.tile * DORA_ROWS + warp * 32 + 16 * i + g + e / 2 * 8, col = j0 + 8 * q + 2 * t + e % 2;
                    if (row < of.n && col < a.r) of.parts[((long long)slot * a.r + col) * of.n + row] = d[i][q][e];
                    d[i][q][e] = 0;
                }
    }
    cp_async_wait<0>();
}

#define DORA(name, NT, PARTS, STAGES, AHEAD)                  \
    KERNEL_BOUNDS(name, DoraArgs, 256, 1) {                   \
        SHARED(float, red, 8 * 16);                           \
        DYNAMIC_SHARED(smem);                                 \
        dora_stream<NT, PARTS, STAGES, AHEAD>(a, smem, red);  \
    }
// With more shared memory than every device has, more is on its way.
DORA(dora_half_16_deep, 2, 1, 6, true)
DORA(dora_half_32_deep, 4, 1, 5, true)
DORA(dora_half_64_deep, 8, 1, 4, true)
DORA(dora_half_128_deep, 16, 1, 3, false)
DORA(dora_float_16_deep, 2, 3, 5, true)
DORA(dora_float_32_deep, 4, 3, 4, true)
DORA(dora_float_64_deep, 8, 3, 3, true)
DORA(dora_half_16, 2, 1, 2, false)
DORA(dora_half_32, 4, 1, 2, false)
DORA(dora_half_64, 8, 1, 2, false)
DORA(dora_float_16, 2, 3, 2, false)
DORA(dora_float_32, 4, 3, 2, false)

// DoraNormOf: norm[j] = sqrt(sq[j] + 2 s b_j.aw_j + s^2 b_j.aa.b_j) of b [n,r], aw
// [r,n], of which there are parts as DoraWeight has them, and aa [r,r], and ratio =
// magnitude / norm. chunks 0: there is one part.
struct DoraNormOf {
    float *ratio, *norm;
    const float *sq, *magnitude, *b, *parts, *aa;
    int n, chunks, first; // as DoraWeight has them
    int block;            // the first
    float s;
    int unused;
};
struct DoraNormArgs {
    DoraNormOf of[DORA_MOST];
    int count, r;
    int blocks, all; // of DoraArgs
    int staged;      // there is shared memory for the rows of b
    int unused;
};

// A block takes 32 rows, one a lane; its 8 warps share the terms.
KERNEL(dora_norm, DoraNormArgs, 256) {
    SHARED(double, red, 2 * 8 * 32);
    DYNAMIC_SHARED(smem);
    int which = 0;
    while (which + 1 < a.count && a.of[which + 1].block <= (int)blockIdx.x) which++;
    const DoraNormOf& of = a.of[which];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row0 = (blockIdx.x - of.block) * 32, row = min(row0 + lane, of.n - 1), r = a.r;
    const float* b = of.b + (long long)row * r; // term i is at i * step
    int step = 1;
    if (a.staged) {
        float* const sb = (float*)smem; // [r][33]
        for (int e = threadIdx.x; e < 32 * r; e += 256) {
            const int j = e / r;
            if (row0 + j < of.n) sb[e % r * 33 + j] = __ldg(of.b + (long long)row0 * r + e);
        }
        __syncthreads();
        b = sb + (row - row0), step = 33;
    }
    int slots = 1;
    if (of.chunks > 0) {
        const int chunk = of.first + row0 / DORA_ROWS * of.chunks;
        slots = dora_owner(chunk + of.chunks - 1, a.blocks, a.all) - dora_owner(chunk, a.blocks, a.all) + 1;
    }
    double once = 0, twice = 0;
    for (int t0 = 2 * warp; t0 < r; t0 += 16) {
        const int t1 = min(t0 + 1, r - 1); // the same as t0 where that is the last
        const float *const aa0 = of.aa + (long long)t0 * r, *const aa1 = of.aa + (long long)t1 * r;
        float q0 = 0, q1 = 0, u0 = 0, u1 = 0;
#pragma unroll 4
        for (int s = 0; s < slots; s++) {
            u0 += __ldg(of.parts + ((long long)s * r + t0) * of.n + row);
            u1 += __ldg(of.parts + ((long long)s * r + t1) * of.n + row);
        }
        int i = 0;
        if (r % 4 == 0)
#pragma unroll 4
            for (; i < r; i += 4) {
                const float4 x = __ldg((const float4*)(aa0 + i)), y = __ldg((const float4*)(aa1 + i));
                const float b0 = b[i * step], b1 = b[(i + 1) * step], b2 = b[(i + 2) * step], b3 = b[(i + 3) * step];
                q0 = fmaf(b3, x.w, fmaf(b2, x.z, fmaf(b1, x.y, fmaf(b0, x.x, q0))));
                q1 = fmaf(b3, y.w, fmaf(b2, y.z, fmaf(b1, y.y, fmaf(b0, y.x, q1))));
            }
        for (; i < r; i++) {
            const float bi = b[i * step];
            q0 = fmaf(bi, __ldg(aa0 + i), q0);
            q1 = fmaf(bi, __ldg(aa1 + i), q1);
        }
        const double x0 = b[t0 * step], x1 = t0 + 1 < r ? b[t1 * step] : 0.0f;
        once += x0 * u0, twice += x0 * q0;
        if (t0 + 1 < r) once += x1 * u1, twice += x1 * q1;
    }
    red[warp * 32 + lane] = once, red[(8 + warp) * 32 + lane] = twice;
    __syncthreads();
    if (warp > 0 || row0 + lane >= of.n) return;
    for (int w = 1; w < 8; w++) once += red[w * 32 + lane], twice += red[(8 + w) * 32 + lane];
    const double s = of.s, c = sqrt((double)__ldg(of.sq + row) + 2 * s * once + s * s * twice);
    of.norm[row] = (float)c;
    of.ratio[row] = (float)((double)__ldg(of.magnitude + row) / c);
}
