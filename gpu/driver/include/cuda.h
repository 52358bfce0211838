// This header stands before the toolkit's own cuda.h on the include path. It
// gives back the prototypes that CUDA 13 changed and gorgonia.org/cu v0.9.6 is
// written for. The driver still exports the functions under these names, with
// these arguments, so it is the source alone that needs them.
#ifndef PIPE_CUDA_H
#define PIPE_CUDA_H

#include_next <cuda.h>

#if CUDA_VERSION < 12000
#error "pipe needs the headers of CUDA 12.0 or newer"
#endif

// A driver older than 12.8 has only the first.
#if CUDA_VERSION >= 12080
#undef cuEventElapsedTime
#ifdef __cplusplus
extern "C"
#endif
CUresult CUDAAPI cuEventElapsedTime(float *, CUevent, CUevent);
#endif

#if CUDA_VERSION >= 13000
#ifdef __cplusplus
extern "C" {
#endif
#undef cuCtxCreate
#undef cuMemAdvise
#undef cuMemPrefetchAsync
#undef cuGraphAddDependencies
#undef cuGraphGetEdges
CUresult CUDAAPI cuCtxCreate_v2(CUcontext *, unsigned int, CUdevice);
#define cuCtxCreate cuCtxCreate_v2
CUresult CUDAAPI cuMemAdvise(CUdeviceptr, size_t, CUmem_advise, CUdevice);
CUresult CUDAAPI cuMemPrefetchAsync(CUdeviceptr, size_t, CUdevice, CUstream);
CUresult CUDAAPI cuGraphAddDependencies(CUgraph, const CUgraphNode *, const CUgraphNode *, size_t);
CUresult CUDAAPI cuGraphGetEdges(CUgraph, CUgraphNode *, CUgraphNode *, size_t *);
#ifdef __cplusplus
}
#endif
#endif

#endif
