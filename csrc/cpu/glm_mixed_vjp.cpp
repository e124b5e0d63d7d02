#include "cpu/glm_mixed_vjp.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "common/glm_losses.h"
#include "common/target_clones.h"
#include "common/tensors.h"
#include "cpu/glm_rows.h"

namespace amu_fast::cpu {
namespace {

// One problem: where its inputs lie and where its rows go.
template <typename T>
struct Problem {
  Rows<T> rows;
  const T* y;
  const T* t;
  const T* w;
  const T* u;
  T* out;
  int64_t p, loss;
  double width;
};

// out = along_u u + along_w w, d entries.
template <typename T>
AMU_FAST_INLINE void write_row(const Problem<T>& at, T along_u, T along_w, T* AMU_FAST_RESTRICT out) {
  constexpr int64_t L = kLanes<T>;
  const int64_t d = at.rows.d;
  const T* AMU_FAST_RESTRICT u = at.u;
  const T* AMU_FAST_RESTRICT w = at.w;
  int64_t j = 0;
  for (; j + L <= d; j += L) at_vector(out + j) = load(u + j) * along_u + load(w + j) * along_w;
  for (; j < d; ++j) out[j] = along_u * u[j] + along_w * w[j];
}

// `count` <= kLossLanes rows from `row` on, R at a time.
template <typename T, int R>
AMU_FAST_INLINE void block(const Problem<T>& at, int64_t row, int count) {
  const int64_t d = at.rows.d;
  const T* const vectors[2] = {at.w, at.u};
  Doubles m = {};
  double along[kLossLanes];
  for (int first = 0; first < count; first += R) {
    Ahead ahead = Ahead::of(at.rows, row + first);
    double z[2][R];
    for (int i = 0; i < 2; ++i) {
      for (int k = 0; k < R; ++k) z[i][k] = at.p > d ? static_cast<double>(vectors[i][d]) : 0.0;
    }
    dot_block<T, R, 2>(at.rows, at.rows.x + (row + first) * at.rows.stride, vectors, z, ahead);
    for (int k = 0; k < R; ++k) {
      m[first + k] = at.y[row + first + k] * z[0][k];
      along[first + k] = z[1][k];
    }
  }
  Doubles value, slope, curvature;
  losses(at.loss, at.width, m, value, slope, curvature);
  for (int k = 0; k < count; ++k) {
    const double weight = -static_cast<double>(at.t[row + k]);
    write_row(at, static_cast<T>(weight * at.y[row + k] * slope[k]), static_cast<T>(weight * curvature[k] * along[k]),
              at.out + (row + k) * d);
  }
}

template <typename T>
AMU_FAST_INLINE void chunk(const Problem<T>& at, int64_t begin, int64_t end) {
  int64_t row = begin;
  for (; row + kLossLanes <= end; row += kLossLanes) block<T, kRows>(at, row, kLossLanes);
  if (row < end) block<T, 1>(at, row, static_cast<int>(end - row));
}

AMU_FAST_TARGET_CLONES
void run_chunk(const Problem<float>& at, int64_t begin, int64_t end) { chunk<float>(at, begin, end); }

AMU_FAST_TARGET_CLONES
void run_chunk(const Problem<double>& at, int64_t begin, int64_t end) { chunk<double>(at, begin, end); }

template <typename T>
void launch(const Tensor& x, const Tensor& y, const Tensor& t, const Tensor& w, const Tensor& u, int64_t loss,
            double width, const Shape& batch, Tensor& out) {
  const auto x_at = batch_offsets(x, 2, batch), y_at = batch_offsets(y, 1, batch), t_at = batch_offsets(t, 1, batch),
             w_at = batch_offsets(w, 1, batch), u_at = batch_offsets(u, 1, batch);
  const T* x_data = x.const_data_ptr<T>();
  const T* y_data = y.const_data_ptr<T>();
  const T* t_data = t.const_data_ptr<T>();
  const T* w_data = w.const_data_ptr<T>();
  const T* u_data = u.const_data_ptr<T>();
  T* out_data = out.mutable_data_ptr<T>();
  const int64_t n = x.size(x.dim() - 2), d = x.size(x.dim() - 1), p = w.size(w.dim() - 1);
  const int64_t stride = n > 1 ? x.stride(x.dim() - 2) : d;
  const int64_t problems = product(batch), rows = rows_per_chunk(n, d), chunks = (n + rows - 1) / rows;

  for_each_task(problems * chunks, std::min(rows, n) * p, [&] {
    return [&](int64_t task) {
      const int64_t b = task / chunks, begin = task % chunks * rows;
      const Problem<T> at{Rows<T>(x_data + x_at[b], stride, d),
                          y_data + y_at[b],
                          t_data + t_at[b],
                          w_data + w_at[b],
                          u_data + u_at[b],
                          out_data + b * n * d,
                          p,
                          loss,
                          width};
      run_chunk(at, begin, std::min(n, begin + rows));
    };
  });
}

}  // namespace

Tensor glm_mixed_vjp(const Tensor& x_in, const Tensor& y_in, const Tensor& t_in, const Tensor& w_in, const Tensor& u_in,
                     int64_t loss, double width, bool intercept) {
  for (const Tensor* other : {&y_in, &t_in, &w_in, &u_in}) check_same_float(x_in, *other, "x, y, t, w and u");
  STD_TORCH_CHECK(kLogistic <= loss && loss <= kHuberisedHinge, "loss must be 0, 1 or 2, got ", loss);
  const Shape of_rows = broadcast(batch_shape(y_in, 1), batch_shape(t_in, 1));
  const Shape of_vectors = broadcast(batch_shape(w_in, 1), batch_shape(u_in, 1));
  const Shape batch = broadcast(batch_shape(x_in, 2), broadcast(of_rows, of_vectors));
  const Tensor x = with_dense_rows(x_in), y = with_dense_rows(y_in), t = with_dense_rows(t_in),
               w = with_dense_rows(w_in), u = with_dense_rows(u_in);
  const int64_t n = x.size(x.dim() - 2), d = x.size(x.dim() - 1), p = w.size(w.dim() - 1);
  STD_TORCH_CHECK(y.size(y.dim() - 1) == n && t.size(t.dim() - 1) == n, "y has ", y.size(y.dim() - 1),
                  " entries and t ", t.size(t.dim() - 1), ", x has ", n, " rows");
  STD_TORCH_CHECK(p == d + intercept && u.size(u.dim() - 1) == p, "w has ", p, " entries and u ", u.size(u.dim() - 1),
                  ", x has ", d, " columns", intercept ? " and an intercept" : "");
  Shape shape = batch;
  shape.push_back(n);
  shape.push_back(d);
  Tensor out = torch::stable::new_empty(x, shape);
  if (out.numel() == 0) return out;
  if (x.scalar_type() == torch::headeronly::ScalarType::Float) {
    launch<float>(x, y, t, w, u, loss, width, batch, out);
  } else {
    launch<double>(x, y, t, w, u, loss, width, batch, out);
  }
  return out;
}

}  // namespace amu_fast::cpu
