// Weights as operands of matrix products in bfloat16: of blocks their codes, which
// are exact (those of NF4 are rounded), and what sums of codes are multiplied
// with. A row lies in shared memory as it is stored, in chunks of some blocks.
//
// Terms come in groups of 32, of which lane t < 4 has eight: 8t..8t+7, or, where
// a byte has terms 16 apart (pairs), 4t..4t+3 and 16+4t..16+4t+3, as pairs in
// four words. A product of 32 terms is two of 16, of words 0 and 1, and 2 and 3;
// the other operand takes the same terms.
#pragma once
#include "common.cuh"
#include "dequant.cuh"

// two_fma is a·b + c of two pairs of bfloat16, rounded once; here it is exact.
__device__ __forceinline__ uint32_t two_fma(uint32_t a, uint32_t b, uint32_t c) {
#ifdef PIPE_EMU
    return pack_bf16(fmaf(bf16_float(a & 0xffff), bf16_float(b & 0xffff), bf16_float(c & 0xffff)), fmaf(bf16_float(a >> 16), bf16_float(b >> 16), bf16_float(c >> 16)));
#else
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#endif
}

constexpr uint32_t TWO_ONES = 0x3f803f80u, TWO_MINUS = 0xbf80bf80u;

// small_two returns two pairs of four bytes q < 128 as q - bias: 0x4300 | q is 128 + q.
template <int bias> __device__ __forceinline__ void small_two(uint32_t* v, uint32_t q) {
    const uint32_t less = 0xc300u + bias; // -(128 + bias)
    v[0] = two_fma(__byte_perm(q, 0x43434343u, 0x4140), TWO_ONES, less | less << 16);
    v[1] = two_fma(__byte_perm(q, 0x43434343u, 0x4342), TWO_ONES, less | less << 16);
}

// signed_two returns two pairs of four signed bytes.
__device__ __forceinline__ void signed_two(uint32_t* v, uint32_t q) {
    const uint32_t lo = __byte_perm(q, 0x43434343u, 0x4140), hi = __byte_perm(q, 0x43434343u, 0x4342);
    v[0] = two_fma(lo & 0xff80ff80u, TWO_MINUS, lo & 0xff7fff7fu); // 128 + the low bits, minus 128 or 256
    v[1] = two_fma(hi & 0xff80ff80u, TWO_MINUS, hi & 0xff7fff7fu);
}

// Loads from shared memory, of any multiple of 2.
__device__ __forceinline__ uint32_t shared16(const unsigned char* p) { return *(const unsigned short*)p; }
__device__ __forceinline__ uint32_t shared16x2(const unsigned char* p) { return shared16(p) | shared16(p + 2) << 16; }
__device__ __forceinline__ uint32_t shared32(const unsigned char* p) { return *(const unsigned int*)p; }
__device__ __forceinline__ float shared_half(const unsigned char* p) { return half_float((uint16_t)shared16(p)); }

// A Codes has of its type:
//   terms, bytes    of a chunk
//   pairs, minimum  whether bytes have terms 16 apart; whether something is added
//   scaled          0: not, 1: groups are, 2: each half of a group is
//   K               what a lane knows of a chunk of a row, and start, which finds out
//   codes           the words of group i of lane t
//   scale, least    of group i, or half h of it
template <int DT> struct Codes;

struct NoState {};

template <int DT, int BYTES, int PAIRS, int SCALED, int MINIMUM, int TERMS = 256> struct CodesOf {
    typedef NoState State;
    static constexpr int terms = TERMS, bytes = BYTES, pairs = PAIRS, scaled = SCALED, minimum = MINIMUM;
    static __device__ __forceinline__ void start(NoState&, const unsigned char*) {}
    template <class T> static __device__ __forceinline__ float scale(const T&, const unsigned char*, int, int) { return 1; }
    template <class T> static __device__ __forceinline__ float least(const T&, const unsigned char*, int) { return 0; }
};

template <> struct Codes<BF16> : CodesOf<BF16, 256, 0, 0, 0, 128> {
    static __device__ __forceinline__ void codes(uint32_t v[4], const NoState&, const unsigned char* p, int i, int t, const uint32_t*) {
        const uint4 q = *(const uint4*)(p + 64 * i + 16 * t);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    }
};

