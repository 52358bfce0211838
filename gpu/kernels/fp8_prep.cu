// What products in 8 bits need before they begin: operands as codes of e4m3 with a
// scale a row, and codes of a weight that are transposed.
#include "common.cuh"
#include "dequant.cuh"
#include "fp8.cuh"

// Fp8RowsArgs: codes [rows, ldd], zeros behind cols, and scales [rows], of rows of
// `stride` bytes, whose columns are multiplied by `by` [cols] before, unless it is
// null. ldd is a multiple of 16.
struct Fp8RowsArgs {
    unsigned char* codes;
    float* scales;
    const unsigned char* src;
    const float* by;
    long long stride;
    int rows, cols, ldd, unused;
};

// fp8_load gives the elements e..e+7 of a row, zeros behind cols.
template <int DT> __device__ __forceinline__ void fp8_load(float (&v)[8], const Fp8RowsArgs& a, const unsigned char* row, int e, bool whole, const float* table) {
    using F = Format<DT>;
    if (whole && e + 8 <= a.cols) {
        F::expand8(v, row + (long long)(e / F::block) * F::bytes, e % F::block / 8, table);
    } else if constexpr (F::block == 8) {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = e + i < a.cols ? F::element(row, e + i) : 0;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = 0;
    }
    if (a.by)
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= e + i < a.cols ? __ldg(a.by + e + i) : 1;
}

template <int DT> __device__ __forceinline__ void fp8_rows(const Fp8RowsArgs& a, const float* table, int* scratch) {
    using F = Format<DT>;
    const bool whole = F::block > 8 || aligned<DT>(a.src, a.stride);
    float v[8];
    for (int r = blockIdx.x; r < a.rows; r += gridDim.x) {
        const unsigned char* row = a.src + r * a.stride;
        int most = 0; // bits of the largest absolute value: a NaN is more than all
        for (int e = threadIdx.x * 8; e < a.cols; e += 256 * 8) {
            fp8_load<DT>(v, a, row, e, whole, table);
#pragma unroll
            for (int i = 0; i < 8; i++) most = max(most, (int)(__float_as_uint(v[i]) & 0x7fffffffu));
        }
        const float scale = e4m3_scale(block_max(most, scratch)), by = e4m3_inverse(scale);
        if (threadIdx.x == 0) a.scales[r] = scale;
        for (int e = threadIdx.x * 8; e < a.ldd; e += 256 * 8) {
            fp8_load<DT>(v, a, row, e, whole, table);
            const uint2 w = {pack_e4m3(v[0] * by, v[1] * by, v[2] * by, v[3] * by), pack_e4m3(v[4] * by, v[5] * by, v[6] * by, v[7] * by)};
            *(uint2*)(a.codes + (long long)r * a.ldd + e) = w;
        }
    }
}

#define FP8_ROWS(name, DT)                    \
    KERNEL(fp8_rows_##name, Fp8RowsArgs, 256) { \
        SHARED(float, table, 16);             \
        SHARED(int, scratch, 32);             \
        fill_table<DT>(table);                \
        __syncthreads();                      \
        fp8_rows<DT>(a, table, scratch);      \
    }
FP8_ROWS(f32, F32)
FP8_ROWS(f16, F16)
FP8_ROWS(bf16, BF16)
FP8_ROWS(q4_0, Q4_0)
FP8_ROWS(q4_1, Q4_1)
FP8_ROWS(q5_0, Q5_0)
FP8_ROWS(q5_1, Q5_1)
FP8_ROWS(q8_0, Q8_0)
FP8_ROWS(q4_k, Q4_K)
FP8_ROWS(q5_k, Q5_K)
FP8_ROWS(q6_k, Q6_K)
FP8_ROWS(nf4, NF4)

// Fp8TurnArgs: dst [cols, ldd] is the transpose of src [rows, lds], zeros behind rows.
// Both distances are multiples of 16.
struct Fp8TurnArgs {
    unsigned char* dst;
    const unsigned char* src;
    int rows, cols, lds, ldd, tiles, unused; // tiles of 64 rows of src
};

KERNEL(fp8_turn, Fp8TurnArgs, 256) {
    SHARED(uint32_t, tile, 64 * 17);
    const int r0 = blockIdx.x % a.tiles * 64, c0 = blockIdx.x / a.tiles * 64, line = threadIdx.x / 4, chunk = threadIdx.x % 4;
    uint4 v = {0, 0, 0, 0};
    if (r0 + line < a.rows && c0 + 16 * chunk < a.lds) v = *(const uint4*)(a.src + (long long)(r0 + line) * a.lds + c0 + 16 * chunk);
    uint32_t* to = tile + line * 17 + chunk * 4;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    __syncthreads();
    if (c0 + line >= a.cols || r0 + 16 * chunk >= a.ldd) return;
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = 0;
#pragma unroll
        for (int q = 0; q < 4; q++) w[i] |= (tile[(16 * chunk + 4 * i + q) * 17 + line / 4] >> 8 * (line % 4) & 0xff) << 8 * q;
    }
    *(uint4*)(a.dst + (long long)(c0 + line) * a.ldd + r0 + 16 * chunk) = uint4{w[0], w[1], w[2], w[3]};
}
