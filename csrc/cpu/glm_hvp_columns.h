// The pass over rows of `glm_hvp_multi` for many right-hand sides.
#pragma once

#include <cstdint>

#include "cpu/glm_rows.h"

namespace amu_fast::cpu {

constexpr int64_t kMaxBlock = 64;  // rows whose Z is kept at a time

// One problem: its rows, weights and vectors, k columns padded to kp, a whole number of registers.
template <typename T>
struct ManyProducts {
  Rows<T> rows;
  const T* c;
  int64_t c_row, c_column;  // strides of c; c_column is 0 where one column serves all
  const T* v;               // (p, kp)
  int64_t p, k, kp;
};

// What one thread keeps: Z of a block (kMaxBlock, kp), Y of a tile (p, kp), and the intercept's row of Y (kp).
template <typename T>
struct Scratch {
  T* z;
  T* y;
  double* intercept;
};

// Rows [begin, end) into `partial` (p, kp).
void many_products(const ManyProducts<float>& at, int64_t begin, int64_t end, const Scratch<float>& scratch,
                   double* partial);
void many_products(const ManyProducts<double>& at, int64_t begin, int64_t end, const Scratch<double>& scratch,
                   double* partial);

}  // namespace amu_fast::cpu
