// The loops over one chunk of a vector: element by element in its own precision, sums in double.
#pragma once

#include <cstdint>

namespace amu_fast::cpu {

#define AMU_FAST_LOOPS(T)                                                      \
  /* <a, b> */                                                                 \
  double run_dot(const T* a, const T* b, int64_t n);                           \
  /* p = z + beta p */                                                         \
  void run_follow(const T* z, T beta, T* p, int64_t n);                        \
  /* y += alpha p, r -= alpha hp; returns sum r^2 */                           \
  double run_advance(const T* p, const T* hp, T alpha, T* y, T* r, int64_t n); \
  /* r = b - hy; returns sum r^2 */                                            \
  double run_subtract(const T* b, const T* hy, T* r, int64_t n);               \
  /* r = b - hy, y += eta r; returns sum r^2 */                                \
  double run_subtract_and_add(const T* b, const T* hy, T eta, T* y, T* r, int64_t n);
AMU_FAST_LOOPS(float)
AMU_FAST_LOOPS(double)
#undef AMU_FAST_LOOPS

}  // namespace amu_fast::cpu
