// Attention with products of warpgroups, on sm_90a: the same as attention_mma.cu,
// with the products of one block of keys or queries under way while the weights of
// another are formed (Shah et al. 2024, algorithm 2). Two warpgroups have 64 rows
// each of a tile of 128.
#include "attention_wgmma.cuh"

#ifdef HAVE_WGMMA

namespace {

// ---- forward

constexpr int QUERIES = 128, KEYS = 128;

template <int D> __device__ __forceinline__ void attend(const AttentionArgs& a, unsigned char* smem) {
    constexpr int N = KEYS, size = N * D * 2;
    const AttentionTile t = a.tiles[blockIdx.x / a.heads];
    const int head = blockIdx.x % a.heads, lane = threadIdx.x & 31, group = warpgroup();
    const int first = group * 64 + (threadIdx.x >> 5 & 3) * 16 + (lane >> 2), column = (lane & 3) * 2; // of this thread
    const PanelPart<D, N> part;
    // Copies are from the block of keys that is two ahead, and one of values.
    const uint16_t* k = (const uint16_t*)a.k + (long long)t.key * a.ldk + head / a.group * D + part.from(a.ldk);
    const long long block = (long long)N * a.ldk, apart = ((const uint16_t*)a.v - (const uint16_t*)a.k) - block;
    unsigned char *queries = smem, *keys = smem + QUERIES * D * 2, *values = keys + 2 * size;
    const int last = t.sees + t.rows - 1, blocks = (last + N - 1) / N;
    const long long from = (long long)t.q * a.ldq + head * D;
    if (a.half) fetch<D, QUERIES>(queries, (const uint16_t*)a.q + from + part.from(a.ldq), a.ldq, t.rows);
    else round_rows<D, QUERIES>(queries, (const float*)a.q + from + part.from(a.ldq), a.ldq, t.rows);
    fetch<D, N>(keys, k, a.ldk, last);
    cp_async_commit();
    k += block;
    fetch<D, N>(keys + size, k, a.ldk, last - N);
    fetch<D, N>(values, k + apart, a.ldk, last);
    cp_async_commit();
    k += block;

    const uint64_t dq = wgmma_descriptor(queries + group * 64 * 128, 0), dk = wgmma_descriptor(keys, 0), dv = dk + (2 * size >> 4) + across<N>;
    const float scale = a.scale * LOG2E;
    float s[N / 2], out[D / 2], most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, less[2];
    uint32_t p[N / 16][4];

    // weigh turns the scores of keys k0.. into weights; less is what earlier ones
    // must be multiplied with. It returns whether that is not 1 for any row.
    auto weigh = [&](int k0) {
        if (k0 + N > t.sees + group * 64) {
            const int bound = t.sees + first - k0 - column;
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                if (i / 4 * 8 + (i & 1) - (i >> 1 & 1) * 8 >= bound) s[i] = -INFINITY;
        }
        bool grown = false;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float x = most[h];
#pragma unroll
            for (int i = 2 * h; i < N / 2; i += 4) x = fmaxf(x, fmaxf(s[i], s[i + 1]));
            x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
            x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
            grown |= x > most[h];
            const float base = x == -INFINITY ? 0 : x * scale;
            less[h] = exp2_fast(fmaf(most[h], scale, -base));
            most[h] = x;
            float part[2] = {0, 0};
#pragma unroll
            for (int i = 2 * h; i < N / 2; i += 4) {
                s[i] = exp2_fast(fmaf(s[i], scale, -base));
                s[i + 1] = exp2_fast(fmaf(s[i + 1], scale, -base));
                part[0] += s[i];
                part[1] += s[i + 1];
            }
            sum[h] = fmaf(sum[h], less[h], part[0] + part[1]);
            grown |= !(sum[h] >= 0); // never; keeps the compiler from putting all this behind the wait
        }
        return __any_sync(~0u, grown);
    };

