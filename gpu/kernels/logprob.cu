// The softmax of the loss head. A block takes a row of logits through twice: for
// its largest and its sum, and, where a gradient is wanted, to put that in the
// place of the logits. What a row gives does not depend on other rows.
//
// Rows begin at multiples of 16 bytes; what lies between the last word and ld is
// set to 0 in gradients.
#include "common.cuh"

const int logitThreads = 256;

// What is read of a row at a time by one thread: two float4, a block apart.
const int logitStep = 2 * 4 * logitThreads;

// minus_infinity is also the largest of no logit.
__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }

// load4 returns words i..i+3 of a row, minus infinity beyond its end.
__device__ __forceinline__ float4 load4(const float* z, int i, int words) {
    if (i + 3 < words) return *(const float4*)(z + i);
    float4 v;
    v.x = i < words ? z[i] : minus_infinity();
    v.y = i + 1 < words ? z[i + 1] : minus_infinity();
    v.z = i + 2 < words ? z[i + 2] : minus_infinity();
    v.w = minus_infinity();
    return v;
}

// max4 ignores NaN.
__device__ __forceinline__ float max4(float4 v) { return fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)); }

__device__ __forceinline__ float exp4(float4 v, float shift) {
    return expf(v.x - shift) + expf(v.y - shift) + (expf(v.z - shift) + expf(v.w - shift));
}

// first4 returns which element is m, the first of them, or `none`.
__device__ __forceinline__ int first4(float4 v, float m, int i, int none) {
    return v.x == m ? i : v.y == m ? i + 1 : v.z == m ? i + 2 : v.w == m ? i + 3 : none;
}

// A Softmax is the state of some logits: the sum is of exponentials relative to
// the largest, `at` the first word that has it. NaN is in the sum, not in top.
struct Softmax {
    float top, sum;
    int at;
};

__device__ __forceinline__ float shrink(float from, float to) { return from == to ? 1.0f : expf(from - to); }

__device__ __forceinline__ void merge(Softmax& s, float top, float sum, int at) {
    float most = fmaxf(s.top, top);
    s.sum = s.sum * shrink(s.top, most) + sum * shrink(top, most);
    if (top > s.top || (top == s.top && at < s.at)) s.at = at;
    s.top = most;
}

// softmax_row returns the state of a whole row, to all threads; scratch is three
// words for each warp.
__device__ __forceinline__ Softmax softmax_row(const float* z, int words, float* scratch) {
    Softmax s = {minus_infinity(), 0.0f, 0};
    for (int i = 4 * threadIdx.x; i < words; i += logitStep) {
        float4 u = load4(z, i, words), v = load4(z, i + 4 * logitThreads, words);
        float most = fmaxf(max4(u), max4(v));
        if (most > s.top) {
            s.sum *= expf(s.top - most);
            s.top = most;
            s.at = first4(u, most, i, first4(v, most, i + 4 * logitThreads, 0));
        }
        float shift = s.top == minus_infinity() ? 0.0f : s.top; // nothing but -Inf and NaN so far
        s.sum += exp4(u, shift) + exp4(v, shift);
    }
    for (int d = 16; d > 0; d /= 2) {
        float top = __shfl_xor_sync(~0u, s.top, d), sum = __shfl_xor_sync(~0u, s.sum, d);
        int at = __shfl_xor_sync(~0u, s.at, d);
        merge(s, top, sum, at);
    }
    const int warps = logitThreads / 32, warp = threadIdx.x / 32;
    int* ats = (int*)(scratch + 2 * warps);
    if (threadIdx.x % 32 == 0) scratch[warp] = s.top, scratch[warps + warp] = s.sum, ats[warp] = s.at;
    __syncthreads();
    s.top = scratch[0], s.sum = scratch[warps], s.at = ats[0];
    for (int i = 1; i < warps; i++) merge(s, scratch[i], scratch[warps + i], ats[i]);
    return s;
}

// grad_row puts scale·([i = target] - exp(z - shift)·by) in the place of logits:
// as float32, or as bfloat16 in the first half of the row. A step is written
// when all threads have read it; it ends before the next one begins.
template <bool half>
__device__ __forceinline__ void grad_row(float* z, int words, int ld, int target, float shift, float by, float scale) {
    for (int from = 0; from < words; from += logitStep) {
        int at[2] = {from + 4 * (int)threadIdx.x, from + 4 * (int)(threadIdx.x + logitThreads)};
        float4 v[2] = {load4(z, at[0], words), load4(z, at[1], words)};
        if (half) __syncthreads();
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int i = at[j];
            if (i >= ld) continue;
            float g[4] = {v[j].x, v[j].y, v[j].z, v[j].w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float p = expf(g[k] - shift) * by;
                g[k] = i + k < words ? scale * ((i + k == target ? 1.0f : 0.0f) - p) : 0.0f;
            }
            if (half) {
                uint2 u;
                u.x = pack_bf16(g[0], g[1]), u.y = pack_bf16(g[2], g[3]);
                *(uint2*)((uint16_t*)z + i) = u;
            } else {
                float4 u;
                u.x = g[0], u.y = g[1], u.z = g[2], u.w = g[3];
                *(float4*)(z + i) = u;
            }
        }
    }
}

struct LogProbArgs {
    float *logits, *logp, *lse;
    int* argmax; // may be null
    const int* target;
    int words, ld;
};

enum { NoGrad, FloatGrad, HalfGrad };

template <int grad> __device__ __forceinline__ void logprob_row(const LogProbArgs& a, float* scratch) {
    long long row = blockIdx.x;
    float* z = a.logits + row * a.ld;
    int target = a.target[row];
    float goal = z[target];
    Softmax s = softmax_row(z, a.words, scratch); // all have read goal
    if (threadIdx.x == 0) {
        double total = (double)s.top + log((double)s.sum);
        a.lse[row] = (float)total;
        a.logp[row] = (float)((double)goal - total);
        if (a.argmax) a.argmax[row] = s.at;
    }
    if (grad) grad_row<grad == HalfGrad>(z, a.words, a.ld, target, s.top, 1.0f / s.sum, 1.0f);
}

KERNEL(logprob, LogProbArgs, logitThreads) {
    SHARED(float, scratch, 3 * logitThreads / 32);
    logprob_row<NoGrad>(a, scratch);
}

KERNEL(logprob_float, LogProbArgs, logitThreads) {
    SHARED(float, scratch, 3 * logitThreads / 32);
    logprob_row<FloatGrad>(a, scratch);
}

KERNEL(logprob_half, LogProbArgs, logitThreads) {
    SHARED(float, scratch, 3 * logitThreads / 32);
    logprob_row<HalfGrad>(a, scratch);
}

// Of logits whose log-sum-exp is known: dy·([v = target] - exp(z - lse)).
struct LogitsGradArgs {
    float* logits;
    const float *lse, *dy;
    const int* target;
    int words, ld;
};

KERNEL(logits_grad_float, LogitsGradArgs, logitThreads) {
    long long row = blockIdx.x;
    grad_row<false>(a.logits + row * a.ld, a.words, a.ld, a.target[row], a.lse[row], 1.0f, a.dy[row]);
}

KERNEL(logits_grad_half, LogitsGradArgs, logitThreads) {
    long long row = blockIdx.x;
    grad_row<true>(a.logits + row * a.ld, a.words, a.ld, a.target[row], a.lse[row], 1.0f, a.dy[row]);
}
