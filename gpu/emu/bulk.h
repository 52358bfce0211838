// bulk.h does what tma.h declares. driver.cpp includes it once.
#pragma once
#include "block.h"
#include "tma.h"

namespace emu {

// A BarrierState is what a kernel has in shared memory.
struct BarrierState {
  uint8_t magic, phase, expected, pending;
  int32_t bytes;
};
static_assert(sizeof(BarrierState) == 8, "as an mbarrier");
const uint8_t barrierMagic = 0xB7;

// inBlock is the place of p, which is dynamic shared memory of this block, in
// the block of that rank.
static char* inBlock(const void* p, unsigned rank, const char* what) {
  const Block& mine = blocks[cur->rank];
  size_t at = static_cast<const char*>(p) - mine.dynamic;
  if (at >= dynamicBytes) die("%s: %p is not in dynamic shared memory", what, p);
  if (rank >= cluster) die("%s: there is no block %u in a cluster of %u", what, rank, cluster);
  if (blocks[rank].live == 0) die("%s: block %u of the cluster has exited", what, rank);
  return blocks[rank].dynamic + at;
}

static BarrierState* barrierAt(uint64_t* bar, unsigned rank, const char* what) {
  if ((uintptr_t)bar % 8) die("%s: the barrier is not 8-byte aligned: %p", what, (void*)bar);
  BarrierState* b = reinterpret_cast<BarrierState*>(inBlock(bar, rank, what));
  if (b->magic != barrierMagic) die("%s: the barrier was not initialised", what);
  return b;
}

static void settle(BarrierState* b) {
  if (b->pending || b->bytes) return;
  idleYields = 0;
  b->phase ^= 1;
  b->pending = b->expected;
}

void barrierInit(uint64_t* bar, unsigned count) {
  if (count == 0 || count > 255) die("barrier_init: %u arrivals", count);
  BarrierState b = {barrierMagic, 0, (uint8_t)count, (uint8_t)count, 0};
  memcpy(inBlock(bar, cur->rank, "barrier_init"), &b, sizeof b);
}

void barrierArrive(uint64_t* bar, unsigned rank, unsigned bytes) {
  BarrierState* b = barrierAt(bar, rank, "barrier_arrive");
  if (b->pending == 0) die("barrier_arrive: more than %u arrivals in a phase", b->expected);
  if (bytes >= 1u << 20) die("barrier_expect: %u bytes", bytes);
  b->bytes += (int)bytes;
  b->pending--;
  settle(b);
}

struct Bulk {
  const Map* map;
  int x, y;
  unsigned rank;
  char* to;
  BarrierState* bar;
};
static std::vector<Bulk> bulks;  // that have not arrived

static void noBulk() {
  if (!bulks.empty()) die("%zu copies by tensor maps were not waited for", bulks.size());
}

static void arrive(const Bulk& c) {
  if (blocks[c.rank].live == 0) die("a copy by a tensor map arrives at block %u of the cluster, which has exited", c.rank);
  const Map& m = *c.map;
  size_t at = 0;
  for (unsigned r = 0; r < m.height; r++)
    for (unsigned chunk = 0; chunk < m.width * m.size / 16; chunk++, at += 16) {
      char v[16] = {};
      for (unsigned i = 0; i < 16 / m.size; i++) {
        long long column = (long long)c.x + chunk * (16 / m.size) + i, row = (long long)c.y + r;
        if (column >= 0 && row >= 0 && column < (long long)m.columns && row < (long long)m.rows)
          memcpy(v + i * m.size, (const char*)m.at + row * m.stride + column * m.size, m.size);
      }
      memcpy(c.to + (at ^ (at >> 7 & 7) << 4), v, 16);
    }
  c.bar->bytes -= (int)(m.width * m.height * m.size);
  if (c.bar->bytes < -(1 << 20)) die("an mbarrier counts more bytes than it expects");
  settle(c.bar);
}

bool barrierTry(uint64_t* bar, unsigned parity) {
  BarrierState* b = barrierAt(bar, cur->rank, "barrier_wait");
  if (b->phase == (parity & 1) && !bulks.empty() && draw() % 2) {
    unsigned first = draw() % (unsigned)bulks.size();
    for (unsigned i = 0; i < bulks.size(); i++) {
      Bulk& c = bulks[(i + first) % bulks.size()];
      if (c.bar != b) continue;
      Bulk copy = c;
      c = bulks.back();
      bulks.pop_back();
      arrive(copy);
      break;
    }
  }
  return b->phase != (parity & 1);
}

void bulkCopy(void* to, const void* map, int x, int y, uint64_t* bar, unsigned ranks) {
  const Map* m = static_cast<const Map*>(map);
  if ((uintptr_t)map % 64) die("tile_copy: the tensor map is not 64-byte aligned: %p", map);
  if (m->magic != mapMagic) die("tile_copy: no tensor map");
  if ((static_cast<char*>(to) - blocks[cur->rank].dynamic) % 1024) die("tile_copy: the place is not 1024-byte aligned: %p", to);
  for (unsigned i = 0; i < ranks; i++) {
    unsigned r = ranks == 1 ? cur->rank : i;
    size_t bytes = m->width * m->height * m->size;
    inBlock(static_cast<char*>(to) + bytes - 1, r, "tile_copy");
    Bulk c = {m, x, y, r, inBlock(to, r, "tile_copy"), barrierAt(bar, r, "tile_copy")};
    fill(c.to, bytes);
    bulks.push_back(c);
  }
}

}  // namespace emu
