// The part of NCCL 2 that is used.
#ifndef PIPE_NCCL_H
#define PIPE_NCCL_H

#include <stddef.h>

enum {
	NCCL_F32 = 7,  // ncclFloat32
	NCCL_BF16 = 9, // ncclBfloat16
	NCCL_SUM = 0,  // ncclSum
	NCCL_AVG = 4,  // ncclAvg
};

// nccl_id is ncclUniqueId.
typedef struct {
	char internal[128];
} nccl_id;

// nccl are the functions, in the order of nccl.go.
typedef struct {
	int (*version)(int *v);
	const char *(*error)(int r);
	int (*id)(nccl_id *id);
	int (*init)(void **comm, int ranks, nccl_id id, int rank);
	int (*all_reduce)(const void *from, void *to, size_t n, int type, int op, void *comm, void *stream);
	int (*destroy)(void *comm);
} nccl;

#endif
