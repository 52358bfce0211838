// Attention with products of bfloat16: tiles of queries against tiles of keys
// with a running softmax (Dao 2023, algorithms 1 and 2). The backward pass has
// two kernels, one for the gradients of queries and one for those of keys and
// values, so that nothing is added up out of order.
#include "attention.cuh"

namespace {

// ---- forward

// Four warps of 32 queries each; keys and values are copied one block ahead.
constexpr int FORWARD_QUERIES = 128, FORWARD_KEYS = 64, FORWARD_THREADS = 128;

template <int D> __device__ __forceinline__ void round_queries(unsigned char* to, const float* from, int ld, int valid) {
    const TilePart<D, FORWARD_THREADS> p;
    if (p.piece >= D / 8) return;
    from += p.from(ld);
#pragma unroll 4
    for (int r = 0; r < FORWARD_QUERIES; r += p.step) {
        float4 x = {0, 0, 0, 0}, y = {0, 0, 0, 0};
        if (p.row + r < valid) {
            x = *(const float4*)from;
            y = *(const float4*)(from + 4);
        }
        from += p.step * ld;
        uint4 bits = {pack_bf16(x.x, x.y), pack_bf16(x.z, x.w), pack_bf16(y.x, y.y), pack_bf16(y.z, y.w)};
        *(uint4*)(to + p.at + r * tile_row<D>) = bits;
    }
}

template <int D> __device__ __forceinline__ void attend(const AttentionArgs& a, unsigned char* smem) {
    constexpr int N = FORWARD_KEYS, size = N * tile_row<D>;
    const AttentionTile t = a.tiles[blockIdx.x / a.heads];
    const int head = blockIdx.x % a.heads, lane = threadIdx.x & 31, first = (threadIdx.x >> 5) * 32;
    const long long at = (long long)t.key * a.ldk + head / a.group * D + TilePart<D, FORWARD_THREADS>().from(a.ldk);
    const uint16_t* k = (const uint16_t*)a.k + at;
    const long long apart = (const char*)a.v - (const char*)a.k;
    unsigned char *queries = smem, *keys = smem + FORWARD_QUERIES * tile_row<D>, *values = keys + 2 * size;
    const int last = t.sees + t.rows - 1; // keys that the last query sees
    fetch_pair<D, N, FORWARD_THREADS>(keys, 2 * size, k, apart, a.ldk, last);
    const long long from = (long long)t.q * a.ldq + head * D;
    if (a.half) fetch_tile<D, FORWARD_QUERIES, FORWARD_THREADS>(queries, (const uint16_t*)a.q + from, a.ldq, t.rows);
    else round_queries<D>(queries, (const float*)a.q + from, a.ldq, t.rows);
    cp_async_commit();

    const float scale = a.scale * LOG2E;
    float out[2][D / 8][4], most[2][2], sum[2][2];
#pragma unroll
    for (int m = 0; m < 2; m++) {
        most[m][0] = most[m][1] = -INFINITY;
        sum[m][0] = sum[m][1] = 0;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) out[m][n][i] = 0;
    }
    const int reach = first < t.rows ? t.sees + first + 31 : 0; // keys that this warp sees
    for (int k0 = 0, turn = 0; k0 < last; k0 += N, turn ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        if (k0 + N < last) {
            fetch_pair<D, N, FORWARD_THREADS>(keys + (turn ^ 1) * size, 2 * size, k, apart, a.ldk, last - k0 - N);
            cp_async_commit();
        }
        if (k0 >= reach) continue;
        float s[2][N / 8][4];
        times_rows<D, 2, N / 8>(s, queries + first * tile_row<D>, keys + turn * size);
        if (k0 + N > t.sees + first) {
            const int id = afresh(threadIdx.x), bound = t.sees + first + (id >> 2 & 7) - k0 - (id & 3) * 2;
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int n = 0; n < N / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        if (n * 8 + (i & 1) - m * 16 - (i >> 1) * 8 >= bound) s[m][n][i] = -INFINITY;
                    }
        }
        float less[2][2];
        bool grown = false;
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float x = most[m][h];
#pragma unroll
                for (int n = 0; n < N / 8; n++) x = fmaxf(x, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
                x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
                x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
                grown |= x > most[m][h];
                const float base = x == -INFINITY ? 0 : x * scale;
                less[m][h] = exp2_fast(fmaf(most[m][h], scale, -base));
                most[m][h] = x;
                float part = 0;
#pragma unroll
                for (int n = 0; n < N / 8; n++) {
                    s[m][n][2 * h] = exp2_fast(fmaf(s[m][n][2 * h], scale, -base));
                    s[m][n][2 * h + 1] = exp2_fast(fmaf(s[m][n][2 * h + 1], scale, -base));
                    part += s[m][n][2 * h] + s[m][n][2 * h + 1];
                }
                sum[m][h] = sum[m][h] * less[m][h] + part;
            }
        if (__any_sync(~0u, grown)) {
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int n = 0; n < D / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) out[m][n][i] *= less[m][i >> 1];
        }
        uint32_t p[2][N / 16][4];
        as_operand<2, N / 16>(p, s);
        add_product<D, 2, N / 16, true>(out, p, values + turn * size);
    }
    const AttentionTile now = a.tiles[blockIdx.x / a.heads]; // again: to have kept it costs registers
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float x = sum[m][h];
            x += __shfl_xor_sync(~0u, x, 1);
            x += __shfl_xor_sync(~0u, x, 2);
            const int row = first + m * 16 + h * 8 + (lane >> 2);
            if (row >= now.rows) continue;
            const long long to = (long long)(now.q + row) * a.ldq + blockIdx.x % a.heads * D + (lane & 3) * 2;
            const float one = 1 / x;
