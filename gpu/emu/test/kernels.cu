// Kernels for the emulator's self-test. Their argument says which bug to plant:
// 0 is none, and every other must be caught (check.sh).
#include "../../kernels/common.cuh"
#include "../../kernels/tma.cuh"

struct SumArgs {
  float* dst;
  const float* x;
  long long n;
  int bug;
};

// The sum of each row, by a tree in shared memory.
KERNEL(tree_sum, SumArgs, 256) {
  SHARED(float, part, 256);
  const float* x = a.x + blockIdx.x * a.n;
  float s = 0;
  for (long long i = threadIdx.x; i < a.n; i += blockDim.x) s += x[i];
  part[threadIdx.x] = s;
  __syncthreads();
  for (int o = 128; o > 0; o >>= 1) {
    if ((int)threadIdx.x < o) part[threadIdx.x] += part[threadIdx.x + o];
    if (a.bug == 1)  // no barrier
      __syncwarp();
    else
      __syncthreads();
  }
  if (threadIdx.x == 0) a.dst[blockIdx.x] = part[0];
}

// The same, by shuffles.
KERNEL(shuffle_sum, SumArgs, 1024) {
  SHARED(float, part, 32);
  const float* x = a.x + blockIdx.x * a.n;
  float s = 0;
  for (long long i = threadIdx.x; i < a.n; i += blockDim.x) s += x[i];
  s = block_sum(s, part);
  if (threadIdx.x == 0) a.dst[blockIdx.x] = s;
}

// The same, each warp adding the next warp's part in memory of its lanes.
KERNEL(warp_sums, SumArgs, 32) {
  SHARED(float, part, 32);
  const float* x = a.x + blockIdx.x * a.n;
  part[threadIdx.x] = 0;
  for (long long i = threadIdx.x; i < a.n; i += 32) part[threadIdx.x] += x[i];
  for (int o = 16; o > 0; o >>= 1) {
    if (a.bug != 1) __syncwarp();
    if ((int)threadIdx.x < o) part[threadIdx.x] += part[threadIdx.x + o];
  }
  if (threadIdx.x == 0) a.dst[blockIdx.x] = part[0];
}

struct ProductArgs {
  float* c;
  const uint16_t *a, *b;  // m x k and n x k, or k x n
  int m, n, k, transposed, bug;
};

// c = a b' (or a b) with 64 x 64 tiles, 128 threads, two stages of k = 32.
KERNEL_BOUNDS(product, ProductArgs, 128, 2) {
  DYNAMIC_SHARED(room);
  const int stride = 40, wide = 72;  // in elements: rows stay 16-byte aligned
  uint16_t* left = (uint16_t*)room;              // 2 x 64 x stride
  uint16_t* right = left + 2 * 64 * stride;      // 2 x 64 x stride, or 2 x 32 x wide
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int row = blockIdx.y * 64, column = blockIdx.x * 64;
  float c[2][4][4];
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++)
      for (int l = 0; l < 4; l++) c[i][j][l] = 0;
  auto load = [&](int stage, int k) {
    for (int i = threadIdx.x; i < 256; i += 128) {
      int r = i / 4, s = i % 4 * 8;
      cp_async16(left + (stage * 64 + r) * stride + s, a.a + (long long)(row + r) * a.k + k + s, row + r < a.m && k + s < a.k);
      if (!a.transposed)
        cp_async16(right + (stage * 64 + r) * stride + s, a.b + (long long)(column + r) * a.k + k + s, column + r < a.n && k + s < a.k);
    }
    for (int i = threadIdx.x; a.transposed && i < 256; i += 128) {
      int r = i / 8, s = i % 8 * 8;
      cp_async16(right + stage * 64 * stride + r * wide + s, a.b + (long long)(k + r) * a.n + column + s, k + r < a.k && column + s < a.n);
    }
    if (a.bug != 5) cp_async_commit();
  };
  load(0, 0);
  int steps = (a.k + 31) / 32;
  for (int step = 0; step < steps; step++) {
    int stage = step % 2;
    if (step + 1 < steps) load(1 - stage, (step + 1) * 32);
    if (a.bug == 1)
      ;  // no wait
    else if (step + 1 < steps || a.bug == 2)  // a wait that leaves out the last
      cp_async_wait<1>();
    else
      cp_async_wait<0>();
    if (a.bug != 3) __syncthreads();
    for (int kk = 0; kk < 32; kk += 16) {
      uint32_t l[2][4], r[2][4];
      for (int i = 0; i < 2; i++)
        ldmatrix_x4(l[i], left + (stage * 64 + warp / 2 * 32 + i * 16 + lane % 16) * stride + kk + lane / 16 * 8);
      for (int j = 0; j < 2; j++) {
        int first = warp % 2 * 32 + j * 16;
        if (a.transposed)
          ldmatrix_x4_trans(r[j], right + stage * 64 * stride + (kk + lane % 16) * wide + first + lane / 16 * 8);
        else
          ldmatrix_x4(r[j], right + (stage * 64 + first + lane / 16 * 8 + lane % 8) * stride + kk + lane / 8 % 2 * 8);
      }
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++) mma_bf16(c[i][j], l[i], r[j / 2] + j % 2 * 2);
    }
    if (a.bug != 4) __syncthreads();
  }
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++)
      for (int l = 0; l < 4; l++) {
        int m = row + warp / 2 * 32 + i * 16 + l / 2 * 8 + lane / 4, n = column + warp % 2 * 32 + j * 8 + lane % 4 * 2 + l % 2;
        if (m < a.m && n < a.n) a.c[(long long)m * a.n + n] = c[i][j][l];
      }
}

