#include "cpu/glm_hvp_rows.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "common/target_clones.h"

namespace amu_fast::cpu {
namespace {

// One block of R rows: z = X~ v, r = c o z, y += X~^T r while the rows are still in cache.
template <typename T, int R, int V>
AMU_FAST_INLINE void block(const FewProducts<T>& at, int64_t row, T* y) {
  const int64_t d = at.rows.d;
  const T* x = at.rows.x + row * at.rows.stride;
  Ahead ahead = Ahead::of(at.rows, row);
  const T* v[V];
  double z[V][R];
  for (int i = 0; i < V; ++i) {
    v[i] = at.v + i * at.p;
    std::fill(z[i], z[i] + R, at.p > d ? static_cast<double>(v[i][d]) : 0.0);
  }
  dot_block<T, R, V>(at.rows, x, v, z, ahead);
  T r[V][R];
  for (int i = 0; i < V; ++i) {
    for (int k = 0; k < R; ++k) r[i][k] = static_cast<T>(at.c[(row + k) * at.c_row + i * at.c_column] * z[i][k]);
    if (at.p > d) y[i * at.p + d] += std::accumulate(r[i], r[i] + R, T(0));
  }
  add_rows<T, R, V>(at.rows, x, r, y, at.p, ahead);
}

template <typename T, int V>
AMU_FAST_INLINE void chunk(const FewProducts<T>& at, int64_t begin, int64_t end, T* AMU_FAST_RESTRICT tile,
                           double* AMU_FAST_RESTRICT partial) {
  const int64_t width = V * at.p;
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t last = std::min(end, first + kTile);
    std::fill(tile, tile + width, T(0));
    int64_t row = first;
    for (; row + kRows <= last; row += kRows) block<T, kRows, V>(at, row, tile);
    for (; row < last; ++row) block<T, 1, V>(at, row, tile);
    for (int64_t j = 0; j < width; ++j) partial[j] = first == begin ? tile[j] : partial[j] + tile[j];
  }
}

template <typename T>
AMU_FAST_INLINE void any_number(const FewProducts<T>& at, int64_t begin, int64_t end, T* tile, double* partial) {
  switch (at.vectors) {
    case 1:
      return chunk<T, 1>(at, begin, end, tile, partial);
    case 2:
      return chunk<T, 2>(at, begin, end, tile, partial);
    case 3:
      return chunk<T, 3>(at, begin, end, tile, partial);
    default:
      return chunk<T, 4>(at, begin, end, tile, partial);
  }
}

}  // namespace

AMU_FAST_TARGET_CLONES
void few_products(const FewProducts<float>& at, int64_t begin, int64_t end, float* tile, double* partial) {
  any_number<float>(at, begin, end, tile, partial);
}

AMU_FAST_TARGET_CLONES
void few_products(const FewProducts<double>& at, int64_t begin, int64_t end, double* tile, double* partial) {
  any_number<double>(at, begin, end, tile, partial);
}

}  // namespace amu_fast::cpu
