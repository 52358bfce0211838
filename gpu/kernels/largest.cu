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
