//go:build cuda

#include "cublaslt.h"

#include <string.h>

#define DO(name, call)        \
	do {                      \
		*step = name;         \
		if ((r = (call)) != 0) \
			goto failed;      \
	} while (0)

#define SET(set, to, attribute, value) DO(#set, l->set(to, attribute, &(value), sizeof(value)))

int lt_make(const lt *l, void *handle, const lt_shape *s, lt_plan *p, const char **step) {
	void *pref = NULL;
	lt_found found[8];
	int r, count = 0, none = LT_STATUS_NOT_SUPPORTED;
	// No split sums in place: their parts would be rounded to the result's type.
	uint32_t reduction = LT_REDUCTION_COMPUTE_TYPE;
	memset(p, 0, sizeof *p);
	DO("MatmulDescCreate", l->desc_create(&p->desc, LT_COMPUTE_32F, LT_R_32F));
	SET(desc_set, p->desc, LT_DESC_TRANSA, s->transa);
	SET(desc_set, p->desc, LT_DESC_TRANSB, s->transb);
	DO("MatrixLayoutCreate", l->layout_create(&p->a, s->type_a, s->rows_a, s->columns_a, s->stride_a));
	DO("MatrixLayoutCreate", l->layout_create(&p->b, s->type_b, s->rows_b, s->columns_b, s->stride_b));
	DO("MatrixLayoutCreate", l->layout_create(&p->c, s->type_c, s->rows_c, s->columns_c, s->stride_c));
	DO("MatmulPreferenceCreate", l->pref_create(&pref));
	SET(pref_set, pref, LT_PREF_WORKSPACE, s->workspace);
	SET(pref_set, pref, LT_PREF_REDUCTION, reduction);
	SET(pref_set, pref, LT_PREF_ALIGNMENT_A, s->alignment_a);
	SET(pref_set, pref, LT_PREF_ALIGNMENT_B, s->alignment_b);
	SET(pref_set, pref, LT_PREF_ALIGNMENT_C, s->alignment_c);
	SET(pref_set, pref, LT_PREF_ALIGNMENT_D, s->alignment_c);
	DO("MatmulAlgoGetHeuristic",
		l->heuristic(handle, p->desc, p->a, p->b, p->c, p->c, pref, sizeof found / sizeof *found, found, &count));
	for (int i = 0; i < count && none; i++) {
		if (found[i].state == 0 && found[i].workspace <= s->workspace) {
			p->algo = found[i].algo;
			p->workspace = found[i].workspace;
			none = 0;
		}
	}
	DO("MatmulAlgoGetHeuristic", none);
	l->pref_destroy(pref);
	return 0;
failed:
	if (pref)
		l->pref_destroy(pref);
	lt_unmake(l, p);
	return r;
}

void lt_unmake(const lt *l, lt_plan *p) {
	if (p->c)
		l->layout_destroy(p->c);
	if (p->b)
		l->layout_destroy(p->b);
	if (p->a)
		l->layout_destroy(p->a);
	if (p->desc)
		l->desc_destroy(p->desc);
	memset(p, 0, sizeof *p);
}
