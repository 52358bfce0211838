// cuda.h lets g++ compile the project's CUDA C for the CPU. One block runs at
// a time; every CUDA thread is a fiber, and which fiber goes on is drawn by
// chance (PIPE_EMU_SEED) at every point where a thread waits. So a kernel that
// needs a barrier it does not have gives wrong numbers here too. README.md
// says what this proves and what it cannot.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define __CUDA_EMU__ 1
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

// Vector types, aligned as on the device.
#define EMU_VECTOR(T, name, a2, a4)                                                       \
  struct alignas(a2) name##2 { T x, y; };                                                 \
  struct name##3 { T x, y, z; };                                                          \
  struct alignas(a4) name##4 { T x, y, z, w; };                                           \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                              \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                      \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTOR(float, float, 8, 16)
EMU_VECTOR(int, int, 8, 16)
EMU_VECTOR(unsigned, uint, 8, 16)
EMU_VECTOR(double, double, 16, 16)
EMU_VECTOR(long long, longlong, 16, 16)
EMU_VECTOR(unsigned long long, ulonglong, 16, 16)
EMU_VECTOR(short, short, 4, 8)
EMU_VECTOR(unsigned short, ushort, 4, 8)
EMU_VECTOR(signed char, char, 2, 4)
EMU_VECTOR(unsigned char, uchar, 2, 4)
#undef EMU_VECTOR
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emu {

// A Thread is one CUDA thread of the running block, or cluster of blocks: warp
// counts through all of them, rank is its block's place in the cluster.
struct Thread {
  uint3 tid, block;
  unsigned index, lane, warp, rank;
};
extern Thread* cur;
extern dim3 threads, grid;

// Poison fills what has not been written: as bfloat16, half, float and double
// a NaN, as an integer a negative number.
const uint16_t poison = 0xFFFB;

// A Meet is what happens when all threads of a collective have come: it gets
// the pointer that each thread brought, by lane (nullptr for lanes that the
// mask does not name), and may read and write through all of them, because
// every thread waits until it has returned.
typedef void (*Meet)(void** posts);

// warp lets the lanes of mask meet; all must come with the same mask and kind.
// An exited lane in the mask is an error unless exited is true.
void warp(unsigned mask, const char* kind, void* post, Meet meet, bool exited = false);
// group lets the 128 threads of an aligned warpgroup (four warps) meet; posts
// has 128 pointers.
void group(const char* kind, void* post, Meet meet);
// barrier is a barrier of the whole block; where names the place in the source
// and must be the same for all threads.
void barrier(const char* file, int line);
// named is the barrier id of count threads (bar.sync id, count), id 1 to 15.
void named(unsigned id, unsigned count);
// clusterBarrier is a barrier of all threads of a cluster.
void clusterBarrier();
// yield lets other threads run; a loop that waits for another thread must call
// it. The emulator gives up when all threads only yield.
void yield();
[[noreturn]] void die(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Work that the device does later, by thread and channel: post queues it,
// commit closes a group, wait does all but the newest n groups, in order. Work
// is done as late as the wait allows.
enum Channel { copies, products, channels };
typedef void (*Work)(void* data);
const unsigned workBytes = 112;
void post(Channel c, Work work, const void* data, unsigned bytes);
void commit(Channel c);
void wait(Channel c, unsigned n);

// A Shared is one static array of shared memory, in each block of a cluster.
const unsigned maxCluster = 2;
struct Shared {
  unsigned long long block[maxCluster] = {};
  void* at[maxCluster] = {};
};
void* shared(Shared& s, size_t bytes, const char* name);
unsigned char* dynamic();
bool isShared(const void* p, size_t bytes);

// A Kernel registers itself.
struct Kernel {
  const char *name, *file;
  size_t bytes;
  unsigned threads;
  void (*run)(const void* args);
  Kernel* next;
  unsigned long long launches;
  int dynamic;  // shared memory that it was allowed; -1: 48 KiB with what is static
  unsigned cluster;  // blocks
  Kernel(const char* name, const char* file, size_t bytes, unsigned threads, void (*run)(const void*), unsigned cluster = 1);
};

template <class T>
struct Lane {
  T value, result;
  int source;
};

}  // namespace emu

#define threadIdx (emu::cur->tid)
#define blockIdx (emu::cur->block)
#define blockDim (emu::threads)
#define gridDim (emu::grid)
const int warpSize = 32;

// emu_warp_exchange gives every lane what each of the 32 lanes brought.
template <class T>
static inline void emu_warp_exchange(const T& mine, T all[32]) {
  struct Post { const T* mine; T* all; } p = {&mine, all};
  emu::warp(~0u, "emu_warp_exchange", &p, [](void** posts) {
    for (int i = 0; i < 32; i++)
      for (int j = 0; j < 32; j++) static_cast<Post*>(posts[i])->all[j] = *static_cast<Post*>(posts[j])->mine;
  });
}

// emu_group_exchange is the same for the 128 threads of a warpgroup.
template <class T>
static inline void emu_group_exchange(const T& mine, T all[128]) {
  struct Post { const T* mine; T* all; } p = {&mine, all};
  emu::group("emu_group_exchange", &p, [](void** posts) {
    for (int i = 0; i < 128; i++)
      for (int j = 0; j < 128; j++) static_cast<Post*>(posts[i])->all[j] = *static_cast<Post*>(posts[j])->mine;
  });
}

// Barriers.
static inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { emu::barrier(file, line); }
static inline void __syncwarp(unsigned mask = ~0u) { emu::warp(mask, "__syncwarp", nullptr, nullptr, true); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __nanosleep(unsigned) { emu::yield(); }
[[noreturn]] static inline void __trap() { emu::die("__trap()"); }

// Shuffles and votes.
namespace emu {
template <class T>
static inline T shuffle(const char* kind, unsigned mask, T v, int source) {
  Lane<T> p = {v, v, source};
  warp(mask, kind, &p, [](void** posts) {
    for (int i = 0; i < 32; i++) {
      if (!posts[i]) continue;
      Lane<T>* to = static_cast<Lane<T>*>(posts[i]);
      if (!posts[to->source]) die("a shuffle reads lane %d, which its mask does not name", to->source);
      to->result = static_cast<Lane<T>*>(posts[to->source])->value;
    }
  });
  return p.result;
}
static inline unsigned vote(const char* kind, unsigned mask, bool set) {
  Lane<unsigned> p = {set, 0, 0};
  warp(mask, kind, &p, [](void** posts) {
    unsigned all = 0;
    for (int i = 0; i < 32; i++)
      if (posts[i] && static_cast<Lane<unsigned>*>(posts[i])->value) all |= 1u << i;
    for (int i = 0; i < 32; i++)
      if (posts[i]) static_cast<Lane<unsigned>*>(posts[i])->result = all;
  });
  return p.result;
}
}  // namespace emu
template <class T>
static inline T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  int lane = emu::cur->lane;
  return emu::shuffle("__shfl_sync", mask, v, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32) {
  int lane = emu::cur->lane, to = lane ^ by;
  return emu::shuffle("__shfl_xor_sync", mask, v, to >= (lane | (width - 1)) + 1 ? lane : to);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
  int lane = emu::cur->lane, to = lane + by;
  return emu::shuffle("__shfl_down_sync", mask, v, to > (lane | (width - 1)) ? lane : to);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
  int lane = emu::cur->lane, to = lane - (int)by;
  return emu::shuffle("__shfl_up_sync", mask, v, to < (lane & ~(width - 1)) ? lane : to);
}
static inline unsigned __ballot_sync(unsigned mask, int set) { return emu::vote("__ballot_sync", mask, set); }
static inline int __any_sync(unsigned mask, int set) { return emu::vote("__any_sync", mask, set) != 0; }
static inline int __all_sync(unsigned mask, int set) { return emu::vote("__all_sync", mask, set) == mask; }

#include "scalar.h"
