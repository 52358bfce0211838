// Which rows go to which experts, and rows that go there and come back.
#include "experts.cuh"
#include "walk.cuh"

struct RouteArgs {
    const float* logits; // [n, experts]
    float* gates;        // [n·k]: as tensor.Routing has them
    int *rows, *slots, *starts;
    float* weights; // [n, k]: gates by choice
    int* counts;    // [blocks, experts]: choices of each block, then those of the blocks before
    int n, k, experts, gating;
    int part; // choices of a block, a multiple of routeThreads
};

const int routeThreads = 256, routeEach = MOST_EXPERTS / routeThreads;
const int softmaxGating = 1;

typedef unsigned long long Key;

// route_key orders logits, none of them NaN: the larger one is larger, of equals the
// first.
__device__ __forceinline__ Key route_key(float z, unsigned e) {
    const unsigned u = __float_as_uint(z + 0.0f); // -0 is 0
    return (Key)(u >> 31 ? ~u : u | 0x80000000u) << 32 | (0xffffffffu - e);
}

// choose sets slots of a row to its experts, and weights to its gates. A warp does.
__device__ __forceinline__ void choose(const RouteArgs& a, int row) {
    const int lane = threadIdx.x % 32;
    const float* z = a.logits + (long long)row * a.experts;
    int* experts = a.slots + (long long)row * a.k;
    float* weights = a.weights + (long long)row * a.k;
    bool nan = false;
    for (int e = lane; e < a.experts; e += 32) nan = nan || z[e] != z[e];
    if (__any_sync(0xffffffffu, nan)) {
        for (int j = lane; j < a.k; j += 32) experts[j] = j, weights[j] = __uint_as_float(0x7fc00000u);
        return;
    }
    Key last = ~(Key)0;
    float most = 0, sum = 0;
    for (int j = 0; j < a.k; j++) {
        Key best = 0;
        for (int e = lane; e < a.experts; e += 32) {
            const Key key = route_key(z[e], e);
            if (key < last && key > best) best = key;
        }
        for (int o = 16; o > 0; o >>= 1) {
            const Key other = __shfl_xor_sync(0xffffffffu, best, o);
            if (other > best) best = other;
        }
        last = best;
        const int e = (int)(0xffffffffu - (unsigned)best);
        const float x = z[e];
        if (j == 0) most = x;
        const float w = a.gating != softmaxGating ? 1.0f / (1.0f + expf(-x)) : x == most ? 1.0f : expf(x - most);
        sum += w;
        if (lane == 0) experts[j] = e, weights[j] = w;
    }
    if (a.gating != softmaxGating) return;
    __syncwarp();
    for (int j = lane; j < a.k; j += 32) weights[j] /= sum;
}

// choices copies the experts of up to routeThreads choices from `first` on to shared
// memory, and returns how many there are.
__device__ __forceinline__ int choices(int* chosen, const RouteArgs& a, int first, int end) {
    __syncthreads();
    if (first + (int)threadIdx.x < end) chosen[threadIdx.x] = a.slots[first + threadIdx.x];
    __syncthreads();
    return min(end - first, routeThreads);
}

// count counts the choices first..end of each expert: a thread has the experts
// threadIdx.x + routeThreads·i.
__device__ __forceinline__ void count(int (&n)[routeEach], int* chosen, const RouteArgs& a, int first, int end) {
#pragma unroll
    for (int i = 0; i < routeEach; i++) n[i] = 0;
    for (; first < end; first += routeThreads) {
        const int all = choices(chosen, a, first, end);
#pragma unroll
        for (int i = 0; i < routeEach; i++) {
            const int e = threadIdx.x + routeThreads * i;
            if (e >= a.experts) break;
#pragma unroll 4
            for (int c = 0; c < all; c++) n[i] += chosen[c] == e;
        }
    }
}

// place gives each choice of first..end the next row of its expert, which is at[i].
__device__ __forceinline__ void place(int (&at)[routeEach], int* chosen, int* placed, const RouteArgs& a, int first, int end) {
    for (; first < end; first += routeThreads) {
        const int all = choices(chosen, a, first, end);
#pragma unroll
        for (int i = 0; i < routeEach; i++) {
            const int e = threadIdx.x + routeThreads * i;
            if (e >= a.experts) break;
#pragma unroll 4
            for (int c = 0; c < all; c++)
                if (chosen[c] == e) placed[c] = at[i]++;
        }
        __syncthreads();
        if ((int)threadIdx.x < all) {
            const int c = first + threadIdx.x, to = placed[threadIdx.x];
            a.slots[c] = to, a.rows[to] = c / a.k, a.gates[to] = a.weights[c];
        }
    }
}

