// The emulator's self-test: main CASE runs one case and exits with 0 if the
// numbers are right, with 1 if not; the emulator aborts where it finds a bug.
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
int cuMemcpyHtoD_v2(Pointer, const void*, size_t);
int cuMemcpyDtoH_v2(void*, Pointer, size_t);
int cuFuncSetAttribute(void*, int, int);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
}

static void* module;
#define MUST(call)                                        \
  do {                                                    \
    int r_ = (call);                                      \
    if (r_) printf("%s: %d\n", #call, r_), exit(r_ % 256); \
  } while (0)

template <class A>
static int launch(const char* name, unsigned gx, unsigned gy, unsigned threads, unsigned shared, A a, size_t bytes = sizeof(A)) {
  void* f;
  MUST(cuModuleGetFunction(&f, module, name));
  void* extra[] = {(void*)1, &a, (void*)2, &bytes, nullptr};
  return cuLaunchKernel(f, gx, gy, 1, threads, 1, 1, shared, nullptr, nullptr, extra);
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
};
static int sums(const char* name, unsigned threads) {
  const int rows = 7, n = 1000;
  std::vector<float> x(rows * n);
  for (size_t i = 0; i < x.size(); i++) x[i] = (float)(i * 7919 % 101);
  Pointer dst = device(rows * 4);
  MUST(launch(name, rows, 1, threads, 0, SumArgs{dst, upload(x), n}));
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
  int m, n, k, transposed;
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
static int products(int m, int n, int k, bool transposed, bool check = true) {
  std::vector<uint16_t> a((size_t)m * k), b((size_t)n * k);
  unsigned s = 1;
  for (auto* v : {&a, &b})
    for (auto& e : *v) e = round16((float)((s = s * 1664525 + 1013904223) >> 8) / 8388608 - 1);
  Pointer c = device((size_t)m * n * 4);
  ProductArgs args = {c, upload(a), upload(b), m, n, k, transposed};
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

struct FillArgs {
  Pointer dst;
  int n, how;
};
static int wrong(int how) {
  Pointer dst = device(101 * 4);
  MUST(launch("wrong", 1, 1, 256, 0, FillArgs{dst, 101, how}));
  MUST(cuCtxSynchronize());
  if (how == 10) return !(download(dst, 101)[7] == 0);
  return 0;
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  int how = argc > 2 ? atoi(argv[2]) : 0;
  void* context;
  MUST(cuInit(0));
  MUST(cuDevicePrimaryCtxRetain(&context, 0));
  MUST(cuCtxSetCurrent(context));
  MUST(cuModuleLoadData(&module, "image"));
  if (!strcmp(what, "tree")) return sums("tree_sum", 256);
  if (!strcmp(what, "shuffle")) return sums("shuffle_sum", 1024) || sums("shuffle_sum", 96) || sums("shuffle_sum", 32);
  if (!strcmp(what, "product")) return products(200, 72, 104, false) || products(64, 64, 32, false);
  if (!strcmp(what, "transposed")) return products(72, 200, 104, true);
  if (!strcmp(what, "wrong")) return wrong(how);
  if (!strcmp(what, "size")) return launch("tree_sum", 1, 1, 256, 0, SumArgs{}, sizeof(SumArgs) - 8);
  if (!strcmp(what, "threads")) return launch("tree_sum", 1, 1, 288, 0, SumArgs{});
  if (!strcmp(what, "shared")) return launch("tree_sum", 1, 1, 256, 49 << 10, SumArgs{});
  if (!strcmp(what, "speed")) {
    timespec t, u;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int m = 200, n = 256, k = 1280;
    products(m, n, k, false, false);
    clock_gettime(CLOCK_MONOTONIC, &u);
    double s = u.tv_sec - t.tv_sec + (u.tv_nsec - t.tv_nsec) * 1e-9;
    printf("%d x %d x %d: %.0f ms, %.0f million multiply-adds/s\n", m, n, k, s * 1e3, (double)m * n * k / s / 1e6);
    return 0;
  }
  printf("no such case: %s\n", what);
  return 2;
}
