// The loading half of libcuda.a: it fills the slots that the trampolines
// (trampolines.S) jump through.
//
// gorgonia.org/cu calls cuInit in a Go init function and exits the process when
// that fails. So cuInit always succeeds here and does nothing: a program that is
// only asked for its help starts no driver, and the true result waits for
// pipe_cuda_status.
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "pipe_cuda.h"

extern const char *const pipe_cuda_names[];
extern const int pipe_cuda_count;
extern void *pipe_cuda_slots[];

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int status = -1;
static char reason[512];

static int no_device(void) { return 100; }     // CUDA_ERROR_NO_DEVICE
static int not_supported(void) { return 801; } // CUDA_ERROR_NOT_SUPPORTED

// pipe_cuda_not_ready is what every slot holds at first.
__attribute__((visibility("hidden"))) int pipe_cuda_not_ready(void) { return 3; } // CUDA_ERROR_NOT_INITIALIZED

static void load(void) {
	const char *name = getenv("PIPE_CUDA_DRIVER");
	void *lib = dlopen(name && *name ? name : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	int (*init)(unsigned) = NULL;
	if (lib) {
		init = (int (*)(unsigned))dlsym(lib, "cuInit");
	}
	if (!init) {
		const char *why = dlerror();
		strncpy(reason, why ? why : "it has no cuInit", sizeof reason - 1);
	}
	for (int i = 0; i < pipe_cuda_count; i++) {
		void *f = init ? dlsym(lib, pipe_cuda_names[i]) : (void *)no_device;
		pipe_cuda_slots[i] = f ? f : (void *)not_supported; // the driver is older than the function
	}
	if (init) {
		status = init(0);
	}
}

int pipe_cuda_status(void) {
	pthread_once(&once, load);
	return status;
}

const char *pipe_cuda_reason(void) {
	pipe_cuda_status();
	return reason;
}

__attribute__((visibility("hidden"))) int cuInit(unsigned flags) { return 0; }
