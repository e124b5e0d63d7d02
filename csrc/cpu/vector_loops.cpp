#include "cpu/vector_loops.h"

#include "common/target_clones.h"

namespace amu_fast::cpu {
namespace {

constexpr int64_t kLanes = 32;  // independent partial sums within a chunk

// sum_j f(j) in double over kLanes partial sums; f(j) may write element j of a vector.
template <typename F>
AMU_FAST_INLINE double sum_over(int64_t n, const F& f) {
  double lanes[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += f(j + lane);
  }
  for (int64_t lane = 0; j < n; ++j, ++lane) lanes[lane] += f(j);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <typename T>
AMU_FAST_INLINE double dot(const T* a, const T* b, int64_t n) {
  return sum_over(n, [&](int64_t j) { return static_cast<double>(a[j]) * static_cast<double>(b[j]); });
}

// p = z + beta p
template <typename T>
AMU_FAST_INLINE void follow(const T* AMU_FAST_RESTRICT z, T beta, T* AMU_FAST_RESTRICT p, int64_t n) {
  for (int64_t j = 0; j < n; ++j) p[j] = z[j] + beta * p[j];
}

// y += alpha p, r -= alpha hp; returns sum r^2.
template <typename T>
AMU_FAST_INLINE double advance(const T* AMU_FAST_RESTRICT p, const T* AMU_FAST_RESTRICT hp, T alpha,
                               T* AMU_FAST_RESTRICT y, T* AMU_FAST_RESTRICT r, int64_t n) {
  return sum_over(n, [&](int64_t j) {
    y[j] += alpha * p[j];
    const T next = r[j] - alpha * hp[j];
    r[j] = next;
    return static_cast<double>(next) * static_cast<double>(next);
  });
}

// r = b - hy; returns sum r^2.
template <typename T>
AMU_FAST_INLINE double subtract(const T* AMU_FAST_RESTRICT b, const T* AMU_FAST_RESTRICT hy, T* AMU_FAST_RESTRICT r,
                                int64_t n) {
  return sum_over(n, [&](int64_t j) {
    const T next = b[j] - hy[j];
    r[j] = next;
    return static_cast<double>(next) * static_cast<double>(next);
  });
}

// r = b - hy, y += eta r; returns sum r^2.
template <typename T>
AMU_FAST_INLINE double subtract_and_add(const T* AMU_FAST_RESTRICT b, const T* AMU_FAST_RESTRICT hy, T eta,
                                        T* AMU_FAST_RESTRICT y, T* AMU_FAST_RESTRICT r, int64_t n) {
  return sum_over(n, [&](int64_t j) {
    const T next = b[j] - hy[j];
    r[j] = next;
    y[j] += eta * next;
    return static_cast<double>(next) * static_cast<double>(next);
  });
}

}  // namespace

#define AMU_FAST_CLONED(T)                                                                                    \
  AMU_FAST_TARGET_CLONES double run_dot(const T* a, const T* b, int64_t n) { return dot<T>(a, b, n); }        \
  AMU_FAST_TARGET_CLONES void run_follow(const T* z, T beta, T* p, int64_t n) { follow<T>(z, beta, p, n); }   \
  AMU_FAST_TARGET_CLONES double run_advance(const T* p, const T* hp, T alpha, T* y, T* r, int64_t n) {        \
    return advance<T>(p, hp, alpha, y, r, n);                                                                 \
  }                                                                                                           \
  AMU_FAST_TARGET_CLONES double run_subtract(const T* b, const T* hy, T* r, int64_t n) {                      \
    return subtract<T>(b, hy, r, n);                                                                          \
  }                                                                                                           \
  AMU_FAST_TARGET_CLONES double run_subtract_and_add(const T* b, const T* hy, T eta, T* y, T* r, int64_t n) { \
    return subtract_and_add<T>(b, hy, eta, y, r, n);                                                          \
  }
AMU_FAST_CLONED(float)
AMU_FAST_CLONED(double)
#undef AMU_FAST_CLONED

}  // namespace amu_fast::cpu