    cp_async_wait<1>();
    arrived();
    wgmma_fence();
    rows_by_rows<D, N, QUERIES, N>(s, dq, dk);
    wgmma_commit();
    wgmma_wait<0>();
    hold(s);
    weigh(0);
    to_operand(p, s);
    int turn = 0;
    for (int j = 0; j + 1 < blocks; j++, turn ^= 1) {
        cp_async_wait<0>();
        arrived();
        fetch<D, N>(keys + turn * size, k, a.ldk, last - (j + 2) * N);
        fetch<D, N>(values + (turn ^ 1) * size, k + apart, a.ldk, last - (j + 1) * N);
        cp_async_commit();
        k += block;
        hold(s);
        hold(out);
        wgmma_fence();
        rows_by_rows<D, N, QUERIES, N>(s, dq, dk + ((turn ^ 1) * size >> 4));
        wgmma_commit();
        add_rows<D>(out, p, dv + (turn * size >> 4), j > 0);
        wgmma_commit();
        wgmma_wait<1>();
        hold(s);
        const bool grown = weigh((j + 1) * N);
        if (grown) {
            wgmma_wait<0>();
            hold(out);
#pragma unroll
            for (int i = 0; i < D / 2; i++) out[i] *= less[i >> 1 & 1];
        }
        wgmma_wait<0>();
        hold(out);
        to_operand(p, s);
    }
    cp_async_wait<0>();
    arrived();
    hold(out);
    wgmma_fence();
    add_rows<D>(out, p, dv + (turn * size >> 4), blocks > 1);
    wgmma_commit();
    wgmma_wait<0>();
    hold(out);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float x = sum[h];
        x += __shfl_xor_sync(~0u, x, 1);
        x += __shfl_xor_sync(~0u, x, 2);
        const int row = first + h * 8;
        if (row >= t.rows) continue;
        const long long to = (long long)(t.q + row) * a.ldq + head * D + column;
        store_row<D>(a.dst, a.half, to, out, h, 1 / x);
        if ((lane & 3) == 0) a.lse[(long long)(t.q + row) * a.heads + head] = most[h] * a.scale + logf(x);
    }
}

// ---- gradient of the queries

constexpr int DQ_KEYS = 64;

