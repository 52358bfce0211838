// What attention needs beside products of tiles: decoding, which is attention
// of single queries, and what comes before the products.
#include "attention.cuh"

namespace {

// ---- decoding

// The keys of a query are split into parts of FEW_KEYS, whatever else is
// computed with it, so that its result does not depend on that. A block does a
// part for the query heads that share it, at most G of them.
constexpr int FEW_KEYS = 128, FEW_THREADS = 128, FEW_WIDTH = 256;

// Keys key..key+keys of query q. It is one of several parts of its query,
// number part of all, or the only one, which is -1.
struct AttentionPart { int q, key, keys, part; };

// The parts first..first+parts of query q.
struct AttentionParts { int q, first, parts, none; };

struct AttentionFewArgs {
    void* dst;
    float* lse;
    const void *q, *k, *v;
    const AttentionPart* items;
    const AttentionParts* queries;
    float* sums; // [parts, heads, dim]: values, weighted relative to the maximum
    float* most; // [parts, heads, 2]: maximum and sum of the weights
    int heads, group, dim, half, halfKeys, vector;
    float scale;
};

// The lanes of a warp are groups of 8, each with keys of its own; a lane has 8
// of 64 elements. G heads times 4 keys are added up at once.
template <int G> __device__ __forceinline__ void few_scores(const AttentionFewArgs& a, const AttentionPart& t, int kv, const float* q, float* scores) {
    constexpr int U = 4;
    const int lane = threadIdx.x % 8, set = threadIdx.x / 8;
    const long long ld = (long long)a.heads / a.group * a.dim, at = t.key * ld + kv * a.dim;
    for (int k0 = 0; k0 < FEW_KEYS; k0 += FEW_THREADS / 8 * U) {
        if (k0 >= t.keys) break;
        float s[G][U];
#pragma unroll
        for (int g = 0; g < G; g++)
#pragma unroll
            for (int u = 0; u < U; u++) s[g][u] = 0;
        for (int c = lane * 8; c < a.dim; c += 64) {
            float x[U][8];
#pragma unroll
            for (int u = 0; u < U; u++) {
                const int key = k0 + u * (FEW_THREADS / 8) + set;
                load_eight(x[u], a.k, a.halfKeys, a.vector, at + key * ld + c, key < t.keys ? a.dim - c : 0);
            }
#pragma unroll
            for (int g = 0; g < G; g++) {
                const float4 y = *(const float4*)(q + g * FEW_WIDTH + c), z = *(const float4*)(q + g * FEW_WIDTH + c + 4);
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
                if (lane == 0) scores[g * FEW_KEYS + k0 + u * (FEW_THREADS / 8) + set] = s[g][u] * a.scale;
            }
    }
}

// few_softmax turns scores into weights, a warp a head.
__device__ __forceinline__ void few_softmax(float* scores, int keys, float* most, float* sum) {
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

// few_values sets out[g][c], of FEW_WIDTH columns, to the weighted values.
// Threads have 4 columns each, of up to 128 at a time; sets of threads that
// have all of these share the keys, and their sums are added up in order.
template <int G> __device__ __forceinline__ void few_values(const AttentionFewArgs& a, const AttentionPart& t, int kv, const float* scores, float* parts, float* out) {
    const long long ld = (long long)a.heads / a.group * a.dim, at = t.key * ld + kv * a.dim;
    for (int c0 = 0; c0 < a.dim; c0 += 128) {
        const int width = min(128, a.dim - c0);
        int lanes = 1; // threads that have a row
        while (lanes * 4 < width) lanes *= 2;
        const int c = threadIdx.x % lanes * 4, set = threadIdx.x / lanes, sets = FEW_THREADS / lanes;
        float s[G][4];
#pragma unroll
        for (int g = 0; g < G; g++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[g][i] = 0;
#pragma unroll 4
        for (int k = set; k < t.keys; k += sets) {
            float x[4];
            load_four(x, a.v, a.halfKeys, a.vector, at + k * ld + c0 + c, width - c);
#pragma unroll
            for (int g = 0; g < G; g++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[g][i] = fmaf(scores[g * FEW_KEYS + k], x[i], s[g][i]);
        }
        __syncthreads(); // parts may be in use
#pragma unroll
        for (int g = 0; g < G; g++) *(float4*)(parts + (g * FEW_THREADS + threadIdx.x) * 4) = make_float4(s[g][0], s[g][1], s[g][2], s[g][3]);
        __syncthreads();
        for (int i = threadIdx.x; i < G * width; i += FEW_THREADS) {
            const int g = i / width, col = i % width;
            float sum = 0;
            for (int n = 0; n < sets; n++) sum += parts[(g * FEW_THREADS + n * lanes) * 4 + col];
            out[g * FEW_WIDTH + c0 + col] = sum;
        }
    }
}

template <int G> __device__ __forceinline__ void few(const AttentionFewArgs& a, float* q, float* scores, float* parts, float* most) {
    const int chunks = (a.group + G - 1) / G, kvHeads = a.heads / a.group;
    const AttentionPart t = a.items[blockIdx.x / (chunks * kvHeads)];
    const int kv = blockIdx.x / chunks % kvHeads, in = blockIdx.x % chunks * G, heads = min(G, a.group - in), head = kv * a.group + in;
    const long long row = ((long long)t.q * a.heads + head) * a.dim;
    for (int i = threadIdx.x; i < G * FEW_WIDTH; i += FEW_THREADS) {
        const int g = i / FEW_WIDTH, c = i % FEW_WIDTH;
        q[i] = g < heads && c < a.dim ? load_one(a.q, a.half, row + g * a.dim + c) : 0;
    }
    __syncthreads();
    few_scores<G>(a, t, kv, q, scores);
    __syncthreads();
    for (int g = threadIdx.x / 32; g < G; g += FEW_THREADS / 32) few_softmax(scores + g * FEW_KEYS, t.keys, most + 2 * g, most + 2 * g + 1);
    __syncthreads();
    few_values<G>(a, t, kv, scores, parts, q);
    __syncthreads();
    for (int i = threadIdx.x; i < heads * a.dim; i += FEW_THREADS) {
        const int g = i / a.dim, c = i % a.dim;
        const float x = q[g * FEW_WIDTH + c];
        if (t.part < 0) store_one(a.dst, a.half, row + i, x / most[2 * g + 1]);
        else a.sums[((long long)t.part * a.heads + head) * a.dim + i] = x;
    }
    for (int g = threadIdx.x; g < heads; g += FEW_THREADS) {
        if (t.part < 0) a.lse[(long long)t.q * a.heads + head + g] = most[2 * g] + logf(most[2 * g + 1]);
        else {
            a.most[((long long)t.part * a.heads + head + g) * 2] = most[2 * g];
            a.most[((long long)t.part * a.heads + head + g) * 2 + 1] = most[2 * g + 1];
        }
    }
}

} // namespace

#define FEW(name, G)                                \
    KERNEL_BOUNDS(name, AttentionFewArgs, FEW_THREADS, 4) {\
        SHARED(float, q, G * FEW_WIDTH);             \
        SHARED(float, scores, G * FEW_KEYS);         \
        SHARED(float, parts, G * FEW_THREADS * 4);   \
        SHARED(float, most, 2 * G);                 \
        few<G>(a, q, scores, parts, most);          \
    }
FEW(attention_few_1, 1)
FEW(attention_few_4, 4)
FEW(attention_few_8, 8)

namespace {

} // namespace

// attention_join puts the parts of a query and head together, in order.
KERNEL(attention_join, AttentionFewArgs, 128) {
    const AttentionParts t = a.queries[blockIdx.x / a.heads];
    const int head = blockIdx.x % a.heads;
    const float* most = a.most + ((long long)t.first * a.heads + head) * 2, *sums = a.sums + ((long long)t.first * a.heads + head) * a.dim;
    float m = -INFINITY, all = 0;
    for (int p = 0; p < t.parts; p++) m = fmaxf(m, most[(long long)p * a.heads * 2]);
    const float base = m == -INFINITY ? 0 : m;
    for (int p = 0; p < t.parts; p++) all = fmaf(expf(most[(long long)p * a.heads * 2] - base), most[(long long)p * a.heads * 2 + 1], all);
    for (int c = threadIdx.x; c < a.dim; c += 128) {
        float x = 0;
        for (int p = 0; p < t.parts; p++) x = fmaf(expf(most[(long long)p * a.heads * 2] - base), sums[(long long)p * a.heads * a.dim + c], x);
        store_one(a.dst, a.half, ((long long)t.q * a.heads + head) * a.dim + c, x / all);
    }
    if (threadIdx.x == 0) a.lse[(long long)t.q * a.heads + head] = m + logf(all);
}

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