#pragma unroll
            for (int n = 0; n < D / 8; n++) store_two(a.dst, a.half, to + n * 8, out[m][n][2 * h] * one, out[m][n][2 * h + 1] * one);
            if ((lane & 3) == 0) a.lse[(long long)(now.q + row) * a.heads + blockIdx.x % a.heads] = most[m][h] * a.scale + logf(x);
        }
}

} // namespace

KERNEL_BOUNDS(attention_mma_64, AttentionArgs, FORWARD_THREADS, 2) { DYNAMIC_SHARED(smem); attend<64>(a, smem); }
KERNEL_BOUNDS(attention_mma_96, AttentionArgs, FORWARD_THREADS, 2) { DYNAMIC_SHARED(smem); attend<96>(a, smem); }
KERNEL_BOUNDS(attention_mma_128, AttentionArgs, FORWARD_THREADS, 2) { DYNAMIC_SHARED(smem); attend<128>(a, smem); }

namespace {

// ---- gradient of the queries

// Four warps of 32 queries each.
constexpr int DQ_QUERIES = 128, DQ_KEYS = 32, DQ_THREADS = 128;

template <int D> __device__ __forceinline__ void query_grad(const AttentionGradArgs& a, unsigned char* smem) {
    constexpr int N = DQ_KEYS, size = N * tile_row<D>;
    const AttentionTile t = a.tiles[blockIdx.x / a.heads];
    const int head = blockIdx.x % a.heads, lane = threadIdx.x & 31, first = (threadIdx.x >> 5) * 32;
    const long long at = (long long)t.key * a.ldk + head / a.group * D + TilePart<D, DQ_THREADS>().from(a.ldk), from = (long long)t.q * a.ldq + head * D;
    const uint16_t* k = (const uint16_t*)a.k + at;
    const long long apart = (const char*)a.v - (const char*)a.k;
    unsigned char *queries = smem, *dys = smem + DQ_QUERIES * tile_row<D>, *keys = dys + DQ_QUERIES * tile_row<D>, *values = keys + 2 * size;
    const int last = t.sees + t.rows - 1;
    fetch_tile<D, DQ_QUERIES, DQ_THREADS>(queries, (const uint16_t*)a.q + from, a.ldq, t.rows);
    fetch_tile<D, DQ_QUERIES, DQ_THREADS>(dys, (const uint16_t*)a.dy + from, a.ldq, t.rows);
    fetch_pair<D, N, DQ_THREADS>(keys, 2 * size, k, apart, a.ldk, last);
    cp_async_commit();

    const float scale = a.scale * LOG2E;
    float grad[2][D / 8][4], lse[2][2], delta[2][2];
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = first + m * 16 + h * 8 + (lane >> 2);
            const long long i = (long long)head * a.queries + t.q + row;
            lse[m][h] = row < t.rows ? a.lse[i] : 0;
            delta[m][h] = row < t.rows ? a.delta[i] : 0;
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) grad[m][n][i] = 0;
    }
    for (int k0 = 0, turn = 0; k0 < last; k0 += N, turn ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        if (k0 + N < last) {
            fetch_pair<D, N, DQ_THREADS>(keys + (turn ^ 1) * size, 2 * size, k, apart, a.ldk, last - k0 - N);
            cp_async_commit();
        }
        if (first >= t.rows || k0 >= t.sees + first + 31) continue;
        float s[2][N / 8][4], dp[2][N / 8][4];
        times_rows<D, 2, N / 8>(s, queries + first * tile_row<D>, keys + turn * size);
        times_rows<D, 2, N / 8>(dp, dys + first * tile_row<D>, values + turn * size);
        const bool masked = k0 + N > t.sees + first;
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    s[m][n][i] = exp2_fast(fmaf(s[m][n][i], scale, -lse[m][i >> 1])) * (dp[m][n][i] - delta[m][i >> 1]);
                    const int row = first + m * 16 + (i >> 1) * 8 + (lane >> 2), key = k0 + n * 8 + (lane & 3) * 2 + (i & 1);
                    if (masked && key >= t.sees + row) s[m][n][i] = 0;
                }
        uint32_t ds[2][N / 16][4];
        as_operand<2, N / 16>(ds, s);
        add_product<D, 2, N / 16>(grad, ds, keys + turn * size);
    }
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = first + m * 16 + h * 8 + (lane >> 2);
            if (row >= t.rows) continue;
            const long long to = (long long)(t.q + row) * a.ldq + head * D + (lane & 3) * 2;