template <int D> __device__ __forceinline__ void query_grad(const AttentionGradArgs& a, unsigned char* smem) {
    constexpr int N = DQ_KEYS, size = N * D * 2;
    const AttentionTile t = a.tiles[blockIdx.x / a.heads];
    const int head = blockIdx.x % a.heads, lane = threadIdx.x & 31, group = warpgroup();
    const int first = group * 64 + (threadIdx.x >> 5 & 3) * 16 + (lane >> 2), column = (lane & 3) * 2;
    const PanelPart<D, N> part;
    const uint16_t* k = (const uint16_t*)a.k + (long long)t.key * a.ldk + head / a.group * D + part.from(a.ldk);
    const long long block = (long long)N * a.ldk, apart = (const uint16_t*)a.v - (const uint16_t*)a.k;
    unsigned char *queries = smem, *dys = smem + QUERIES * D * 2, *keys = dys + QUERIES * D * 2, *values = keys + 3 * size;
    const int last = t.sees + t.rows - 1, blocks = (last + N - 1) / N;
    const long long from = (long long)t.q * a.ldq + head * D + part.from(a.ldq);
    fetch<D, QUERIES>(queries, (const uint16_t*)a.q + from, a.ldq, t.rows);
    fetch<D, QUERIES>(dys, (const uint16_t*)a.dy + from, a.ldq, t.rows);
    fetch<D, N>(keys, k, a.ldk, last);
    fetch<D, N>(values, k + apart, a.ldk, last);
    cp_async_commit();
    k += block;
    fetch<D, N>(keys + size, k, a.ldk, last - N);
    fetch<D, N>(values + size, k + apart, a.ldk, last - N);
    cp_async_commit();
    k += block;

    const uint64_t dq = wgmma_descriptor(queries + group * 64 * 128, 0), ddy = wgmma_descriptor(dys + group * 64 * 128, 0);
    const uint64_t dk = wgmma_descriptor(keys, 0), dv = dk + (3 * size >> 4), acrossK = dk + across<N>;
    const float scale = a.scale * LOG2E;
    float s[N / 2], dp[N / 2], grad[D / 2], lse[2], delta[2];
    uint32_t ds[N / 16][4];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const bool is = first + h * 8 < t.rows;
        const long long i = (long long)head * a.queries + t.q + first + h * 8;
        lse[h] = is ? a.lse[i] : 0;
        delta[h] = is ? a.delta[i] : 0;
    }
    // differentiate sets s to the gradients of the scores of keys k0...
    auto differentiate = [&](int k0) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) s[i] = exp2_fast(fmaf(s[i], scale, -lse[i >> 1 & 1])) * (dp[i] - delta[i >> 1 & 1]);
        if (k0 + N > t.sees + group * 64) {
            const int bound = t.sees + first - k0 - column;
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                if (i / 4 * 8 + (i & 1) - (i >> 1 & 1) * 8 >= bound) s[i] = 0;
        }
    };
    cp_async_wait<1>();
    arrived();
    wgmma_fence();
    rows_by_rows<D, N, QUERIES, N>(s, dq, dk);
    rows_by_rows<D, N, QUERIES, N>(dp, ddy, dv);
    wgmma_commit();
    wgmma_wait<0>();
    hold(s);
    hold(dp);
    differentiate(0);
    to_operand(ds, s);
    int now = 0, next = 1, after = 2; // where blocks j, j+1, j+2 lie
    for (int j = 0; j + 1 < blocks; j++) {
        cp_async_wait<0>();
        arrived();
        fetch<D, N>(keys + after * size, k, a.ldk, last - (j + 2) * N);
        fetch<D, N>(values + after * size, k + apart, a.ldk, last - (j + 2) * N);
        cp_async_commit();
        k += block;
        hold(s);
        hold(dp);
        hold(grad);
        wgmma_fence();
        rows_by_rows<D, N, QUERIES, N>(s, dq, dk + (next * size >> 4));
        rows_by_rows<D, N, QUERIES, N>(dp, ddy, dv + (next * size >> 4));
        wgmma_commit();
        add_rows<D>(grad, ds, acrossK + (now * size >> 4), j > 0);
        wgmma_commit();
        wgmma_wait<1>();
        hold(s);
        hold(dp);
        differentiate((j + 1) * N);
        hold(s);
        wgmma_wait<0>();
        hold(grad);
        to_operand(ds, s);
        const int free = now;
        now = next, next = after, after = free;
    }
    hold(grad);
    wgmma_fence();
    add_rows<D>(grad, ds, acrossK + (now * size >> 4), blocks > 1);
    wgmma_commit();
    wgmma_wait<0>();
    hold(grad);
    cp_async_wait<0>();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = first + h * 8;
        if (row >= t.rows) continue;
        store_row<D>(a.dq, a.half, (long long)(t.q + row) * a.ldq + head * D + column, grad, h, a.scale);
    }
}

// ---- gradients of keys and values

constexpr int DK_KEYS = 128, DK_QUERIES = 64;

