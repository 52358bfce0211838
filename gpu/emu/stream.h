// stream.h has the entry points for streams, events, modules, launches and graphs. driver.cpp includes it once.
#pragma once
#pragma GCC visibility push(default)
extern "C" {

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
Result cuEventRecordWithFlags(Event* e, Stream* s, unsigned) { return cuEventRecord(e, s); }
Result cuEventElapsedTime(float* ms, Event* from, Event* to) {
  ENTER_CONTEXT;
  return elapsed(ms, from, to);
}
Result cuEventElapsedTime_v2(float* ms, Event* from, Event* to) {
  ENTER_CONTEXT;
  return elapsed(ms, from, to);
}

Result cuProfilerStart() { return success; }
Result cuProfilerStop() { return success; }

// Modules and functions.

struct Module {
  std::string name;  // empty: not known, as of a fatbin
};
// An image is the name of a module, or anything else; the emulator has the
// kernels of all.
Result cuModuleLoadData(Module** m, const void* image) {
  ENTER_CONTEXT;
  if (capturing) return breakCapture(__func__);
  if (!image) return refuse(invalidValue, __func__, "no image");
  *m = new Module;
  const char* text = static_cast<const char*>(image);
  for (Kernel* k = kernels; k; k = k->next) {
    const char* name;
    size_t n = moduleOf(k->file, &name);
    if (!strncmp(text, name, n) && !text[n]) (*m)->name.assign(name, n);
  }
  bool word = *text != 0;
  for (const char* c = text; *c; c++) word = word && *c > ' ' && *c <= '~';
  if (word && (*m)->name.empty()) return refuse(notFound, __func__, "there is no module %.40s", text);
  return success;
}
Result cuModuleLoadDataEx(Module** m, const void* image, unsigned, void*, void**) { return cuModuleLoadData(m, image); }
Result cuModuleLoadFatBinary(Module** m, const void* image) { return cuModuleLoadData(m, image); }
Result cuModuleUnload(Module* m) {
  ENTER;
  if (!sticky) drain();
  delete m;
  return success;
}
Result cuModuleGetLoadingMode(int* mode) { return *mode = 1, success; }
Result cuModuleGetFunction(Kernel** f, Module* m, const char* name) {
  ENTER_CONTEXT;
  *f = nullptr;
  for (Kernel* k = kernels; k; k = k->next) {
    if (strcmp(k->name, name) || (!m->name.empty() && !inModule(k, m->name))) continue;
    if (*f) return refuse(notFound, __func__, "kernel %s is in two files: %s and %s", name, k->file, (*f)->file);
    *f = k;
  }
  if (*f) return success;
  return refuse(notFound, __func__, "there is no kernel %s%s%s", name, m->name.empty() ? "" : " in module ", m->name.c_str());
}
Result cuFuncLoad(Kernel*) { return success; }
Result cuModuleGetGlobal_v2(Pointer*, size_t*, void*, const char* name) { return refuse(notFound, __func__, "%s", name); }
Result cuFuncSetAttribute(Kernel* k, int attribute, int v) {
  ENTER_CONTEXT;
  if (attribute != 8) return success;
  if (v < 0 || (size_t)v > sharedLimit()) return refuse(invalidValue, __func__, "%s: %d bytes of shared memory", k->name, v);
  k->dynamic = v;
  return success;
}
Result cuFuncGetAttribute(int* v, int attribute, Kernel* k) {
  ENTER_CONTEXT;
  *v = attribute == 0 ? (int)k->threads : attribute == 4 ? 32 : attribute == 5 || attribute == 6 ? 90 : attribute == 8 ? (k->dynamic < 0 ? (int)staticLimit : k->dynamic) : 0;
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
  int by = 2048 / (threads > 0 ? threads : 1), also = (int)(sharedLimit() / (shared + 1024));
  *n = by < also ? by : also;
  return success;
}

// cuTensorMapEncodeTiled makes what the emulated copies understand: matrices of
// bytes or bfloat16, boxes of 128 bytes by so many rows, swizzled.
Result cuTensorMapEncodeTiled(void* to, int type, unsigned rank, void* at, const unsigned long long* dim, const unsigned long long* stride,
                              const unsigned* box, const unsigned* step, int interleave, int swizzle, int promotion, int fill) {
  LOCK;
  if (Result r = planned(__func__)) return r;
  if ((uintptr_t)to % 64) return refuse(invalidValue, __func__, "the map is not 64-byte aligned: %p", to);
  const unsigned size = type == 0 ? 1 : 2;
  if ((type != 0 && type != 9) || rank != 2 || interleave != 0 || swizzle != 3 || promotion < 0 || promotion > 3 || fill != 0)
    return refuse(notSupported, __func__, "only matrices of bytes or bfloat16 with a swizzle of 128 bytes");
  if ((uintptr_t)at % 16) return refuse(invalidValue, __func__, "the matrix is not 16-byte aligned: %p", at);
  if (dim[0] == 0 || dim[1] == 0 || dim[0] > 1ull << 32 || dim[1] > 1ull << 32)
    return refuse(invalidValue, __func__, "a matrix of %llu rows of %llu", dim[1], dim[0]);
  if (stride[0] % 16 || stride[0] >= 1ull << 40 || stride[0] < size * dim[0])
    return refuse(invalidValue, __func__, "rows of %llu elements are %llu bytes apart", dim[0], stride[0]);
  if (box[0] == 0 || box[1] == 0 || box[1] > 256 || box[0] * size > 128 || box[0] * size % 16 || step[0] != 1 || step[1] != 1)
    return refuse(invalidValue, __func__, "a box of %u rows of %u", box[1], box[0]);
  if (!isDevice((uintptr_t)at, stride[0] * (dim[1] - 1) + size * dim[0]))
    return refuse(invalidValue, __func__, "%llu rows of %llu elements are not in one allocation", dim[1], dim[0]);
  if (box[0] * size != 128) return refuse(notSupported, __func__, "boxes of 128 bytes only");
  *static_cast<Map*>(to) = Map{mapMagic, (uint64_t)at, dim[0], dim[1], stride[0], box[0], box[1], size, {}};
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
  if (g.x % k->cluster || (k->cluster > 1 && (n % 128 || n * k->cluster > 1024)))
    return refuse(invalidValue, entry, "%s: a grid of %u blocks of %llu threads in clusters of %u", k->name, g.x, n, k->cluster);
  if (unsigned most = k->dynamic < 0 ? (unsigned)staticLimit : (unsigned)k->dynamic; shared > most)
    return refuse(invalidValue, entry, "%s: %u bytes of dynamic shared memory, but cuFuncSetAttribute allowed %u", k->name, shared, most);
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
    op.data.resize(bytes);
    memcpy(op.data.data(), at, bytes);
  } else if (params && params[0]) {
    op.data.resize(k->bytes);
    memcpy(op.data.data(), params[0], k->bytes);
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

Result cuStreamBeginCapture_v2(Stream* s, int) {
  ENTER_CONTEXT;
  if (!s) return refuse(captureUnsupported, __func__, "the legacy stream cannot be captured");
  if (s->capture) return refuse(invalidValue, __func__, "the stream is being captured");
  s->capture = new Graph;
  if (capturing++ == 0) captureBroken = false;
  return success;
}
Result cuStreamBeginCapture(Stream* s, int mode) { return cuStreamBeginCapture_v2(s, mode); }
Result cuStreamEndCapture(Stream* s, Graph** g) {
  LOCK;
  if (!s || !s->capture) return refuse(invalidValue, __func__, "the stream is not being captured");
  Result failed = planned(__func__);
  *g = s->capture;
  s->capture = nullptr;
  capturing--;
  if (!captureBroken && !failed && !sticky) return success;
  delete *g;
  *g = nullptr;
  if (failed || sticky) return failed ? failed : sticky;
  return refuse(captureInvalidated, __func__, "the capture was broken by a call that it forbids");
}
Result cuStreamIsCapturing(Stream* s, int* status) { return *status = s && s->capture ? 1 : 0, success; }
// remember notes what allocations g's arguments and copies seem to point into.
static void remember(Graph* g) {
  auto note = [g](uintptr_t at) {
    const Allocation* a = find(at, 1);
    if (a && !a->host) g->names[(uintptr_t)a->room + redZone] = a->number;
  };
  for (const Op& op : g->ops) {
    note((uintptr_t)op.to);
    note((uintptr_t)op.from);
    for (size_t i = 0; op.kind == Op::launch && i + 8 <= op.data.size(); i += 8) {
      uintptr_t word;
      memcpy(&word, op.data.data() + i, 8);
      note(word);
    }
  }
}
Result cuGraphInstantiateWithFlags(Graph** exec, Graph* g, unsigned long long) {
  ENTER_CONTEXT;
  *exec = new Graph(*g);
  remember(*exec);
  return success;
}
Result cuGraphInstantiate_v2(Graph** exec, Graph* g, void*, char*, size_t) { return cuGraphInstantiateWithFlags(exec, g, 0); }
Result cuGraphInstantiate(Graph** exec, Graph* g, unsigned long long flags) { return cuGraphInstantiateWithFlags(exec, g, flags); }
Result cuGraphExecUpdate_v2(Graph* exec, Graph* g, void*) {
  ENTER_CONTEXT;
  if (exec->ops.size() != g->ops.size()) return 910;
  *exec = *g;
  remember(exec);
  return success;
}
Result cuGraphGetNodes(Graph* g, void**, size_t* n) { return *n = g->ops.size(), success; }
Result cuGraphUpload(Graph*, Stream*) { return success; }
Result cuGraphLaunch(Graph* exec, Stream* s) {
  ENTER_CONTEXT;
  if (s && s->capture) return refuse(notSupported, __func__, "not in a captured stream");
  for (auto& [at, number] : exec->names)
    if (auto a = allocations.find(at); a == allocations.end() || a->second.number != number)
      die("a graph is launched that names allocation %llu, which was freed", number);
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
