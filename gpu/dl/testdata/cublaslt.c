// A cublasLt that computes on the processor, in float64, for the tests of package
// dl. It is written from the library's documentation, and takes no part of it.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
	int type;
	uint64_t rows, columns;
	int64_t stride;
} layout;

typedef struct {
	int compute, scale, transa, transb;
	const float *scale_a, *scale_b;
} desc;

typedef struct {
	uint64_t workspace;
	uint32_t reduction, alignment[4];
} pref;

typedef struct {
	uint64_t algo[8];
	size_t workspace;
	int state;
	float waves;
	int reserved[4];
} found;

size_t cublasLtGetVersion(void) { return 130203; }
const char *cublasLtGetStatusString(int r) { return r == 15 ? "not supported" : "invalid value"; }

int cublasLtCreate(void **h) {
	if (getenv("FAKE_CUBLASLT_FAILS"))
		return 1;
	*h = malloc(1);
	return 0;
}
int cublasLtDestroy(void *h) { return free(h), 0; }

int cublasLtMatmulDescCreate(desc **d, int compute, int scale) {
	*d = calloc(1, sizeof **d);
	(*d)->compute = compute;
	(*d)->scale = scale;
	return compute == 68 && scale == 0 ? 0 : 7;
}
int cublasLtMatmulDescDestroy(desc *d) { return free(d), 0; }
int cublasLtMatmulDescSetAttribute(desc *d, int what, const void *value, size_t size) {
	switch (what) {
	case 3: return size != 4 ? 7 : (memcpy(&d->transa, value, 4), 0);
	case 4: return size != 4 ? 7 : (memcpy(&d->transb, value, 4), 0);
	case 17: return size != 8 ? 7 : (memcpy(&d->scale_a, value, 8), 0);
	case 18: return size != 8 ? 7 : (memcpy(&d->scale_b, value, 8), 0);
	}
	return 7;
}

int cublasLtMatrixLayoutCreate(layout **l, int type, uint64_t rows, uint64_t columns, int64_t stride) {
	*l = malloc(sizeof **l);
	**l = (layout){type, rows, columns, stride};
	return stride >= (int64_t)rows ? 0 : 7;
}
int cublasLtMatrixLayoutDestroy(layout *l) { return free(l), 0; }

int cublasLtMatmulPreferenceCreate(pref **p) {
	*p = calloc(1, sizeof **p);
	return 0;
}
int cublasLtMatmulPreferenceDestroy(pref *p) { return free(p), 0; }
int cublasLtMatmulPreferenceSetAttribute(pref *p, int what, const void *value, size_t size) {
	switch (what) {
	case 1: return size != 8 ? 7 : (memcpy(&p->workspace, value, 8), 0);
	case 3: return size != 4 ? 7 : (memcpy(&p->reduction, value, 4), 0);
	case 5: case 6: case 7: case 8: return size != 4 ? 7 : (memcpy(&p->alignment[what - 5], value, 4), 0);
	}
	return 7;
}

static int shapes(const desc *d, const layout *a, const layout *b, const layout *c) {
	uint64_t m = d->transa ? a->columns : a->rows, k = d->transa ? a->rows : a->columns;
	uint64_t kb = d->transb ? b->columns : b->rows, n = d->transb ? b->rows : b->columns;
	return k == kb && c->rows == m && c->columns == n ? 0 : 7;
}

// The algorithm holds the alignments that were promised. The first result fails.
int cublasLtMatmulAlgoGetHeuristic(void *h, desc *d, layout *a, layout *b, layout *c, layout *dd, pref *p, int wanted, found *list, int *count) {
	int r = shapes(d, a, b, c);
	if (r || wanted < 2)
		return r ? r : 7;
	memset(list, 0, 2 * sizeof *list);
	list[0].state = 15;
	list[1].workspace = p->workspace < 64 ? p->workspace : 64;
	for (int i = 0; i < 3; i++)
		list[1].algo[i] = p->alignment[i];
	list[1].algo[3] = 0x7069;
	*count = 2;
	return a->rows == 13 ? 15 : 0; // a shape without an algorithm
}

static double at(const void *p, const layout *l, uint64_t row, uint64_t column, int transposed) {
	uint64_t i = transposed ? column + row * l->stride : row + column * l->stride;
	if (l->type == 0)
		return ((const float *)p)[i];
	uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
	float f;
	memcpy(&f, &bits, 4);
	return f;
}

int cublasLtMatmul(void *h, desc *d, const float *alpha, const void *A, layout *a, const void *B, layout *b, const float *beta, const void *C,
	layout *c, void *D, layout *dd, const uint64_t *algo, void *workspace, size_t size, void *stream) {
	uint64_t k = d->transa ? a->rows : a->columns;
	if (algo[3] != 0x7069 || (uintptr_t)A % algo[0] || (uintptr_t)B % algo[1] || (uintptr_t)C % algo[2] || (size && !workspace) || C != D)
		return 7;
	for (uint64_t i = 0; i < c->rows; i++)
		for (uint64_t j = 0; j < c->columns; j++) {
			double sum = 0;
			for (uint64_t t = 0; t < k; t++)
				sum += at(A, a, i, t, d->transa) * at(B, b, t, j, d->transb);
			if (d->scale_a)
				sum *= *d->scale_a;
			if (d->scale_b)
				sum *= *d->scale_b;
			sum = *alpha * sum + (*beta ? *beta * at(C, c, i, j, 0) : 0);
			if (c->type == 0)
				((float *)D)[i + j * c->stride] = sum;
			else {
				float f = sum;
				uint32_t bits;
				memcpy(&bits, &f, 4);
				((uint16_t *)D)[i + j * c->stride] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
			}
		}
	return 0;
}
