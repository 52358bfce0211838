// The emulator's self-test. main CASE [N] runs one case and exits with 0 if the
// numbers are right, with 1 if they are not; where the emulator itself finds
// something wrong it ends the program with a message. N is the planted bug.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vector>

typedef unsigned long long Pointer;
extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void**, int);
int cuCtxSetCurrent(void*);
int cuCtxSynchronize();
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuMemAlloc_v2(Pointer*, size_t);
int cuMemFree_v2(Pointer);
int cuMemAllocHost_v2(void**, size_t);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemHostGetDevicePointer_v2(Pointer*, void*, unsigned);
int cuMemFreeHost(void*);
int cuMemcpyAsync(Pointer, Pointer, size_t, void*);
int cuMemcpyHtoD_v2(Pointer, const void*, size_t);
int cuMemcpyDtoH_v2(void*, Pointer, size_t);
int cuMemcpyHtoDAsync_v2(Pointer, const void*, size_t, void*);
int cuMemcpyDtoHAsync_v2(void*, Pointer, size_t, void*);
int cuMemcpyDtoDAsync_v2(Pointer, Pointer, size_t, void*);
int cuMemsetD32Async(Pointer, unsigned, size_t, void*);
int cuFuncSetAttribute(void*, int, int);
int cuStreamCreate(void**, unsigned);
int cuStreamSynchronize(void*);
int cuStreamBeginCapture_v2(void*, int);
int cuStreamEndCapture(void*, void**);
int cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
int cuGraphLaunch(void*, void*);
int cuGraphDestroy(void*);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
int cuEventElapsedTime(float*, void*, void*);
int cuTensorMapEncodeTiled(void*, int, unsigned, void*, const unsigned long long*, const unsigned long long*, const unsigned*, const unsigned*,
                           int, int, int, int);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
}

