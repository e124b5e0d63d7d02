#include "cpu/glm_hvp_multi.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/target_clones.h"
#include "common/tensors.h"
#include "cpu/glm_rows.h"

namespace amu_fast::cpu {
namespace {

// The lanes of a register are right-hand sides. A block of rows stays in L2 while Z = X~ V and then Y += X~^T (C o Z)
// go over it; each multiply-add broadcasts one element of x.
constexpr int64_t kBlockBytes = 1 << 17;  // of x in a block: leaves room for V and Y in L2
constexpr int64_t kMinBlock = 16, kMaxBlock = 64;
constexpr int64_t kPanel = 512;  // columns summed in registers before they go to Z

// One problem: k columns padded to kp, a whole number of registers.
template <typename T>
struct Problem {
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

// z (R, kp) += x v for R rows, columns [begin, end) of x and N registers of right-hand sides.
template <typename T, int Bytes, int N, int R>
AMU_FAST_INLINE void multiply(const Rows<T>& rows, const T* x, const T* v, int64_t kp, int64_t begin, int64_t end, T* z,
                              Ahead& ahead) {
  using V = typename VecOf<T, Bytes>::type;
  constexpr int64_t L = Bytes / sizeof(T), kLine = 64 / sizeof(T);
  V sum[R][N] = {};
  for (int64_t line = begin; line < end; line += kLine) {
    const int64_t last = std::min(end, line + kLine);
    for (int64_t j = line; j < last; ++j) {
      V right[N];
      for (int i = 0; i < N; ++i) right[i] = load<Bytes>(v + j * kp + i * L);
      for (int k = 0; k < R; ++k) {
        for (int i = 0; i < N; ++i) sum[k][i] += x[k * rows.stride + j] * right[i];
      }
    }
    ahead.lines(R / 2);
  }
  for (int k = 0; k < R; ++k) {
    for (int i = 0; i < N; ++i) at_vector<Bytes>(z + k * kp + i * L) += sum[k][i];
  }
}

// y (J, kp) += x^T z for `count` rows, J columns of x and N registers of right-hand sides.
template <typename T, int Bytes, int N, int J>
AMU_FAST_INLINE void multiply_transposed(const Rows<T>& rows, const T* x, const T* z, int64_t kp, int64_t count, T* y,
                                         Ahead& ahead) {
  using V = typename VecOf<T, Bytes>::type;
  constexpr int64_t L = Bytes / sizeof(T), kGroup = 4;
  constexpr int kLines = kGroup * J * sizeof(T) / 128;
  V sum[J][N] = {};
  for (int64_t group = 0; group < count; group += kGroup) {
    const int64_t last = std::min(count, group + kGroup);
    for (int64_t row = group; row < last; ++row) {
      V right[N];
      for (int i = 0; i < N; ++i) right[i] = load<Bytes>(z + row * kp + i * L);
      for (int j = 0; j < J; ++j) {
        for (int i = 0; i < N; ++i) sum[j][i] += x[row * rows.stride + j] * right[i];
      }
    }
    ahead.lines(kLines);
  }
  for (int j = 0; j < J; ++j) {
    for (int i = 0; i < N; ++i) at_vector<Bytes>(y + j * kp + i * L) += sum[j][i];
  }
}

// Z += X V for `count` rows from `x` on and the right-hand sides from `column` on; N registers of them.
template <typename T, int Bytes, int N>
AMU_FAST_INLINE void forward(const Problem<T>& at, const T* x, int64_t count, int64_t column, T* z, Ahead& ahead) {
  constexpr int R = 8 / N;
  const int64_t stride = at.rows.stride, kp = at.kp;
  for (int64_t begin = 0; begin < at.rows.d; begin += kPanel) {
    const int64_t end = std::min(at.rows.d, begin + kPanel);
    int64_t row = 0;
    for (; row + R <= count; row += R) {
      multiply<T, Bytes, N, R>(at.rows, x + row * stride, at.v + column, kp, begin, end, z + row * kp + column, ahead);
    }
    for (; row < count; ++row) {
      multiply<T, Bytes, N, 1>(at.rows, x + row * stride, at.v + column, kp, begin, end, z + row * kp + column, ahead);
    }
  }
}

// Y += X^T Z, likewise.
template <typename T, int Bytes, int N>
AMU_FAST_INLINE void backward(const Problem<T>& at, const T* x, int64_t count, int64_t column,
                              const Scratch<T>& scratch, Ahead& ahead) {
  constexpr int J = 8 / N;
  const T* z = scratch.z + column;
  T* y = scratch.y + column;
  int64_t j = 0;
  for (; j + J <= at.rows.d; j += J) {
    multiply_transposed<T, Bytes, N, J>(at.rows, x + j, z, at.kp, count, y + j * at.kp, ahead);
  }
  for (; j < at.rows.d; ++j) {
    multiply_transposed<T, Bytes, N, 1>(at.rows, x + j, z, at.kp, count, y + j * at.kp, ahead);
  }
}

// Z = C o (X~ V) for one block of rows whose Z holds X V.
template <typename T>
AMU_FAST_INLINE void weigh(const Problem<T>& at, int64_t row, int64_t count, const Scratch<T>& scratch) {
  for (int64_t i = 0; i < count; ++i) {
    T* z = scratch.z + i * at.kp;
    const T* c = at.c + (row + i) * at.c_row;
    for (int64_t k = 0; k < at.k; ++k) z[k] *= c[k * at.c_column];
    for (int64_t k = 0; k < at.k; ++k) scratch.intercept[k] += z[k];
  }
}

// Both passes over one block for all right-hand sides; the first pass over x fetches the next block.
template <typename T>
AMU_FAST_INLINE void block(const Problem<T>& at, int64_t row, int64_t count, int64_t block_rows,
                           const Scratch<T>& scratch) {
  constexpr int64_t L = kLanes<T>;
  const T* x = at.rows.x + row * at.rows.stride;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < at.kp; ++k)
      scratch.z[i * at.kp + k] = at.p > at.rows.d ? at.v[at.rows.d * at.kp + k] : T(0);
  }
  Ahead ahead = Ahead::of(at.rows, row, block_rows);
  if (at.kp < L) {
    forward<T, 16, 1>(at, x, count, 0, scratch.z, ahead);
    weigh(at, row, count, scratch);
    return backward<T, 16, 1>(at, x, count, 0, scratch, ahead);
  }
  Ahead none{nullptr};
  int64_t column = 0;
  for (; column + 2 * L <= at.kp; column += 2 * L) {
    forward<T, 32, 2>(at, x, count, column, scratch.z, column == 0 ? ahead : none);
  }
  if (column < at.kp) forward<T, 32, 1>(at, x, count, column, scratch.z, column == 0 ? ahead : none);
  weigh(at, row, count, scratch);
  column = 0;
  for (; column + 2 * L <= at.kp; column += 2 * L) {
    backward<T, 32, 2>(at, x, count, column, scratch, column == 0 ? ahead : none);
  }
  if (column < at.kp) backward<T, 32, 1>(at, x, count, column, scratch, column == 0 ? ahead : none);
}

// Rows [begin, end) of one problem into `partial` (p, kp).
template <typename T>
AMU_FAST_INLINE void chunk(const Problem<T>& at, int64_t begin, int64_t end, const Scratch<T>& scratch,
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

AMU_FAST_TARGET_CLONES
void run_chunk(const Problem<float>& at, int64_t begin, int64_t end, const Scratch<float>& scratch, double* partial) {
  chunk<float>(at, begin, end, scratch, partial);
}

AMU_FAST_TARGET_CLONES
void run_chunk(const Problem<double>& at, int64_t begin, int64_t end, const Scratch<double>& scratch, double* partial) {
  chunk<double>(at, begin, end, scratch, partial);
}

// k right-hand sides fill half a register or a whole number of registers.
template <typename T>
int64_t padded(int64_t k) {
  constexpr int64_t L = kLanes<T>;
  return k <= L / 2 ? L / 2 : (k + L - 1) / L * L;
}

// v (p, k) with rows `stride` apart, padded with zeros.
template <typename T>
void pack(const T* v, int64_t stride, int64_t p, int64_t k, int64_t kp, T* packed) {
  for (int64_t j = 0; j < p; ++j) {
    std::copy(v + j * stride, v + j * stride + k, packed + j * kp);
    std::fill(packed + j * kp + k, packed + (j + 1) * kp, T(0));
  }
}

struct Sizes {
  int64_t n, d, p, k, kp;
};

// y (batch, p, k) contiguous: the partial sums (batch, chunks, p, kp) and l2 v.
template <typename T>
void finish(const double* partial, int64_t chunks, const Sizes& size, double l2, const Tensor& v,
            const std::vector<int64_t>& v_at, Tensor& y) {
  const T* v_data = v.const_data_ptr<T>();
  T* y_data = y.mutable_data_ptr<T>();
  const int64_t problems = static_cast<int64_t>(v_at.size()), v_row = v.stride(v.dim() - 2);
  const int64_t entries = std::max<int64_t>(1, kSumWidth / size.kp), pieces = (size.p + entries - 1) / entries;
  for_each_task(problems * pieces, entries * size.kp * chunks, [&] {
    return [&, sum = std::vector<double>(entries * size.kp)](int64_t task) mutable {
      const int64_t b = task / pieces, first = task % pieces * entries, count = std::min(entries, size.p - first);
      std::fill(sum.begin(), sum.end(), 0.0);
      add_partials(partial + (b * chunks * size.p + first) * size.kp, chunks, size.p * size.kp, count * size.kp,
                   sum.data());
      for (int64_t j = 0; j < count; ++j) {
        const T* from = v_data + v_at[b] + (first + j) * v_row;
        T* to = y_data + (b * size.p + first + j) * size.k;
        for (int64_t k = 0; k < size.k; ++k) to[k] = static_cast<T>(sum[j * size.kp + k] + l2 * from[k]);
      }
    };
  });
}

template <typename T>
void launch(const Tensor& x, const Tensor& c, const Tensor& v, double l2, const Sizes& size, const Shape& batch,
            Tensor& y) {
  const auto x_at = batch_offsets(x, 2, batch), c_at = batch_offsets(c, 2, batch), v_at = batch_offsets(v, 2, batch);
  const T* x_data = x.const_data_ptr<T>();
  const T* c_data = c.const_data_ptr<T>();
  const T* v_data = v.const_data_ptr<T>();
  const int64_t n = size.n, d = size.d, p = size.p, k = size.k, kp = size.kp;
  const int64_t stride = n > 1 ? x.stride(x.dim() - 2) : d;
  const int64_t c_row = c.stride(c.dim() - 2), c_column = c.size(c.dim() - 1) == 1 ? 0 : 1;
  const int64_t problems = product(batch), rows = rows_per_chunk(n, d), chunks = (n + rows - 1) / rows;
  const std::unique_ptr<double[]> partial(new double[problems * chunks * p * kp]);

  for_each_task(problems * chunks, std::min(rows, n) * p * k, [&] {
    return [&, z = std::vector<T>(kMaxBlock * kp), tile = std::vector<T>(p * kp), packed = std::vector<T>(p * kp),
            intercept = std::vector<double>(kp), packed_of = int64_t{-1}](int64_t task) mutable {
      const int64_t b = task / chunks, begin = task % chunks * rows;
      if (b != packed_of) pack(v_data + v_at[b], v.stride(v.dim() - 2), p, k, kp, packed.data());
      packed_of = b;
      const Problem<T> at{
          Rows<T>(x_data + x_at[b], stride, d), c_data + c_at[b], c_row, c_column, packed.data(), p, k, kp};
      run_chunk(at, begin, std::min(n, begin + rows), Scratch<T>{z.data(), tile.data(), intercept.data()},
                partial.get() + task * p * kp);
    };
  });
  finish<T>(partial.get(), chunks, size, l2, v, v_at, y);
}

}  // namespace

Tensor glm_hvp_multi(const Tensor& x_in, const Tensor& c_in, const Tensor& v_in, double l2, bool intercept) {
  check_same_float(x_in, c_in, "x and c");
  check_same_float(x_in, v_in, "x and v");
  const Shape batch = broadcast(broadcast(batch_shape(x_in, 2), batch_shape(c_in, 2)), batch_shape(v_in, 2));
  const Tensor x = with_dense_rows(x_in), c = with_dense_rows(c_in), v = with_dense_rows(v_in);
  const int64_t n = x.size(x.dim() - 2), d = x.size(x.dim() - 1), p = v.size(v.dim() - 2), k = v.size(v.dim() - 1);
  STD_TORCH_CHECK(c.size(c.dim() - 2) == n, "c has ", c.size(c.dim() - 2), " rows, x has ", n);
  STD_TORCH_CHECK(c.size(c.dim() - 1) == 1 || c.size(c.dim() - 1) == k, "c has ", c.size(c.dim() - 1),
                  " columns, v has ", k);
  STD_TORCH_CHECK(p == d + intercept, "v has ", p, " entries, x has ", d, " columns",
                  intercept ? " and an intercept" : "");
  Shape out = batch;
  out.push_back(p);
  out.push_back(k);
  Tensor y = torch::stable::new_empty(v, out);
  if (y.numel() == 0) return y;
  if (x.scalar_type() == torch::headeronly::ScalarType::Float) {
    launch<float>(x, c, v, l2, Sizes{n, d, p, k, padded<float>(k)}, batch, y);
  } else {
    launch<double>(x, c, v, l2, Sizes{n, d, p, k, padded<double>(k)}, batch, y);
  }
  return y;
}

}  // namespace amu_fast::cpu
