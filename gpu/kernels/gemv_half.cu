// Products of few rows with plain weights, both rounded to bfloat16, for rows that
// gemv_codes cannot read: of float32, or not of whole chunks of 16 bytes. A warp
// multiplies 16 rows of the weight with 8 NT rows of x in steps of 32 terms, of
// which a lane has 8 that lie together: within a step any order of the terms will
// do, as long as it is that of both operands. A warp takes every eighth 128 terms.
#include "experts.cuh"

template <int DT> __device__ __forceinline__ void half_weight(uint32_t v[4], const unsigned char* row, int e, int k, bool whole) {
    float w[8];
    gemv_weight<DT>(w, row, e, k, whole, 0);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = pack_bf16(w[2 * i], w[2 * i + 1]);
}

__device__ __forceinline__ void half_x(uint32_t v[4], const GemvArgs& a, int i, int e) {
    if (i >= a.m || e >= a.k) {
        v[0] = v[1] = v[2] = v[3] = 0;
        return;
    }
    float x[8];
    gemv_x(x, a, i, e);
#pragma unroll
    for (int q = 0; q < 4; q++) v[q] = pack_bf16(x[2 * q], x[2 * q + 1]);
}

template <int DT, int NT> __device__ __forceinline__ void gemv_mma(const GemvArgs& a, float* red) {
    const int STEPS = 2; // in flight
    const int ROWS = 16, COLS = 8 * NT;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, j0 = blockIdx.x * ROWS;
    const bool whole = aligned<DT>(a.w, a.stride);
    // Rows g and g+8 of the block; the last one instead of those that are not there.
    const unsigned char* row = a.w + (j0 + g) * a.stride;
    const int rows = a.n - 1 - j0 - g;
    float d[NT][4];
#pragma unroll
    for (int j = 0; j < NT; j++) d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0;
    for (int e0 = warp * 128; e0 < a.k; e0 += 1024) {
#pragma unroll
        for (int s0 = 0; s0 < 4; s0 += STEPS) {
            uint32_t w[STEPS][2][4], x[STEPS][NT][4];
#pragma unroll
            for (int s = 0; s < STEPS; s++)
#pragma unroll
                for (int h = 0; h < 2; h++) half_weight<DT>(w[s][h], row + min(8 * h, rows) * a.stride, e0 + 32 * (s0 + s) + 8 * t, a.k, whole);
#pragma unroll
            for (int s = 0; s < STEPS; s++)
#pragma unroll
                for (int j = 0; j < NT; j++) half_x(x[s][j], a, 8 * j + g, e0 + 32 * (s0 + s) + 8 * t);
#pragma unroll
            for (int s = 0; s < STEPS; s++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const uint32_t f[4] = {w[s][0][2 * h], w[s][1][2 * h], w[s][0][2 * h + 1], w[s][1][2 * h + 1]};
#pragma unroll
                    for (int j = 0; j < NT; j++) mma_bf16(d[j], f, x[s][j] + 2 * h);
                }
        }
    }
    // red[warp][column of x][row]
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
        for (int q = 0; q < 4; q++) red[(warp * COLS + 8 * j + 2 * t + q % 2) * ROWS + 8 * (q / 2) + g] = d[j][q];
    __syncthreads();
    for (int o = threadIdx.x; o < ROWS * COLS; o += 256) {
        const int i = o / ROWS, j = j0 + o % ROWS;
        float sum = red[o];
        for (int w = 1; w < 8; w++) sum += red[w * ROWS * COLS + o];
        if (i < a.m && j < a.n) gemv_store(a, i, j, sum);
    }
}

#define GEMV_HALF(name, DT, NT)                       \
    KERNEL_BOUNDS(gemv_half_##name##_##NT, GemvArgs, 256, 2) { \
        SHARED(float, red, 8 * 16 * 8 * NT);          \
        gemv_mma<DT, NT>(a, red);                     \
    }
#define GEMV_EXPERTS(name, DT, NT)                                         \
    KERNEL_BOUNDS(gemv_half_experts_##name##_##NT, ExpertGemvArgs, 256, 2) { \
        SHARED(float, red, 8 * 16 * 8 * NT);                               \
        GemvArgs g = a.g;                                                  \
        if (!few_of_expert<8 * NT>(g, a)) return;                          \
        gemv_mma<DT, NT>(g, red);                                          \
    }
#define GEMV(name, DT) GEMV_HALF(name, DT, 1) GEMV_HALF(name, DT, 2) GEMV_EXPERTS(name, DT, 1) GEMV_EXPERTS(name, DT, 2)
GEMV(f32, F32)
GEMV(f16, F16)
GEMV(bf16, BF16)
