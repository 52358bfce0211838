// Sums of squares, AdamW, and AdamW with moments of 8 bits.
#include "walk.cuh"

// An Entry is a tensor, or a parameter with its moments, of an operation on many.
struct Entry {
    void* p[6]; // w, g, m, v, and the largest values of m and v
    long long n;
    int first; // its first piece
    int decay;
};

// A List is what a kernel works on: a block takes a piece, which is of one entry.
struct List {
    const Entry* entries;
    const int* of;
    long long pieces;
};

// A Piece is elements from begin on, up to end, of an entry.
struct Piece {
    const Entry* entry;
    long long begin, end;
    __device__ __forceinline__ Piece(const List& l, long long i, int size) {
        entry = l.entries + l.of[i];
        begin = (i - entry->first) * size;
        end = min(begin + size, entry->n);
    }
    __device__ __forceinline__ bool full(int size) const { return end - begin == size; }
};

__device__ __forceinline__ bool aligned16(const void* a, const void* b = nullptr, const void* c = nullptr, const void* d = nullptr) {
    return (((unsigned long long)a | (unsigned long long)b | (unsigned long long)c | (unsigned long long)d) & 15) == 0;
}

// ZERO is how many bytes a block clears.
#define ZERO 32768

KERNEL(zero_all, List, 256) {
    const Piece p(a, blockIdx.x, ZERO);
    unsigned char* const bytes = (unsigned char*)p.entry->p[0];
    const long long vectors = aligned16(bytes) ? (p.end - p.begin) / 16 : 0;
    uint4* const to = (uint4*)(bytes + p.begin);
#pragma unroll 8
    for (long long i = threadIdx.x; i < vectors; i += 256) to[i] = uint4{0, 0, 0, 0};
    for (long long i = p.begin + 16 * vectors + threadIdx.x; i < p.end; i += 256) bytes[i] = 0;
}

struct SumSquaresArgs {
    List list;
    double* parts;
};

// SQUARES is how many numbers a block squares and adds up.
#define SQUARES 8192

__device__ __forceinline__ double square(float v) { return (double)v * (double)v; }

KERNEL(sum_squares, SumSquaresArgs, 256) {
    SHARED(double, scratch, 32);
    const Piece p(a.list, blockIdx.x, SQUARES);
    const float* const x = (const float*)p.entry->p[0];
    double sum[4] = {0.0, 0.0, 0.0, 0.0};
    if (p.full(SQUARES) && aligned16(x)) {
        float v[SQUARES / 1024][4];
#pragma unroll
        for (int u = 0; u < SQUARES / 1024; u++) load<4>(v[u], x + p.begin + (u * 256 + threadIdx.x) * 4);
#pragma unroll
        for (int u = 0; u < SQUARES / 1024; u++)
#pragma unroll
            for (int e = 0; e < 4; e++) sum[e] += square(v[u][e]);
    } else {
        for (long long i = p.begin + threadIdx.x; i < p.end; i += 256) sum[0] += square(x[i]);
    }
    const double total = block_sum<double>((sum[0] + sum[1]) + (sum[2] + sum[3]), scratch);
    if (threadIdx.x == 0) a.parts[blockIdx.x] = total;
}

struct SumDoublesArgs {
    float* dst;
    const double* parts;
    long long n;
};

// sum_doubles adds the sum of parts to dst; it is one block.
KERNEL(sum_doubles, SumDoublesArgs, 1024) {
    SHARED(double, scratch, 32);
    double sum = 0.0;
#pragma unroll 4
    for (long long i = threadIdx.x; i < a.n; i += 1024) sum += a.parts[i];
    sum = block_sum<double>(sum, scratch);
    if (threadIdx.x == 0) *a.dst = (float)((double)*a.dst + sum);
}

// Step is an update's constants.
struct Step {
    float grad_scale, decay, beta1c, beta2, beta2c, step, root, eps;
};

// adamw updates a moment pair and returns the new weight, in torch's order.
__device__ __forceinline__ float adamw(float w, float g, float& m, float& v, float decay, const Step& c) {
    g *= c.grad_scale;
    m += (g - m) * c.beta1c;
    v = c.beta2 * v + c.beta2c * g * g;
    const float d = sqrtf(v) * c.root + c.eps;
    return w * decay - c.step * (m / d);
}

struct AdamWArgs {
    List list;
    Step step;
};

// ADAMW is how many elements a block updates.
#define ADAMW 2048

KERNEL(adamw, AdamWArgs, 256) {
    const Step& c = a.step;
    const Piece p(a.list, blockIdx.x, ADAMW);
    float *const w = (float*)p.entry->p[0], *const m = (float*)p.entry->p[2], *const v = (float*)p.entry->p[3];
    const float* const g = (const float*)p.entry->p[1];
    const float decay = p.entry->decay ? c.decay : 1.0f;
    if (!p.full(ADAMW) || !aligned16(w, g, m, v)) {
        for (long long i = p.begin + threadIdx.x; i < p.end; i += 256) {
            float mi = m[i], vi = v[i];
            w[i] = adamw(w[i], g[i], mi, vi, decay, c);
            m[i] = mi, v[i] = vi;
        }
        return;
    }
    const int U = ADAMW / 1024;
    float wv[U][4], gv[U][4], mv[U][4], vv[U][4];
#pragma unroll
    for (int u = 0; u < U; u++) {
        const long long at = p.begin + (u * 256 + threadIdx.x) * 4;
        load<4>(wv[u], w + at), load<4>(gv[u], g + at), load<4>(mv[u], m + at), load<4>(vv[u], v + at);
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
        const long long at = p.begin + (u * 256 + threadIdx.x) * 4;
#pragma unroll
        for (int e = 0; e < 4; e++) wv[u][e] = adamw(wv[u][e], gv[u][e], mv[u][e], vv[u][e], decay, c);
        store<4>(w + at, wv[u]), store<4>(m + at, mv[u]), store<4>(v + at, vv[u]);
    }
}

