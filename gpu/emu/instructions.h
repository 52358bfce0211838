// instructions.h runs the instructions of warp.h, and reports what the compiler's
// sanitizer finds in kernels. driver.cpp includes it once.
#pragma once
#include "block.h"

namespace emu {

void copyLater(void* to, const void* from, bool valid) {
  if ((uintptr_t)to % 16 || (valid && (uintptr_t)from % 16)) die("cp_async16: not 16-byte aligned: %p from %p", to, from);
  if (!isShared(to, 16)) die("cp_async16: %p is not in shared memory", to);
  Copy c = {to, valid ? from : nullptr};
  fill(to, 16);
  post(copies, [](void* data) {
    Copy* c = static_cast<Copy*>(data);
    if (c->from)
      memcpy(c->to, c->from, 16);
    else
      memset(c->to, 0, 16);
  }, &c, sizeof c);
}

void loadMatrix(void** posts, bool trans) {
  const uint16_t* rows[32];
  for (int i = 0; i < 32; i++) {
    rows[i] = static_cast<const uint16_t*>(static_cast<Rows*>(posts[i])->row);
    if ((uintptr_t)rows[i] % 16) die("ldmatrix: the row of lane %d is not 16-byte aligned: %p", i, (const void*)rows[i]);
    if (!isShared(rows[i], 16)) die("ldmatrix: the row of lane %d is not in shared memory", i);
  }
  for (int lane = 0; lane < 32; lane++) {
    uint32_t* r = static_cast<Rows*>(posts[lane])->r;
    int g = lane / 4, t = lane % 4;
    for (int m = 0; m < 4; m++) {
      const uint16_t** of = rows + m * 8;
      r[m] = trans ? of[2 * t][g] | (uint32_t)of[2 * t + 1][g] << 16 : of[g][2 * t] | (uint32_t)of[g][2 * t + 1] << 16;
    }
  }
}

void multiply(void** posts) {
  float a[16][16], b[16][8], c[16][8];
  auto low = [](uint32_t v) { return emu_bits<float>(v << 16); };
  auto high = [](uint32_t v) { return emu_bits<float>(v & 0xffff0000u); };
  for (int lane = 0; lane < 32; lane++) {
    const Product* p = static_cast<Product*>(posts[lane]);
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
      a[g + i % 2 * 8][2 * t + i / 2 * 8] = low(p->a[i]);
      a[g + i % 2 * 8][2 * t + i / 2 * 8 + 1] = high(p->a[i]);
      c[g + i / 2 * 8][2 * t + i % 2] = p->c[i];
    }
    for (int i = 0; i < 2; i++) {
      b[2 * t + i * 8][g] = low(p->b[i]);
      b[2 * t + i * 8 + 1][g] = high(p->b[i]);
    }
  }
  typedef float Row __attribute__((vector_size(32), aligned(4), may_alias));
  for (int m = 0; m < 16; m++) {
    Row sum = *(Row*)c[m];
    for (int k = 0; k < 16; k++) sum += a[m][k] * *(Row*)b[k];
    *(Row*)c[m] = sum;
  }
  for (int lane = 0; lane < 32; lane++) {
    float* to = static_cast<Product*>(posts[lane])->c;
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) to[i] = c[g + i / 2 * 8][2 * t + i % 2];
  }
}

}  // namespace emu

// The compiler calls these for an unaligned access, an index beyond an array, a
// shift by too much and a division by zero (-fsanitize with
// -fno-sanitize-recover); data begins with the place in the source.
#pragma GCC visibility push(default)
extern "C" {
struct SanitizerPlace {
  const char* file;
  unsigned line, column;
};
[[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(SanitizerPlace* at, void* p) {
  emu::die("%s:%u: unaligned or null pointer %p", at->file, at->line, p);
}
[[noreturn]] void __ubsan_handle_out_of_bounds_abort(SanitizerPlace* at, void* i) {
  emu::die("%s:%u: index %lld is not in the array", at->file, at->line, (long long)i);
}
[[noreturn]] void __ubsan_handle_shift_out_of_bounds_abort(SanitizerPlace* at, void*, void* by) {
  emu::die("%s:%u: shift by %lld", at->file, at->line, (long long)by);
}
[[noreturn]] void __ubsan_handle_divrem_overflow_abort(SanitizerPlace* at, void*, void*) {
  emu::die("%s:%u: division by zero", at->file, at->line);
}
}
#pragma GCC visibility pop
