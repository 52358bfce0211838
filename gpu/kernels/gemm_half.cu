// Products of bfloat16 matrices with sums in float32: c = a.b, a [m,k] and b
// either [n,k] (..._nt) or [k,n] (..._nn). Rows of both are whole chunks of 16
// bytes, zeros behind k or n where those are not.
//
// The kernels are multistage: while a tile's products of one step of k run, the
// copies of later steps are on their way to a ring of buffers in shared memory.
// The order of an element's sum depends on its row and column alone.
#include "experts.cuh"

// Step finds the operands of step s, of 32 terms: those of a and b first, then those
// of a2 and b2.
struct Step {
    const uint16_t *a, *b;
    long long lda, ldb;
    int k, at; // terms there are, first of this step
    __device__ __forceinline__ Step(const GemmArgs& g, int steps, int s) {
        if (s < steps)
            a = (const uint16_t*)g.a, b = (const uint16_t*)g.b, lda = g.lda, ldb = g.ldb, k = g.k, at = s * 32;
        else
            a = (const uint16_t*)g.a2, b = (const uint16_t*)g.b2, lda = g.lda2, ldb = g.ldb2, k = g.k2, at = (s - steps) * 32;
    }
};

// Eight warps from sm_80 on, each 64 x 32 of a tile of 128 x 128; steps of 32.
// Chunk c of row r of [rows, 32] is at (c ^ r/2 % 4), of [32, 128] at (c ^ r % 8).
template <bool transB> __device__ __forceinline__ void gemm_mma(const GemmArgs& g, unsigned char* smem, int ti, int tj) {
    const int BM = 128, BN = 128, STAGES = 4, A_BYTES = BM * 64, STAGE = A_BYTES + BN * 64;
    const int tid = threadIdx.x, lane = tid % 32, wm = tid / 32 / 4 * 64, wn = tid / 32 % 4 * 32;
    const int m0 = ti * BM, n0 = tj * BN;
    const int steps1 = (g.k + 31) / 32, steps = steps1 + (g.k2 + 31) / 32;
    auto at4 = [](int r, int c) { return r * 64 + ((c ^ (r >> 1 & 3)) << 4); };
    auto at16 = [](int r, int c) { return r * 256 + ((c ^ (r & 7)) << 4); };

    auto copy = [&](int s) {
        if (s < steps) {
            const Step p(g, steps1, s);
            unsigned char* to = smem + s % STAGES * STAGE;
            const int c = tid % 4, r = tid / 4, at = p.at + c * 8;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const bool valid = m0 + r + 64 * i < g.m && at < p.k;
                cp_async16(to + at4(r + 64 * i, c), valid ? p.a + (m0 + r + 64 * i) * p.lda + at : p.a, valid);
            }
            to += A_BYTES;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (transB) {
                    const bool valid = n0 + r + 64 * i < g.n && at < p.k;
                    cp_async16(to + at4(r + 64 * i, c), valid ? p.b + (n0 + r + 64 * i) * p.ldb + at : p.b, valid);
                } else {
                    const int c = tid % 16, r = tid / 16 + 16 * i;
                    const bool valid = n0 + c * 8 < g.n && p.at + r < p.k;
                    cp_async16(to + at16(r, c), valid ? p.b + (p.at + r) * p.ldb + n0 + c * 8 : p.b, valid);
                }
            }
        }
        cp_async_commit();
    };

    float d[4][4][4];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int x = 0; x < 4; x++) d[i][j][x] = 0;
    for (int s = 0; s < STAGES - 1; s++) copy(s);
    for (int s = 0; s < steps; s++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        copy(s + STAGES - 1); // over what was read before the barrier
        const unsigned char *sa = smem + s % STAGES * STAGE, *sb = sa + A_BYTES;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            uint32_t fa[4][4], fb[2][4]; // fb: two blocks of 8 columns each
#pragma unroll
            for (int i = 0; i < 4; i++) ldmatrix_x4(fa[i], sa + at4(wm + 16 * i + lane % 16, 2 * k + lane / 16));
#pragma unroll
            for (int j = 0; j < 2; j++) {
                if (transB)
                    ldmatrix_x4(fb[j], sb + at4(wn + 16 * j + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
                else
                    ldmatrix_x4_trans(fb[j], sb + at16(16 * k + lane % 16, wn / 8 + 2 * j + lane / 16));
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) mma_bf16(d[i][j], fa[i], &fb[j / 2][j % 2 * 2]);
        }
    }
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int r = m0 + wm + 16 * i + lane / 4, c = n0 + wn + 8 * j + lane % 4 * 2;
            gemm_store2(g, r, c, d[i][j][0], d[i][j][1]);
            gemm_store2(g, r + 8, c, d[i][j][2], d[i][j][3]);
        }
}

#define GEMM_MMA(name, transB)                                   \
    KERNEL_BOUNDS(gemm_mma_##name, GemmArgs, 256, 2) {           \
        DYNAMIC_SHARED(smem);                                    \
        int ti, tj;                                              \
        gemm_tile(blockIdx.x, a.tiles_m, a.tiles_n, ti, tj);     \
        gemm_mma<transB>(a, smem, ti, tj);                       \
    }                                                            \
    KERNEL_BOUNDS(gemm_mma_experts_##name, ExpertGemmArgs, 256, 2) { \
        DYNAMIC_SHARED(smem);                                    \
        GemmArgs g = a.g;                                        \
        int tj;                                                  \
        if (!rows_of_expert<true, transB>(g, a, tj)) return;     \
        gemm_mma<transB>(g, smem, 0, tj);                        \
    }
GEMM_MMA(nt, true)
GEMM_MMA(nn, false)
