// The part of cublasLt that is used, as in versions 11 to 13.
#ifndef PIPE_CUBLASLT_H
#define PIPE_CUBLASLT_H

#include <stddef.h>
#include <stdint.h>

enum {
	LT_STATUS_NOT_SUPPORTED = 15, // CUBLAS_STATUS_NOT_SUPPORTED

	LT_OP_N = 0, // CUBLAS_OP_N
	LT_OP_T = 1, // CUBLAS_OP_T

	LT_COMPUTE_32F = 68, // CUBLAS_COMPUTE_32F

	LT_R_32F = 0,   // CUDA_R_32F
	LT_R_16BF = 14, // CUDA_R_16BF
	LT_R_E4M3 = 28, // CUDA_R_8F_E4M3

	LT_DESC_TRANSA = 3,      // CUBLASLT_MATMUL_DESC_TRANSA, int32
	LT_DESC_TRANSB = 4,      // CUBLASLT_MATMUL_DESC_TRANSB, int32
	LT_DESC_A_SCALE = 17,    // CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, a pointer
	LT_DESC_B_SCALE = 18,    // CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, a pointer

	LT_PREF_WORKSPACE = 1,   // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64
	LT_PREF_REDUCTION = 3,   // CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32
	LT_PREF_ALIGNMENT_A = 5, // CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32
	LT_PREF_ALIGNMENT_B = 6, // CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32
	LT_PREF_ALIGNMENT_C = 7, // CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32
	LT_PREF_ALIGNMENT_D = 8, // CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32

	LT_REDUCTION_COMPUTE_TYPE = 2, // CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
};

// lt_algo is cublasLtMatmulAlgo_t.
typedef struct {
	uint64_t data[8];
} lt_algo;

// lt_found is cublasLtMatmulHeuristicResult_t.
typedef struct {
	lt_algo algo;
	size_t workspace;
	int state;
	float waves;
	int reserved[4];
} lt_found;

// lt are the functions, in the order of cublaslt.go.
typedef struct {
	size_t (*version)(void);
	const char *(*status)(int);
	int (*create)(void **handle);
	int (*destroy)(void *handle);
	int (*desc_create)(void **desc, int compute, int scale);
	int (*desc_destroy)(void *desc);
	int (*desc_set)(void *desc, int attribute, const void *value, size_t size);
	int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t columns, int64_t stride);
	int (*layout_destroy)(void *layout);
	int (*pref_create)(void **pref);
	int (*pref_destroy)(void *pref);
	int (*pref_set)(void *pref, int attribute, const void *value, size_t size);
	int (*heuristic)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *pref, int wanted, lt_found *list, int *count);
	int (*matmul)(void *handle, void *desc, const void *alpha, const void *A, void *a, const void *B, void *b, const void *beta,
		const void *C, void *c, void *D, void *d, const lt_algo *algo, void *workspace, size_t size, void *stream);
} lt;

// lt_shape is a product in the library's terms: matrices by columns.
typedef struct {
	int transa, transb;
	int type_a, type_b, type_c;
	uint64_t rows_a, columns_a, rows_b, columns_b, rows_c, columns_c;
	int64_t stride_a, stride_b, stride_c;
	uint32_t alignment_a, alignment_b, alignment_c; // bytes
	uint64_t workspace;                             // bytes at most
} lt_shape;

// lt_plan is what a product of a shape is queued with.
typedef struct {
	void *desc, *a, *b, *c;
	lt_algo algo;
	size_t workspace;
} lt_plan;

// lt_make makes a plan. It returns the library's status, and in *step the name of
// the function that returned it.
int lt_make(const lt *l, void *handle, const lt_shape *s, lt_plan *p, const char **step);

void lt_unmake(const lt *l, lt_plan *p);

#endif
