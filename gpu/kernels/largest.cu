// The largest logits of rows, in order. What is sorted are keys: a number above,
// the complement of its place below, so that no two are equal and the first of
// equal numbers is the larger. A block of `largest` reduces a part of a row to
// its most keys, most a power of 2, sorted; one of `largest_join` does so with
// the parts of a row.
#include "common.cuh"

typedef unsigned long long Key;

const Key nan_key = ~0ull; // there is no larger one

__device__ __forceinline__ Key key_of(float z, unsigned i) {
    if (z != z) return nan_key;
    const unsigned u = __float_as_uint(z + 0.0f); // -0 is 0
    return (Key)(u >> 31 ? ~u : u | 0x80000000u) << 32 | (0xffffffffu - i);
}

__device__ __forceinline__ void exchange(Key& a, Key& b, bool up) {
    if ((a < b) != up) {
        const Key c = a;
        a = b, b = c;
    }
}

// sort_lists sorts lists of `most` keys, of n in all, the largest first.
__device__ __forceinline__ void sort_lists(Key* keys, int n, int most) {
    for (int size = 2; size <= most; size *= 2)
        for (int d = size / 2; d > 0; d /= 2) {
            for (int i = threadIdx.x; i < n / 2; i += blockDim.x) {
                const int at = i / d * 2 * d + i % d;
                exchange(keys[at], keys[at + d], size < most && (at & size));
            }
            __syncthreads();
        }
}

// join_lists reduces sorted lists, a power of 2 of them, to their largest keys,
// which become the first list.
__device__ __forceinline__ void join_lists(Key* keys, int lists, int most) {
    for (int apart = 1; apart < lists; apart *= 2) {
        // The larger ones of a list and a list the other way round are those of
        // both, the larger ones first or last: a few rounds sort them.
        const int n = lists / (2 * apart) * most;
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            Key* a = keys + i / most * 2 * apart * most;
            const Key other = a[apart * most + most - 1 - i % most];
            if (other > a[i % most]) a[i % most] = other;
        }
        __syncthreads();
        for (int d = most / 2; d > 0; d /= 2) {
            for (int i = threadIdx.x; i < n / 2; i += blockDim.x) {
                Key* a = keys + i / (most / 2) * 2 * apart * most;
                const int j = i % (most / 2), at = j / d * 2 * d + j % d;
                exchange(a[at], a[at + d], false);
            }
            __syncthreads();
        }
    }
}

struct LargestArgs {
    const float* logits; // [n, words]
    Key* keys;           // [n, parts, most]
    int* ids;            // [n, k]
    float* z;            // [n, k]
    int words, part;     // part is a power of 2
    int parts, most, k;
    int together; // parts that are joined at once, a power of 2
};

const int largestThreads = 256, joinThreads = 512;

KERNEL(largest, LargestArgs, largestThreads) {
    DYNAMIC_SHARED(smem);
    Key* keys = (Key*)smem; // [part]
    const int row = blockIdx.x / a.parts, part = blockIdx.x % a.parts, from = part * a.part;
    const float* z = a.logits + (long long)row * a.words;
    for (int i = threadIdx.x; i < a.part; i += largestThreads) keys[i] = from + i < a.words ? key_of(__ldg(z + from + i), from + i) : 0;
    __syncthreads();
    sort_lists(keys, a.part, a.most);
    join_lists(keys, a.part / a.most, a.most);
    Key* to = a.keys + (long long)blockIdx.x * a.most;
    for (int i = threadIdx.x; i < a.most; i += largestThreads) to[i] = keys[i];
}

KERNEL(largest_join, LargestArgs, joinThreads) {
    DYNAMIC_SHARED(smem);
    Key* keys = (Key*)smem; // [together, most]
    const long long row = blockIdx.x;
    const Key* from = a.keys + row * a.parts * a.most;
    const int n = a.together * a.most;
    for (int first = 0; first < a.parts; first += a.together - (first > 0)) {
        // After the first time, the first list is what came out before.
        const int kept = first > 0 ? a.most : 0;
        for (int i = kept + threadIdx.x; i < n; i += joinThreads) {
            const int at = first * a.most + i - kept;
            keys[i] = at < a.parts * a.most ? from[at] : 0;
        }
        __syncthreads();
        join_lists(keys, a.together, a.most);
    }
    __syncthreads();
    const bool nan = keys[0] == nan_key;
    for (int i = threadIdx.x; i < a.k; i += joinThreads) {
        const int id = nan ? -1 : (int)(0xffffffffu - (unsigned)keys[i]);
        a.ids[row * a.k + i] = id;
        a.z[row * a.k + i] = nan ? __uint_as_float(0x7fc00000u) : __ldg(a.logits + row * a.words + id);
    }
}

