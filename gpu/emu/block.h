// block.h runs blocks, and clusters of them: fibers, who goes on, barriers. driver.cpp includes it once.
#pragma once
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "cuda.h"
#include "fiber.h"
#include "warp.h"

namespace emu {

const unsigned maxThreads = 1024, maxWarps = 32;
const size_t stackBytes = 64 << 10;
const size_t staticLimit = 48 << 10, mostShared = 227 << 10, zone = 256;

struct Later {
  Work work;
  alignas(16) char data[workBytes];
};

// A Queue is the work of one thread in one channel that has not been done.
struct Queue {
  std::vector<Later> work;
  std::vector<unsigned> ends;  // of the committed groups
  size_t done = 0, first = 0;  // in work, in ends
  void clear() {
    work.clear();
    ends.clear();
    done = first = 0;
  }
};

struct Fiber : Thread {
  Context context;
  const char* waits;  // what for, for a report
  int line;
  unsigned mask;
  bool finished;
  Queue queue[channels];
};

// A Gathering is a set of lanes of one warp that meet.
struct Gathering {
  unsigned mask, came;
  const char* kind;
  bool exited;
};

struct Warp {
  unsigned ready, live;  // lanes
  void* post[32];
  Gathering gathering[32];
  unsigned gatherings;
};

struct Group {  // a warpgroup
  void* post[128];
  unsigned came;
  const char* kind;
};

struct Named {
  unsigned came, count;
  unsigned lanes[maxWarps];
};

// A Block is what a block of the running cluster has of its own.
struct Piece {
  size_t at, bytes;
  const char* name;
};
struct Block {
  uint3 at;
  unsigned live, atBarrier;  // threads
  const char* barrierFile;
  int barrierLine;
  Named nameds[16];
  char *arena, *dynamic;  // static and dynamic shared memory
  size_t arenaUsed, arenaHigh, arenaBytes;
  std::vector<Piece> pieces;
};

Thread* cur;
dim3 threads, grid;

static Fiber* fibers;
static char* stacks;
static Warp warps[maxWarps];
static Group groups[maxWarps / 4];
static Block blocks[maxCluster];
static unsigned warpsReady, running, idleYields;
static unsigned total, cluster, live, atCluster;  // threads of a block, blocks, threads of all
static Context host;
static Kernel* kernel;
static const void* arguments;
static pthread_t runner;
static unsigned long long random_, blockSerial;
static size_t dynamicBytes;

static inline unsigned draw() {
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return (unsigned)(random_ >> 16);
}

void die(const char* format, ...) {
  va_list list;
  va_start(list, format);
  fprintf(stderr, "emu: ");
  vfprintf(stderr, format, list);
  va_end(list);
  if (kernel) {
    uint3 block = cur ? cur->block : blocks[0].at;
    fprintf(stderr, "\nemu: in kernel %s, block (%u,%u,%u) of (%u,%u,%u)", kernel->name, block.x, block.y, block.z, grid.x,
            grid.y, grid.z);
    if (cur) fprintf(stderr, ", thread (%u,%u,%u) of (%u,%u,%u)", cur->tid.x, cur->tid.y, cur->tid.z, threads.x, threads.y, threads.z);
  }
  fprintf(stderr, "\n");
  abort();
}

static void deadlock() {
  fprintf(stderr, "emu: deadlock in kernel %s; what the threads wait for:\n", kernel->name);
  for (unsigned i = 0, j; i < total * cluster; i = j) {
    for (j = i; j < total * cluster && fibers[j].finished == fibers[i].finished && fibers[j].waits == fibers[i].waits &&
                fibers[j].mask == fibers[i].mask && fibers[j].line == fibers[i].line;)
      j++;
    fprintf(stderr, "  threads %u..%u: ", i, j - 1);
    if (fibers[i].finished)
      fprintf(stderr, "have exited\n");
    else
      fprintf(stderr, "%s, mask %08x, line %d\n", fibers[i].waits, fibers[i].mask, fibers[i].line);
  }
  cur = nullptr;
  die("deadlock: not all threads came to a barrier or a warp's instruction");
}

static inline void wake(unsigned w, unsigned lanes) {
  if (!lanes) return;
  warps[w].ready |= lanes;
  warpsReady |= 1u << w;
}

// firstWarp is the first warp of a block; one of a cluster has whole warps.
static inline unsigned firstWarp(unsigned rank) { return rank * ((total + 31) / 32); }

static inline unsigned pickBit(unsigned set, unsigned by) {
  by &= 31;
  unsigned turned = by ? set >> by | set << (32 - by) : set;
  return (__builtin_ctz(turned) + by) & 31;
}

// next takes a thread that can go on. It mostly stays in a warp until all its
// lanes wait, so that warps run far ahead of each other.
static inline Fiber* next() {
  unsigned r = draw();
  if (!warps[running].ready || (r & 63) == 0) {
    if (!warpsReady) return nullptr;
    running = pickBit(warpsReady, r >> 6);
  }
  Warp& w = warps[running];
  unsigned lane = pickBit(w.ready, r >> 11);
  w.ready &= ~(1u << lane);
  if (!w.ready) warpsReady &= ~(1u << running);
  return &fibers[running * 32 + lane];
}

static void park() {
  Fiber* me = static_cast<Fiber*>(cur);
  Fiber* to = next();
  if (!to) deadlock();
  if (to == me) return;
  cur = to;
  switchTo(&me->context, &to->context);
}

static void release(Warp& w, unsigned index, Gathering* g, Meet meet, unsigned except) {
  unsigned came = g->came;
  *g = w.gathering[--w.gatherings];
  if (meet) {
    void* posts[32];
    for (unsigned i = 0; i < 32; i++) posts[i] = came >> i & 1 ? w.post[i] : nullptr;
    meet(posts);
  }
  wake(index, came & ~except);
}

void warp(unsigned mask, const char* kind, void* post, Meet meet, bool exited) {
  Fiber* me = static_cast<Fiber*>(cur);
  Warp& w = warps[me->warp];
  unsigned bit = 1u << me->lane;
  if (!(mask & bit)) die("%s: the mask %08x does not name the calling lane %u", kind, mask, me->lane);
  if (!exited && (mask & ~w.live))
    die("%s: the mask %08x names lanes that have exited or do not exist: %08x", kind, mask, mask & ~w.live);
  Gathering* g = w.gathering;
  Gathering* end = g + w.gatherings;
  while (g < end && g->mask != mask) g++;
  if (g == end) {
    *g = {mask, 0, kind, exited};
    w.gatherings++;
  } else if (g->kind != kind && strcmp(g->kind, kind)) {
    die("lanes of a warp meet at different instructions: %s and %s", g->kind, kind);
  }
  g->came |= bit;
  w.post[me->lane] = post;
  if ((g->came & w.live) == (mask & w.live)) {
    release(w, me->warp, g, meet, bit);
    return;
  }
  me->waits = kind;
  me->mask = mask;
  park();
}

void group(const char* kind, void* post, Meet meet) {
  Fiber* me = static_cast<Fiber*>(cur);
  Group& g = groups[me->warp / 4];
  unsigned first = me->warp / 4 * 4;
  if ((first + 4) * 32 > total * cluster) die("%s: the block has no whole warpgroup here", kind);
  if (g.came == 0) g.kind = kind;
  if (g.kind != kind && strcmp(g.kind, kind)) die("threads of a warpgroup meet at different instructions: %s and %s", g.kind, kind);
  g.post[me->index % 128] = post;
  me->waits = kind;
  me->mask = ~0u;
  if (++g.came < 128) {
    park();
    return;
  }
  g.came = 0;
  if (meet) meet(g.post);
  for (unsigned i = 0; i < 4; i++) wake(first + i, i == me->warp % 4 ? ~(1u << me->lane) : ~0u);
}

void barrier(const char* file, int line) {
  Fiber* me = static_cast<Fiber*>(cur);
  Block& b = blocks[me->rank];
  if (b.live != total) die("__syncthreads at %s:%d, but %u of %u threads have exited", file, line, total - b.live, total);
  if (b.atBarrier == 0) {
    b.barrierFile = file;
    b.barrierLine = line;
  } else if (line != b.barrierLine || strcmp(file, b.barrierFile)) {
    die("divergent __syncthreads: at %s:%d and at %s:%d", b.barrierFile, b.barrierLine, file, line);
  }
  me->waits = "__syncthreads";
  me->line = line;
  if (++b.atBarrier == total) {
    b.atBarrier = 0;
    for (unsigned i = 0, w = firstWarp(me->rank); i * 32 < total; i++, w++) wake(w, warps[w].live);
  }
  park();
}

void clusterBarrier() {
  Fiber* me = static_cast<Fiber*>(cur);
  if (live != total * cluster) die("a barrier of the cluster, but %u of its threads have exited", total * cluster - live);
  me->waits = "a barrier of the cluster";
  if (++atCluster == live) {
    atCluster = 0;
    for (unsigned w = 0; w < firstWarp(cluster); w++) wake(w, warps[w].live);
  }
  park();
}

void named(unsigned id, unsigned count) {
  Fiber* me = static_cast<Fiber*>(cur);
  if (id == 0 || id > 15 || count == 0 || count % 32 || count > total) die("barrier %u of %u threads", id, count);
  Named& n = blocks[me->rank].nameds[id];
  if (n.came == 0) n.count = count;
  if (n.count != count) die("barrier %u of %u threads and of %u threads", id, n.count, count);
  unsigned first = firstWarp(me->rank);
  n.lanes[me->warp - first] |= 1u << me->lane;
  me->waits = "a named barrier";
  me->mask = id;
  if (++n.came == count) {
    n.came = 0;
    for (unsigned i = 0; i * 32 < total; i++) {
      wake(first + i, n.lanes[i]);
      n.lanes[i] = 0;
    }
  }
  park();
}

void yield() {
  Fiber* me = static_cast<Fiber*>(cur);
  if (++idleYields > 30 * 1000 * 1000) die("all threads wait in loops");
  me->waits = "yield";
  wake(me->warp, 1u << me->lane);
  running = pickBit(warpsReady, draw());  // not only this warp
  park();
}

void post(Channel c, Work work, const void* data, unsigned bytes) {
  Queue& q = static_cast<Fiber*>(cur)->queue[c];
  if (bytes > workBytes) die("work of %u bytes", bytes);
  if (q.done == q.work.size() && q.first == q.ends.size()) q.clear();
  q.work.emplace_back();
  q.work.back().work = work;
  memcpy(q.work.back().data, data, bytes);
}

void commit(Channel c) {
  Queue& q = static_cast<Fiber*>(cur)->queue[c];
  q.ends.push_back((unsigned)q.work.size());
}

void wait(Channel c, unsigned n) {
  Queue& q = static_cast<Fiber*>(cur)->queue[c];
  while (q.ends.size() - q.first > n) {
    for (; q.done < q.ends[q.first]; q.done++) q.work[q.done].work(q.work[q.done].data);
    q.first++;
  }
  if (q.first == q.ends.size() && q.done == q.work.size()) q.clear();
}

// Shared memory.

// capability is that of the device, such as 90.
static inline int capability() {
  static const char* e = getenv("PIPE_EMU_SM");
  return e ? atoi(e) : 90;
}

// sharedLimit is the shared memory that a block may have.
static inline size_t sharedLimit() {
  switch (capability()) {
    case 80: case 87: return 163 << 10;
    case 86: case 89: case 120: case 121: return 99 << 10;
  }
  return mostShared;
}

static inline void fill(void* p, size_t bytes) {
  uint16_t* to = static_cast<uint16_t*>(p);
  for (size_t i = 0; i < bytes / 2; i++) to[i] = poison;
}

static inline bool untouched(const void* p, size_t bytes) {
  const uint16_t* at = static_cast<const uint16_t*>(p);
  unsigned bad = 0;
  for (size_t i = 0; i < bytes / 2; i++) bad |= at[i] ^ poison;
  return !bad;
}

void* shared(Shared& s, size_t bytes, const char* name) {
  Block& b = blocks[cur->rank];
  if (s.block[cur->rank] == blockSerial) return s.at[cur->rank];
  size_t at = b.arenaUsed + zone, room = (bytes + 15) / 16 * 16;
  b.arenaBytes += room;
  // The dynamic array begins at a multiple of 1024 bytes.
  size_t all = dynamicBytes ? (b.arenaBytes + 1023) / 1024 * 1024 + dynamicBytes : b.arenaBytes;
  if (b.arenaBytes > staticLimit || all > (kernel->dynamic < 0 ? staticLimit : sharedLimit()))
    die("%s: %zu bytes of static and %zu of dynamic shared memory", name, b.arenaBytes, dynamicBytes);
  b.arenaUsed = at + room;
  if (b.arenaUsed > b.arenaHigh) {
    fill(b.arena + b.arenaHigh, b.arenaUsed + zone - b.arenaHigh);
    b.arenaHigh = b.arenaUsed;
  }
  b.pieces.push_back({at, bytes, name});
  s.block[cur->rank] = blockSerial;
  return s.at[cur->rank] = b.arena + at;
}

unsigned char* dynamic() { return reinterpret_cast<unsigned char*>(blocks[cur->rank].dynamic); }

bool isShared(const void* p, size_t bytes) {
  const Block& b = blocks[cur->rank];
  const char* at = static_cast<const char*>(p);
  if (at >= b.dynamic && at + bytes <= b.dynamic + dynamicBytes) return true;
  return at >= b.arena && at + bytes <= b.arena + b.arenaHigh;
}

static void checkShared(const Block& b) {
  size_t end = 0;
  for (const Piece& p : b.pieces) {
    if (!untouched(b.arena + end, p.at - end)) die("shared memory was written in front of %s", p.name);
    end = p.at + (p.bytes + 1) / 2 * 2;
    if (!untouched(b.arena + end, zone)) die("shared memory was written beyond %s[%zu bytes]", p.name, p.bytes);
  }
  size_t d = (dynamicBytes + 1) / 2 * 2;
  if (!untouched(b.dynamic - zone, zone)) die("shared memory was written in front of the dynamic array");
  if (!untouched(b.dynamic + d, zone)) die("shared memory was written beyond the %zu bytes asked for", dynamicBytes);
}

// Blocks.

static void enter() {
  kernel->run(arguments);
  Fiber* me = static_cast<Fiber*>(cur);
  me->finished = true;
  idleYields = 0;
  live--;
  Block& b = blocks[me->rank];
  b.live--;
  Warp& w = warps[me->warp];
  w.live &= ~(1u << me->lane);
  if (b.atBarrier) die("__syncthreads at %s:%d, but a thread has exited", b.barrierFile, b.barrierLine);
  if (atCluster) die("a barrier of the cluster, but a thread has exited");
  for (unsigned i = 0; i < w.gatherings; i++) {
    Gathering* g = &w.gathering[i];
    if (!(g->mask >> me->lane & 1)) continue;
    if (!g->exited) die("%s: a lane of the mask %08x has exited", g->kind, g->mask);
    if ((g->came & w.live) == (g->mask & w.live)) release(w, me->warp, g, nullptr, 0), i--;
  }
  Fiber* to = next();
  if (!to && live) deadlock();
  if (!to) {
    cur = nullptr;
    switchTo(&me->context, &host);
  }
  cur = to;
  switchTo(&me->context, &to->context);
  abort();
}

static void noBulk();  // bulk.h

// runBlocks runs the blocks of a cluster.
static void runBlocks() {
  blockSerial++;
  live = total * cluster;
  atCluster = idleYields = 0;
  for (unsigned r = 0; r < cluster; r++) {
    Block& b = blocks[r];
    b.live = total;
    b.atBarrier = 0;
    fill(b.arena, b.arenaHigh + zone);
    fill(b.dynamic - zone, (dynamicBytes + 1) / 2 * 2 + 2 * zone);
    b.arenaUsed = b.arenaBytes = 0;
    b.pieces.clear();
    for (Named& n : b.nameds) n = Named{};
  }
  for (unsigned i = 0; i < maxWarps / 4; i++) groups[i].came = 0;
  for (unsigned r = 0; r < cluster; r++)
    for (unsigned i = 0, w = firstWarp(r); i * 32 < total; i++, w++) {
      unsigned lanes = total - i * 32 >= 32 ? ~0u : (1u << (total - i * 32)) - 1;
      warps[w].live = lanes;
      warps[w].ready = 0;
      warps[w].gatherings = 0;
      wake(w, lanes);
    }
  for (unsigned all = 0; all < live; all++) {
    Fiber& f = fibers[all];
    unsigned i = all % total;
    f.tid = {i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y};
    f.rank = all / total;
    f.block = blocks[f.rank].at;
    f.index = i;
    f.lane = i % 32;
    f.warp = firstWarp(f.rank) + i / 32;
    f.finished = false;
    f.waits = "nothing";
    f.line = 0;
    f.mask = 0;
    for (Queue& q : f.queue) q.clear();
    prepare(&f.context, stacks + all * (stackBytes + 4096) + 4096, stackBytes, enter);
  }
  running = draw() % firstWarp(cluster);
  Fiber* to = next();
  cur = to;
  switchTo(&host, &to->context);
  cur = nullptr;
  noBulk();
  for (unsigned r = 0; r < cluster; r++) checkShared(blocks[r]);
}

static void watchFaults();  // fault.h

static void prepareOnce() {
  if (fibers) return;
  watchFaults();
  fibers = new Fiber[maxThreads];
  size_t bytes = maxThreads * (stackBytes + 4096);
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) die("no memory for stacks");
  stacks = static_cast<char*>(p);
  for (unsigned i = 0; i < maxThreads; i++) mprotect(stacks + i * (stackBytes + 4096), 4096, PROT_NONE);
  size_t room = staticLimit + 4096 * zone + mostShared + 16384;
  for (Block& b : blocks) {
    p = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("no memory for shared memory");
    b.dynamic = static_cast<char*>(p) + 4096;
    b.arena = static_cast<char*>(p) + ((mostShared + 12288) & ~(size_t)4095);
  }
}

