// Compares the declarations of package dl with NVIDIA's headers, when it is
// compiled: gpu/build.sh check-dl.
#include <cublasLt.h>
#include <nccl.h>

#include "../cublaslt.h"
#include "../nccl.h"

#define SAME(ours, theirs) _Static_assert((long long)(ours) == (long long)(theirs), #ours " is not " #theirs)

SAME(LT_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(LT_OP_N, CUBLAS_OP_N);
SAME(LT_OP_T, CUBLAS_OP_T);
SAME(LT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(LT_R_32F, CUDA_R_32F);
SAME(LT_R_16BF, CUDA_R_16BF);
#if CUBLAS_VERSION >= 120000
SAME(LT_R_E4M3, CUDA_R_8F_E4M3);
SAME(LT_DESC_A_SCALE, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
SAME(LT_DESC_B_SCALE, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
#endif
SAME(LT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(LT_DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(LT_PREF_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(LT_PREF_REDUCTION, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(LT_PREF_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(LT_PREF_ALIGNMENT_B, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(LT_PREF_ALIGNMENT_C, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(LT_PREF_ALIGNMENT_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(LT_REDUCTION_COMPUTE_TYPE, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(sizeof(lt_algo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(lt_found), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(lt_found, workspace), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(lt_found, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
SAME(offsetof(lt_found, waves), offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));
SAME(sizeof(int), sizeof(cublasComputeType_t));
SAME(sizeof(int), sizeof(cublasLtMatmulDescAttributes_t));
SAME(NCCL_F32, ncclFloat32);
SAME(NCCL_BF16, ncclBfloat16);
SAME(NCCL_SUM, ncclSum);
SAME(NCCL_AVG, ncclAvg);
SAME(sizeof(nccl_id), sizeof(ncclUniqueId));

// Calls as they are made through the pointers: too few or too many arguments, or
// numbers for pointers, do not compile.
int calls(lt_found *f, void *p, size_t n) {
	int count;
	cublasLtMatmulDescCreate((cublasLtMatmulDesc_t *)p, LT_COMPUTE_32F, LT_R_32F);
	cublasLtMatmulDescSetAttribute((cublasLtMatmulDesc_t)p, LT_DESC_TRANSA, p, n);
	cublasLtMatrixLayoutCreate((cublasLtMatrixLayout_t *)p, LT_R_16BF, (uint64_t)n, (uint64_t)n, (int64_t)n);
	cublasLtMatmulPreferenceCreate((cublasLtMatmulPreference_t *)p);
	cublasLtMatmulPreferenceSetAttribute((cublasLtMatmulPreference_t)p, LT_PREF_WORKSPACE, p, n);
	cublasLtMatmulAlgoGetHeuristic(p, p, p, p, p, p, p, 8, (cublasLtMatmulHeuristicResult_t *)f, &count);
	cublasLtMatmul(p, p, p, p, p, p, p, p, p, p, p, p, (const cublasLtMatmulAlgo_t *)p, p, n, p);
	ncclCommInitRank((ncclComm_t *)p, 2, *(ncclUniqueId *)p, 1);
	ncclAllReduce(p, p, n, NCCL_BF16, NCCL_SUM, p, p);
	return (int)cublasLtGetVersion() + count + cublasLtCreate(p) + cublasLtDestroy(p) + ncclGetVersion(p) + ncclGetUniqueId(p) + ncclCommDestroy(p);
}
