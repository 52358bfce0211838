// driver.cpp is a CUDA driver without a GPU: the entry points of libcuda that
// the backend uses, over the emulator. Work on streams is done as late as CUDA
// allows (PIPE_EMU_LATE=0: at once), wrong calls are refused with a line on
// stderr. README.md has the environment variables.
#include <time.h>

#include <mutex>
#include <string>

#include "block.h"
#include "bulk.h"
#include "fault.h"
#include "instructions.h"
#include "memory.h"

using namespace emu;

typedef int Result;
typedef unsigned long long Pointer;
enum {
  success = 0,
  invalidValue = 1,
  outOfMemory = 2,
  noDevice = 100,
  invalidDevice = 101,
  invalidContext = 201,
  notFound = 500,
  launchFailed = 719,
  notSupported = 801,
  captureUnsupported = 900,
  captureInvalidated = 901,
};

// An Op is one piece of work on a stream.
struct Op {
  enum Kind { launch, copy, set, record, free } kind;
  Op(Kind kind) : kind(kind) {}
  Kernel* kernel = nullptr;
  dim3 grid, threads;
  unsigned shared = 0;
  std::vector<char> data;  // a launch's argument, a copy's staged source
  char* to = nullptr;
  const char* from = nullptr;
  size_t bytes = 0;
  unsigned value = 0, width = 0;
};
struct Graph {
  std::vector<Op> ops;
  std::map<uintptr_t, unsigned long long> names;  // allocations that it seems to name, by their numbers
};
struct Stream {
  Graph* capture = nullptr;
};
struct Event {
  double at = 0;
  bool recorded = false;
};
struct Context_ {
  int device;
  unsigned retained, flags;
};

static std::recursive_mutex big;
static bool initialised;
static Result sticky;
static Context_ primary[8];
static thread_local std::vector<Context_*> contexts;
static std::deque<Op> pending;
static unsigned capturing;
static Stream legacy;

static bool captureBroken;

static Result refuse(Result r, const char* entry, const char* format, ...) __attribute__((format(printf, 3, 4)));
static Result refuse(Result r, const char* entry, const char* format, ...) {
  va_list list;
  va_start(list, format);
  fprintf(stderr, "emu: %s: ", entry);
  vfprintf(stderr, format, list);
  fprintf(stderr, "\n");
  va_end(list);
  return r;
}

// breakCapture is for calls that a capture forbids: the captured graph is lost.
static Result breakCapture(const char* entry) {
  captureBroken = true;
  return refuse(captureUnsupported, entry, "a stream is being captured");
}

// planned reports the failure that PIPE_EMU_FAIL plans for this call.
static Result planned(const char* entry) {
  static std::string plan;
  static std::map<std::string, int> left;
  const char* e = getenv("PIPE_EMU_FAIL");
  if (plan != (e ? e : "")) {
    plan = e ? e : "";
    left.clear();
    sticky = success;
    for (size_t at = 0; at < plan.size();) {
      size_t end = plan.find(',', at), colon = plan.find(':', at);
      if (end == std::string::npos) end = plan.size();
      if (colon < end) left[plan.substr(at, colon - at)] = atoi(plan.c_str() + colon + 1);
      at = end + 1;
    }
  }
  auto i = left.find(entry);
  if (i == left.end() || --i->second != 0) return success;
  if (strstr(entry, "LaunchKernel")) return sticky = launchFailed;
  return outOfMemory;
}

#define LOCK std::lock_guard<std::recursive_mutex> lock(big)
#define ENTER                                             \
  LOCK;                                                   \
  if (Result planned_ = planned(__func__)) return planned_
#define ENTER_CONTEXT                                                                                    \
  ENTER;                                                                                                 \
  if (sticky) return sticky;                                                                             \
  if (contexts.empty() || !contexts.back()) return refuse(invalidContext, __func__, "this thread has no current context")
// SETTLED is for calls that wait for work: a capture forbids them.
#define SETTLED                                                                         \
  ENTER_CONTEXT;                                                                        \
  if (capturing) return breakCapture(__func__);                                         \
  drain()

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}

static bool performed;

static void perform(Op& op) {
  performed = true;
  switch (op.kind) {
    case Op::launch:
      runKernel(op.kernel, op.grid, op.threads, op.shared, op.data.data());
      break;
    case Op::copy:
      memmove(op.to, op.data.empty() ? op.from : op.data.data(), op.bytes);
      break;
    case Op::set:
      for (size_t i = 0; i < op.bytes; i++) memcpy(op.to + i * op.width, &op.value, op.width);
      break;
    case Op::record:
      reinterpret_cast<Event*>(op.to)->at = now();
      break;
    case Op::free:
      deallocate((uintptr_t)op.to, false);
      break;
  }
}

// drain does all pending work, and looks for writes beyond allocations.
static void drain() {
  while (!pending.empty()) {
    perform(pending.front());
    pending.pop_front();
  }
  if (!performed) return;
  performed = false;
  checkAll();
}

static Result enqueue(const char* entry, Stream* s, Op op) {
  if (!s) s = &legacy;
  if (s->capture) {
    if (op.kind == Op::record || op.kind == Op::free) return refuse(notSupported, entry, "not in a captured stream");
    s->capture->ops.push_back(std::move(op));
    return success;
  }
  static bool late = !getenv("PIPE_EMU_LATE") || atoi(getenv("PIPE_EMU_LATE"));
  if (!late) {
    perform(op);
    return success;
  }
  pending.push_back(std::move(op));
  if (pending.size() > 100000) drain();
  return success;
}

#include "copy.h"
#include "device.h"
#include "stream.h"
