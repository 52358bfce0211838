// memory.h is the emulated driver's memory: allocations between red zones.
// driver.cpp includes it once.
#pragma once
#include <deque>
#include <iterator>
#include <map>

#include "block.h"

namespace emu {

const size_t redZone = 1024;

struct Allocation {
  char* room;
  size_t bytes;
  unsigned long long number;
  bool host;
};

static std::map<uintptr_t, Allocation> allocations;
static std::deque<Allocation> freed;  // filled with poison, to see late writes
static size_t freedBytes, deviceBytes;

static size_t deviceTotal() {
  const char* e = getenv("PIPE_EMU_MEMORY");
  return e ? strtoull(e, nullptr, 10) : (size_t)16 << 30;
}

// coherent reports whether the device reads any memory of the host itself. It then
// reads what is not pinned when its turn comes, too.
static bool coherent() {
  const char* e = getenv("PIPE_EMU_COHERENT");
  return e && atoi(e);
}

// allocate gives poisoned memory, 1024-byte aligned, or nullptr.
static void* allocate(size_t bytes, bool host) {
  static unsigned long long number;
  size_t room = (bytes + 255) / 256 * 256 + 2 * redZone;
  void* p = nullptr;
  if ((!host && deviceBytes + bytes > deviceTotal()) || posix_memalign(&p, 1024, room)) return nullptr;
  fill(p, room);
  if (!host) deviceBytes += bytes;
  uintptr_t at = (uintptr_t)p + redZone;
  allocations[at] = {static_cast<char*>(p), bytes, ++number, host};
  return (void*)at;
}

static void checkZones(const Allocation& a) {
  size_t even = a.bytes / 2 * 2, all = (a.bytes + 255) / 256 * 256;
  char* at = a.room + redZone;
  const char* what = a.host ? "host" : "device";
  if (!untouched(a.room, redZone)) die("memory was written in front of %s allocation %llu of %zu bytes at %p", what, a.number, a.bytes, at);
  bool odd = a.bytes % 2 && at[a.bytes] != (char)(poison >> 8);
  size_t from = even + a.bytes % 2 * 2;
  if (odd || !untouched(at + from, all - from + redZone)) {
    size_t i = a.bytes;
    while (at[i] == (char)(poison >> 8 * (i % 2))) i++;
    die("memory was written %zu bytes beyond the end of %s allocation %llu of %zu bytes at %p", i - a.bytes, what, a.number, a.bytes, at);
  }
}

static void checkFreed(const Allocation& a) {
  if (!untouched(a.room, (a.bytes + 255) / 256 * 256 + 2 * redZone))
    die("memory was written after %s allocation %llu of %zu bytes was freed", a.host ? "host" : "device", a.number, a.bytes);
}

static void checkAll() {
  for (auto& a : allocations) checkZones(a.second);
  for (auto& f : freed) checkFreed(f);
}

// release gives memory back; false if it is none of ours.
static bool deallocate(uintptr_t at, bool host) {
  auto i = allocations.find(at);
  if (i == allocations.end() || i->second.host != host) return false;
  Allocation a = i->second;
  checkZones(a);
  allocations.erase(i);
  if (!host) deviceBytes -= a.bytes;
  fill((void*)at, (a.bytes + 255) / 256 * 256);
  freed.push_back(a);
  for (freedBytes += a.bytes; freedBytes > (size_t)2 << 20 || freed.size() > 256;) {
    checkFreed(freed.front());
    freedBytes -= freed.front().bytes;
    free(freed.front().room);
    freed.pop_front();
  }
  return true;
}

static const Allocation* find(uintptr_t at, size_t bytes) {
  auto i = allocations.upper_bound(at);
  if (i == allocations.begin()) return nullptr;
  --i;
  return at + bytes <= i->first + i->second.bytes ? &i->second : nullptr;
}

static bool isDevice(uintptr_t at, size_t bytes) {
  const Allocation* a = find(at, bytes);
  return a && !a->host;
}

static bool isPinned(const void* p, size_t bytes) {
  const Allocation* a = find((uintptr_t)p, bytes);
  return a && a->host;
}

}  // namespace emu