// block_before returns the sum of v of the threads before this one; sums is memory for
// a number of each warp.
__device__ __forceinline__ int block_before(int v, int* sums) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = v;
    for (int o = 1; o < 32; o *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, sum, o);
        if (lane >= o) sum += other;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    for (int w = 0; w < warp; w++) sum += sums[w];
    __syncthreads();
    return sum - v;
}

// A few choices, in one block.
KERNEL(route_few, RouteArgs, routeThreads) {
    SHARED(int, chosen, routeThreads);
    SHARED(int, placed, routeThreads);
    SHARED(int, begins, MOST_EXPERTS);
    SHARED(int, sums, 32);
    for (int row = threadIdx.x / 32; row < a.n; row += routeThreads / 32) choose(a, row);
    int n[routeEach];
    count(n, chosen, a, 0, a.n * a.k);
#pragma unroll
    for (int i = 0; i < routeEach; i++) begins[threadIdx.x + routeThreads * i] = n[i];
    __syncthreads();
    int all = 0;
#pragma unroll
    for (int i = 0; i < routeEach; i++) n[i] = begins[threadIdx.x * routeEach + i], all += n[i];
    int before = block_before(all, sums);
#pragma unroll
    for (int i = 0; i < routeEach; i++) {
        const int e = threadIdx.x * routeEach + i;
        begins[e] = before;
        if (e <= a.experts) a.starts[e] = before;
        before += n[i];
    }
    if (a.experts == MOST_EXPERTS && threadIdx.x == routeThreads - 1) a.starts[a.experts] = before;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < routeEach; i++) n[i] = begins[threadIdx.x + routeThreads * i];
    place(n, chosen, placed, a, 0, a.n * a.k);
}

// Many: each row's experts, then the choices of each block, what comes before them, and
// their rows.
KERNEL(route_choose, RouteArgs, routeThreads) {
    const int row = blockIdx.x * (routeThreads / 32) + threadIdx.x / 32;
    if (row < a.n) choose(a, row);
}

KERNEL(route_count, RouteArgs, routeThreads) {
    SHARED(int, chosen, routeThreads);
    int n[routeEach];
    const int first = blockIdx.x * a.part;
    count(n, chosen, a, first, min(a.n * a.k, first + a.part));
#pragma unroll
    for (int i = 0; i < routeEach; i++) {
        const int e = threadIdx.x + routeThreads * i;
        if (e < a.experts) a.counts[(long long)blockIdx.x * a.experts + e] = n[i];
    }
}

KERNEL(route_scan, RouteArgs, MOST_EXPERTS) {
    SHARED(int, sums, 32);
    const int e = threadIdx.x, blocks = (a.n * a.k + a.part - 1) / a.part;
    int all = 0;
    if (e < a.experts) {
        int* c = a.counts + e;
        const int U = 8;
        for (int b = 0; b < blocks; b += U) {
            int n[U];
#pragma unroll
            for (int u = 0; u < U; u++) n[u] = b + u < blocks ? c[(long long)(b + u) * a.experts] : 0;
#pragma unroll
            for (int u = 0; u < U; u++) {
                if (b + u < blocks) c[(long long)(b + u) * a.experts] = all;
                all += n[u];
            }
        }
    }
    const int before = block_before(all, sums);
    if (e < a.experts) a.starts[e] = before;
    if (e == a.experts - 1) a.starts[a.experts] = before + all;
}

KERNEL(route_place, RouteArgs, routeThreads) {
    SHARED(int, chosen, routeThreads);
    SHARED(int, placed, routeThreads);
    int at[routeEach];
#pragma unroll
    for (int i = 0; i < routeEach; i++) {
        const int e = threadIdx.x + routeThreads * i;
        at[i] = e < a.experts ? a.starts[e] + a.counts[(long long)blockIdx.x * a.experts + e] : 0;
    }
    const int first = blockIdx.x * a.part;
    place(at, chosen, placed, a, first, min(a.n * a.k, first + a.part));
}

