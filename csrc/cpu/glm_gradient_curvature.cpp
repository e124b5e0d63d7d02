#include "cpu/glm_gradient_curvature.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "common/glm_losses.h"
#include "common/target_clones.h"
#include "common/tensors.h"
#include "cpu/glm_rows.h"

namespace amu_fast::cpu {
namespace {

// One problem: where its inputs lie and where its curvatures go.
template <typename T>
struct Problem {
  Rows<T> rows;
  const T* y;
  const T* t;
  const T* w;
  T* c;
  int64_t p, loss;
  double width;
};

// `count` <= kLossLanes rows from `row` on, R at a time: their gradient and their diagonal go to `sums` (2, p), their
// part of the objective is returned.
template <typename T, int R>
AMU_FAST_INLINE double block(const Problem<T>& at, int64_t row, int count, T* sums) {
  constexpr int kGroups = kLossLanes / R;
  const int64_t d = at.rows.d;
  const int groups = count / R;
  const double offset = at.p > d ? static_cast<double>(at.w[d]) : 0.0;
  Ahead ahead[kGroups];
  Doubles m = {};
  for (int i = 0; i < groups; ++i) {
    const int64_t first = row + i * R;
    ahead[i] = Ahead::of(at.rows, first);
    double z[1][R];
    for (int k = 0; k < R; ++k) z[0][k] = offset;
    dot_block<T, R, 1>(at.rows, at.rows.x + first * at.rows.stride, &at.w, z, ahead[i]);
    for (int k = 0; k < R; ++k) m[i * R + k] = at.y[first + k] * z[0][k];
  }
  Doubles value, slope, curvature;
  losses(at.loss, at.width, m, value, slope, curvature);
  double objective = 0;
  for (int i = 0; i < groups; ++i) {
    const int64_t first = row + i * R;
    T r[2][R];
    for (int k = 0; k < R; ++k) {
      const double weight = at.t[first + k];
      objective += weight * value[i * R + k];
      r[0][k] = static_cast<T>(weight * at.y[first + k] * slope[i * R + k]);
      r[1][k] = at.c[first + k] = static_cast<T>(weight * curvature[i * R + k]);
    }
    add_rows<T, R, 2, true>(at.rows, at.rows.x + first * at.rows.stride, r, sums, at.p, ahead[i]);
    for (int of = 0; at.p > d && of < 2; ++of) sums[of * at.p + d] += std::accumulate(r[of], r[of] + R, T(0));
  }
  return objective;
}

// Rows [begin, end) of one problem into `partial`: gradient (p), diagonal (p), objective; `tile` (2 p) on the way.
template <typename T>
AMU_FAST_INLINE void chunk(const Problem<T>& at, int64_t begin, int64_t end, T* AMU_FAST_RESTRICT tile,
                           double* AMU_FAST_RESTRICT partial) {
  const int64_t width = 2 * at.p;
  double objective = 0;
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t last = std::min(end, first + kTile);
    std::fill(tile, tile + width, T(0));
    double of_tile = 0;
    int64_t row = first;
    for (; row + kLossLanes <= last; row += kLossLanes) of_tile += block<T, kRows>(at, row, kLossLanes, tile);
    if (row < last) of_tile += block<T, 1>(at, row, static_cast<int>(last - row), tile);
    objective += of_tile;
    for (int64_t j = 0; j < width; ++j) partial[j] = first == begin ? tile[j] : partial[j] + tile[j];
  }
  partial[width] = objective;
}

AMU_FAST_TARGET_CLONES
void run_chunk(const Problem<float>& at, int64_t begin, int64_t end, float* tile, double* partial) {
  chunk<float>(at, begin, end, tile, partial);
}

AMU_FAST_TARGET_CLONES
void run_chunk(const Problem<double>& at, int64_t begin, int64_t end, double* tile, double* partial) {
  chunk<double>(at, begin, end, tile, partial);
}

struct Outputs {
  Tensor objective, gradient, c, diagonal;
};

// The partial sums of every problem and its regulariser: objective, gradient and diagonal.
template <typename T>
void finish(const double* partial, int64_t problems, int64_t chunks, int64_t p, double l2, const T* w,
            const std::vector<int64_t>& w_at, Outputs& out) {
  T* objective = out.objective.mutable_data_ptr<T>();
  T* gradient = out.gradient.mutable_data_ptr<T>();
  T* diagonal = out.diagonal.mutable_data_ptr<T>();
  for_each_task(problems, p * (2 * chunks + 1), [&] {
    return [&, sum = std::vector<double>(2 * p + 1)](int64_t b) mutable {
      std::fill(sum.begin(), sum.end(), l2);
      double norm = 0;
      for (int64_t j = 0; j < p; ++j) {
        const double entry = w[w_at[b] + j];
        sum[j] = l2 * entry;
        norm += entry * entry;
      }
      sum[2 * p] = l2 / 2 * norm;
      add_partials(partial + b * chunks * (2 * p + 1), chunks, 2 * p + 1, 2 * p + 1, sum.data());
      objective[b] = static_cast<T>(sum[2 * p]);
      for (int64_t j = 0; j < p; ++j) gradient[b * p + j] = static_cast<T>(sum[j]);
      for (int64_t j = 0; j < p; ++j) diagonal[b * p + j] = static_cast<T>(sum[p + j]);
    };
  });
}

template <typename T>
void launch(const Tensor& x, const Tensor& y, const Tensor& t, const Tensor& w, int64_t loss, double l2, double width,
            const Shape& batch, Outputs& out) {
  const auto x_at = batch_offsets(x, 2, batch), y_at = batch_offsets(y, 1, batch), t_at = batch_offsets(t, 1, batch),
             w_at = batch_offsets(w, 1, batch);
  const T* x_data = x.const_data_ptr<T>();
  const T* y_data = y.const_data_ptr<T>();
  const T* t_data = t.const_data_ptr<T>();
  const T* w_data = w.const_data_ptr<T>();
  T* c_data = out.c.mutable_data_ptr<T>();
  const int64_t n = x.size(x.dim() - 2), d = x.size(x.dim() - 1), p = w.size(w.dim() - 1);
  const int64_t stride = n > 1 ? x.stride(x.dim() - 2) : d;
  const int64_t problems = product(batch), rows = rows_per_chunk(n, d), chunks = (n + rows - 1) / rows;
  const std::unique_ptr<double[]> partial(new double[problems * chunks * (2 * p + 1)]);

  for_each_task(problems * chunks, std::min(rows, n) * p, [&] {
    return [&, tile = std::vector<T>(2 * p)](int64_t task) mutable {
      const int64_t b = task / chunks, begin = task % chunks * rows;
      const Problem<T> at{Rows<T>(x_data + x_at[b], stride, d),
                          y_data + y_at[b],
                          t_data + t_at[b],
                          w_data + w_at[b],
                          c_data + b * n,
                          p,
                          loss,
                          width};
      run_chunk(at, begin, std::min(n, begin + rows), tile.data(), partial.get() + task * (2 * p + 1));
    };
  });
  finish<T>(partial.get(), problems, chunks, p, l2, w_data, w_at, out);
}

Shape with(Shape batch, int64_t size) {
  batch.push_back(size);
  return batch;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> glm_gradient_curvature(const Tensor& x_in, const Tensor& y_in,
                                                                  const Tensor& t_in, const Tensor& w_in, int64_t loss,
                                                                  double l2, double width, bool intercept) {
  for (const Tensor* other : {&y_in, &t_in, &w_in}) check_same_float(x_in, *other, "x, y, t and w");
  STD_TORCH_CHECK(kLogistic <= loss && loss <= kHuberisedHinge, "loss must be 0, 1 or 2, got ", loss);
  const Shape batch = broadcast(broadcast(batch_shape(x_in, 2), batch_shape(y_in, 1)),
                                broadcast(batch_shape(t_in, 1), batch_shape(w_in, 1)));
  const Tensor x = with_dense_rows(x_in), y = with_dense_rows(y_in), t = with_dense_rows(t_in),
               w = with_dense_rows(w_in);
  const int64_t n = x.size(x.dim() - 2), d = x.size(x.dim() - 1), p = w.size(w.dim() - 1);
  STD_TORCH_CHECK(y.size(y.dim() - 1) == n && t.size(t.dim() - 1) == n, "y has ", y.size(y.dim() - 1),
                  " entries and t ", t.size(t.dim() - 1), ", x has ", n, " rows");
  STD_TORCH_CHECK(p == d + intercept, "w has ", p, " entries, x has ", d, " columns",
                  intercept ? " and an intercept" : "");
  Outputs out{torch::stable::new_empty(w, batch), torch::stable::new_empty(w, with(batch, p)),
              torch::stable::new_empty(w, with(batch, n)), torch::stable::new_empty(w, with(batch, p))};
  if (product(batch) > 0) {
    if (x.scalar_type() == torch::headeronly::ScalarType::Float) {
      launch<float>(x, y, t, w, loss, l2, width, batch, out);
    } else {
      launch<double>(x, y, t, w, loss, l2, width, batch, out);
    }
  }
  return {out.objective, out.gradient, out.c, out.diagonal};
}

}  // namespace amu_fast::cpu