// A Codes is a map of 256 numbers, ascending, and what finds the code of a
// number: see package quant, Dynamic.
#define FIRST_BUCKET ((127 - 23) << 7)
#define BUCKETS ((127 << 7) - FIRST_BUCKET + 1)
struct Codes {
    float values[256], middle[256];   // middle: between a code and the next; +Inf after the last
    unsigned char least[2][BUCKETS + 3]; // of the numbers of a bucket, positive and negative
    int zero;
};

__device__ __forceinline__ int code_of(const Codes& d, float x) {
    const unsigned bits = __float_as_uint(x);
    const int k = max((int)((bits & 0x7fffffffu) >> 16), FIRST_BUCKET) - FIRST_BUCKET;
    const int i = d.least[bits >> 31][min(k, BUCKETS - 1)];
    return d.middle[i] < x ? i + 1 : i;
}

// encode returns the code of x/most. A negative number that would round to 0 has
// the first negative code.
__device__ __forceinline__ unsigned encode(const Codes& d, float x, float most) {
    int c = d.zero;
    if (most != 0.0f) c = code_of(d, x / most);
    if (x < 0.0f && c == d.zero) c--;
    return (unsigned)c & 255u;
}

// warp_most is the largest absolute value that the lanes have, NaN if one has.
__device__ __forceinline__ float warp_most(unsigned bits) {
    for (int o = 16; o > 0; o >>= 1) bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, o));
    return __uint_as_float(bits);
}

struct AdamW8bitArgs {
    List list;
    const Codes* codes; // of m and of v
    Step step;
};

// A piece is 8 blocks of 256 moments, of which each warp takes one; a lane has 4
// of the first and 4 of the second 128.
KERNEL(adamw8bit, AdamW8bitArgs, 256) {
    SHARED(Codes, codes, 2);
    for (int i = threadIdx.x; i < (int)(2 * sizeof(Codes) / 4); i += 256) ((unsigned*)codes)[i] = ((const unsigned*)a.codes)[i];
    __syncthreads();
    const int lane = threadIdx.x & 31;
    const Step& c = a.step;
    for (long long piece = blockIdx.x; piece < a.list.pieces; piece += gridDim.x) {
        const Piece p(a.list, piece, 2048);
        const long long first = p.begin + (threadIdx.x >> 5) * 256, n = p.entry->n, block = first / 256;
        if (first >= n) continue;
        float *const pw = (float*)p.entry->p[0], *const pm_max = (float*)p.entry->p[4], *const pv_max = (float*)p.entry->p[5];
        const float* const pg = (const float*)p.entry->p[1];
        unsigned char *const pm = (unsigned char*)p.entry->p[2], *const pv = (unsigned char*)p.entry->p[3];
        const float decay = p.entry->decay ? c.decay : 1.0f;
        const bool vec = first + 256 <= n && aligned16(pw, pg) && (((unsigned long long)pm | (unsigned long long)pv) & 3) == 0;
        float w[2][4], g[2][4], m[2][4], v[2][4];
        unsigned mc[2], vc[2];
        const float m_max = pm_max[block], v_max = pv_max[block];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            const long long at = first + 128 * u + 4 * lane;
            if (vec) {
                load<4>(w[u], pw + at), load<4>(g[u], pg + at);
                mc[u] = *(const unsigned*)(pm + at), vc[u] = *(const unsigned*)(pv + at);
                continue;
            }
            mc[u] = vc[u] = 0;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const bool in = at + e < n;
                w[u][e] = in ? pw[at + e] : 0.0f, g[u][e] = in ? pg[at + e] : 0.0f;
                if (in) mc[u] |= (unsigned)pm[at + e] << 8 * e, vc[u] |= (unsigned)pv[at + e] << 8 * e;
            }
        }
        unsigned m_top = 0, v_top = 0; // bits of absolute values order as they do, NaN on top
#pragma unroll
        for (int u = 0; u < 2; u++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                m[u][e] = codes[0].values[mc[u] >> 8 * e & 255] * m_max;
                v[u][e] = codes[1].values[vc[u] >> 8 * e & 255] * v_max;
                const float scaled = g[u][e] * c.grad_scale;
                if (first + 128 * u + 4 * lane + e >= n || !(scaled - scaled == 0.0f)) {
                    m[u][e] = v[u][e] = 0.0f;
                    continue;
                }
                w[u][e] = adamw(w[u][e], g[u][e], m[u][e], v[u][e], 1.0f, c) * decay;
                m_top = max(m_top, __float_as_uint(m[u][e]) & 0x7fffffffu);
                v_top = max(v_top, __float_as_uint(v[u][e]) & 0x7fffffffu);
            }
        const float m_most = warp_most(m_top), v_most = warp_most(v_top);
        if (lane == 0) pm_max[block] = m_most, pv_max[block] = v_most;
#pragma unroll
        for (int u = 0; u < 2; u++) {
            const long long at = first + 128 * u + 4 * lane;
            mc[u] = vc[u] = 0;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                mc[u] |= encode(codes[0], m[u][e], m_most) << 8 * e;
                vc[u] |= encode(codes[1], v[u][e], v_most) << 8 * e;
            }
            if (vec) {
                store<4>(pw + at, w[u]);
                *(unsigned*)(pm + at) = mc[u], *(unsigned*)(pv + at) = vc[u];
                continue;
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (at + e >= n) break;
                pw[at + e] = w[u][e];
                pm[at + e] = (unsigned char)(mc[u] >> 8 * e), pv[at + e] = (unsigned char)(vc[u] >> 8 * e);
            }
        }
    }
}
