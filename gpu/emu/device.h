// device.h has the entry points for devices, contexts and errors. driver.cpp includes it once.
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
      {96, 0},      {106, 32},       {111, 1024},      {115, 1},        {120, 0}};
  if (attribute == 75) return *v = capability() / 10, success;
  if (attribute == 76) return *v = capability() % 10, success;
  if (attribute == 88 || attribute == 100) return *v = coherent(), success;
  if (attribute == 97) return *v = (int)sharedLimit(), success;
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

}  // extern "C"
#pragma GCC visibility pop