template <int D> __device__ __forceinline__ void key_grad(const AttentionGradArgs& a, unsigned char* smem) {
    constexpr int M = DK_QUERIES, size = M * D * 2;
    const int kvHeads = a.heads / a.group, kv = blockIdx.x % kvHeads;
    const AttentionKeys t = a.keys[blockIdx.x / kvHeads];
    const int lane = threadIdx.x & 31, group = warpgroup();
    const int first = group * 64 + (threadIdx.x >> 5 & 3) * 16 + (lane >> 2), column = (lane & 3) * 2;
    unsigned char *keys = smem, *values = keys + DK_KEYS * D * 2, *queries = values + DK_KEYS * D * 2, *dys = queries + 4 * size;
    float* rows = (float*)(dys + 4 * size); // [4][lse and delta][M]
    const PanelPart<D, M> part;
    const long long at = (long long)t.key * a.ldk + kv * D, apart = (const uint16_t*)a.dy - (const uint16_t*)a.q;

    // The first thread says what comes, so that others need no registers for it.
    struct Coming { int q, head, rows, diagonal; }; // query i of it sees keys up to i-diagonal
    Coming* const coming = (Coming*)(rows + 4 * 2 * M);
    struct Walk { QueryBlock<M> b; AttentionKeys t; int count; };
    Walk* const walk = (Walk*)(coming + 4);
    auto plan = [&](int turn) {
        QueryBlock<M> b = walk->b;
        const AttentionKeys t = walk->t;
        Coming c = {0, 0, 0, 0};
        if (b.source < t.sources) {
            c = {b.s.q + b.i, kv * a.group + b.head, b.s.rows - b.i, t.key - b.s.diagonal - b.i};
            b.advance(a, t);
            walk->b = b;
        }
        coming[turn] = c;
    };
    if (threadIdx.x == 0) {
        *walk = {QueryBlock<M>(a, t), t, 0};
        for (int n = 0; n < t.sources; n++) {
            const AttentionSource s = a.sources[t.first + n];
            const int left = s.rows - max(0, t.key - s.diagonal) / M * M;
            walk->count += max(0, (left + M - 1) / M) * a.group;
        }
        plan(0), plan(1), plan(2);
    }
    __syncthreads();
    float ahead = 0;
    // begin starts to copy a block of queries, if there is one.
    auto begin = [&](int turn) {
        const Coming c = coming[turn];
        if (c.rows > 0) {
            const uint16_t* from = (const uint16_t*)a.q + (long long)c.q * a.ldq + c.head * D + part.from(a.ldq);
            fetch<D, M>(queries + turn * size, from, a.ldq, c.rows);
            fetch<D, M>(dys + turn * size, from + apart, a.ldq, c.rows);
            if (threadIdx.x < 2 * M) {
                const int mine = threadIdx.x % M;
                ahead = threadIdx.x < M ? INFINITY : 0; // no query: probability 0
                if (mine < c.rows) ahead = (threadIdx.x < M ? a.lse : a.delta)[(long long)c.head * a.queries + c.q + mine];
            }
        }
        cp_async_commit();
    };
    auto keep = [&](int turn) {
        if (threadIdx.x < 2 * M) rows[turn * 2 * M + threadIdx.x] = ahead;
    };
    const int count = walk->count; // of blocks
    if (count > 0) {
        fetch<D, DK_KEYS>(keys, (const uint16_t*)a.k + at + part.from(a.ldk), a.ldk, t.rows);
        fetch<D, DK_KEYS>(values, (const uint16_t*)a.v + at + part.from(a.ldk), a.ldk, t.rows);
    }
    begin(0);
    keep(0);
    // Descriptors differ by constants.
    uint64_t dk = wgmma_descriptor(smem + group * 64 * 128, 0);
    const uint64_t dq = wgmma_descriptor(smem, 0) + (DK_KEYS * D * 4 >> 4), ddy = dq + (4 * size >> 4);
    const uint64_t acrossQ = dq + across<M>, acrossDy = ddy + across<M>;
    const float scale = a.scale * LOG2E;
    float s[M / 2], dp[M / 2], gradK[D / 2], gradV[D / 2];
    uint32_t p[M / 16][4], ds[M / 16][4];
    // mask makes zeros of what queries do not see.
    auto mask = [&](float (&x)[M / 2], int turn) {
        const int diagonal = coming[turn].diagonal;
        if (diagonal + group * 64 + 63 <= 0) return;
        const int bound = column - diagonal - first;
#pragma unroll
        for (int i = 0; i < M / 2; i++)
            if ((i >> 1 & 1) * 8 - i / 4 * 8 - (i & 1) > bound) x[i] = 0;
    };
    // weigh turns the scores of a block of queries into weights.
    auto weigh = [&](int turn) {
        const float* lse = rows + turn * 2 * M + column;
#pragma unroll
        for (int n = 0; n < M / 8; n++) {
            const float2 l = *(const float2*)(lse + n * 8);
#pragma unroll
            for (int i = 4 * n; i < 4 * n + 4; i++) s[i] = exp2_fast(fmaf(s[i], scale, -(i & 1 ? l.y : l.x)));
        }
        mask(s, turn);
    };
    // differentiate sets dp to the gradients of the scores.
    auto differentiate = [&](int turn) {
        const float* delta = rows + turn * 2 * M + M + column;
#pragma unroll
        for (int n = 0; n < M / 8; n++) {
            const float2 l = *(const float2*)(delta + n * 8);
#pragma unroll
            for (int i = 4 * n; i < 4 * n + 4; i++) dp[i] = s[i] * (dp[i] - (i & 1 ? l.y : l.x));
        }
        mask(dp, turn);
    };
    if (count > 0) {
        begin(1);
        cp_async_wait<1>();
        arrived();
        wgmma_fence();
        rows_by_rows<D, M, DK_KEYS, M>(s, dk, dq);
        rows_by_rows<D, M, DK_KEYS, M>(dp, dk + (DK_KEYS * D * 2 >> 4), ddy);
        wgmma_commit();
        wgmma_wait<0>();
        hold(s);
        hold(dp);
        weigh(0);
        differentiate(0);
        to_operand(p, s);
        to_operand(ds, dp);
        for (int n = 0; n + 1 < count; n++) {
            const int now = n & 3, next = (n + 1) & 3;
            keep(next);
            cp_async_wait<0>();
            arrived();
            if (threadIdx.x == 0) plan((n + 3) & 3);
            begin((n + 2) & 3);
            renew(dk);
            hold(s);
            hold(dp);
            hold(gradK);
            hold(gradV);
            wgmma_fence();
            rows_by_rows<D, M, DK_KEYS, M>(s, dk, dq + (next * size >> 4));
            wgmma_commit();
            rows_by_rows<D, M, DK_KEYS, M>(dp, dk + (DK_KEYS * D * 2 >> 4), ddy + (next * size >> 4));
            wgmma_commit();
            add_rows<D>(gradV, p, acrossDy + (now * size >> 4), n > 0);
            add_rows<D>(gradK, ds, acrossQ + (now * size >> 4), n > 0);
            wgmma_commit();
            wgmma_wait<2>();
            hold(s);
            weigh(next);
            hold(s);
            wgmma_wait<1>();
            hold(dp);
            differentiate(next);
            hold(dp);
            wgmma_wait<0>();
            hold(gradK);
            hold(gradV);
            to_operand(p, s);
            to_operand(ds, dp);
        }
        hold(gradK);
        hold(gradV);
        wgmma_fence();
        add_rows<D>(gradV, p, acrossDy + (((count - 1) & 3) * size >> 4), count > 1);
        add_rows<D>(gradK, ds, acrossQ + (((count - 1) & 3) * size >> 4), count > 1);
        wgmma_commit();
        wgmma_wait<0>();
        hold(gradK);
        hold(gradV);
    } else {
#pragma unroll
        for (int i = 0; i < D / 2; i++) gradK[i] = gradV[i] = 0;
    }
    cp_async_wait<0>();
    const AttentionKeys now = a.keys[blockIdx.x / kvHeads]; // again: to have kept it costs registers
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = first + h * 8;
        if (row >= now.rows) continue;
        const long long to = (long long)(now.key + row) * a.ldk + kv * D + column;
        store_row<D>(a.dk, a.half, to, gradK, h, a.scale);
        store_row<D>(a.dv, a.half, to, gradV, h, 1);
    }
}

} // namespace

#define WGMMA_KERNEL(name, Args, body) \
    KERNEL_BOUNDS(name, Args, THREADS, 1) { DYNAMIC_SHARED(smem); body(a, smem); }
#else
// The kernels exist for older devices too, which never launch them.
#define WGMMA_KERNEL(name, Args, body) \
    KERNEL(name, Args, 256) {}
#endif

WGMMA_KERNEL(attention_wgmma_64, AttentionArgs, attend<64>)
WGMMA_KERNEL(attention_wgmma_128, AttentionArgs, attend<128>)
WGMMA_KERNEL(attention_dq_wgmma_64, AttentionGradArgs, query_grad<64>)
WGMMA_KERNEL(attention_dq_wgmma_128, AttentionGradArgs, query_grad<128>)
WGMMA_KERNEL(attention_dk_wgmma_64, AttentionGradArgs, key_grad<64>)
WGMMA_KERNEL(attention_dk_wgmma_128, AttentionGradArgs, key_grad<128>)
