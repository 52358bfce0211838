// swiglu.cuh is SwiGLU and its gradient, the same bits wherever they are computed.
#pragma once
#include "common.cuh"

// sigmoid is 1/(1+e^-x): 0 at -Inf, and NaN stays. near_sigmoid is that within a few
// units of the last place, for what is rounded to bfloat16.
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float near_sigmoid(float x) { return inverse_fast(1.0f + exp2_fast(-LOG2E * x)); }

// swiglu_grad sets dgate and dup for a gradient dy, s being the sigmoid of gate.
__device__ __forceinline__ void swiglu_grad(float& dgate, float& dup, float dy, float gate, float up, float s) {
    dgate = dy * up * (s * fmaf(gate, 1.0f - s, 1.0f));
    dup = dy * (gate * s);
}

// swiglu_grad2 is that of two bfloat16 of each.
__device__ __forceinline__ void swiglu_grad2(uint32_t& dgate, uint32_t& dup, uint32_t dy, uint32_t gate, uint32_t up) {
    float a[2], b[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float g = __uint_as_float(i ? gate & 0xffff0000u : gate << 16);
        swiglu_grad(a[i], b[i], __uint_as_float(i ? dy & 0xffff0000u : dy << 16), g, __uint_as_float(i ? up & 0xffff0000u : up << 16), near_sigmoid(g));
    }
    dgate = pack_bf16(a[0], a[1]), dup = pack_bf16(b[0], b[1]);
}
