// Products of e4m3 matrices from sm_89 on: c = sa . a.bᵀ . sb + low, a and b stored with k
// along rows, sa and sb scales of their rows. Multistage, as in gemm_half.cu; the rows of
// 64 bytes of a step are 64 codes, or 32 bfloat16 of the update of low rank.
//
// The tensor cores may add products of e4m3 with about 14 bits. So a step is a sum of its
// own, which is added to those before it in float32.
#include "gemm.cuh"
#include "fp8.cuh"

struct GemmFp8Args {
    GemmArgs g;
    const float *sa, *sb; // [m], [n] or null
};

KERNEL(gemm_fp8_mma, GemmFp8Args, 256) {
    DYNAMIC_SHARED(smem);
    const GemmArgs& g = a.g;
    const int BM = 128, BN = 128, STAGES = 3, A_BYTES = BM * 64, STAGE = A_BYTES + BN * 64;
    const int tid = threadIdx.x, lane = tid % 32, wm = tid / 32 / 4 * 64, wn = tid / 32 % 4 * 32;
    int ti, tj;
    gemm_tile(blockIdx.x, g.tiles_m, g.tiles_n, ti, tj);
    const int m0 = ti * BM, n0 = tj * BN;
    const int steps8 = (g.k + 63) / 64, steps = steps8 + (g.k2 + 31) / 32;
    auto at4 = [](int r, int c) { return r * 64 + ((c ^ (r >> 1 & 3)) << 4); };

    auto copy = [&](int s) {
        if (s < steps) {
            const bool low = s >= steps8;
            const unsigned char *pa = (const unsigned char*)(low ? g.a2 : g.a), *pb = (const unsigned char*)(low ? g.b2 : g.b);
            const long long lda = low ? 2 * g.lda2 : g.lda, ldb = low ? 2 * g.ldb2 : g.ldb; // in bytes, as k
            const int k = low ? 2 * g.k2 : g.k, c = tid % 4, r = tid / 4, at = (low ? s - steps8 : s) * 64 + c * 16;
            unsigned char* to = smem + s % STAGES * STAGE;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const bool valid = m0 + r + 64 * i < g.m && at < k;
                cp_async16(to + at4(r + 64 * i, c), valid ? pa + (m0 + r + 64 * i) * lda + at : pa, valid);
            }
            to += A_BYTES;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const bool valid = n0 + r + 64 * i < g.n && at < k;
                cp_async16(to + at4(r + 64 * i, c), valid ? pb + (n0 + r + 64 * i) * ldb + at : pb, valid);
            }
        }
        cp_async_commit();
    };
    auto scale = [&](float (&d)[4][4][4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = m0 + wm + 16 * i + lane / 4;
            const float lo = __ldg(a.sa + min(r, g.m - 1)), hi = __ldg(a.sa + min(r + 8, g.m - 1));
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int c = n0 + wn + 8 * j + lane % 4 * 2;
                const float u = a.sb && c < g.n ? __ldg(a.sb + c) : 1, v = a.sb && c + 1 < g.n ? __ldg(a.sb + c + 1) : 1;
                d[i][j][0] = d[i][j][0] * lo * u, d[i][j][1] = d[i][j][1] * lo * v;
                d[i][j][2] = d[i][j][2] * hi * u, d[i][j][3] = d[i][j][3] * hi * v;
            }
        }
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
        if (s == steps8) scale(d);
        uint32_t fb[2][2][4]; // of both halves of a step: two blocks of 8 columns each
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int j = 0; j < 2; j++) ldmatrix_x4(fb[k][j], sb + at4(wn + 16 * j + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t fa[2][4];
#pragma unroll
            for (int k = 0; k < 2; k++) ldmatrix_x4(fa[k], sa + at4(wm + 16 * i + lane % 16, 2 * k + lane / 16));
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (s < steps8) {
                    float part[4] = {0, 0, 0, 0};
#pragma unroll
                    for (int k = 0; k < 2; k++) mma_e4m3(part, fa[k], &fb[k][j / 2][j % 2 * 2]);
#pragma unroll
                    for (int x = 0; x < 4; x++) d[i][j][x] += part[x];
                } else {
#pragma unroll
                    for (int k = 0; k < 2; k++) mma_bf16(d[i][j], fa[k], &fb[k][j / 2][j % 2 * 2]);
                }
            }
        }
    }
    cp_async_wait<0>();
    if (steps == steps8) scale(d);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int r = m0 + wm + 16 * i + lane / 4, c = n0 + wn + 8 * j + lane % 4 * 2;
            gemm_store2(g, r, c, d[i][j][0], d[i][j][1]);
            gemm_store2(g, r + 8, c, d[i][j][2], d[i][j][3]);
        }
}
