#include "cpu/glm_hvp_columns.h"

#include <algorithm>
#include <cstdint>

#include "common/target_clones.h"

namespace amu_fast::cpu {
namespace {

// The lanes of a register are right-hand sides. A block of rows stays in L2 while Z = X~ V and then Y += X~^T (C o Z)
// go over it; each multiply-add broadcasts one element of x.
constexpr int64_t kBlockBytes = 1 << 17;  // of x in a block: leaves room for V and Y in L2
constexpr int64_t kMinBlock = 16;
constexpr int64_t kPanel = 512;  // columns summed in registers before they go to Z

// z (R, kp) += x v for R rows, columns [begin, end) of x and N registers of right-hand sides.
template <typename T, int N, int R>
AMU_FAST_INLINE void multiply(const Rows<T>& rows, const T* x, const T* v, int64_t kp, int64_t begin, int64_t end, T* z,
                              Ahead& ahead) {
  using V = Vec<T>;
  constexpr int64_t L = kLanes<T>, kLine = 64 / sizeof(T);
  V sum[R][N] = {};
  for (int64_t line = begin; line < end; line += kLine) {
    const int64_t last = std::min(end, line + kLine);
    for (int64_t j = line; j < last; ++j) {
      V right[N];
      for (int i = 0; i < N; ++i) right[i] = load(v + j * kp + i * L);
      for (int k = 0; k < R; ++k) {
        for (int i = 0; i < N; ++i) sum[k][i] += x[k * rows.stride + j] * right[i];
      }
    }
    ahead.lines(R / 2);
  }
  for (int k = 0; k < R; ++k) {
    for (int i = 0; i < N; ++i) at_vector(z + k * kp + i * L) += sum[k][i];
  }
}

// y (J, kp) += x^T z for `count` rows, J columns of x and N registers of right-hand sides.
template <typename T, int N, int J>
AMU_FAST_INLINE void multiply_transposed(const Rows<T>& rows, const T* x, const T* z, int64_t kp, int64_t count, T* y,
                                         Ahead& ahead) {
  using V = Vec<T>;
  constexpr int64_t L = kLanes<T>, kGroup = 4;
  constexpr int kLines = kGroup * J * sizeof(T) / 128;
  V sum[J][N] = {};
  for (int64_t group = 0; group < count; group += kGroup) {
    const int64_t last = std::min(count, group + kGroup);
    for (int64_t row = group; row < last; ++row) {
      V right[N];
      for (int i = 0; i < N; ++i) right[i] = load(z + row * kp + i * L);
      for (int j = 0; j < J; ++j) {
        for (int i = 0; i < N; ++i) sum[j][i] += x[row * rows.stride + j] * right[i];
      }
    }
    ahead.lines(kLines);
  }
  for (int j = 0; j < J; ++j) {
    for (int i = 0; i < N; ++i) at_vector(y + j * kp + i * L) += sum[j][i];
  }
}

// Z += X V for `count` rows from `x` on and the right-hand sides from `column` on; N registers of them.
template <typename T, int N>
AMU_FAST_INLINE void forward(const ManyProducts<T>& at, const T* x, int64_t count, int64_t column, T* z, Ahead& ahead) {
  constexpr int R = 8 / N;
  const int64_t stride = at.rows.stride, kp = at.kp;
  for (int64_t begin = 0; begin < at.rows.d; begin += kPanel) {
    const int64_t end = std::min(at.rows.d, begin + kPanel);
    int64_t row = 0;
    for (; row + R <= count; row += R) {
      multiply<T, N, R>(at.rows, x + row * stride, at.v + column, kp, begin, end, z + row * kp + column, ahead);
    }
    for (; row < count; ++row) {
      multiply<T, N, 1>(at.rows, x + row * stride, at.v + column, kp, begin, end, z + row * kp + column, ahead);
    }
  }
}

// Y += X^T Z, likewise.
template <typename T, int N>
AMU_FAST_INLINE void backward(const ManyProducts<T>& at, const T* x, int64_t count, int64_t column,
                              const Scratch<T>& scratch, Ahead& ahead) {
  constexpr int J = 8 / N;
  const T* z = scratch.z + column;
  T* y = scratch.y + column;
  int64_t j = 0;
  for (; j + J <= at.rows.d; j += J) {
    multiply_transposed<T, N, J>(at.rows, x + j, z, at.kp, count, y + j * at.kp, ahead);
  }
  for (; j < at.rows.d; ++j) {
    multiply_transposed<T, N, 1>(at.rows, x + j, z, at.kp, count, y + j * at.kp, ahead);
  }
}

// Z = C o (X~ V) for one block of rows whose Z holds X V.
template <typename T>
AMU_FAST_INLINE void weigh(const ManyProducts<T>& at, int64_t row, int64_t count, const Scratch<T>& scratch) {
  for (int64_t i = 0; i < count; ++i) {
    T* z = scratch.z + i * at.kp;
    const T* c = at.c + (row + i) * at.c_row;
    for (int64_t k = 0; k < at.k; ++k) z[k] *= c[k * at.c_column];
    for (int64_t k = 0; k < at.k; ++k) scratch.intercept[k] += z[k];
  }
}

// Both passes over one block for all right-hand sides; the first pass over x fetches the next block.
template <typename T>
AMU_FAST_INLINE void block(const ManyProducts<T>& at, int64_t row, int64_t count, int64_t block_rows,
                           const Scratch<T>& scratch) {
  constexpr int64_t L = kLanes<T>;
  const T* x = at.rows.x + row * at.rows.stride;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < at.kp; ++k)
      scratch.z[i * at.kp + k] = at.p > at.rows.d ? at.v[at.rows.d * at.kp + k] : T(0);
  }
  Ahead ahead = Ahead::of(at.rows, row, block_rows);
  Ahead none{nullptr};
  int64_t column = 0;
  for (; column + 2 * L <= at.kp; column += 2 * L) {
    forward<T, 2>(at, x, count, column, scratch.z, column == 0 ? ahead : none);
  }
  if (column < at.kp) forward<T, 1>(at, x, count, column, scratch.z, column == 0 ? ahead : none);
  weigh(at, row, count, scratch);
  column = 0;
  for (; column + 2 * L <= at.kp; column += 2 * L) {
    backward<T, 2>(at, x, count, column, scratch, column == 0 ? ahead : none);
  }
  if (column < at.kp) backward<T, 1>(at, x, count, column, scratch, column == 0 ? ahead : none);
}

