// Sums of squares, AdamW, and AdamW with moments of 8 bits.
#include "walk.cuh"

struct SumSquaresArgs {
    double* parts;
    const float* x;
    long long n;
    int vec;
};

// SQUARES is how many numbers a block squares and adds up.
#define SQUARES 32768

__device__ __forceinline__ double square(float v) { return (double)v * (double)v; }

KERNEL(sum_squares, SumSquaresArgs, 256) {
    SHARED(double, scratch, 32);
    const long long first = (long long)blockIdx.x * SQUARES, end = min(first + SQUARES, a.n);
    double sum[4] = {0.0, 0.0, 0.0, 0.0};
    if (a.vec && first + SQUARES <= a.n) {
#pragma unroll 4
        for (int u = 0; u < SQUARES / 1024; u++) {
            float v[4];
            load<4>(v, a.x + first + (u * 256 + threadIdx.x) * 4);
#pragma unroll
            for (int e = 0; e < 4; e++) sum[e] += square(v[e]);
        }
    } else {
        for (long long i = first + threadIdx.x; i < end; i += 256) sum[0] += square(a.x[i]);
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
    float* w;
    const float* g;
    float *m, *v;
    long long n;
    Step step;
    int vec;
};

KERNEL(adamw, AdamWArgs, 256) {
    const Step& c = a.step;
    void* const dst[] = {a.w, a.m, a.v};
    const void* const src[] = {a.w, a.g, a.m, a.v};
    pointwise<4, 3, 0>(dst, src, a.n, a.vec, [&](float* out, const float* in, long long) {
        float m = in[2], v = in[3];
        out[0] = adamw(in[0], in[1], m, v, c.decay, c);
        out[1] = m;
        out[2] = v;
    });
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
    float* w;
    const float* g;
    unsigned char *m, *v;
    float *m_max, *v_max;
    const Codes* codes; // of m and of v
    long long n, blocks;
    Step step;
    int vec;
};

// A warp takes blocks of 256 moments in turn; a lane has 4 of the first and 4 of
// the second 128.
KERNEL(adamw8bit, AdamW8bitArgs, 256) {
    SHARED(Codes, codes, 2);
    for (int i = threadIdx.x; i < (int)(2 * sizeof(Codes) / 4); i += 256) ((unsigned*)codes)[i] = ((const unsigned*)a.codes)[i];
    __syncthreads();
    const int lane = threadIdx.x & 31;
    const Step& c = a.step;
    for (long long block = (long long)blockIdx.x * 8 + (threadIdx.x >> 5); block < a.blocks; block += gridDim.x * 8) {
        const long long first = block * 256;
        const bool vec = a.vec && first + 256 <= a.n;
        float w[2][4], g[2][4], m[2][4], v[2][4];
        unsigned mc[2], vc[2];
        const float m_max = a.m_max[block], v_max = a.v_max[block];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            const long long at = first + 128 * u + 4 * lane;
            if (vec) {
                load<4>(w[u], a.w + at), load<4>(g[u], a.g + at);
                mc[u] = *(const unsigned*)(a.m + at), vc[u] = *(const unsigned*)(a.v + at);
                continue;
            }
            mc[u] = vc[u] = 0;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const bool in = at + e < a.n;
                w[u][e] = in ? a.w[at + e] : 0.0f, g[u][e] = in ? a.g[at + e] : 0.0f;
                if (in) mc[u] |= (unsigned)a.m[at + e] << 8 * e, vc[u] |= (unsigned)a.v[at + e] << 8 * e;
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
                if (first + 128 * u + 4 * lane + e >= a.n || !(scaled - scaled == 0.0f)) {
                    m[u][e] = v[u][e] = 0.0f;
                    continue;
                }
                w[u][e] = adamw(w[u][e], g[u][e], m[u][e], v[u][e], 1.0f, c) * c.decay;
                m_top = max(m_top, __float_as_uint(m[u][e]) & 0x7fffffffu);
                v_top = max(v_top, __float_as_uint(v[u][e]) & 0x7fffffffu);
            }
        const float m_most = warp_most(m_top), v_most = warp_most(v_top);
        if (lane == 0) a.m_max[block] = m_most, a.v_max[block] = v_most;
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
                store<4>(a.w + at, w[u]);
                *(unsigned*)(a.m + at) = mc[u], *(unsigned*)(a.v + at) = vc[u];
                continue;
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (at + e >= a.n) break;
                a.w[at + e] = w[u][e];
                a.m[at + e] = (unsigned char)(mc[u] >> 8 * e), a.v[at + e] = (unsigned char)(vc[u] >> 8 * e);
            }
        }
    }
}
