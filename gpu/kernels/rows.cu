// Rows: of tables of every type, expanded, rounded, gathered and scattered.
#include "dequant.cuh"
#include "walk.cuh"

// put8 stores a group as floats or bfloat16, at an address of 16 bytes.
__device__ __forceinline__ void put8(float* p, const float v[8]) { store<4>(p, v), store<4>(p + 4, v + 4); }

__device__ __forceinline__ void put8(uint16_t* p, const float v[8]) {
    uint4 q;
    q.x = pack_bf16(v[0], v[1]), q.y = pack_bf16(v[2], v[3]), q.z = pack_bf16(v[4], v[5]), q.w = pack_bf16(v[6], v[7]);
    *(uint4*)p = q;
}

// element returns one element of a row of any type.
template <int DT> __device__ __forceinline__ float element(const unsigned char* row, long long i, const float*) { return Format<DT>::element(row, i); }
#define ELEMENT(DT)                                                                                                        \
    template <> __device__ __forceinline__ float element<DT>(const unsigned char* row, long long i, const float* table) { \
        float v[8];                                                                                                       \
        Format<DT>::expand8(v, row + i / Format<DT>::block * Format<DT>::bytes, (int)(i % Format<DT>::block) / 8, table);   \
        return i & 4 ? (i & 2 ? (i & 1 ? v[7] : v[6]) : (i & 1 ? v[5] : v[4])) : (i & 2 ? (i & 1 ? v[3] : v[2]) : (i & 1 ? v[1] : v[0])); \
    }
ELEMENT(Q4_0) ELEMENT(Q4_1) ELEMENT(Q5_0) ELEMENT(Q5_1) ELEMENT(Q8_0) ELEMENT(Q4_K) ELEMENT(Q5_K) ELEMENT(Q6_K) ELEMENT(NF4)

template <int DT> __device__ __forceinline__ void expand_group(float v[8], const unsigned char* row, long long group, const float* table) {
    using F = Format<DT>;
    const int per = F::block / 8;
    F::expand8(v, row + group / per * F::bytes, (int)(group % per), table);
}

struct ExpandArgs {
    void* dst;
    const unsigned char* src;
    const int* ids; // of the rows of src; null: all, in order
    long long rows, cols, stride; // stride: bytes from one row of src to the next
    int shift, vec;               // vec: groups of 8 can be loaded and stored
};

// expand sets row t of dst (of type D) to row ids[t] of src.
template <int DT, class D> __device__ __forceinline__ void expand(const ExpandArgs& a) {
    SHARED(float, table, 16);
    if (DT == NF4) {
        fill_table<DT>(table);
        __syncthreads();
    }
    const Tile t(a.shift);
    D* dst = (D*)a.dst;
    if (!a.vec) {
        if (t.item >= a.cols) return;
        for (int u = 0; u < TILE_ROWS; u++) {
            const long long row = t.row + u * t.step;
            if (row >= a.rows) break;
            const float v = element<DT>(a.src + (a.ids ? a.ids[row] : row) * a.stride, t.item, table);
            store<1>(dst + row * a.cols + t.item, &v);
        }
        return;
    }
    if (t.item * 8 >= a.cols) return;
    float v[TILE_ROWS][8];
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = t.row + u * t.step;
        if (row < a.rows) expand_group<DT>(v[u], a.src + (a.ids ? a.ids[row] : row) * a.stride, t.item, table);
    }
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = t.row + u * t.step;
        if (row < a.rows) put8(dst + row * a.cols + t.item * 8, v[u]);
    }
}

struct SquaresArgs {
    float* dst;
    const unsigned char* src;
    long long rows, cols, stride;
    int vec;
};