// Rows [begin, end) of one problem into `partial` (p, kp).
template <typename T>
AMU_FAST_INLINE void chunk(const ManyProducts<T>& at, int64_t begin, int64_t end, const Scratch<T>& scratch,
                           double* AMU_FAST_RESTRICT partial) {
  const int64_t d = at.rows.d, width = at.p * at.kp, row_bytes = std::max<int64_t>(1, d * sizeof(T));
  const int64_t block_rows = std::min(kMaxBlock, std::max(kMinBlock, kBlockBytes / row_bytes / kMinBlock * kMinBlock));
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t last = std::min(end, first + kTile);
    std::fill(scratch.y, scratch.y + width, T(0));
    std::fill(scratch.intercept, scratch.intercept + at.kp, 0.0);
    for (int64_t row = first; row < last; row += block_rows) {
      block(at, row, std::min(block_rows, last - row), block_rows, scratch);
    }
    for (int64_t j = 0; j < width; ++j) partial[j] = first == begin ? scratch.y[j] : partial[j] + scratch.y[j];
    for (int64_t k = 0; at.p > d && k < at.kp; ++k) partial[d * at.kp + k] += scratch.intercept[k];
  }
}

}  // namespace

AMU_FAST_TARGET_CLONES
void many_products(const ManyProducts<float>& at, int64_t begin, int64_t end, const Scratch<float>& scratch,
                   double* partial) {
  chunk<float>(at, begin, end, scratch, partial);
}

AMU_FAST_TARGET_CLONES
void many_products(const ManyProducts<double>& at, int64_t begin, int64_t end, const Scratch<double>& scratch,
                   double* partial) {
  chunk<double>(at, begin, end, scratch, partial);
}

}  // namespace amu_fast::cpu
