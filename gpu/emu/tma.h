// tma.h is the emulator's version of the copies and barriers of tma.cuh.
#pragma once
#include "cuda.h"

namespace emu {

// A TileMap is what cuTensorMapEncodeTiled writes: a matrix of 16-bit numbers and a
// box 64 columns wide.
struct TileMap {
  uint64_t magic;
  const char* at;
  uint64_t cols, rows, stride;  // stride in bytes
  uint64_t boxRows;
};
const uint64_t tileMagic = 0x70616d2d656c6974;

// A barrier is its count, how many have not arrived in this phase, its parity, and
// the bytes that have not arrived.
struct BarrierState {
  int16_t count;
  int16_t left : 15;
  uint16_t parity : 1;
  int32_t bytes;
};
static_assert(sizeof(BarrierState) == 8, "a barrier is 8 bytes");

inline BarrierState* barrierState(uint64_t* b) {
  if (!isShared(b, 8) || (uintptr_t)b % 8) die("a barrier at %p is not in shared memory", (void*)b);
  return reinterpret_cast<BarrierState*>(b);
}

inline void barrierInit(uint64_t* b, int count) {
  BarrierState s = {};
  s.count = (int16_t)count;
  s.left = (int16_t)count;
  memcpy(barrierState(b), &s, 8);
}

inline void barrierEnd(BarrierState* s) {
  if (s->left < 0) die("a barrier for %d arrivals has more", s->count);
  if (s->left == 0 && s->bytes == 0) {
    s->parity = !s->parity;
    s->left = s->count;
  }
}

inline void barrierArrive(uint64_t* b, int expect) {
  BarrierState* s = barrierState(b);
  s->bytes += expect;
  s->left = (int16_t)(s->left - 1);
  barrierEnd(s);
}

inline int barrierParity(uint64_t* b) { return barrierState(b)->parity; }

// tileCopy copies at once: products that still read what it overwrites, which are
// computed when they are waited for, show.
inline void tileCopy(unsigned char* to, const uint64_t* opaque, int x, int y, uint64_t* b) {
  const TileMap* m = reinterpret_cast<const TileMap*>(opaque);
  if (m->magic != tileMagic) die("tile_copy: no map");
  if ((to - dynamic()) % 1024 || !isShared(to, m->boxRows * 128)) die("tile_copy: %p is no place for a box", (void*)to);
  for (uint64_t r = 0; r < m->boxRows; r++)
    for (int e = 0; e < 64; e++) {
      uint16_t v = 0;
      int64_t row = y + (int64_t)r, col = x + e;
      if (row >= 0 && row < (int64_t)m->rows && col >= 0 && col < (int64_t)m->cols) memcpy(&v, m->at + row * m->stride + col * 2, 2);
      memcpy(to + r * 128 + ((e / 8) ^ (r & 7)) * 16 + e % 8 * 2, &v, 2);
    }
  BarrierState* s = barrierState(b);
  s->bytes -= (int32_t)(m->boxRows * 128);
  barrierEnd(s);
}

}  // namespace emu
