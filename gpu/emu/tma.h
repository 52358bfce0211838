// The emulator's version of what tma.cuh describes: barriers in shared memory,
// copies by tensor maps, clusters.
#pragma once
#include "cuda.h"

namespace emu {

// A Map is what cuTensorMapEncodeTiled of the emulated driver writes.
struct Map {
  uint64_t magic, at, columns, rows, stride;
  uint32_t width, height;
  uint64_t size;  // bytes of an element
  uint64_t unused[9];
};
static_assert(sizeof(Map) == 128, "as a CUtensorMap");
const uint64_t mapMagic = 0x70616d20756d6521;

void barrierInit(uint64_t* bar, unsigned count);
// barrierArrive arrives at the barrier in the block of that rank; its phase then
// waits for so many bytes more.
void barrierArrive(uint64_t* bar, unsigned rank, unsigned bytes);
// barrierTry reports whether the phase of that parity is over. Copies that the
// barrier counts arrive here, one at a time, by chance.
bool barrierTry(uint64_t* bar, unsigned parity);
// bulkCopy copies a box to this block, or to the same place in so many blocks.
void bulkCopy(void* to, const void* map, int x, int y, uint64_t* bar, unsigned ranks);

}  // namespace emu
