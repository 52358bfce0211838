// Products of few rows whose operands are rounded to bfloat16. A warp multiplies
// 16 MT rows of the weight with 8 NT rows of x in steps of 32 terms, of which a
// lane has 8 that lie together: within a step any order of the terms will do, as
// long as it is that of both operands. A warp takes every eighth 128 terms.
#include "gemv.cuh"

template <int DT> __device__ __forceinline__ void half_weight(uint32_t v[4], const unsigned char* row, int e, int k, bool whole, const float* table) {
    if (DT == BF16 && whole && e + 8 <= k) {
        const uint4 q = __ldg((const uint4*)(row + 2 * e));
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
        return;
    }
    float w[8];
    gemv_weight<DT>(w, row, e, k, whole, table);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = pack_bf16(w[2 * i], w[2 * i + 1]);
}

__device__ __forceinline__ void half_x(uint32_t v[4], const GemvArgs& a, int i, int e) {
    if (i >= a.m || e >= a.k) {
        v[0] = v[1] = v[2] = v[3] = 0;
        return;
    }
    if (a.flags & GEMV_X_HALF && a.flags & GEMV_X_VECTOR && e + 8 <= a.k) {
        const uint4 q = __ldg((const uint4*)((const uint16_t*)a.x + i * a.ldx + e));
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
        return;
    }
    float x[8];
    gemv_x(x, a, i, e);
#pragma unroll
    for (int q = 0; q < 4; q++) v[q] = pack_bf16(x[2 * q], x[2 * q + 1]);
}

template <int DT, int MT, int NT> __device__ __forceinline__ void gemv_mma(const GemvArgs& a, float* red, const float* table) {
    const int STEPS = (DT == BF16 || DT == F16) && MT == 1 ? 4 : 2; // in flight
    const int ROWS = 16 * MT, COLS = 8 * NT;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, j0 = blockIdx.x * ROWS;
    const bool whole = Format<DT>::block > 8 || aligned<DT>(a.w, a.stride);
    // Row g, g+8, ... of the block; the last one instead of those that are not there.
    const unsigned char* row = a.w + (j0 + g) * a.stride;
    const int rows = a.n - 1 - j0 - g;
    float d[MT][NT][4];
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++) d[i][j][0] = d[i][j][1] = d[i][j][2] = d[i][j][3] = 0;
    for (int e0 = warp * 128; e0 < a.k; e0 += 1024) {
#pragma unroll
        for (int s0 = 0; s0 < 4; s0 += STEPS) {
            uint32_t w[STEPS][MT][2][4], x[STEPS][NT][4];
#pragma unroll
            for (int s = 0; s < STEPS; s++)
#pragma unroll
                for (int i = 0; i < MT; i++)
#pragma unroll
                    for (int h = 0; h < 2; h++) half_weight<DT>(w[s][i][h], row + min(16 * i + 8 * h, rows) * a.stride, e0 + 32 * (s0 + s) + 8 * t, a.k, whole, table);
#pragma unroll
            for (int s = 0; s < STEPS; s++)
#pragma unroll
                for (int j = 0; j < NT; j++) half_x(x[s][j], a, 8 * j + g, e0 + 32 * (s0 + s) + 8 * t);
#pragma unroll
            for (int s = 0; s < STEPS; s++)
#pragma unroll
                for (int i = 0; i < MT; i++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const uint32_t f[4] = {w[s][i][0][2 * h], w[s][i][1][2 * h], w[s][i][0][2 * h + 1], w[s][i][1][2 * h + 1]};
#pragma unroll
                        for (int j = 0; j < NT; j++) mma_bf16(d[i][j], f, x[s][j] + 2 * h);
                    }
        }
    }
    // red[warp][column of x][row]
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) red[(warp * COLS + 8 * j + 2 * t + q % 2) * ROWS + 16 * i + 8 * (q / 2) + g] = d[i][j][q];
    __syncthreads();
    for (int o = threadIdx.x; o < ROWS * COLS; o += 256) {
        const int i = o / ROWS, j = j0 + o % ROWS;
        float sum = red[o];
        for (int w = 1; w < 8; w++) sum += red[w * ROWS * COLS + o];
        if (i < a.m && j < a.n) gemv_store(a, i, j, sum);
    }
}

#define GEMV_HALF(name, DT, MT, NT)                          \
    KERNEL_BOUNDS(gemv_half_##name##_##MT##NT, GemvArgs, 256, 2) { \
        SHARED(float, table, 16);                            \
        SHARED(float, red, 8 * 16 * MT * 8 * NT);            \
        fill_table<DT>(table);                               \
        __syncthreads();                                     \
        gemv_mma<DT, MT, NT>(a, red, table);                 \
    }
#define GEMV(name, DT) GEMV_HALF(name, DT, 1, 1) GEMV_HALF(name, DT, 1, 2)
GEMV_TYPES(GEMV)
GEMV_HALF(bf16, BF16, 2, 1)
GEMV_HALF(bf16, BF16, 2, 2)
