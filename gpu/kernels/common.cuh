// common.cuh is what every kernel includes: how a kernel is declared, shared
// memory, 16-bit floats, sums over a warp and a block, and the few instructions
// that need PTX (asynchronous copies, matrix products). Everything exists
// twice: for the device, and with PIPE_EMU for the emulator in ../emu.
//
// The compiler joins no product with a sum (-fmad=false): kernels that compute the same
// say the same, and fmaf is written where it is meant.
#pragma once

#ifdef PIPE_EMU
#include "../emu/cuda.h"
#else
#include <stdint.h>
#endif

// KERNEL(name, Args, threads) { ... } is the kernel name. Its one argument is
// the struct Args, called a; a block has at most so many threads.
// KERNEL_BOUNDS also says how many blocks should fit on a multiprocessor.
//
// SHARED(T, name, n) is T name[n] in shared memory, 16-byte aligned.
// DYNAMIC_SHARED(name) is unsigned char *name, 1024-byte aligned, of the size
// that the launch asks for.
#ifdef PIPE_EMU
#define KERNEL_BOUNDS(name, Args, threads, blocks)                                          \
  static void emu_kernel_##name(const Args& a);                                             \
  static emu::Kernel emu_entry_##name(#name, __BASE_FILE__, sizeof(Args), threads,               \
                                      [](const void* a) { emu_kernel_##name(*(const Args*)a); }); \
  static void emu_kernel_##name([[maybe_unused]] const Args& a)
#define KERNEL(name, Args, threads) KERNEL_BOUNDS(name, Args, threads, 1)
#define SHARED(T, name, n)              \
  static emu::Shared emu_shared_##name; \
  T(&name)[n] = *static_cast<T(*)[n]>(emu::shared(emu_shared_##name, sizeof(T) * (n), #name))
#define DYNAMIC_SHARED(name) unsigned char* name = emu::dynamic()
#else
#define KERNEL_BOUNDS(name, Args, threads, blocks) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args a)
#define KERNEL(name, Args, threads) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args a)
#define SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#endif

// A bfloat16 is the upper half of a float, in a uint16_t. Rounding is to
// nearest, ties to even; a NaN stays one.
__device__ __forceinline__ float bf16_float(uint16_t v) { return __uint_as_float((uint32_t)v << 16); }

__device__ __forceinline__ uint16_t bf16_round(float v) {
  uint32_t u = __float_as_uint(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 64);
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

// pack_bf16 puts two bfloat16 into one word, lo in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(uint16_t lo, uint16_t hi) { return lo | (uint32_t)hi << 16; }

__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
#ifdef PIPE_EMU
  return pack_bf16(bf16_round(lo), bf16_round(hi));
#else
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
#endif
}

// half_float gives the value of an IEEE half.
__device__ __forceinline__ float half_float(uint16_t v) {
#ifdef PIPE_EMU
  uint32_t sign = (uint32_t)(v & 0x8000) << 16, exponent = v >> 10 & 31, mantissa = v & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) return __uint_as_float(sign | __float_as_uint((float)mantissa * 0x1p-24f));
  return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
#else
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v));
  return r;
#endif
}

constexpr float LOG2E = 1.4426950408889634f;

// exp2_fast and inverse_fast, 2^x and 1/x, have a relative error of 2^-22 and take 0 for
// numbers below 2^-126.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef PIPE_EMU
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

__device__ __forceinline__ float inverse_fast(float x) {
#ifdef PIPE_EMU
  return fabsf(x) > 0x1p126f ? 0 : 1 / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// warp_sum and warp_max reduce over the 32 lanes in a fixed order and give the
// result to all. A NaN in any lane makes both NaN.
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

template <class T>
__device__ __forceinline__ T warp_max(T v) {
  for (int o = 16; o > 0; o >>= 1) {
    T w = __shfl_xor_sync(0xffffffffu, v, o);
    if (!(v >= w) && v == v) v = w;
  }
  return v;
}

// block_sum and block_max reduce over a block of whole warps along x, in a
// fixed order, and give the result to all threads; scratch is shared memory for
// one T per warp (32), free again when they return.
template <class T>
__device__ __forceinline__ T block_sum(T v, T* scratch) {
  int warps = blockDim.x / 32;
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  v = scratch[0];
  for (int i = 1; i < warps; i++) v += scratch[i];
  __syncthreads();
  return v;
}

template <class T>
__device__ __forceinline__ T block_max(T v, T* scratch) {
  int warps = blockDim.x / 32;
  v = warp_max(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  v = scratch[0];
  for (int i = 1; i < warps; i++) {
    T w = scratch[i];
    if (!(v >= w) && v == v) v = w;
  }
  __syncthreads();
  return v;
}

// cp_async16 copies 16 bytes from global to shared memory (both 16-byte
// aligned) without waiting; when not valid it writes zeros and does not read.
// cp_async_commit closes a group of copies; cp_async_wait<n> waits until all
// but the newest n groups of this thread have arrived. Other threads see them
// after a barrier that follows the wait.
//
// ldmatrix_x4 loads four 8 x 8 matrices of bfloat16: lane l brings the address
// of row l%8 of matrix l/8 (16-byte aligned, shared), and gets elements 2(l%4)
// and 2(l%4)+1 of row l/4 of matrix i in r[i]; _trans loads them transposed.
//
// mma_bf16 adds to c (16 x 8) the product of a (16 x 16) and b (16 x 8). With
// g = lane/4 and t = lane%4 a lane holds
//   a[0], a[1], a[2], a[3]: rows g, g+8, g, g+8, columns 2t, 2t, 2t+8, 2t+8 (and the next)
//   b[0], b[1]:             rows 2t, 2t+8 (and the next), column g
//   c[0..1], c[2..3]:       rows g, g+8, columns 2t, 2t+1
#ifdef PIPE_EMU
#include "../emu/warp.h"
#else
__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int n>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