static void *module, *stream;
#define MUST(call)                                                \
  do {                                                            \
    if (int r_ = (call)) printf("%s: %d\n", #call, r_), exit(2);  \
  } while (0)
#define WANT(is, want)                                                                             \
  do {                                                                                             \
    if ((is) != (want)) return printf("line %d: %s is not %s\n", __LINE__, #is, #want), 1; \
  } while (0)

template <class A>
static int launch(const char* name, unsigned gx, unsigned gy, unsigned threads, unsigned shared, const A& a, size_t bytes = sizeof(A)) {
  void* f;
  MUST(cuModuleGetFunction(&f, module, name));
  void* extra[] = {(void*)1, (void*)&a, (void*)2, &bytes, nullptr};
  return cuLaunchKernel(f, gx, gy, 1, threads, 1, 1, shared, stream, nullptr, extra);
}

static Pointer device(size_t bytes) {
  Pointer p;
  MUST(cuMemAlloc_v2(&p, bytes));
  return p;
}
template <class T>
static Pointer upload(const std::vector<T>& v) {
  Pointer p = device(v.size() * sizeof(T));
  MUST(cuMemcpyHtoD_v2(p, v.data(), v.size() * sizeof(T)));
  return p;
}
static std::vector<float> download(Pointer p, size_t n) {
  std::vector<float> v(n);
  MUST(cuMemcpyDtoH_v2(v.data(), p, n * sizeof(float)));
  return v;
}

struct SumArgs {
  Pointer dst, x;
  long long n;
  int bug;
};
static int sums(const char* name, unsigned threads, int bug) {
  const int rows = 7, n = 1000;
  std::vector<float> x(rows * n);
  for (size_t i = 0; i < x.size(); i++) x[i] = (float)(i * 7919 % 101);
  Pointer dst = device(rows * 4);
  MUST(launch(name, rows, 1, threads, 0, SumArgs{dst, upload(x), n, bug}));
  std::vector<float> got = download(dst, rows);
  for (int r = 0; r < rows; r++) {
    float want = 0;
    for (int i = 0; i < n; i++) want += x[r * n + i];
    if (!(got[r] == want)) return 1;
  }
  return 0;
}

struct ProductArgs {
  Pointer c, a, b;
  int m, n, k, transposed, bug;
};
static uint16_t round16(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
static float value(uint16_t v) {
  uint32_t u = (uint32_t)v << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static int products(int m, int n, int k, int transposed, int bug, bool check = true) {
  std::vector<uint16_t> a((size_t)m * k), b((size_t)n * k);
  unsigned s = 1;
  for (auto* v : {&a, &b})
    for (auto& e : *v) e = round16((float)((s = s * 1664525 + 1013904223) >> 8) / 8388608 - 1);
  Pointer c = device((size_t)m * n * 4);
  ProductArgs args = {c, upload(a), upload(b), m, n, k, transposed, bug};
  MUST(launch("product", (n + 63) / 64, (m + 63) / 64, 128, 4 * 64 * 40 * 2, args));
  std::vector<float> got = download(c, (size_t)m * n);
  for (int i = 0; i < m && check; i++)
    for (int j = 0; j < n; j++) {
      double want = 0, size = 0;
      for (int l = 0; l < k; l++) {
        double p = (double)value(a[(size_t)i * k + l]) * value(transposed ? b[(size_t)l * n + j] : b[(size_t)j * k + l]);
        want += p;
        size += fabs(p);
      }
      if (!(fabs(got[(size_t)i * n + j] - want) <= 1e-6 * size)) return 1;
    }
  return 0;
}

struct Map {
  alignas(64) char opaque[128];
};
static int encode(Map* m, Pointer p, unsigned long long columns, unsigned long long rows, unsigned long long stride, unsigned wide, unsigned high) {
  unsigned long long size[] = {columns, rows};
  unsigned box[] = {wide, high}, step[] = {1, 1};
  return cuTensorMapEncodeTiled(m, 9, 2, (void*)p, size, &stride, box, step, 0, 3, 2, 0);
}
struct RingArgs {
  Map x, y;
  Pointer dst;
  int rows, columns, bug;
};
static int ring(int bug) {
  const int rows = 300, columns = 3990, stride = 4000;
  std::vector<uint16_t> x(rows * stride, 0x7fc0), y(50 * stride, 0x7fc0);
  unsigned s = 1;
  for (auto* v : {&x, &y})
    for (size_t i = 0; i < v->size(); i++)
      if (i % stride < columns) (*v)[i] = round16((float)((s = s * 1664525 + 1013904223) >> 30));
  Pointer dst = device(rows * 4);
  RingArgs a = {{}, {}, dst, rows, columns, bug};
  MUST(encode(&a.x, upload(x), columns, rows, 2 * stride, 64, 128));
  MUST(encode(&a.y, upload(y), columns, 50, 2 * stride, 64, 32));
  void* f;
  MUST(cuModuleGetFunction(&f, module, "ring"));
  const int shared = 3 * 192 * 128 + 48;
  MUST(cuFuncSetAttribute(f, 8, shared));
  WANT(launch("ring", 3, 1, 256, shared, a), 1);  // no whole clusters
  MUST(launch("ring", 4, 1, 256, shared, a));
  std::vector<float> got = download(dst, rows);
  for (int r = 0; r < rows; r++) {
    float want = 0;
    for (int c = 0; c < columns && r % 64 < 50; c++) want += value(x[r * stride + c]) * value(y[r % 64 * stride + c]);
    if (!(got[r] == want)) return 1;
  }
  return 0;
}

struct FillArgs {
  Pointer dst;
  int n, how;
};
static int wrong(int how) {
  Pointer dst = device(101 * 4);
  MUST(launch("wrong", 1, 1, 256, how >= 15 ? 64 : 0, FillArgs{dst, 101, how}));
  MUST(cuCtxSynchronize());
  if (how == 10 || how == 15) return !(download(dst, 101)[7] == 0);
  return 0;
}

// Work is done late: a pinned buffer that changes too early shows.
static int pinned(bool waits) {
  void* host;
  MUST(cuMemAllocHost_v2(&host, 4));
  Pointer p = device(4);
  *(float*)host = 1;
  MUST(cuMemcpyHtoDAsync_v2(p, host, 4, stream));
  if (waits) MUST(cuStreamSynchronize(stream));
  *(float*)host = 2;
  return !(download(p, 1)[0] == 1);
}

// Kernels and copies reach memory of the host that is mapped, as late as all work.
static int mapped(int bug) {
  void* host;
  Pointer at;
  MUST(cuMemHostAlloc(&host, 404, 3));
  MUST(cuMemHostGetDevicePointer_v2(&at, host, 0));
  MUST(cuMemsetD32Async(at, 0x3f800000, 101, stream));
  MUST(launch("tree_sum", 1, 1, 256, 0, SumArgs{at + 400, at, 100, 0}));
  if (bug == 2) MUST(launch("wrong", 1, 1, 256, 0, FillArgs{at, 101, 1}));
  if (bug != 1) MUST(cuStreamSynchronize(stream));
  const float* x = (const float*)host;
  if (!(x[0] == 1 && x[100] == 100)) return 1;
  Pointer p = device(404);
  MUST(cuMemcpyAsync(p, at, 404, stream));
  MUST(cuMemcpyAsync(at, p + 400, 4, stream));
  MUST(cuStreamSynchronize(stream));
  WANT(x[0], 100.0f);
  WANT(cuMemcpyAsync(p, at, 405, stream), 1);
  WANT(cuMemHostGetDevicePointer_v2(&at, &p, 0), 1);
  return cuMemFreeHost(host);
}

static int afterFree() {
  Pointer p = device(400);
  MUST(cuMemFree_v2(p));
  *(float*)p = 1;
  MUST(launch("wrong", 1, 1, 256, 0, FillArgs{device(4), 1, 0}));
  return cuCtxSynchronize();
}

static int graphs(int bug) {
  Pointer x = upload(std::vector<float>(100, 2.0f)), y = device(400), sum = device(4);
  void *graph, *exec, *first, *second;
  MUST(cuStreamBeginCapture_v2(stream, 0));
  MUST(cuMemsetD32Async(y, 0, 100, stream));
  MUST(cuMemcpyDtoDAsync_v2(y, x, 200, stream));
  MUST(launch("tree_sum", 1, 1, 256, 0, SumArgs{sum, y, 100, 0}));
  MUST(cuStreamEndCapture(stream, &graph));
  MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
  MUST(cuGraphDestroy(graph));
  WANT(isnan(download(sum, 1)[0]), 1);
  MUST(cuGraphLaunch(exec, stream));
  WANT(download(sum, 1)[0], 100.0f);
  std::vector<float> ones(100, 1.0f);
  MUST(cuMemcpyHtoD_v2(x, ones.data(), 400));
  MUST(cuEventCreate(&first, 0));
  MUST(cuEventCreate(&second, 0));
  MUST(cuEventRecord(first, stream));
  MUST(cuGraphLaunch(exec, stream));
  MUST(cuEventRecord(second, stream));
  WANT(download(sum, 1)[0], 50.0f);
  if (bug == 1) MUST(cuMemFree_v2(y));
  MUST(cuGraphLaunch(exec, stream));
  float ms = -1;
  MUST(cuEventElapsedTime(&ms, first, second));
  WANT(ms >= 0, true);
  MUST(cuStreamBeginCapture_v2(stream, 0));
  WANT(cuMemAlloc_v2(&x, 4), 900);
  WANT(cuStreamEndCapture(stream, &graph), 901);
  MUST(cuStreamBeginCapture_v2(stream, 0));
  WANT(cuMemcpyHtoDAsync_v2(x, ones.data(), 400, stream), 900);  // ones may be gone when the graph is launched
  WANT(cuStreamEndCapture(stream, &graph), 901);
  MUST(cuStreamBeginCapture_v2(stream, 0));
  setenv("PIPE_EMU_FAIL", "cuStreamEndCapture:1,cuGraphLaunch:1", 1);
  WANT(cuStreamEndCapture(stream, &graph), 2);
  WANT(cuGraphLaunch(exec, stream), 2);
  MUST(cuGraphLaunch(exec, stream));
  MUST(cuStreamBeginCapture_v2(stream, 0));
  MUST(cuStreamEndCapture(stream, &graph));
  return cuCtxSynchronize();
}

// Calls that a driver refuses.
static int refused() {
  Pointer p = device(400);
  WANT(launch("tree_sum", 1, 1, 256, 0, SumArgs{}, sizeof(SumArgs) - 8), 1);
  WANT(launch("tree_sum", 1, 1, 288, 0, SumArgs{}), 701);
  WANT(launch("tree_sum", 1, 70000, 256, 0, SumArgs{}), 1);
  WANT(launch("tree_sum", 1, 1, 256, 49 << 10, SumArgs{}), 1);
  Map map;
  WANT(encode(&map, p, 20, 8, 40, 64, 8), 1);      // rows that are not aligned
  WANT(encode(&map, p + 8, 16, 8, 32, 64, 8), 1);  // nor is the matrix
  WANT(encode(&map, p, 16, 8, 16, 64, 8), 1);      // rows that overlap
  WANT(encode(&map, p, 16, 8, 32, 128, 8), 1);     // a box that is too wide
  WANT(encode(&map, p, 16, 8, 32, 64, 257), 1);    // or too high
  WANT(encode(&map, p, 16, 13, 32, 64, 8), 1);     // beyond the memory
  WANT(encode(&map, p, 16, 0, 32, 64, 8), 1);
  MUST(encode(&map, p, 16, 12, 32, 64, 8));
  void *f, *m;
  WANT(cuModuleGetFunction(&f, module, "nothing"), 500);
  WANT(cuModuleLoadData(&m, "other"), 500);
  MUST(cuModuleGetFunction(&f, module, "tree_sum"));
  WANT(cuFuncSetAttribute(f, 8, 228 << 10), 1);
  MUST(cuFuncSetAttribute(f, 8, 64 << 10));
  MUST(launch("tree_sum", 1, 1, 256, 49 << 10, SumArgs{p, p, 1, 0}));
  WANT(cuMemcpyHtoD_v2(p, f, 401), 1);
  WANT(cuMemcpyDtoH_v2(f, p + 396, 8), 1);
  WANT(cuMemFree_v2(p + 4), 1);
  MUST(cuCtxSetCurrent(nullptr));
  WANT(cuCtxSynchronize(), 201);
  return 0;
}

// Failures that PIPE_EMU_FAIL plans.
static int planned() {
  setenv("PIPE_EMU_FAIL", "cuMemAlloc_v2:3,cuLaunchKernel:2", 1);
  Pointer p = device(400), q = device(400);
  WANT(cuMemAlloc_v2(&q, 400), 2);
  MUST(cuMemAlloc_v2(&q, 400));
  MUST(launch("wrong", 1, 1, 256, 0, FillArgs{p, 101, 0}));
  WANT(launch("wrong", 1, 1, 256, 0, FillArgs{p, 101, 0}), 719);
  WANT(cuCtxSynchronize(), 719);
  WANT(cuMemAlloc_v2(&p, 400), 719);
  unsetenv("PIPE_EMU_FAIL");
  MUST(cuCtxSynchronize());
  setenv("PIPE_EMU_MEMORY", "1000", 1);
  WANT(cuMemAlloc_v2(&p, 400), 2);
  setenv("PIPE_EMU_DEVICES", "0", 1);
  WANT(cuInit(0), 100);
  return 0;
}

static int speed() {
  timespec t, u;
  clock_gettime(CLOCK_MONOTONIC, &t);
  int m = 200, n = 256, k = 1280;
  products(m, n, k, 0, 0, false);
  clock_gettime(CLOCK_MONOTONIC, &u);
  double s = u.tv_sec - t.tv_sec + (u.tv_nsec - t.tv_nsec) * 1e-9;
  printf("%d x %d x %d: %.0f ms, %.0f million multiply-adds/s\n", m, n, k, s * 1e3, (double)m * n * k / s / 1e6);
  return 0;
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  int bug = argc > 2 ? atoi(argv[2]) : 0;
  void* context;
  MUST(cuInit(0));
  MUST(cuDevicePrimaryCtxRetain(&context, 0));
  MUST(cuCtxSetCurrent(context));
  MUST(cuModuleLoadData(&module, "kernels"));
  MUST(cuStreamCreate(&stream, 1));
  if (!strcmp(what, "tree")) return sums("tree_sum", 256, bug);
  if (!strcmp(what, "warp")) return sums("warp_sums", 32, bug);
  if (!strcmp(what, "shuffle")) return sums("shuffle_sum", 1024, bug) || sums("shuffle_sum", 96, bug) || sums("shuffle_sum", 32, bug);
  if (!strcmp(what, "product")) return products(200, 72, 104, 0, bug) || products(64, 64, 32, 0, bug);
  if (!strcmp(what, "transposed")) return products(72, 200, 104, 1, bug);
  if (!strcmp(what, "ring")) return ring(bug);
  if (!strcmp(what, "wrong")) return wrong(bug);
  if (!strcmp(what, "pinned")) return pinned(bug == 0);
  if (!strcmp(what, "mapped")) return mapped(bug);
  if (!strcmp(what, "freed")) return afterFree();
  if (!strcmp(what, "graph")) return graphs(bug);
  if (!strcmp(what, "refused")) return refused();
  if (!strcmp(what, "planned")) return planned();
  if (!strcmp(what, "speed")) return speed();
  printf("no such case: %s\n", what);
  return 2;
}
