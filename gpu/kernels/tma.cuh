// tma.cuh has the copies of tiles by descriptors and the barriers in shared memory
// that tell when they have arrived, of sm_90a.
//
// A Barrier is in a phase, 0 at first, and then 1, 0, 1, ...: it ends when so many
// threads have arrived as barrier_init says and all bytes have that were announced
// by barrier_expect, which also arrives. barrier_wait waits until the phase of that
// parity has ended.
//
// tile_copy copies the box of a map that begins at (column x, row y) to shared
// memory, as swizzled_128 of wgmma.cuh has it, zeros for what lies outside, and
// tells a barrier of its bytes. One thread calls it.
//
// Blocks of a cluster have numbers, cluster_rank, and cluster_sync is their common
// barrier: before one uses what another has, and before it leaves. tile_copy_all
// copies to the same place in all of them, and tells the barrier of each;
// barrier_arrive_at arrives at the barrier of one. It orders no writes.
#pragma once
#include "common.cuh"
#include "wgmma.cuh"

// A TileMap describes a matrix in global memory and boxes of it, 64 columns wide,
// of bfloat16: cuTensorMapEncodeTiled makes it.
struct alignas(64) TileMap {
    uint64_t opaque[16];
};

typedef uint64_t Barrier;

// KERNEL_CLUSTER is KERNEL with blocks that run in clusters of so many.
#ifdef PIPE_EMU
#define KERNEL_CLUSTER(name, Args, threads, blocks)                                                                     \
    static void emu_kernel_##name(const Args& a);                                                                       \
    static emu::Kernel emu_entry_##name(#name, __BASE_FILE__, sizeof(Args), threads,                                    \
                                        [](const void* a) { emu_kernel_##name(*(const Args*)a); }, blocks);             \
    static void emu_kernel_##name([[maybe_unused]] const Args& a)
#else
#define CLUSTER_DIMS_1
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define CLUSTER_DIMS_2
#else
#define CLUSTER_DIMS_2 __cluster_dims__(2, 1, 1)
#endif
#define KERNEL_CLUSTER(name, Args, threads, blocks) \
    extern "C" __global__ void CLUSTER_DIMS_##blocks __launch_bounds__(threads) name(const __grid_constant__ Args a)
#endif

#ifdef PIPE_EMU
#include "../emu/tma.h"
inline void barrier_init(Barrier* b, int count) { emu::barrierInit(b, count); }
inline void barrier_fence() {}
inline void barrier_expect(Barrier* b, int bytes) { emu::barrierArrive(b, emu::cur->rank, bytes); }
inline void barrier_arrive(Barrier* b) { emu::barrierArrive(b, emu::cur->rank, 0); }
template <int CLUSTER> inline void barrier_arrive_at(Barrier* b, int rank) { emu::barrierArrive(b, rank, 0); }
inline void barrier_wait(Barrier* b, int parity) {
    while (!emu::barrierTry(b, parity)) emu::yield();
}
inline void tile_copy(unsigned char* to, const TileMap* map, int x, int y, Barrier* b) { emu::bulkCopy(to, map, x, y, b, 1); }
template <int CLUSTER> inline void tile_copy_all(unsigned char* to, const TileMap* map, int x, int y, Barrier* b) { emu::bulkCopy(to, map, x, y, b, CLUSTER); }
inline void tile_prefetch(const TileMap*) {}
inline int cluster_rank() { return emu::cur->rank; }
inline void cluster_sync() { emu::clusterBarrier(); }
template <int n> inline void registers_grow() { emu::group("setmaxnreg", nullptr, nullptr); }
template <int n> inline void registers_shrink() { emu::group("setmaxnreg", nullptr, nullptr); }
#elif defined(HAVE_WGMMA)
__device__ __forceinline__ void barrier_init(Barrier* b, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count)); }
// barrier_fence makes barriers that were initialised known to tile copies.
__device__ __forceinline__ void barrier_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_expect(Barrier* b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(Barrier* b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory"); }
__device__ __forceinline__ void barrier_wait(Barrier* b, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra after;\n"
        "bra again;\n"
        "after:\n"
        "}" ::"r"(shared_address(b)),
        "r"(parity)
        : "memory");
}
__device__ __forceinline__ void tile_copy(unsigned char* to, const TileMap* map, int x, int y, Barrier* b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
                 "l"(map), "r"(shared_address(b)), "r"(x), "r"(y)
                 : "memory");
}
template <int CLUSTER> __device__ __forceinline__ void barrier_arrive_at(Barrier* b, int rank) {
    if (CLUSTER == 1)
        barrier_arrive(b);
    else
        asm volatile(
            "{\n"
            ".reg .b32 to;\n"
            "mapa.shared::cluster.u32 to, %0, %1;\n"
            "mbarrier.arrive.shared::cluster.b64 _, [to];\n"
            "}" ::"r"(shared_address(b)),
            "r"(rank)
            : "memory");
}
template <int CLUSTER> __device__ __forceinline__ void tile_copy_all(unsigned char* to, const TileMap* map, int x, int y, Barrier* b) {
    if (CLUSTER == 1)
        tile_copy(to, map, x, y, b);
    else
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(
                shared_address(to)),
            "l"(map), "r"(shared_address(b)), "r"(x), "r"(y), "h"((uint16_t)((1 << CLUSTER) - 1))
            : "memory");
}
__device__ __forceinline__ int cluster_rank() {
    int r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
__device__ __forceinline__ void cluster_sync() {
    __syncwarp();
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ __forceinline__ void tile_prefetch(const TileMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
// registers_grow and registers_shrink change how many registers the threads of this
// warpgroup have.
template <int n> __device__ __forceinline__ void registers_grow() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n)); }
template <int n> __device__ __forceinline__ void registers_shrink() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n)); }
#endif

// A Ring is where a thread is in a ring of buffers. Of each, `full` ends a phase when its copies
// have arrived, and `empty` when all that read it have: one thread of each of so many
// warps says so. ring_begin makes these barriers; all threads of a block call it.
template <int STAGES> struct Ring {
    int at = 0, phase = 0;
    __device__ __forceinline__ void next() {
        if (++at == STAGES) at = 0, phase ^= 1;
    }
    __device__ __forceinline__ int before() const { return at == 0 ? STAGES - 1 : at - 1; }
};

#ifdef HAVE_WGMMA
template <int STAGES> __device__ __forceinline__ void ring_begin(Barrier* full, Barrier* empty, int warps) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + i, 1);
            barrier_init(empty + i, warps);
        }
        barrier_fence();
    }
    __syncthreads();
}

// pair_sync is the barrier of two warpgroups of a block that has more.
__device__ __forceinline__ void pair_sync() {
#ifdef PIPE_EMU
    emu::named(1, 256);
#else
    asm volatile("bar.sync 1, 256;" ::: "memory");
#endif
}
#endif
