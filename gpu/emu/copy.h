// copy.h has the entry points that allocate, copy and set memory. driver.cpp includes it once.
#pragma once
#pragma GCC visibility push(default)
extern "C" {

static Result newMemory(const char* entry, void** p, size_t bytes, bool host) {
  if (bytes == 0) return refuse(invalidValue, entry, "0 bytes");
  *p = allocate(bytes, host);
  if (*p) return success;
  return refuse(outOfMemory, entry, "%zu bytes do not fit beside %zu", bytes, deviceBytes);
}
Result cuMemAlloc_v2(void** p, size_t bytes) {
  ENTER_CONTEXT;
  if (capturing) return breakCapture(__func__);
  return newMemory(__func__, p, bytes, false);
}
Result cuMemAllocAsync(void** p, size_t bytes, Stream* s) {
  ENTER_CONTEXT;
  if (s && s->capture) return refuse(notSupported, __func__, "not in a captured stream");
  return newMemory(__func__, p, bytes, false);
}
Result cuMemFree_v2(Pointer p) {
  SETTLED;
  if (p && !deallocate(p, false)) return refuse(invalidValue, __func__, "%#llx is no device memory", p);
  return success;
}
Result cuMemFreeAsync(Pointer p, Stream* s) {
  ENTER_CONTEXT;
  if (!allocations.count(p)) return refuse(invalidValue, __func__, "%#llx is no device memory", p);
  Op op{Op::free};
  op.to = (char*)p;
  return enqueue(__func__, s, op);
}
Result cuMemAllocHost_v2(void** p, size_t bytes) {
  ENTER_CONTEXT;
  if (capturing) return breakCapture(__func__);
  return newMemory(__func__, p, bytes, true);
}
Result cuMemHostAlloc(void** p, size_t bytes, unsigned flags) {
  ENTER_CONTEXT;
  if (capturing) return breakCapture(__func__);
  if (flags & ~7u) return refuse(invalidValue, __func__, "flags %#x", flags);
  return newMemory(__func__, p, bytes, true);
}
// Addresses are the same on the host and on the device, as with a driver.
Result cuMemHostGetDevicePointer_v2(Pointer* p, void* host, unsigned flags) {
  ENTER_CONTEXT;
  if (flags || !isPinned(host, 1)) return refuse(invalidValue, __func__, "%p is no pinned memory", host);
  *p = (Pointer)host;
  return success;
}
Result cuMemHostRegister_v2(void*, size_t, unsigned) { return notSupported; }
Result cuMemHostUnregister(void*) { return notSupported; }
Result cuMemFreeHost(void* p) {
  SETTLED;
  if (p && !deallocate((uintptr_t)p, true)) return refuse(invalidValue, __func__, "%p is no pinned memory", p);
  return success;
}
Result cuMemGetInfo_v2(size_t* free, size_t* all) {
  ENTER_CONTEXT;
  *all = deviceTotal();
  *free = *all > deviceBytes ? *all - deviceBytes : 0;
  return success;
}
Result cuMemGetAddressRange_v2(Pointer* base, size_t* bytes, Pointer p) {
  ENTER_CONTEXT;
  const Allocation* a = find(p, 1);
  if (!a) return notFound;
  if (base) *base = (Pointer)a->room + redZone;
  if (bytes) *bytes = a->bytes;
  return success;
}

// stage keeps the source of a copy, which the caller may change at once: but see coherent.
static void stage(Op& op) {
  op.data.resize(op.bytes);
  if (op.bytes) memcpy(op.data.data(), op.from, op.bytes);
}

static Result copy(const char* entry, Pointer to, Pointer from, size_t bytes, bool toDevice, bool fromDevice, Stream* s, bool async) {
  if (toDevice && bytes && !isDevice(to, bytes)) return refuse(invalidValue, entry, "%zu bytes to %#llx are not in one allocation", bytes, to);
  if (fromDevice && bytes && !isDevice(from, bytes))
    return refuse(invalidValue, entry, "%zu bytes from %#llx are not in one allocation", bytes, from);
  bool captured = (s ? s : &legacy)->capture;
  Op op{Op::copy};
  op.to = (char*)to;
  op.from = (const char*)from;
  op.bytes = bytes;
  if (!async) {
    if (capturing) return breakCapture(entry);
    drain();
    perform(op);
    return success;
  }
  bool from_pageable = !fromDevice && !isPinned((void*)from, bytes), pageable = !toDevice && !isPinned((void*)to, bytes);
  if (captured && (from_pageable || pageable)) return breakCapture(entry);  // CUDA would copy from or to there at each launch
  if (from_pageable && !coherent()) stage(op);
  Result r = enqueue(entry, s, std::move(op));
  if (pageable) drain();
  return r;
}
Result cuMemcpyHtoD_v2(Pointer to, const void* from, size_t n) {
  ENTER_CONTEXT;
  return copy(__func__, to, (Pointer)from, n, true, false, nullptr, false);
}
Result cuMemcpyDtoH_v2(void* to, Pointer from, size_t n) {
  ENTER_CONTEXT;
  return copy(__func__, (Pointer)to, from, n, false, true, nullptr, false);
}
Result cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t n) {
  ENTER_CONTEXT;
  return copy(__func__, to, from, n, true, true, nullptr, true);
}
Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t n, Stream* s) {
  ENTER_CONTEXT;
  return copy(__func__, to, (Pointer)from, n, true, false, s, true);
}
Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t n, Stream* s) {
  ENTER_CONTEXT;
  return copy(__func__, (Pointer)to, from, n, false, true, s, true);
}
Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t n, Stream* s) {
  ENTER_CONTEXT;
  return copy(__func__, to, from, n, true, true, s, true);
}
Result cuMemcpyAsync(Pointer to, Pointer from, size_t n, Stream* s) {
  ENTER_CONTEXT;
  for (Pointer p : {to, from})
    if (n && find(p, 1) && !find(p, n)) return refuse(invalidValue, __func__, "%zu bytes at %#llx are not in one allocation", n, p);
  return copy(__func__, to, from, n, isDevice(to, 1), isDevice(from, 1), s, true);
}
Result cuMemcpy(Pointer to, Pointer from, size_t n) {
  ENTER_CONTEXT;
  return copy(__func__, to, from, n, isDevice(to, 1), isDevice(from, 1), nullptr, false);
}

static Result set(const char* entry, Pointer to, unsigned v, size_t n, unsigned width, Stream* s) {
  if (n && !isDevice(to, n * width) && !isPinned((void*)to, n * width))
    return refuse(invalidValue, entry, "%zu bytes at %#llx are not in one allocation", n * width, to);
  if (to % width) return refuse(invalidValue, entry, "%#llx is not aligned", to);
  Op op{Op::set};
  op.to = (char*)to;
  op.value = v;
  op.bytes = n;
  op.width = width;
  return enqueue(entry, s, std::move(op));
}
#define SET(name, T, width)                           \
  Result cuMemset##name##_v2(Pointer to, T v, size_t n) { \
    ENTER_CONTEXT;                                    \
    return set(__func__, to, v, n, width, nullptr);   \
  }                                                   \
  Result cuMemset##name##Async(Pointer to, T v, size_t n, Stream* s) { \
    ENTER_CONTEXT;                                    \
    return set(__func__, to, v, n, width, s);         \
  }
SET(D8, unsigned char, 1)
SET(D16, unsigned short, 2)
SET(D32, unsigned, 4)

}  // extern "C"
#pragma GCC visibility pop