#pragma unroll
            for (int n = 0; n < D / 8; n++) store_two(a.dq, a.half, to + n * 8, grad[m][n][2 * h] * a.scale, grad[m][n][2 * h + 1] * a.scale);
        }
}

} // namespace

KERNEL_BOUNDS(attention_dq_mma_64, AttentionGradArgs, DQ_THREADS, 2) { DYNAMIC_SHARED(smem); query_grad<64>(a, smem); }
KERNEL_BOUNDS(attention_dq_mma_96, AttentionGradArgs, DQ_THREADS, 2) { DYNAMIC_SHARED(smem); query_grad<96>(a, smem); }
KERNEL_BOUNDS(attention_dq_mma_128, AttentionGradArgs, DQ_THREADS, 2) { DYNAMIC_SHARED(smem); query_grad<128>(a, smem); }

namespace {

// ---- gradients of keys and values

// Warps of 16 keys each, which go through all queries of the heads that share the
// keys, in order: eight, or four where there is little shared memory.
constexpr int DK_QUERIES = 64;

template <int D, int DK_KEYS> __device__ __forceinline__ void key_grad(const AttentionGradArgs& a, unsigned char* smem) {
    constexpr int M = DK_QUERIES, size = M * tile_row<D>, DK_THREADS = 2 * DK_KEYS;
    const int kvHeads = a.heads / a.group, kv = blockIdx.x % kvHeads;
    const AttentionKeys t = a.keys[blockIdx.x / kvHeads];
    const int lane = threadIdx.x & 31, first = (threadIdx.x >> 5) * 16;
    const long long at = (long long)t.key * a.ldk + kv * D;
    unsigned char *keys = smem, *values = keys + DK_KEYS * tile_row<D>, *queries = values + DK_KEYS * tile_row<D>, *dys = queries + 2 * size;
    float* rows = (float*)(dys + 2 * size); // [2 turns][lse and delta][M]
    QueryBlock<M> now(a, t);

    float dk[1][D / 8][4], dv[1][D / 8][4];
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) dk[0][n][i] = dv[0][n][i] = 0;

