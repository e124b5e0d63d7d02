// The pass over rows that `glm_hvp` and, for few right-hand sides, `glm_hvp_multi` share.
#pragma once

#include <cstdint>

#include "cpu/glm_rows.h"

namespace amu_fast::cpu {

constexpr int64_t kFew = 4;  // right-hand sides whose lanes are columns of x; for more the lanes are right-hand sides

// One problem: its rows, weights and vectors.
template <typename T>
struct FewProducts {
  Rows<T> rows;
  const T* c;
  int64_t c_row, c_column;  // strides of c; c_column is 0 where one column serves all
  const T* v;               // (vectors, p)
  int64_t p, vectors;       // 1 <= vectors <= kFew
};

// Rows [begin, end) into `partial` (vectors, p), by way of `tile` (vectors, p) in the element's own precision.
void few_products(const FewProducts<float>& at, int64_t begin, int64_t end, float* tile, double* partial);
void few_products(const FewProducts<double>& at, int64_t begin, int64_t end, double* tile, double* partial);

}  // namespace amu_fast::cpu
