// The emulator's version of the instructions that common.cuh describes.
#pragma once

namespace emu {
struct Copy {
  void* to;
  const void* from;
};
void copyLater(void* shared, const void* global, bool valid);
void loadMatrix(void** posts, bool trans);
void multiply(void** posts);
struct Rows {
  uint32_t* r;
  const void* row;
};
struct Product {
  float* c;
  const uint32_t *a, *b;
};
}  // namespace emu

static inline void cp_async16(void* shared, const void* global, bool valid) { emu::copyLater(shared, global, valid); }
static inline void cp_async_commit() { emu::commit(emu::copies); }
template <int n>
static inline void cp_async_wait() {
  emu::wait(emu::copies, n);
}

static inline void ldmatrix_x4(uint32_t r[4], const void* row) {
  emu::Rows p = {r, row};
  emu::warp(~0u, "ldmatrix_x4", &p, [](void** posts) { emu::loadMatrix(posts, false); });
}

static inline void ldmatrix_x4_trans(uint32_t r[4], const void* row) {
  emu::Rows p = {r, row};
  emu::warp(~0u, "ldmatrix_x4_trans", &p, [](void** posts) { emu::loadMatrix(posts, true); });
}

static inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
  emu::Product p = {c, a, b};
  emu::warp(~0u, "mma_bf16", &p, emu::multiply);
}
