// Products of few rows in float32. A block has 4 rows of the weight; a lane takes
// 8 terms of every 256, a warp every eighth 256.
#include "experts.cuh"

template <int DT, int M> __device__ __forceinline__ void gemv_float(const GemvArgs& a, float* red, const float* table) {
    const int ROWS = 4;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, j0 = blockIdx.x * ROWS;
    const bool whole = Format<DT>::block > 8 || aligned<DT>(a.w, a.stride);
    float d[ROWS][M];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int i = 0; i < M; i++) d[r][i] = 0;
    for (int e = warp * 256 + lane * 8; e < a.k; e += 2048) {
        float w[ROWS][8];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            gemv_weight<DT>(w[r], a.w + (j0 + r < a.n ? j0 + r : 0) * a.stride, e, a.k, whole, table);
#pragma unroll
        for (int i = 0; i < M; i++) {
            if (i >= a.m) break;
            float x[8];
            gemv_x(x, a, i, e);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int q = 0; q < 8; q++) d[r][i] = fmaf(w[r][q], x[q], d[r][i]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int i = 0; i < M; i++) {
            const float sum = warp_sum(d[r][i]);
            if (lane == 0) red[(warp * M + i) * ROWS + r] = sum;
        }
    __syncthreads();
    for (int o = threadIdx.x; o < ROWS * M; o += 256) {
        const int i = o / ROWS, r = o % ROWS;
        float sum = red[o];
        for (int w = 1; w < 8; w++) sum += red[w * M * ROWS + o];
        if (i < a.m && j0 + r < a.n) gemv_store(a, i, j0 + r, sum);
    }
}

#define GEMV_FLOAT(name, DT, M)              \
    KERNEL(gemv_##name##_##M, GemvArgs, 256) { \
        SHARED(float, table, 16);            \
        SHARED(float, red, 8 * 4 * M);       \
        fill_table<DT>(table);               \
        __syncthreads();                     \
        gemv_float<DT, M>(a, red, table);    \
    }
#define GEMV_EXPERTS(name, DT, M)                           \
    KERNEL(gemv_experts_##name##_##M, ExpertGemvArgs, 256) { \
        SHARED(float, table, 16);                           \
        SHARED(float, red, 8 * 4 * M);                      \
        GemvArgs g = a.g;                                   \
        if (!few_of_expert<M>(g, a)) return;                \
        fill_table<DT>(table);                              \
        __syncthreads();                                    \
        gemv_float<DT, M>(g, red, table);                   \
    }
#define GEMV(name, DT) \
    GEMV_FLOAT(name, DT, 1) GEMV_FLOAT(name, DT, 4) GEMV_FLOAT(name, DT, 16) GEMV_EXPERTS(name, DT, 1) GEMV_EXPERTS(name, DT, 4) GEMV_EXPERTS(name, DT, 16)
GEMV_TYPES(GEMV)