struct RingArgs {
  TileMap x, y;  // boxes of 128 and of 32 rows
  float* dst;
  int rows, columns, bug;
};

// dst[i] is the product of row i of x by row i % 64 of y. Four warps copy, for
// both blocks of a cluster what they have in common, four warps add.
KERNEL_CLUSTER(ring, RingArgs, 256, 2) {
  DYNAMIC_SHARED(room);
  const int stages = 3, stage = 192 * 128;
  Barrier *full = (Barrier*)(room + stages * stage), *empty = full + stages;
  const int thread = threadIdx.x, rank = cluster_rank(), first = blockIdx.x * 128, steps = (a.columns + 63) / 64;
  if (thread == 0) {
    for (int s = 0; s < stages; s++) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, 8);
    }
    barrier_fence();
  }
  cluster_sync();
  if (thread < 128) {
    registers_shrink<24>();
    for (int i = 0; i < steps && thread == 0; i++) {
      int s = i % stages;
      if (a.bug != 1) barrier_wait(empty + s, i / stages % 2 ^ 1);
      barrier_expect(full + s, a.bug == 2 ? stage - 4096 : a.bug == 3 ? stage + 16 : stage);
      tile_copy(room + s * stage, &a.x, i * 64, first, full + s);
      tile_copy_all<2>(room + s * stage + (128 + 32 * rank) * 128, &a.y, i * 64, 32 * rank, full + s);
    }
  } else {
    registers_grow<200>();
    int row = thread - 128, lane = row % 32;
    float sum = 0;
    for (int i = 0; i < steps; i++) {
      int s = i % stages;
      const unsigned char *x = room + s * stage + row * 128, *y = room + s * stage + (128 + row % 64) * 128;
      auto release = [&]() {
        __syncwarp();
        if (lane < 2) barrier_arrive_at<2>(empty + s, a.bug == 6 ? rank : lane);
      };
      if (a.bug != 4) barrier_wait(full + s, i / stages % 2);
      if (a.bug == 5) release();
      for (int c = 0; c < 64; c++) {
        int at = ((c / 8 ^ row % 8) << 4) + c % 8 * 2;
        sum += bf16_float(*(const uint16_t*)(x + at)) * bf16_float(*(const uint16_t*)(y + at));
        if (a.bug == 5 && c % 16 == 0) __syncwarp();
      }
      if (a.bug != 5) release();
    }
    if (first + row < a.rows) a.dst[first + row] = sum;
  }
  __syncwarp();
  if (a.bug != 7) cluster_sync();
}

struct FillArgs {
  float* dst;
  int n, how;
};

// All the ways to go wrong that are found while the kernel runs.
KERNEL(wrong, FillArgs, 256) {
  SHARED(float, part, 256);
  int i = threadIdx.x;
  part[i] = (float)i;
  switch (a.how) {
    case 1:  // one element too many
      if (i <= a.n) a.dst[i] = 1;
      break;
    case 2:  // barriers in two branches
      if (i < 128)
        __syncthreads();
      else
        __syncthreads();
      break;
    case 3:  // half of the threads leave before a barrier
      if (i < 128) __syncthreads();
      break;
    case 4:  // a shuffle without all lanes
      if (i % 32 < 16) a.dst[0] = warp_sum(1.0f);
      break;
    case 5:  // one lane waits for the warp, the others for the block
      if (i == 5)
        __syncwarp();
      else
        __syncthreads();
      break;
    case 6:  // beyond a shared array
      part[256 + (i == 0)] = 1;
      break;
    case 7:  // an unaligned asynchronous copy
      if (i == 0) cp_async16((char*)part + 4, a.dst, true);
      break;
    case 8:  // two instructions at once
      if (i % 32 < 16)
        __shfl_xor_sync(~0u, i, 1);
      else
        __any_sync(~0u, i);
      break;
    case 9:  // in front of the memory
      a.dst[-1] = 1;
      break;
    case 10:  // reads what nobody wrote
      __syncthreads();
      a.dst[i % a.n] = a.dst[i % a.n] * 0;
      break;
    case 11:  // an unaligned vector
      if (i < 8) *(float4*)(a.dst + 1 + 4 * i) = make_float4(0, 0, 0, 0);
      break;
    case 12: {  // beyond a local array
      float local[4] = {0, 1, 2, 3};
      a.dst[0] = local[(i + a.n) % 5];
      break;
    }
    case 13:  // barriers of too few threads
      if (i < 128) __syncthreads();
      if (i >= 128) __shfl_sync(1, i, 0);
      break;
    case 14:  // a wait for something that never comes
      while (part[0] == 0) __nanosleep(20);
      break;
    case 15: {  // reads dynamic shared memory that nobody wrote
      DYNAMIC_SHARED(room);
      if (i == 0) a.dst[7] = *(float*)(room + 16) * 0;
      break;
    }
    case 16: {  // beyond the dynamic shared memory that was asked for
      DYNAMIC_SHARED(room);
      if (i == 0) room[64] = 1;
      break;
    }
    case 17:  // far from any memory
      a.dst[1ll << 44] = 1;
      break;
  }
}
