// A problem per SIMD lane: vectors of one entry of every lane's matrix, packed from the rows of the matrices.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "common/target_clones.h"

namespace amu_fast::cpu {

// Bytes of a vector: 32, of which AVX-512 machines with 256-bit units issue as much per cycle as of 64, and which the
// AVX2 copy handles as it is (64 would be taken apart in memory).
constexpr int kBytes = 32;
constexpr int64_t kBlock = 4;

template <typename T>
struct Lane;
template <>
struct Lane<double> {
  using Int = int64_t;
};
template <>
struct Lane<float> {
  using Int = int32_t;
};

template <typename T>
struct Lanes {
  static constexpr int64_t kCount = kBytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(kBytes)));
  typedef typename Lane<T>::Int Mask __attribute__((vector_size(kBytes)));
};

// The rows of the lanes' matrices, and their order.
template <typename T>
struct Sources {
  const T* matrix[Lanes<T>::kCount];
  int64_t stride, p;
};

template <int... I, typename Vector>
AMU_FAST_INLINE void zip_low(const Vector& a, const Vector& b, Vector& out, std::integer_sequence<int, I...>) {
  out = __builtin_shufflevector(a, b, (I / 2 + I % 2 * static_cast<int>(sizeof...(I)))...);
}

template <int... I, typename Vector>
AMU_FAST_INLINE void zip_high(const Vector& a, const Vector& b, Vector& out, std::integer_sequence<int, I...>) {
  constexpr int kHalf = sizeof...(I) / 2;
  out = __builtin_shufflevector(a, b, (kHalf + I / 2 + I % 2 * static_cast<int>(sizeof...(I)))...);
}

// Columns [column, column + lanes) of row i of every lane, transposed: out[k] holds column + k. Each perfect shuffle
// rotates the bits of (lane, column) by one; after all of them the two have changed places.
template <typename T>
AMU_FAST_INLINE void load_transposed(const Sources<T>& from, int64_t i, int64_t column,
                                     typename Lanes<T>::Vector* out) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int kCount = Lanes<T>::kCount;
  constexpr auto kAll = std::make_integer_sequence<int, kCount>();
  Vector a[kCount];
#pragma GCC unroll 16
  for (int lane = 0; lane < kCount; ++lane) {
    std::memcpy(&a[lane], from.matrix[lane] + i * from.stride + column, sizeof(Vector));
  }
#pragma GCC unroll 4
  for (int size = kCount; size > 1; size /= 2) {
    Vector b[kCount];
#pragma GCC unroll 8
    for (int k = 0; k < kCount / 2; ++k) {
      zip_low(a[k], a[k + kCount / 2], b[2 * k], kAll);
      zip_high(a[k], a[k + kCount / 2], b[2 * k + 1], kAll);
    }
#pragma GCC unroll 16
    for (int k = 0; k < kCount; ++k) a[k] = b[k];
  }
#pragma GCC unroll 16
  for (int k = 0; k < kCount; ++k) out[k] = a[k];
}

// The rows of one panel of A, lower triangle, into panel[column][row]; rows beyond p are those of the identity.
template <typename T>
AMU_FAST_INLINE void pack_panel(const Sources<T>& from, int64_t block, typename Lanes<T>::Vector* panel) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kCount = Lanes<T>::kCount;
  for (int64_t r = 0; r < kBlock; ++r) {
    const int64_t i = block * kBlock + r, p = from.p;
    if (i >= p) {
      for (int64_t j = 0; j < (block + 1) * kBlock; ++j) panel[j * kBlock + r] = Vector{} + T(j == i);
      continue;
    }
    if (p < kCount) {
      for (int64_t j = 0; j <= i; ++j) {
        T gathered[kCount];
        for (int64_t lane = 0; lane < kCount; ++lane) gathered[lane] = from.matrix[lane][i * from.stride + j];
        std::memcpy(&panel[j * kBlock + r], gathered, sizeof(gathered));
      }
      continue;
    }
    for (int64_t j = 0; j <= i; j += kCount) {
      // The last block of a row begins early, so that it ends with the row.
      const int64_t first = j + kCount <= p ? j : p - kCount;
      Vector columns[kCount];
      load_transposed<T>(from, i, first, columns);
      for (int64_t k = j - first; k < kCount && first + k <= i; ++k) panel[(first + k) * kBlock + r] = columns[k];
    }
  }
}

}  // namespace amu_fast::cpu
