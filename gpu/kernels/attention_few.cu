// What attention needs beside products of tiles: decoding, which is attention
// of single queries, and what comes before the products.
#include "attention.cuh"

namespace {

// ---- decoding

// The keys of a query are split into parts of FEW_KEYS, whatever else is
// computed with it, so that its result does not depend on that. A block does a
// part for the query heads that share it, at most G of them; the last block of a
// query and these heads puts the parts together, in order.
constexpr int FEW_KEYS = 128;

// Keys key..key+keys of query q: part number `part`, one of the parts
// first..first+parts of its query, whose counters are those of `query`. One without
// keys is there to make the grid as large as others.
struct AttentionPart { int q, key, keys, part, first, parts, query, none; };

struct AttentionFewArgs {
    void *dst;
    float *lse;
    const void *q, *k, *v;
    const AttentionPart *items;
    unsigned *counters; // [queries, blocks of a part], zeros before and after
    float *sums; // [parts, heads, dim]: values, weighted relative to the maximum
    float *most; // [parts, heads, 2]: maximum and sum of the weights
    int heads, group, dim, half, halfKeys, vector;
    float scale;
    int none;
};

// FewKeys is where the first key, or value, of a part lies.
struct FewKeys {
    const void *p;
    long long at, ld;
    int half, vector;
};

// The lanes of a warp are groups of 8, each with keys of its own; a lane has 8
// of 64 elements. G heads times 4 keys are added up at once.
template <int G, int THREADS, int WIDTH> __device__ __forceinline__ void few_scores(const AttentionFewArgs &a, const FewKeys &k, int keys, const float *q, float *scores) {
    constexpr int U = 4;
    const int lane = threadIdx.x % 8, set = threadIdx.x / 8;
    for (int k0 = 0; k0 < FEW_KEYS; k0 += THREADS / 8 * U) {
        if (k0 >= keys) break;
        float s[G][U];
#pragma unroll
        for (int g = 0; g < G; g++)
#pragma unroll
            for (int u = 0; u < U; u++) s[g][u] = 0;
        for (int c = lane * 8; c < a.dim; c += 64) {
            float x[U][8];
#pragma unroll
            for (int u = 0; u < U; u++) {
                const int key = k0 + u * (THREADS / 8) + set;
                load_eight(x[u], k.p, k.half, k.vector, k.at + key * k.ld + c, key < keys ? a.dim - c : 0);
            }
#pragma unroll
            for (int g = 0; g < G; g++) {
                const float4 y = *(const float4 *)(q + g * WIDTH + c), z = *(const float4 *)(q + g * WIDTH + c + 4);
#pragma unroll
                for (int u = 0; u < U; u++) {
                    s[g][u] = fmaf(x[u][0], y.x, s[g][u]);
                    s[g][u] = fmaf(x[u][1], y.y, s[g][u]);
                    s[g][u] = fmaf(x[u][2], y.z, s[g][u]);
                    s[g][u] = fmaf(x[u][3], y.w, s[g][u]);
                    s[g][u] = fmaf(x[u][4], z.x, s[g][u]);
                    s[g][u] = fmaf(x[u][5], z.y, s[g][u]);
                    s[g][u] = fmaf(x[u][6], z.z, s[g][u]);
                    s[g][u] = fmaf(x[u][7], z.w, s[g][u]);
                }
            }
        }
#pragma unroll
        for (int g = 0; g < G; g++)
#pragma unroll
            for (int u = 0; u < U; u++) {
#pragma unroll
                for (int o = 4; o > 0; o >>= 1) s[g][u] += __shfl_xor_sync(0xffffffffu, s[g][u], o);
                if (lane == 0) scores[g * FEW_KEYS + k0 + u * (THREADS / 8) + set] = s[g][u] * a.scale;
            }
    }
}

// few_softmax turns scores into weights, a warp a head.
__device__ __forceinline__ void few_softmax(float *scores, int keys, float *most, float *sum) {
    const int lane = threadIdx.x % 32;
    float m = -INFINITY;
    for (int k = lane; k < keys; k += 32) m = fmaxf(m, scores[k]);
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, o));
    const float base = m == -INFINITY ? 0 : m;
    float all = 0;
    for (int k = lane; k < keys; k += 32) all += scores[k] = expf(scores[k] - base);
    all = warp_sum(all);
    if (lane == 0) *most = m, *sum = all;
}

