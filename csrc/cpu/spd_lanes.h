// A = L D L^T for as many problems as fit into 64 bytes, one per lane: every scalar of the textbook is a vector.
//
// L lies in panels of kBlock rows, [column][row], so that the inner loop reads two streams:
//
//   tile of rows I, columns J:   M_IJ = (A_IJ - sum_{K<J} M_IK L_JK^T) L_JJ^-T,   L_IJ = M_IJ D_J^-1
//
// A panel row M_I stays in the first-level cache while the panels L_J stream past it; a tile of 16 sums stays in
// registers, so each element of L is loaded once per kBlock rows. No square root: the pivots D tell definiteness.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "common/target_clones.h"

namespace amu_fast::cpu {

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
  static constexpr int64_t kCount = 64 / sizeof(T);
  typedef T Vector __attribute__((vector_size(64)));
  typedef typename Lane<T>::Int Mask __attribute__((vector_size(64)));
};

// Vectors of one panel, and of all panels before it.
inline int64_t panel_offset(int64_t block) { return kBlock * kBlock * (block * (block + 1) / 2); }
inline int64_t padded(int64_t p) { return (p + kBlock - 1) / kBlock * kBlock; }

// What a tile of problems needs: L in panels, the row M of panels in work, 1/D and one right-hand side.
template <typename T>
struct Factor {
  using Vector = typename Lanes<T>::Vector;
  Vector* panels;
  Vector* row;
  Vector* inverse;
  Vector* y;
  typename Lanes<T>::Mask* info;
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

// M_IJ for one J < I: `panel` holds A_IJ, `row` receives M_IJ.
template <typename T>
AMU_FAST_INLINE void off_diagonal_tile(const Factor<T>& f, int64_t block, int64_t other) {
  using Vector = typename Lanes<T>::Vector;
  const Vector* l = f.panels + panel_offset(other);
  const Vector* a = f.panels + panel_offset(block);
  const int64_t j = other * kBlock;
  Vector sum[kBlock][kBlock];
#pragma GCC unroll 4
  for (int64_t c = 0; c < kBlock; ++c) {
#pragma GCC unroll 4
    for (int64_t r = 0; r < kBlock; ++r) sum[c][r] = a[(j + c) * kBlock + r];
  }
  for (int64_t k = 0; k < j; ++k) {
#pragma GCC unroll 4
    for (int64_t c = 0; c < kBlock; ++c) {
#pragma GCC unroll 4
      for (int64_t r = 0; r < kBlock; ++r) sum[c][r] -= f.row[k * kBlock + r] * l[k * kBlock + c];
    }
  }
#pragma GCC unroll 4
  for (int64_t c = 0; c < kBlock; ++c) {
#pragma GCC unroll 4
    for (int64_t before = 0; before < c; ++before) {
#pragma GCC unroll 4
      for (int64_t r = 0; r < kBlock; ++r) sum[c][r] -= sum[before][r] * l[(j + before) * kBlock + c];
    }
#pragma GCC unroll 4
    for (int64_t r = 0; r < kBlock; ++r) f.row[(j + c) * kBlock + r] = sum[c][r];
  }
}

// L_I = M_I D^-1 for the columns before the diagonal tile, which is factored, and the forward substitution of y_I.
template <typename T>
AMU_FAST_INLINE void diagonal_tile(const Factor<T>& f, int64_t block) {
  using Vector = typename Lanes<T>::Vector;
  using Mask = typename Lanes<T>::Mask;
  Vector* l = f.panels + panel_offset(block);
  const int64_t i = block * kBlock;
  Vector sum[kBlock][kBlock], y[kBlock];
#pragma GCC unroll 4
  for (int64_t c = 0; c < kBlock; ++c) {
#pragma GCC unroll 4
    for (int64_t r = c; r < kBlock; ++r) sum[c][r] = l[(i + c) * kBlock + r];
    y[c] = f.y[i + c];
  }
  for (int64_t k = 0; k < i; ++k) {
    Vector scaled[kBlock];
#pragma GCC unroll 4
    for (int64_t c = 0; c < kBlock; ++c) {
      scaled[c] = f.row[k * kBlock + c] * f.inverse[k];
      l[k * kBlock + c] = scaled[c];
      y[c] -= scaled[c] * f.y[k];
#pragma GCC unroll 4
      for (int64_t r = c; r < kBlock; ++r) sum[c][r] -= f.row[k * kBlock + r] * scaled[c];
    }
  }
#pragma GCC unroll 4
  for (int64_t c = 0; c < kBlock; ++c) {
    const Mask bad = ~(sum[c][c] > T(0)), first = *f.info == 0;
    *f.info |= bad & first & (Mask{} + static_cast<typename Lane<T>::Int>(i + c + 1));
    const Vector inverse = T(1) / sum[c][c];
    f.inverse[i + c] = inverse;
    f.y[i + c] = y[c];
#pragma GCC unroll 4
    for (int64_t r = c + 1; r < kBlock; ++r) {
      const Vector scaled = sum[c][r] * inverse;
      l[(i + c) * kBlock + r] = scaled;
      y[r] -= scaled * y[c];
#pragma GCC unroll 4
      for (int64_t q = r; q < kBlock; ++q) sum[r][q] -= sum[c][q] * scaled;
    }
  }
}

// Factors every lane's matrix and leaves L^-1 y in y.
template <typename T>
AMU_FAST_INLINE void factor(const Sources<T>& from, const Factor<T>& f) {
  for (int64_t block = 0; block * kBlock < from.p; ++block) {
    pack_panel<T>(from, block, f.panels + panel_offset(block));
    for (int64_t other = 0; other < block; ++other) off_diagonal_tile<T>(f, block, other);
    diagonal_tile<T>(f, block);
  }
}

// y = L^-1 y with the factor that is there.
template <typename T>
AMU_FAST_INLINE void forward(int64_t p, const Factor<T>& f) {
  using Vector = typename Lanes<T>::Vector;
  for (int64_t i = 0; i < p; i += kBlock) {
    const Vector* l = f.panels + panel_offset(i / kBlock);
    Vector y[kBlock];
#pragma GCC unroll 4
    for (int64_t r = 0; r < kBlock; ++r) y[r] = f.y[i + r];
    for (int64_t k = 0; k < i; ++k) {
#pragma GCC unroll 4
      for (int64_t r = 0; r < kBlock; ++r) y[r] -= l[k * kBlock + r] * f.y[k];
    }
#pragma GCC unroll 4
    for (int64_t c = 0; c < kBlock; ++c) {
      f.y[i + c] = y[c];
#pragma GCC unroll 4
      for (int64_t r = c + 1; r < kBlock; ++r) y[r] -= l[(i + c) * kBlock + r] * y[c];
    }
  }
}

// y = L^-T D^-1 y
template <typename T>
AMU_FAST_INLINE void backward(int64_t p, const Factor<T>& f) {
  using Vector = typename Lanes<T>::Vector;
  for (int64_t i = 0; i < padded(p); ++i) f.y[i] *= f.inverse[i];
  for (int64_t i = padded(p) - kBlock; i >= 0; i -= kBlock) {
    const Vector* l = f.panels + panel_offset(i / kBlock);
    Vector u[kBlock];
#pragma GCC unroll 4
    for (int64_t c = kBlock - 1; c >= 0; --c) {
      u[c] = f.y[i + c];
#pragma GCC unroll 4
      for (int64_t r = c + 1; r < kBlock; ++r) u[c] -= l[(i + c) * kBlock + r] * u[r];
      f.y[i + c] = u[c];
    }
    for (int64_t k = 0; k < i; ++k) {
      Vector sum = f.y[k];
#pragma GCC unroll 4
      for (int64_t r = 0; r < kBlock; ++r) sum -= l[k * kBlock + r] * u[r];
      f.y[k] = sum;
    }
  }
}

}  // namespace amu_fast::cpu