struct RouteGradArgs {
    float* dlogits; // [n, experts]
    const float *dgates, *gates;
    const int *slots, *starts;
    int n, k, experts, gating;
};

// A warp has a row.
KERNEL(route_grad, RouteGradArgs, 256) {
    const int lane = threadIdx.x % 32, row = blockIdx.x * 8 + threadIdx.x / 32, rows = a.n * a.k;
    if (row >= a.n) return;
    float* to = a.dlogits + (long long)row * a.experts;
    const int* slots = a.slots + (long long)row * a.k;
    for (int e = lane; e < a.experts; e += 32) to[e] = 0;
    float dot = 0;
    if (a.gating == softmaxGating) {
        for (int j = lane; j < a.k; j += 32) {
            const int at = slots[j];
            if (at >= 0 && at < rows) dot = fmaf(a.gates[at], a.dgates[at], dot);
        }
        dot = warp_sum(dot);
    }
    __syncwarp();
    for (int j = lane; j < a.k; j += 32) {
        const int at = slots[j];
        if (at < 0 || at >= rows) continue;
        int lo = 0, hi = a.experts; // starts[lo] <= at < starts[hi]
        while (lo + 1 < hi) {
            const int mid = (lo + hi) / 2;
            if (a.starts[mid] <= at)
                lo = mid;
            else
                hi = mid;
        }
        const float g = a.gates[at], d = a.dgates[at];
        to[lo] = a.gating == softmaxGating ? g * (d - dot) : g * (1.0f - g) * d;
    }
}

struct MoveArgs {
    void* dst; // [rows, cols]
    const void *x, *add;
    const float* gates; // null: all 1
    const int* at;      // of each row of dst the row of x, or k rows
    long long rows, cols;
    int limit, k, shift; // limit: rows of x
};

// dispatch sets row i of dst to row at[i] of x, times gate i; to NaN where there is no
// such row.
template <int W, class T, class D> __device__ __forceinline__ void dispatch(const MoveArgs& a) {
    const Tile t(a.shift);
    const long long col = t.item * W;
    if (col >= a.cols) return;
    float v[TILE_ROWS][W], g[TILE_ROWS];
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = t.row + u * t.step;
        if (row >= a.rows) break;
        const int from = a.at[row];
        g[u] = __uint_as_float(0x7fc00000u);
#pragma unroll
        for (int e = 0; e < W; e++) v[u][e] = 0;
        if (from < 0 || from >= a.limit) continue;
        g[u] = a.gates ? a.gates[row] : 1.0f;
        load<W>(v[u], (const T*)a.x + from * a.cols + col);
    }
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = t.row + u * t.step;
        if (row >= a.rows) break;
#pragma unroll
        for (int e = 0; e < W; e++) v[u][e] *= g[u];
        store<W>((D*)a.dst + row * a.cols + col, v[u]);
    }
}

// combine sets row t of dst to that of add and the rows at[t,:] of x, each times
// its gate, one after the other.
template <int W, class T, class D> __device__ __forceinline__ void combine(const MoveArgs& a) {
    const Tile t(a.shift);
    const long long col = t.item * W;
    if (col >= a.cols) return;
    float sum[TILE_ROWS][W];
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = t.row + u * t.step;
#pragma unroll
        for (int e = 0; e < W; e++) sum[u][e] = 0;
        if (a.add && row < a.rows) load<W>(sum[u], (const D*)a.add + row * a.cols + col);
    }
    for (int j = 0; j < a.k; j++) {
        float v[TILE_ROWS][W], g[TILE_ROWS];
#pragma unroll
        for (int u = 0; u < TILE_ROWS; u++) {
            const long long row = t.row + u * t.step;
            if (row >= a.rows) break;
            const int from = a.at[row * a.k + j];
            g[u] = __uint_as_float(0x7fc00000u);
#pragma unroll
            for (int e = 0; e < W; e++) v[u][e] = 0;
            if (from < 0 || from >= a.limit) continue;
            g[u] = a.gates ? a.gates[from] : 1.0f;
            load<W>(v[u], (const T*)a.x + from * a.cols + col);
        }
#pragma unroll
        for (int u = 0; u < TILE_ROWS; u++) {
            if (t.row + u * t.step >= a.rows) break;
#pragma unroll
            for (int e = 0; e < W; e++) sum[u][e] = fmaf(g[u], v[u][e], sum[u][e]);
        }
    }