// few_values sets out[g][c], of WIDTH columns, to the weighted values.
// Threads have 4 columns each, of up to 128 at a time; sets of threads that
// have all of these share the keys, and their sums are added up in order.
template <int G, int THREADS, int WIDTH> __device__ __forceinline__ void few_values(const AttentionFewArgs &a, const FewKeys &v, int keys, const float *scores, float *parts, float *out) {
    for (int c0 = 0; c0 < a.dim; c0 += 128) {
        const int width = min(128, a.dim - c0);
        int lanes = 1; // threads that have a row
        while (lanes * 4 < width) lanes *= 2;
        const int c = threadIdx.x % lanes * 4, set = threadIdx.x / lanes, sets = THREADS / lanes;
        float s[G][4];
#pragma unroll
        for (int g = 0; g < G; g++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[g][i] = 0;
#pragma unroll 4
        for (int k = set; k < keys; k += sets) {
            float x[4];
            load_four(x, v.p, v.half, v.vector, v.at + k * v.ld + c0 + c, width - c);
#pragma unroll
            for (int g = 0; g < G; g++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[g][i] = fmaf(scores[g * FEW_KEYS + k], x[i], s[g][i]);
        }
        __syncthreads(); // parts may be in use
#pragma unroll
        for (int g = 0; g < G; g++) *(float4 *)(parts + (g * THREADS + threadIdx.x) * 4) = make_float4(s[g][0], s[g][1], s[g][2], s[g][3]);
        __syncthreads();
        for (int i = threadIdx.x; i < G * width; i += THREADS) {
            const int g = i / width, col = i % width;
            float sum = 0;
            for (int n = 0; n < sets; n++) sum += parts[(g * THREADS + n * lanes) * 4 + col];
            out[g * WIDTH + c0 + col] = sum;
        }
    }
}

// few_join puts the parts of a query together, for heads head..head+heads. weights
// is memory for `parts` floats and two.
template <int THREADS> __device__ __forceinline__ void few_join(const AttentionFewArgs &a, const AttentionPart &t, int head, int heads, float *weights) {
    float *const both = weights + FEW_KEYS; // maximum and sum
    for (int h = head; h < head + heads; h++) {
        const float *most = a.most + ((long long)t.first * a.heads + h) * 2, *sums = a.sums + ((long long)t.first * a.heads + h) * a.dim;
        float m = -INFINITY, all = 0;
        for (int p = threadIdx.x % 32; p < t.parts; p += 32) m = fmaxf(m, __ldcg(most + (long long)p * a.heads * 2));
#pragma unroll
        for (int o = 16; o > 0; o >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, o));
        const float base = m == -INFINITY ? 0 : m;
        float x[2] = {0, 0};
        for (int p0 = 0; p0 < t.parts; p0 += FEW_KEYS) {
            const int n = min(FEW_KEYS, t.parts - p0);
            __syncthreads(); // weights may be in use
            for (int p = threadIdx.x; p < n; p += THREADS) {
                const float *at = most + (long long)(p0 + p) * a.heads * 2;
                const float w = expf(__ldcg(at) - base);
                weights[p] = w, both[p] = w * __ldcg(at + 1);
            }
            __syncthreads();
            for (int p = 0; p < n; p++) all += both[p];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int c = threadIdx.x + i * THREADS;
                if (c >= a.dim) break;
#pragma unroll 8
                for (int p = 0; p < n; p++) x[i] = fmaf(weights[p], __ldcg(sums + (long long)(p0 + p) * a.heads * a.dim + c), x[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int c = threadIdx.x + i * THREADS;
            if (c < a.dim) store_one(a.dst, a.half, ((long long)t.q * a.heads + h) * a.dim + c, x[i] / all);
        }
        if (threadIdx.x == 0) a.lse[(long long)t.q * a.heads + h] = m + logf(all);
    }
}

// few does a part. STAGED keys and values, of bfloat16, come through shared memory.
// q, scores and parts are memory for G·WIDTH, G·FEW_KEYS and G·THREADS·4 floats,
// scores and parts for 2·FEW_KEYS too.
template <int G, int THREADS, int WIDTH, bool STAGED>
__device__ __forceinline__ void few(const AttentionFewArgs &a, unsigned char *stage, float *q, float *scores, float *parts, float *most, unsigned *last) {
    const int chunks = (a.group + G - 1) / G, kvHeads = a.heads / a.group, blocks = chunks * kvHeads;
    const AttentionPart t = a.items[blockIdx.x / blocks];
    if (t.keys == 0) return;
    const int kv = blockIdx.x / chunks % kvHeads, in = blockIdx.x % chunks * G, heads = min(G, a.group - in), head = kv * a.group + in;
    const long long row = ((long long)t.q * a.heads + head) * a.dim, ld = (long long)kvHeads * a.dim;
    FewKeys k = {a.k, t.key * ld + kv * a.dim, ld, a.halfKeys, a.vector}, v = {a.v, k.at, ld, a.halfKeys, a.vector};
    if (STAGED) {
        const int pieces = a.dim / 8;
        unsigned char *const behind = stage + FEW_KEYS * a.dim * 2;
#pragma unroll 2
        for (int i = threadIdx.x; i < t.keys * pieces; i += THREADS)
            cp_async16(stage + 16 * i, (const uint16_t *)a.k + k.at + i / pieces * ld + i % pieces * 8, true);
        cp_async_commit();
#pragma unroll 2
        for (int i = threadIdx.x; i < t.keys * pieces; i += THREADS)
            cp_async16(behind + 16 * i, (const uint16_t *)a.v + k.at + i / pieces * ld + i % pieces * 8, true);
        cp_async_commit();
        k = {stage, 0, a.dim, 1, 1}, v = {behind, 0, a.dim, 1, 1};
    }
    for (int i = threadIdx.x; i < G * WIDTH; i += THREADS) {
        const int g = i / WIDTH, c = i % WIDTH;
        q[i] = g < heads && c < a.dim ? load_one(a.q, a.half, row + g * a.dim + c) : 0;
    }
    if (STAGED) cp_async_wait<1>();
    __syncthreads();
    few_scores<G, THREADS, WIDTH>(a, k, t.keys, q, scores);
    __syncthreads();
    for (int g = threadIdx.x / 32; g < G; g += THREADS / 32) few_softmax(scores + g * FEW_KEYS, t.keys, most + 2 * g, most + 2 * g + 1);
    if (STAGED) cp_async_wait<0>();
    __syncthreads();
    few_values<G, THREADS, WIDTH>(a, v, t.keys, scores, parts, q);
    __syncthreads();
    const AttentionPart own = a.items[blockIdx.x / blocks]; // again: to have kept it costs registers
    for (int i = threadIdx.x; i < heads * a.dim; i += THREADS) {
        const int g = i / a.dim, c = i % a.dim;
        const float x = q[g * WIDTH + c];
        if (own.parts == 1) store_one(a.dst, a.half, row + i, x / most[2 * g + 1]);
        else a.sums[((long long)own.part * a.heads + head) * a.dim + i] = x;
    }
    for (int g = threadIdx.x; g < heads; g += THREADS) {
        if (own.parts == 1) a.lse[(long long)t.q * a.heads + head + g] = most[2 * g] + logf(most[2 * g + 1]);
        else {
            a.most[((long long)own.part * a.heads + head + g) * 2] = most[2 * g];
            a.most[((long long)own.part * a.heads + head + g) * 2 + 1] = most[2 * g + 1];
        }
    }
    if (own.parts == 1) return;
    unsigned *const counter = a.counters + (long long)own.query * blocks + blockIdx.x % blocks;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *last = atomicAdd(counter, 1u);
    __syncthreads();
    if (*last != (unsigned)own.parts - 1) return;
    __threadfence();
    few_join<THREADS>(a, own, head, heads, parts);
    if (threadIdx.x == 0) *counter = 0;
}

} // namespace

// Keys and values as they are, of heads of up to 256; and those that are staged,
// of up to 128.
#define FEW(G)                                                                              \
    KERNEL_BOUNDS(attention_few_##G, AttentionFewArgs, 128, 4) {                            \
        SHARED(float, q, G * 256);                                                          \
        SHARED(float, scores, G * FEW_KEYS);                                                \
        SHARED(float, parts, G * 128 * 4);                                                  \
        SHARED(float, most, 2 * G);                                                         \
        SHARED(unsigned, last, 1);                                                          \
        few<G, 128, 256, false>(a, 0, q, scores, parts, most, last);                        \
    }                                                                                       \
    KERNEL_BOUNDS(attention_few_staged_##G, AttentionFewArgs, 256, G > 4 ? 2 : 3) {         \
        DYNAMIC_SHARED(stage); /* keys, values; the keys are read when parts is written */  \
        SHARED(float, q, G * 128);                                                          \
        SHARED(float, scores, G * FEW_KEYS);                                                \
        SHARED(float, most, 2 * G);                                                         \
        SHARED(unsigned, last, 1);                                                          \
        few<G, 256, 128, true>(a, stage, q, scores, (float *)stage, most, last);            \
    }
FEW(1)
FEW(4)
FEW(8)

namespace {

// ---- before the products

// attention_round rounds n elements, n a multiple of 8.
struct AttentionRoundArgs { uint16_t* dst; const float* src; long long n; };

} // namespace

KERNEL(attention_round, AttentionRoundArgs, 256) {
    for (long long i = ((long long)blockIdx.x * 256 + threadIdx.x) * 8; i < a.n; i += (long long)gridDim.x * 256 * 8) {
        const float4 x = *(const float4*)(a.src + i), y = *(const float4*)(a.src + i + 4);
        uint4 p = {pack_bf16(x.x, x.y), pack_bf16(x.z, x.w), pack_bf16(y.x, y.y), pack_bf16(y.z, y.w)};
        *(uint4*)(a.dst + i) = p;
    }
}

namespace {

// attention_delta sets delta[head, query] to the product of dy and out, and
// base2 to lse in base 2, which it transposes. rounded, unless null, is set to
// dy in bfloat16, and the product is with that. A warp has a row of a head.
struct AttentionDeltaArgs {
    float *delta, *base2;
    uint16_t* rounded;
    const float* lse;
    const void *dy, *out;
    long long queries;
    int heads, dim, half, vector;
};

} // namespace

KERNEL(attention_delta, AttentionDeltaArgs, 256) {
    const long long rows = a.queries * a.heads;
    const int lane = threadIdx.x % 32;
    for (long long r = (long long)blockIdx.x * 8 + threadIdx.x / 32; r < rows; r += (long long)gridDim.x * 8) {
        float sum = 0;
        for (int c = lane * 4; c < a.dim; c += 128) {
            float x[4], y[4];
            load_four(x, a.dy, a.half, a.vector, r * a.dim + c, a.dim - c);
            load_four(y, a.out, a.half, a.vector, r * a.dim + c, a.dim - c);
            if (a.rounded) { // the rows are whole
                const uint2 p = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])};
                *(uint2*)(a.rounded + r * a.dim + c) = p;
                x[0] = bf16_float(p.x & 0xffff), x[1] = bf16_float(p.x >> 16), x[2] = bf16_float(p.y & 0xffff), x[3] = bf16_float(p.y >> 16);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) sum = fmaf(x[i], y[i], sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            const long long at = r % a.heads * a.queries + r / a.heads;
            a.delta[at] = sum;
            a.base2[at] = a.lse[r] * LOG2E;
        }
    }
}
