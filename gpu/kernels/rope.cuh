// rope.cuh turns pairs of elements, for the kernels that rotate.
#pragma once
#include "common.cuh"

// rotate turns (lo, hi) by the angle of this cosine and sine.
__device__ __forceinline__ void rotate(float& lo, float& hi, float cosine, float sine) {
    const float x = lo, y = hi;
    lo = fmaf(x, cosine, -(y * sine));
    hi = fmaf(y, cosine, x * sine);
}