// Penalties: rounded as IEEE has it.
struct PenalizeArgs {
    float* logits;
    const int* at;
    const float* by;
    int n;
};

KERNEL(penalize, PenalizeArgs, 256) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= a.n) return;
    float* z = a.logits + a.at[i];
    *z = *z > 0 ? *z / a.by[i] : *z * a.by[i];
}

// Weights, bit for bit as the host has them: every step is rounded.
struct WeighArgs {
    const float* logits; // [n, words]
    const int* ids;      // [n, k]: the largest first, and its logit
    const float* z;
    const unsigned long long* exp2; // bits of 2^(i/128)
    const double *t, *u;            // [n]
    double* sums;                   // [n, blocks]
    double* totals;
    int* drawn;
    int words, k, blocks, unused;
};

const int weighBlock = 256, weighThreads = 64;

__device__ __forceinline__ double exp_negative(double x, const unsigned long long* exp2) {
    if (!(x > -700)) return 0;
    const double round = 6755399441055744.0; // 3 << 51; the others are 128/ln 2 and ln 2/128
    const double k = __dadd_rn(__dmul_rn(x, 0x1.71547652b82fep+7), round);
    const long long n = (long long)((unsigned long long)__double_as_longlong(k) << 16) >> 16;
    const double r = __dadd_rn(x, -__dmul_rn(__dadd_rn(k, -round), 0x1.62e42fefa39efp-8));
    double p = __dadd_rn(0.5, __dmul_rn(r, 1. / 6));
    p = __dadd_rn(1, __dmul_rn(r, p));
    p = __dadd_rn(1, __dmul_rn(r, p));
    return __dmul_rn(__longlong_as_double((long long)(__ldg(exp2 + (n & 127)) + ((unsigned long long)(n >> 7) << 52))), p);
}

// weight_of returns the weight of a logit.
__device__ __forceinline__ float weight_of(float z, float top, double t, const unsigned long long* exp2) {
    return (float)exp_negative(__dmul_rn((double)__fsub_rn(z, top), t), exp2);
}

// A thread adds a block of weights.
KERNEL(weigh, WeighArgs, weighThreads) {
    const int per = (a.blocks + weighThreads - 1) / weighThreads, row = blockIdx.x / per, block = blockIdx.x % per * weighThreads + threadIdx.x;
    if (block >= a.blocks) return;
    const float* z = a.logits + (long long)row * a.words;
    const float top = a.z[(long long)row * a.k];
    const double t = a.t[row];
    const int from = block * weighBlock, to = min(a.words, from + weighBlock);
    double sum = 0;
#pragma unroll 4
    for (int i = from; i < to; i++) sum = __dadd_rn(sum, (double)weight_of(__ldg(z + i), top, t, a.exp2));
    a.sums[(long long)row * a.blocks + block] = sum;
}

// A block adds the sums of a row, and draws.
KERNEL(weigh_draw, WeighArgs, weighBlock) {
    DYNAMIC_SHARED(smem);
    double* sums = (double*)smem; // [blocks]
    SHARED(float, weights, weighBlock);
    SHARED(int, chosen, 1);
    SHARED(double, rest, 1);
    const int row = blockIdx.x;
    for (int i = threadIdx.x; i < a.blocks; i += weighBlock) sums[i] = a.sums[(long long)row * a.blocks + i];
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0;
        for (int b = 0; b < a.blocks; b++) total = __dadd_rn(total, sums[b]);
        a.totals[row] = total;
        double left = __dmul_rn(a.u[row], total);
        int b = 0;
        for (; b < a.blocks && left >= sums[b]; b++) left = __dadd_rn(left, -sums[b]);
        *chosen = b, *rest = left;
    }
    __syncthreads();
    const int best = a.ids[(long long)row * a.k], from = *chosen * weighBlock, n = min(a.words - from, weighBlock);
    if (*chosen == a.blocks) {
        if (threadIdx.x == 0) a.drawn[row] = best;
        return;
    }
    if ((int)threadIdx.x < n) weights[threadIdx.x] = weight_of(a.logits[(long long)row * a.words + from + threadIdx.x], a.z[(long long)row * a.k], a.t[row], a.exp2);
    __syncthreads();
    if (threadIdx.x == 0) {
        double left = *rest;
        int last = best;
        for (int i = 0; i < n; i++) {
            if (weights[i] == 0) continue;
            last = from + i;
            left = __dadd_rn(left, -(double)weights[i]);
            if (left < 0) break;
        }
        a.drawn[row] = last;
    }
}
