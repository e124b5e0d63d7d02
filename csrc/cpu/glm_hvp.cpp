#include "cpu/glm_hvp.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "common/target_clones.h"
#include "common/tensors.h"
#include "cpu/glm_rows.h"

namespace amu_fast::cpu {
namespace {

// One problem: where its rows, weights and vector lie.
template <typename T>
struct Problem {
  Rows<T> rows;
  const T* c;
  const T* v;
  int64_t p;
};

// One block of R rows: z = X~ v, r = c o z, y += X~^T r while the rows are still in cache.
template <typename T, int R>
AMU_FAST_INLINE void block(const Problem<T>& at, int64_t row, T* y) {
  const int64_t d = at.rows.d;
  const T* x = at.rows.x + row * at.rows.stride;
  Ahead ahead = Ahead::of(at.rows, row);
  double z[1][R];
  for (int k = 0; k < R; ++k) z[0][k] = at.p > d ? static_cast<double>(at.v[d]) : 0.0;
  dot_block<T, R, 1>(at.rows, x, &at.v, z, ahead);
  T r[R];
  for (int k = 0; k < R; ++k) r[k] = static_cast<T>(at.c[row + k] * z[0][k]);
  add_rows<T, R, false>(at.rows, x, r, nullptr, y, nullptr, ahead);
  if (at.p > d) y[d] += std::accumulate(r, r + R, T(0));
}

// Rows [begin, end) of one problem into `partial` (p), by way of `tile` (p) in the element's own precision.
template <typename T>
AMU_FAST_INLINE void chunk(const Problem<T>& at, int64_t begin, int64_t end, T* AMU_FAST_RESTRICT tile,
                           double* AMU_FAST_RESTRICT partial) {
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t last = std::min(end, first + kTile);
    std::fill(tile, tile + at.p, T(0));
    int64_t row = first;
    for (; row + kRows <= last; row += kRows) block<T, kRows>(at, row, tile);
    for (; row < last; ++row) block<T, 1>(at, row, tile);
    for (int64_t j = 0; j < at.p; ++j) partial[j] = first == begin ? tile[j] : partial[j] + tile[j];
  }
}

AMU_FAST_TARGET_CLONES
void run_chunk(const Problem<float>& at, int64_t begin, int64_t end, float* tile, double* partial) {
  chunk<float>(at, begin, end, tile, partial);
}

AMU_FAST_TARGET_CLONES
void run_chunk(const Problem<double>& at, int64_t begin, int64_t end, double* tile, double* partial) {
  chunk<double>(at, begin, end, tile, partial);
}

// y (batch, p) contiguous, from the strided inputs at the given offsets.
template <typename T>
void launch(const Tensor& x, const Tensor& c, const Tensor& v, double l2, const Shape& batch, Tensor& y) {
  const auto x_at = batch_offsets(x, 2, batch), c_at = batch_offsets(c, 1, batch), v_at = batch_offsets(v, 1, batch);
  const T* x_data = x.const_data_ptr<T>();
  const T* c_data = c.const_data_ptr<T>();
  const T* v_data = v.const_data_ptr<T>();
  T* y_data = y.mutable_data_ptr<T>();
  const int64_t n = x.size(x.dim() - 2), d = x.size(x.dim() - 1), p = v.size(v.dim() - 1);
  const int64_t stride = n > 1 ? x.stride(x.dim() - 2) : d;
  const int64_t problems = product(batch), rows = rows_per_chunk(n, d), chunks = (n + rows - 1) / rows;
  const std::unique_ptr<double[]> partial(new double[problems * chunks * p]);

  for_each_task(problems * chunks, std::min(rows, n) * p, [&] {
    return [&, tile = std::vector<T>(p)](int64_t task) mutable {
      const int64_t b = task / chunks, begin = task % chunks * rows;
      const Problem<T> at{Rows<T>(x_data + x_at[b], stride, d), c_data + c_at[b], v_data + v_at[b], p};
      run_chunk(at, begin, std::min(n, begin + rows), tile.data(), partial.get() + task * p);
    };
  });

  const int64_t width = std::min<int64_t>(p, kSumWidth), pieces = (p + width - 1) / width;
  for_each_task(problems * pieces, width * chunks, [&] {
    return [&](int64_t task) {
      const int64_t b = task / pieces, first = task % pieces * width, last = std::min(p, first + width);
      double sum[kSumWidth];
      for (int64_t j = first; j < last; ++j) sum[j - first] = l2 * static_cast<double>(v_data[v_at[b] + j]);
      add_partials(partial.get() + b * chunks * p + first, chunks, p, last - first, sum);
      for (int64_t j = first; j < last; ++j) y_data[b * p + j] = static_cast<T>(sum[j - first]);
    };
  });
}

}  // namespace

Tensor glm_hvp(const Tensor& x_in, const Tensor& c_in, const Tensor& v_in, double l2, bool intercept) {
  check_same_float(x_in, c_in, "x and c");
  check_same_float(x_in, v_in, "x and v");
  const Shape batch = broadcast(broadcast(batch_shape(x_in, 2), batch_shape(c_in, 1)), batch_shape(v_in, 1));
  const Tensor x = with_dense_rows(x_in), c = with_dense_rows(c_in), v = with_dense_rows(v_in);
  const int64_t n = x.size(x.dim() - 2), d = x.size(x.dim() - 1), p = v.size(v.dim() - 1);
  STD_TORCH_CHECK(c.size(c.dim() - 1) == n, "c has ", c.size(c.dim() - 1), " entries, x has ", n, " rows");
  STD_TORCH_CHECK(p == d + intercept, "v has ", p, " entries, x has ", d, " columns",
                  intercept ? " and an intercept" : "");
  Shape out = batch;
  out.push_back(p);
  Tensor y = torch::stable::new_empty(v, out);
  if (y.numel() == 0) return y;
  if (x.scalar_type() == torch::headeronly::ScalarType::Float) {
    launch<float>(x, c, v, l2, batch, y);
  } else {
    launch<double>(x, c, v, l2, batch, y);
  }
  return y;
}

}  // namespace amu_fast::cpu