template <> struct Codes<F16> : CodesOf<F16, 256, 0, 0, 0, 128> {
    static __device__ __forceinline__ void codes(uint32_t v[4], const NoState&, const unsigned char* p, int i, int t, const uint32_t*) {
        const uint4 q = *(const uint4*)(p + 64 * i + 16 * t);
        const uint32_t w[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] = pack_bf16(half_float((uint16_t)w[j]), half_float((uint16_t)(w[j] >> 16)));
    }
};

template <> struct Codes<Q8_0> : CodesOf<Q8_0, 272, 0, 1, 0> {
    static __device__ __forceinline__ void codes(uint32_t v[4], const NoState&, const unsigned char* p, int i, int t, const uint32_t*) {
        const unsigned char* q = p + 34 * i + 2 + 8 * t;
        signed_two(v, shared16x2(q)), signed_two(v + 2, shared16x2(q + 4));
    }
    static __device__ __forceinline__ float scale(const NoState&, const unsigned char* p, int i, int) { return shared_half(p + 34 * i); }
};

template <> struct Codes<Q4_0> : CodesOf<Q4_0, 144, 1, 1, 0> {
    static __device__ __forceinline__ void codes(uint32_t v[4], const NoState&, const unsigned char* p, int i, int t, const uint32_t*) {
        const uint32_t q = shared16x2(p + 18 * i + 2 + 4 * t);
        small_two<8>(v, q & 0x0f0f0f0fu), small_two<8>(v + 2, q >> 4 & 0x0f0f0f0fu);
    }
    static __device__ __forceinline__ float scale(const NoState&, const unsigned char* p, int i, int) { return shared_half(p + 18 * i); }
};

template <> struct Codes<Q4_1> : CodesOf<Q4_1, 160, 1, 1, 1> {
    static __device__ __forceinline__ void codes(uint32_t v[4], const NoState&, const unsigned char* p, int i, int t, const uint32_t*) {
        const uint32_t q = shared32(p + 20 * i + 4 + 4 * t);
        small_two<0>(v, q & 0x0f0f0f0fu), small_two<0>(v + 2, q >> 4 & 0x0f0f0f0fu);
    }
    static __device__ __forceinline__ float scale(const NoState&, const unsigned char* p, int i, int) { return shared_half(p + 20 * i); }
    static __device__ __forceinline__ float least(const NoState&, const unsigned char* p, int i) { return shared_half(p + 20 * i + 2); }
};

// fifths returns four bits as the fifth bits of bytes.
__device__ __forceinline__ uint32_t fifths(uint32_t b) { return (b & 15) * 0x02040810u & 0x10101010u; }

template <> struct Codes<Q5_0> : CodesOf<Q5_0, 176, 1, 1, 0> {
    static __device__ __forceinline__ void codes(uint32_t v[4], const NoState&, const unsigned char* p, int i, int t, const uint32_t*) {
        const unsigned char* b = p + 22 * i;
        const uint32_t q = shared16x2(b + 6 + 4 * t);
        small_two<16>(v, (q & 0x0f0f0f0fu) | fifths(shared16(b + 2) >> 4 * t)), small_two<16>(v + 2, (q >> 4 & 0x0f0f0f0fu) | fifths(shared16(b + 4) >> 4 * t));
    }
    static __device__ __forceinline__ float scale(const NoState&, const unsigned char* p, int i, int) { return shared_half(p + 22 * i); }
};

template <> struct Codes<Q5_1> : CodesOf<Q5_1, 192, 1, 1, 1> {
    static __device__ __forceinline__ void codes(uint32_t v[4], const NoState&, const unsigned char* p, int i, int t, const uint32_t*) {
        const unsigned char* b = p + 24 * i;
        const uint32_t q = shared32(b + 8 + 4 * t), h = shared32(b + 4) >> 4 * t;
        small_two<0>(v, (q & 0x0f0f0f0fu) | fifths(h)), small_two<0>(v + 2, (q >> 4 & 0x0f0f0f0fu) | fifths(h >> 16));
    }
    static __device__ __forceinline__ float scale(const NoState&, const unsigned char* p, int i, int) { return shared_half(p + 24 * i); }
    static __device__ __forceinline__ float least(const NoState&, const unsigned char* p, int i) { return shared_half(p + 24 * i + 2); }
};

// KState is the numbers of 6 bits of a super-block, and what they are multiplied with.
struct KState {
    uint32_t w[3];
    float d, dmin;
};