static unsigned long long gcd(unsigned long long a, unsigned long long b) { return b ? gcd(b, a % b) : a; }

// runKernel runs all blocks, or clusters, of a launch in an order drawn by chance.
static void runKernel(Kernel* k, dim3 g, dim3 t, size_t dynamicSize, const void* args) {
  prepareOnce();
  static unsigned long long seed = getenv("PIPE_EMU_SEED") ? strtoull(getenv("PIPE_EMU_SEED"), nullptr, 10) : 1;
  random_ = (seed + 1) * 0x9E3779B97F4A7C15ull + ++k->launches * 0xD1B54A32D192ED03ull;
  for (const char* c = k->name; *c; c++) random_ = (random_ ^ (unsigned char)*c) * 0x100000001B3ull;
  random_ |= 1ull << 63;
  for (int i = 0; i < 4; i++) draw();
  static bool trace = getenv("PIPE_EMU_TRACE") && atoi(getenv("PIPE_EMU_TRACE"));
  timespec from, to;
  if (trace) fprintf(stderr, "emu: %s (%u,%u,%u) x (%u,%u,%u), %zu bytes: ", k->name, g.x, g.y, g.z, t.x, t.y, t.z, dynamicSize);
  clock_gettime(CLOCK_MONOTONIC, &from);
  runner = pthread_self();
  kernel = k;
  alignas(128) static char parameters[4096];  // as the device has them
  if (k->bytes > sizeof parameters) die("an argument of %zu bytes", k->bytes);
  memcpy(parameters, args, k->bytes);
  arguments = parameters;
  grid = g;
  threads = t;
  total = t.x * t.y * t.z;
  cluster = k->cluster;
  dynamicBytes = dynamicSize;
  unsigned wide = g.x / cluster;  // clusters lie along x
  unsigned long long n = (unsigned long long)wide * g.y * g.z, step = draw() % n + 1, at = draw() % n;
  while (gcd(step, n) != 1) step++;
  step %= n;
  warpsReady = 0;
  for (unsigned long long i = 0; i < n; i++) {
    for (unsigned r = 0; r < cluster; r++)
      blocks[r].at = {(unsigned)(at % wide) * cluster + r, (unsigned)(at / wide % g.y), (unsigned)(at / wide / g.y)};
    runBlocks();
    at = (at + step) % n;
  }
  kernel = nullptr;
  if (!trace) return;
  clock_gettime(CLOCK_MONOTONIC, &to);
  fprintf(stderr, "%.3f ms\n", (double)(to.tv_sec - from.tv_sec) * 1e3 + (double)(to.tv_nsec - from.tv_nsec) * 1e-6);
}

static Kernel* kernels;

// moduleOf is the length of the file's name without folders and ending, from *name.
static size_t moduleOf(const char* file, const char** name) {
  const char* slash = strrchr(file, '/');
  *name = slash ? slash + 1 : file;
  const char* dot = strchr(*name, '.');
  return dot ? (size_t)(dot - *name) : strlen(*name);
}

static bool inModule(const Kernel* k, const std::string& module) {
  const char* name;
  size_t n = moduleOf(k->file, &name);
  return module.size() == n && !memcmp(name, module.data(), n);
}

Kernel::Kernel(const char* name, const char* file, size_t bytes, unsigned threads, void (*run)(const void*), unsigned cluster)
    : name(name), file(file), bytes(bytes), threads(threads), run(run), next(kernels), launches(0), dynamic(-1), cluster(cluster) {
  kernels = this;
}

}  // namespace emu
