// What libcuda.a of this directory says about the driver behind it.
#ifndef PIPE_CUDA_STATUS_H
#define PIPE_CUDA_STATUS_H

// pipe_cuda_status loads the driver library and starts the driver, at the first
// call, and returns the result of cuInit, or -1 without a driver library. Any
// other function of the driver returns CUDA_ERROR_NOT_INITIALIZED before, and
// CUDA_ERROR_NO_DEVICE after a -1.
int pipe_cuda_status(void);

// pipe_cuda_reason says why there is no driver library, with the name that was
// looked for: PIPE_CUDA_DRIVER, or libcuda.so.1. It is "" if there is one.
const char *pipe_cuda_reason(void);

#endif