// KCodes is Q4_K, or Q5_K, whose fifth bits lie before the nibbles.
template <int DT, int BYTES> struct KCodes : CodesOf<DT, BYTES, 0, 1, 1> {
    typedef KState State;
    static __device__ __forceinline__ void start(KState& s, const unsigned char* p) {
        const uint4 q = *(const uint4*)p;
        s.w[0] = q.y, s.w[1] = q.z, s.w[2] = q.w;
        s.d = half_float((uint16_t)q.x), s.dmin = half_float((uint16_t)(q.x >> 16));
    }
    static __device__ __forceinline__ float scale(const KState& s, const unsigned char*, int i, int) {
        const int j = 8 * (i & 3);
        return s.d * code_float(i < 4 ? s.w[0] >> j & 63 : (s.w[2] >> j & 15) | (s.w[0] >> (j + 6) & 3) << 4, 0);
    }
    static __device__ __forceinline__ float least(const KState& s, const unsigned char*, int i) {
        const int j = 8 * (i & 3);
        return -s.dmin * code_float(i < 4 ? s.w[1] >> j & 63 : (s.w[2] >> (j + 4) & 15) | (s.w[1] >> (j + 6) & 3) << 4, 0);
    }
    static __device__ __forceinline__ void codes(uint32_t v[4], const KState&, const unsigned char* p, int i, int t, const uint32_t*) {
        const uint2 q = *(const uint2*)(p + BYTES - 128 + 32 * (i >> 1) + 8 * t);
        uint32_t lo = q.x >> 4 * (i & 1) & 0x0f0f0f0fu, hi = q.y >> 4 * (i & 1) & 0x0f0f0f0fu;
        if (DT == Q5_K) {
            const uint2 h = *(const uint2*)(p + 16 + 8 * t);
            lo |= (h.x >> i & 0x01010101u) << 4, hi |= (h.y >> i & 0x01010101u) << 4;
        }
        small_two<0>(v, lo), small_two<0>(v + 2, hi);
    }
};

template <> struct Codes<Q4_K> : KCodes<Q4_K, 144> {};
template <> struct Codes<Q5_K> : KCodes<Q5_K, 176> {};

template <> struct Codes<Q6_K> : CodesOf<Q6_K, 210, 1, 2, 0> {
    typedef float State;
    static __device__ __forceinline__ void start(float& d, const unsigned char* p) { d = shared_half(p + 208); }
    static __device__ __forceinline__ float scale(const float& d, const unsigned char* p, int i, int h) { return d * code_float(p[192 + 2 * i + h] ^ 128u, 128); }
    static __device__ __forceinline__ void codes(uint32_t v[4], const float&, const unsigned char* p, int i, int t, const uint32_t*) {
        const int n = i >> 2, r = i & 3;
        const unsigned char *ql = p + 64 * n + 32 * (r & 1) + 4 * t, *qh = p + 128 + 32 * n + 4 * t;
#pragma unroll
        for (int h = 0; h < 2; h++)
            small_two<32>(v + 2 * h, (shared16x2(ql + 16 * h) >> 4 * (r >> 1) & 0x0f0f0f0fu) | (shared16x2(qh + 16 * h) >> 2 * r & 0x03030303u) << 4);
    }
};

// The two codes of a byte of NF4 are looked up together, in a table of which half
// a warp's lanes have a copy each, in banks of their own.
constexpr int NF4_COPIES = 16;

template <> struct Codes<NF4> : CodesOf<NF4, 144, 0, 1, 0> {
    static __device__ __forceinline__ void codes(uint32_t v[4], const NoState&, const unsigned char* p, int i, int t, const uint32_t* table) {
        const uint32_t q = shared32(p + 36 * (i >> 1) + 4 + 16 * (i & 1) + 4 * t);
        const unsigned char* at = (const unsigned char*)(table + threadIdx.x % NF4_COPIES);
        v[0] = shared32(at + (q << 6 & 0x3fc0)), v[1] = shared32(at + (q >> 2 & 0x3fc0)), v[2] = shared32(at + (q >> 10 & 0x3fc0)), v[3] = shared32(at + (q >> 18 & 0x3fc0));
    }
    static __device__ __forceinline__ float scale(const NoState&, const unsigned char* p, int i, int) { return __uint_as_float(shared32(p + 36 * (i >> 1))); }
};

// codes_table fills the table of 256·NF4_COPIES words that NF4 needs; __syncthreads
// must follow.
__device__ __forceinline__ void codes_table(uint32_t* table) {
    for (int i = threadIdx.x; i < 256 * NF4_COPIES; i += blockDim.x) {
        const int b = i / NF4_COPIES;
        table[i] = pack_bf16(nf4_values[b >> 4], nf4_values[b & 15]);
    }
}
