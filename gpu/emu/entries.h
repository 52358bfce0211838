// entries.h holds the entry points of the emulated driver; driver.cpp includes it once.
#pragma once
#pragma GCC visibility push(default)
extern "C" {

// Devices.

static int deviceCount() {
  const char* e = getenv("PIPE_EMU_DEVICES");
  int n = e ? atoi(e) : 1;
  return n < 0 ? 0 : n > 8 ? 8 : n;
}

Result cuInit(unsigned) {
  ENTER;
  if (deviceCount() == 0) return noDevice;
  initialised = true;
  return success;
}
Result cuDriverGetVersion(int* v) { return *v = 13000, success; }
Result cuDeviceGetCount(int* n) {
  ENTER;
  *n = deviceCount();
  return initialised ? success : 3;
}
Result cuDeviceGet(int* d, int i) {
  ENTER;
  *d = i;
  return i >= 0 && i < deviceCount() ? success : invalidDevice;
}
Result cuDeviceGetName(char* to, int n, int) {
  snprintf(to, n, "CPU emulator");
  return success;
}
Result cuDeviceGetUuid_v2(unsigned char* to, int d) {
  memset(to, 0, 16);
  to[15] = (unsigned char)d;
  return success;
}
Result cuDeviceGetUuid(unsigned char* to, int d) { return cuDeviceGetUuid_v2(to, d); }
Result cuDeviceTotalMem_v2(size_t* n, int) { return *n = deviceTotal(), success; }
Result cuDeviceCanAccessPeer(int* can, int, int) { return *can = 0, success; }
Result cuDeviceGetAttribute(int* v, int attribute, int) {
  static const int values[][2] = {
      {1, 1024},    {2, 1024},    {3, 1024},       {4, 64},          {5, 2147483647}, {6, 65535},      {7, 65535},    {8, 49152},
      {9, 65536},   {10, 32},     {11, 2147483647}, {12, 65536},     {13, 1000000},   {14, 512},       {15, 1},       {16, 4},
      {17, 0},      {18, 0},      {19, 1},         {20, 0},          {31, 1},         {32, 0},         {33, 0},       {34, 0},
      {35, 0},      {36, 1000000}, {37, 64},       {38, 1 << 20},    {39, 2048},      {40, 1},         {41, 1},       {50, 0},
      {78, 1},      {79, 1},      {80, 1},         {81, 233472},     {82, 65536},     {83, 0},         {90, 0},       {95, 0},
      {96, 0},      {97, 232448}, {106, 32},       {111, 1024},      {115, 1},        {120, 0}};
  const char* e = getenv("PIPE_EMU_SM");
  int sm = e ? atoi(e) : 90;
  if (attribute == 75) return *v = sm / 10, success;
  if (attribute == 76) return *v = sm % 10, success;
  for (auto& a : values)
    if (a[0] == attribute) return *v = a[1], success;
  return refuse(invalidValue, __func__, "attribute %d is unknown", attribute);
}

static const struct {
  int code;
  const char *name, *text;
} errors[] = {{0, "CUDA_SUCCESS", "no error"},
              {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
              {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
              {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
              {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
              {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
              {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
              {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
              {600, "CUDA_ERROR_NOT_READY", "device not ready"},
              {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
              {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
              {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
              {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
              {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
              {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}};
Result cuGetErrorName(Result r, const char** s) {
  for (auto& e : errors)
    if (e.code == r) return *s = e.name, success;
  *s = nullptr;
  return invalidValue;
}
Result cuGetErrorString(Result r, const char** s) {
  for (auto& e : errors)
    if (e.code == r) return *s = e.text, success;
  *s = nullptr;
  return invalidValue;
}

// Contexts.

Result cuDevicePrimaryCtxRetain(Context_** c, int d) {
  ENTER;
  if (!initialised) return 3;
  if (d < 0 || d >= deviceCount()) return invalidDevice;
  primary[d].device = d;
  primary[d].retained++;
  *c = &primary[d];
  return success;
}
Result cuDevicePrimaryCtxRelease_v2(int d) {
  ENTER;
  if (d < 0 || d >= deviceCount() || !primary[d].retained) return invalidContext;
  if (!sticky) drain();
  if (--primary[d].retained == 0) sticky = success;
  return success;
}
Result cuDevicePrimaryCtxRelease(int d) { return cuDevicePrimaryCtxRelease_v2(d); }
Result cuDevicePrimaryCtxReset_v2(int) {
  ENTER;
  sticky = success;
  pending.clear();
  return success;
}
Result cuDevicePrimaryCtxReset(int d) { return cuDevicePrimaryCtxReset_v2(d); }
Result cuDevicePrimaryCtxSetFlags_v2(int d, unsigned flags) {
  ENTER;
  primary[d & 7].flags = flags;
  return success;
}
Result cuDevicePrimaryCtxSetFlags(int d, unsigned flags) { return cuDevicePrimaryCtxSetFlags_v2(d, flags); }
Result cuDevicePrimaryCtxGetState(int d, unsigned* flags, int* active) {
  ENTER;
  *flags = primary[d & 7].flags;
  *active = primary[d & 7].retained > 0;
  return success;
}
Result cuCtxCreate_v2(Context_** c, unsigned flags, int d) {
  ENTER;
  if (!initialised) return 3;
  *c = new Context_{d, 1, flags};
  contexts.push_back(*c);
  return success;
}
Result cuCtxDestroy_v2(Context_* c) {
  ENTER;
  if (!sticky) drain();
  sticky = success;
  for (auto& at : contexts)
    if (at == c) at = nullptr;
  return success;  // c stays allocated: other threads may still name it
}
Result cuCtxSetCurrent(Context_* c) {
  ENTER;
  if (contexts.empty()) contexts.push_back(nullptr);
  contexts.back() = c;
  return success;
}
Result cuCtxGetCurrent(Context_** c) { return *c = contexts.empty() ? nullptr : contexts.back(), success; }
Result cuCtxPushCurrent_v2(Context_* c) { return contexts.push_back(c), success; }
Result cuCtxPopCurrent_v2(Context_** c) {
  if (contexts.empty()) return invalidContext;
  if (c) *c = contexts.back();
  contexts.pop_back();
  return success;
}
Result cuCtxGetDevice(int* d) {
  ENTER_CONTEXT;
  *d = contexts.back()->device;
  return success;
}
Result cuCtxGetFlags(unsigned* flags) { return *flags = 0, success; }
Result cuCtxGetApiVersion(Context_*, unsigned* v) { return *v = 13000, success; }
Result cuCtxGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = 0, success; }
Result cuCtxSynchronize() {
  SETTLED;
  return success;
}

// Memory.

static Result newMemory(const char* entry, void** p, size_t bytes, bool host) {
  if (bytes == 0) return refuse(invalidValue, entry, "0 bytes");
  *p = allocate(bytes, host);
  if (*p) return success;
  return refuse(outOfMemory, entry, "%zu bytes do not fit beside %zu", bytes, deviceBytes);
}
Result cuMemAlloc_v2(void** p, size_t bytes) {
  ENTER_CONTEXT;
  if (capturing) return refuse(captureUnsupported, __func__, "a stream is being captured");
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
  return newMemory(__func__, p, bytes, true);
}
Result cuMemHostAlloc(void** p, size_t bytes, unsigned) {
  ENTER_CONTEXT;
  return newMemory(__func__, p, bytes, true);
}
Result cuMemHostGetDevicePointer_v2(Pointer* p, void* host, unsigned) { return *p = (Pointer)host, success; }
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
    if (capturing) return refuse(captureUnsupported, entry, "a stream is being captured");
    drain();
    perform(op);
    return success;
  }
  if (!captured && !fromDevice && !isPinned((void*)from, bytes)) op.data.assign(op.from, op.from + bytes);
  bool pageable = !captured && !toDevice && !isPinned((void*)to, bytes);
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
  return copy(__func__, to, from, n, isDevice(to, 1), isDevice(from, 1), s, true);
}
Result cuMemcpy(Pointer to, Pointer from, size_t n) {
  ENTER_CONTEXT;
  return copy(__func__, to, from, n, isDevice(to, 1), isDevice(from, 1), nullptr, false);
}

static Result set(const char* entry, Pointer to, unsigned v, size_t n, unsigned width, Stream* s) {
  if (n && !isDevice(to, n * width)) return refuse(invalidValue, entry, "%zu bytes at %#llx are not in one allocation", n * width, to);
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

// Streams and events.

Result cuStreamCreate(Stream** s, unsigned) {
  ENTER_CONTEXT;
  *s = new Stream;
  return success;
}
Result cuStreamCreateWithPriority(Stream** s, unsigned, int) {
  ENTER_CONTEXT;
  *s = new Stream;
  return success;
}
Result cuStreamDestroy_v2(Stream* s) {
  ENTER;
  if (!sticky) drain();
  delete s;
  return success;
}
Result cuStreamSynchronize(Stream*) {
  SETTLED;
  return success;
}
Result cuStreamQuery(Stream*) {
  SETTLED;
  return success;
}
Result cuStreamWaitEvent(Stream*, Event*, unsigned) {  // all streams share one queue
  ENTER_CONTEXT;
  return success;
}
Result cuStreamGetFlags(Stream*, unsigned* flags) { return *flags = 0, success; }
Result cuStreamGetPriority(Stream*, int* p) { return *p = 0, success; }
Result cuEventCreate(Event** e, unsigned) {
  ENTER_CONTEXT;
  *e = new Event;
  return success;
}
Result cuEventDestroy_v2(Event* e) {
  ENTER;
  if (!sticky) drain();
  delete e;
  return success;
}
Result cuEventRecord(Event* e, Stream* s) {
  ENTER_CONTEXT;
  e->recorded = true;
  Op op{Op::record};
  op.to = (char*)e;
  return enqueue(__func__, s, op);
}
Result cuEventSynchronize(Event*) {
  SETTLED;
  return success;
}
Result cuEventQuery(Event*) {
  SETTLED;
  return success;
}
static Result elapsed(float* ms, Event* from, Event* to) {
  if (!from->recorded || !to->recorded) return refuse(400, "cuEventElapsedTime", "an event was not recorded");
  drain();
  *ms = (float)(to->at - from->at);
  return success;
}
Result cuEventElapsedTime(float* ms, Event* from, Event* to) {
  ENTER_CONTEXT;
  return elapsed(ms, from, to);
}
Result cuEventElapsedTime_v2(float* ms, Event* from, Event* to) {
  ENTER_CONTEXT;
  return elapsed(ms, from, to);
}

// Modules and functions.

Result cuModuleLoadData(void** m, const void* image) {
  ENTER_CONTEXT;
  if (!image) return refuse(invalidValue, __func__, "no image");
  *m = new int;
  return success;
}
Result cuModuleLoadDataEx(void** m, const void* image, unsigned, void*, void**) { return cuModuleLoadData(m, image); }
Result cuModuleLoadFatBinary(void** m, const void* image) { return cuModuleLoadData(m, image); }
Result cuModuleLoad(void** m, const char* name) { return cuModuleLoadData(m, name); }
Result cuModuleUnload(void* m) {
  ENTER;
  if (!sticky) drain();
  delete static_cast<int*>(m);
  return success;
}
Result cuModuleGetFunction(Kernel** f, void*, const char* name) {
  ENTER_CONTEXT;
  for (Kernel* k = kernels; k; k = k->next)
    if (!strcmp(k->name, name)) return *f = k, success;
  return refuse(notFound, __func__, "there is no kernel %s", name);
}
Result cuModuleGetGlobal_v2(Pointer*, size_t*, void*, const char* name) { return refuse(notFound, __func__, "%s", name); }
Result cuFuncSetAttribute(Kernel* k, int attribute, int v) {
  ENTER_CONTEXT;
  if (attribute != 8) return success;
  if (v < 0 || (size_t)v > sharedLimit) return refuse(invalidValue, __func__, "%s: %d bytes of shared memory", k->name, v);
  k->dynamic = v;
  return success;
}
Result cuFuncGetAttribute(int* v, int attribute, Kernel* k) {
  ENTER_CONTEXT;
  *v = attribute == 0 ? (int)k->threads : attribute == 4 ? 32 : attribute == 5 || attribute == 6 ? 90 : attribute == 8 ? k->dynamic : 0;
  return success;
}
Result cuFuncSetCacheConfig(Kernel*, int) { return success; }
Result cuFuncGetParamInfo(Kernel* k, size_t i, size_t* offset, size_t* bytes) {
  ENTER_CONTEXT;
  if (i) return invalidValue;
  if (offset) *offset = 0;
  if (bytes) *bytes = k->bytes;
  return success;
}
Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, Kernel*, int threads, size_t shared) {
  int by = 2048 / (threads > 0 ? threads : 1), also = (int)(sharedLimit / (shared + 1024));
  *n = by < also ? by : also;
  return success;
}

// Launches.

static Result launch(const char* entry, Kernel* k, dim3 g, dim3 t, unsigned shared, Stream* s, void** params, void** extra) {
  if (!k) return refuse(invalidValue, entry, "no function");
  unsigned long long n = (unsigned long long)t.x * t.y * t.z;
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 2147483647u || g.y > 65535 || g.z > 65535)
    return refuse(invalidValue, entry, "%s: a grid of %u x %u x %u blocks", k->name, g.x, g.y, g.z);
  if (n == 0 || t.x > 1024 || t.y > 1024 || t.z > 64 || n > 1024)
    return refuse(invalidValue, entry, "%s: a block of %u x %u x %u threads", k->name, t.x, t.y, t.z);
  if (n > k->threads) return refuse(701, entry, "%s: %llu threads, but the kernel says at most %u", k->name, n, k->threads);
  if (shared > (unsigned)k->dynamic)
    return refuse(invalidValue, entry, "%s: %u bytes of dynamic shared memory, but cuFuncSetAttribute allowed %d", k->name, shared, k->dynamic);
  Op op{Op::launch};
  if (extra) {
    const char* at = nullptr;
    size_t bytes = 0;
    for (void** e = extra; *e; e += 2) {
      if (*e == (void*)1) at = static_cast<const char*>(e[1]);
      if (*e == (void*)2) bytes = *static_cast<size_t*>(e[1]);
    }
    if (!at || bytes != k->bytes)
      return refuse(invalidValue, entry, "%s: an argument of %zu bytes, but the kernel's struct has %zu", k->name, bytes, k->bytes);
    op.data.assign(at, at + bytes);
  } else if (params && params[0]) {
    const char* at = static_cast<const char*>(params[0]);
    op.data.assign(at, at + k->bytes);
  } else {
    return refuse(invalidValue, entry, "%s: no argument", k->name);
  }
  op.kernel = k;
  op.grid = g;
  op.threads = t;
  op.shared = shared;
  return enqueue(entry, s, std::move(op));
}
Result cuLaunchKernel(Kernel* k, unsigned gx, unsigned gy, unsigned gz, unsigned tx, unsigned ty, unsigned tz, unsigned shared, Stream* s,
                      void** params, void** extra) {
  ENTER_CONTEXT;
  return launch(__func__, k, dim3(gx, gy, gz), dim3(tx, ty, tz), shared, s, params, extra);
}
struct LaunchConfig {
  unsigned gx, gy, gz, tx, ty, tz, shared;
  Stream* stream;
  void* attributes;
  unsigned count;
};
Result cuLaunchKernelEx(const LaunchConfig* c, Kernel* k, void** params, void** extra) {
  ENTER_CONTEXT;
  return launch(__func__, k, dim3(c->gx, c->gy, c->gz), dim3(c->tx, c->ty, c->tz), c->shared, c->stream, params, extra);
}

// Graphs.

Result cuStreamBeginCapture_v2(Stream* s, int mode) {
  ENTER_CONTEXT;
  if (!s) return refuse(captureUnsupported, __func__, "the legacy stream cannot be captured");
  if (s->capture) return refuse(invalidValue, __func__, "the stream is being captured");
  s->capture = new Graph;
  s->mode = mode;
  capturing++;
  return success;
}
Result cuStreamBeginCapture(Stream* s, int mode) { return cuStreamBeginCapture_v2(s, mode); }
Result cuStreamEndCapture(Stream* s, Graph** g) {
  ENTER_CONTEXT;
  if (!s || !s->capture) return refuse(invalidValue, __func__, "the stream is not being captured");
  *g = s->capture;
  s->capture = nullptr;
  capturing--;
  return success;
}
Result cuStreamIsCapturing(Stream* s, int* status) { return *status = s && s->capture ? 1 : 0, success; }
Result cuGraphInstantiateWithFlags(Graph** exec, Graph* g, unsigned long long) {
  ENTER_CONTEXT;
  *exec = new Graph(*g);
  return success;
}
Result cuGraphInstantiate_v2(Graph** exec, Graph* g, void*, char*, size_t) { return cuGraphInstantiateWithFlags(exec, g, 0); }
Result cuGraphInstantiate(Graph** exec, Graph* g, unsigned long long flags) { return cuGraphInstantiateWithFlags(exec, g, flags); }
Result cuGraphExecUpdate_v2(Graph* exec, Graph* g, void*) {
  ENTER_CONTEXT;
  if (exec->ops.size() != g->ops.size()) return 910;
  *exec = *g;
  return success;
}
Result cuGraphGetNodes(Graph* g, void**, size_t* n) { return *n = g->ops.size(), success; }
Result cuGraphUpload(Graph*, Stream*) { return success; }
Result cuGraphLaunch(Graph* exec, Stream* s) {
  ENTER_CONTEXT;
  if (s && s->capture) return refuse(notSupported, __func__, "not in a captured stream");
  for (const Op& op : exec->ops)
    if (Result r = enqueue(__func__, s, op)) return r;
  return success;
}
Result cuGraphDestroy(Graph* g) {
  LOCK;
  delete g;
  return success;
}
Result cuGraphExecDestroy(Graph* g) {
  LOCK;
  delete g;
  return success;
}

}  // extern "C"
#pragma GCC visibility pop