#pragma unroll
    for (int u = 0; u < TILE_ROWS; u++) {
        const long long row = t.row + u * t.step;
        if (row < a.rows) store<W>((D*)a.dst + row * a.cols + col, sum[u]);
    }
}

// gate_grad sets dst[i] to the product of row i of add and row at[i] of x. A warp does.
template <int W, class T, class D> __device__ __forceinline__ void gate_grad(const MoveArgs& a) {
    const int lane = threadIdx.x % 32;
    const long long row = (long long)blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= a.rows) return;
    const int from = a.at[row];
    const bool there = from >= 0 && from < a.limit;
    const D* x = (const D*)a.add + row * a.cols;
    const T* y = (const T*)a.x + (there ? from : 0) * a.cols;
    float sum[W];
#pragma unroll
    for (int e = 0; e < W; e++) sum[e] = 0;
#pragma unroll 4
    for (long long c = lane * W; c < a.cols; c += 32 * W) {
        float v[W], w[W];
        load<W>(v, x + c);
        load<W>(w, y + c);
#pragma unroll
        for (int e = 0; e < W; e++) sum[e] = fmaf(v[e], w[e], sum[e]);
    }
#pragma unroll
    for (int e = 1; e < W; e++) sum[0] += sum[e];
    const float all = warp_sum(sum[0]);
    if (lane == 0) ((float*)a.dst)[row] = there ? all : __uint_as_float(0x7fc00000u);
}

// Names tell the types of x and of the other matrix: f float32, h bfloat16.
#define MOVE(name, T, D)                                                  \
    KERNEL(dispatch_##name##_1, MoveArgs, 256) { dispatch<1, T, D>(a); }      \
    KERNEL(dispatch_##name##_4, MoveArgs, 256) { dispatch<4, T, D>(a); }      \
    KERNEL(combine_##name##_1, MoveArgs, 256) { combine<1, T, D>(a); } \
    KERNEL(combine_##name##_4, MoveArgs, 256) { combine<4, T, D>(a); } \
    KERNEL(gate_grad_##name##_1, MoveArgs, 256) { gate_grad<1, T, D>(a); } \
    KERNEL(gate_grad_##name##_4, MoveArgs, 256) { gate_grad<4, T, D>(a); }
MOVE(ff, float, float)
MOVE(hf, uint16_t, float)
MOVE(fh, float, uint16_t)
MOVE(hh, uint16_t, uint16_t)

struct TilesArgs {
    ExpertTile* tiles;
    const int* starts;
    int rows;         // of all experts
    int first, count; // experts, of which the first is number 0 in the list
    int size, most;   // rows of a tile; tiles that there is memory for
    int unused;
};

// expert_tiles lists the tiles of the rows of some experts.
KERNEL(expert_tiles, TilesArgs, MOST_EXPERTS) {
    SHARED(int, sums, 32);
    SHARED(int, begins, MOST_EXPERTS);
    SHARED(int, all, 1);
    const int e = threadIdx.x;
    int lo = 0, hi = 0;
    if (e < a.count) expert_rows(a.starts, a.first + e, a.rows, lo, hi);
    const int n = (hi - lo + a.size - 1) / a.size, before = block_before(n, sums);
    begins[e] = before;
    if (e == MOST_EXPERTS - 1) *all = min(before + n, a.most);
    __syncthreads();
    if (e == 0) a.tiles[0] = ExpertTile{*all, 0, 0, 0};
    for (int i = e; i < *all; i += MOST_EXPERTS) {
        int which = 0, behind = MOST_EXPERTS; // the last that begins at i or before
        while (which + 1 < behind) {
            const int mid = (which + behind) / 2;
            if (begins[mid] <= i)
                which = mid;
            else
                behind = mid;
        }
        expert_rows(a.starts, a.first + which, a.rows, lo, hi);
        a.tiles[1 + i] = ExpertTile{which, lo + (i - begins[which]) * a.size, hi, 0};
    }
}