// squares sets dst to the sums of squares of rows, a warp each.
template <int DT> __device__ __forceinline__ void squares(const SquaresArgs& a) {
    SHARED(float, table, 16);
    if (DT == NF4) {
        fill_table<DT>(table);
        __syncthreads();
    }
    const int lane = threadIdx.x & 31;
    const long long row = (long long)blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= a.rows) return;
    const unsigned char* from = a.src + row * a.stride;
    float sum[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    if (a.vec) {
#pragma unroll 4
        for (long long g = lane; g * 8 < a.cols; g += 32) {
            float v[8];
            expand_group<DT>(v, from, g, table);
#pragma unroll
            for (int e = 0; e < 8; e++) sum[e] = fmaf(v[e], v[e], sum[e]);
        }
    } else {
        for (long long i = lane; i < a.cols; i += 32) {
            const float v = element<DT>(from, i, table);
            sum[0] = fmaf(v, v, sum[0]);
        }
    }
    const float total = warp_sum(((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7])));
    if (lane == 0) a.dst[row] = total;
}

#define TYPE(name, DT)                                               \
    KERNEL(expand_##name, ExpandArgs, 256) { expand<DT, float>(a); } \
    KERNEL(squares_##name, SquaresArgs, 256) { squares<DT>(a); }
TYPE(f32, F32)
TYPE(f16, F16)
TYPE(bf16, BF16)
TYPE(q4_0, Q4_0)
TYPE(q4_1, Q4_1)
TYPE(q5_0, Q5_0)
TYPE(q5_1, Q5_1)
TYPE(q8_0, Q8_0)
TYPE(q4_k, Q4_K)
TYPE(q5_k, Q5_K)
TYPE(q6_k, Q6_K)
TYPE(nf4, NF4)
KERNEL(copy_bf16, ExpandArgs, 256) { expand<BF16, uint16_t>(a); }

struct ScatterArgs {
    void* dst;
    const void* src;
    const int* idx; // where rows of src go; those of -1 stay
    long long rows, cols;
    int shift;
};

// scatter sets row idx[i] of dst to row i of src, W numbers at a time.
template <int W, class T, class D> __device__ __forceinline__ void scatter(const ScatterArgs& a) {
    const Tile t(a.shift);
    const long long col = t.item * W;
    if (col >= a.cols) return;
    float v[TILE_ROWS][W];
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = t.row + u * t.step;
        if (row < a.rows) load<W>(v[u], (const T*)a.src + row * a.cols + col);
    }
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = t.row + u * t.step;
        if (row >= a.rows) break;
        const long long to = a.idx[row];
        if (to >= 0) store<W>((D*)a.dst + to * a.cols + col, v[u]);
    }
}

#define SCATTER(name, T, D)                                                   \
    KERNEL(scatter_##name##_1, ScatterArgs, 256) { scatter<1, T, D>(a); } \
    KERNEL(scatter_##name##_4, ScatterArgs, 256) { scatter<4, T, D>(a); }
SCATTER(f32, float, float)
SCATTER(to_half, float, uint16_t)
SCATTER(half, uint16_t, uint16_t)

struct ScatterAddArgs {
    float* dst;
    const float* src;
    const int *first, *order, *to; // to[g] gets the rows order[first[g]..first[g+1]] of src
    long long groups, cols;
    int shift;
};

// scatter_add adds the rows of a group to row to[g] of dst, one after the other.
template <int W> __device__ __forceinline__ void scatter_add(const ScatterAddArgs& a) {
    const Tile t(a.shift);
    const long long col = t.item * W;
    if (col >= a.cols) return;
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long g = t.row + u * t.step;
        if (g >= a.groups) break;
        float* dst = a.dst + a.to[g] * a.cols + col;
        float sum[W];
        load<W>(sum, dst);
        const int end = a.first[g + 1];
#pragma unroll 4
        for (int i = a.first[g]; i < end; i++) {
            float v[W];
            load<W>(v, a.src + a.order[i] * a.cols + col);
#pragma unroll
            for (int e = 0; e < W; e++) sum[e] += v[e];
        }
        store<W>(dst, sum);
    }
}

KERNEL(scatter_add_1, ScatterAddArgs, 256) { scatter_add<1>(a); }
KERNEL(scatter_add_4, ScatterAddArgs, 256) { scatter_add<4>(a); }