    const int mine = threadIdx.x % M; // where the element of lse or delta that this thread copies lies
    float ahead = 0;
    auto fetch = [&](const QueryBlock<M> &b, int turn) {
        const int head = kv * a.group + b.head, valid = b.s.rows - b.i;
        const uint16_t* from = (const uint16_t*)a.q + (long long)(b.s.q + b.i) * a.ldq + head * D + TilePart<D, DK_THREADS>().from(a.ldq);
        fetch_pair<D, M, DK_THREADS>(queries + turn * size, 2 * size, from, (const char*)a.dy - (const char*)a.q, a.ldq, valid);
        cp_async_commit();
        if (threadIdx.x < 2 * M) {
            ahead = threadIdx.x < M ? INFINITY : 0; // no query: probability 0
            if (mine < valid) ahead = (threadIdx.x < M ? a.lse : a.delta)[(long long)head * a.queries + b.s.q + b.i + mine];
        }
    };
    if (now.source < t.sources) {
        fetch_tile<D, DK_KEYS, DK_THREADS>(keys, (const uint16_t*)a.k + at, a.ldk, t.rows);
        fetch_tile<D, DK_KEYS, DK_THREADS>(values, (const uint16_t*)a.v + at, a.ldk, t.rows);
        fetch(now, 0);
    }
    const float scale = a.scale * LOG2E;
    for (int turn = 0; now.source < t.sources; turn ^= 1) {
        if (threadIdx.x < 2 * M) rows[turn * 2 * M + threadIdx.x] = ahead;
        cp_async_wait<0>();
        __syncthreads();
        QueryBlock<M> next = now;
        next.advance(a, t);
        if (next.source < t.sources) fetch(next, turn ^ 1);
        const int diagonal = t.key + first - now.s.diagonal - now.i; // query i sees keys first..first+i-diagonal
        now = next;
        if (M - 1 < diagonal) continue; // no query sees a key of this warp
        const float* lse = rows + turn * 2 * M + (lane & 3) * 2, *delta = lse + M;
        float s[1][M / 8][4], dp[1][M / 8][4];
        times_rows<D, 1, M / 8>(s, keys + first * tile_row<D>, queries + turn * size);
        times_rows<D, 1, M / 8>(dp, values + first * tile_row<D>, dys + turn * size);
        const bool masked = diagonal + 15 > 0;
#pragma unroll
        for (int n = 0; n < M / 8; n++) {
            const float2 l = *(const float2*)(lse + n * 8), d = *(const float2*)(delta + n * 8);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[0][n][i] = exp2_fast(fmaf(s[0][n][i], scale, -(i & 1 ? l.y : l.x)));
                const int key = (i >> 1) * 8 + (lane >> 2), query = n * 8 + (lane & 3) * 2 + (i & 1);
                if (masked && key + diagonal > query) s[0][n][i] = 0;
                dp[0][n][i] = s[0][n][i] * (dp[0][n][i] - (i & 1 ? d.y : d.x));
                if (masked && key + diagonal > query) dp[0][n][i] = 0;
            }
        }
        uint32_t p[1][M / 16][4], ds[1][M / 16][4];
        as_operand<1, M / 16>(p, s);
        as_operand<1, M / 16>(ds, dp);
        add_product<D, 1, M / 16>(dv, p, dys + turn * size);
        add_product<D, 1, M / 16>(dk, ds, queries + turn * size);
    }
    const AttentionKeys own = a.keys[blockIdx.x / kvHeads]; // again: to have kept it costs registers
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = first + h * 8 + (lane >> 2);
        if (row >= own.rows) continue;
        const long long to = (long long)(own.key + row) * a.ldk + kv * D + (lane & 3) * 2;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            store_two(a.dk, a.half, to + n * 8, dk[0][n][2 * h] * a.scale, dk[0][n][2 * h + 1] * a.scale);
            store_two(a.dv, a.half, to + n * 8, dv[0][n][2 * h], dv[0][n][2 * h + 1]);
        }
    }
}

} // namespace

KERNEL_BOUNDS(attention_dk_mma_64, AttentionGradArgs, 256, 1) { DYNAMIC_SHARED(smem); key_grad<64, 128>(a, smem); }
KERNEL_BOUNDS(attention_dk_mma_96, AttentionGradArgs, 256, 1) { DYNAMIC_SHARED(smem); key_grad<96, 128>(a, smem); }
KERNEL_BOUNDS(attention_dk_mma_128, AttentionGradArgs, 256, 1) { DYNAMIC_SHARED(smem); key_grad<128, 128>(a, smem); }
KERNEL_BOUNDS(attention_dk_mma_small_64, AttentionGradArgs, 128, 1) { DYNAMIC_SHARED(smem); key_grad<64, 64>(a, smem); }
KERNEL_BOUNDS(attention_dk_mma_small_96, AttentionGradArgs, 128, 1) { DYNAMIC_SHARED(smem); key_grad<96, 64>(a, smem); }
KERNEL_BOUNDS(attention_dk_mma_small_128, AttentionGradArgs, 128, 1) { DYNAMIC_SHARED(smem); key_grad<128, 64>(a, smem); }
