// A = L D L^T for as many problems as fit into a vector, one per lane: every scalar of the textbook is a vector.
//
// L lies in panels of kBlock rows, [column][row], so that the inner loop reads two streams:
//
//   tile of rows I, columns J:   M_IJ = (A_IJ - sum_{K<J} M_IK L_JK^T) L_JJ^-T,   L_IJ = M_IJ D_J^-1
//
// A panel row M_I stays in the first-level cache while the panels L_J stream past it; a tile of 16 sums stays in
// registers, so each element of L is loaded once per kBlock rows. No square root: the pivots D tell definiteness.
#pragma once

#include <cstdint>

#include "common/target_clones.h"
#include "cpu/spd_pack.h"

namespace amu_fast::cpu {

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
