#include "cpu/glm_hvp.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/tensors.h"
#include "cpu/glm_hvp_rows.h"
#include "cpu/glm_rows.h"

namespace amu_fast::cpu {
namespace {

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
      const FewProducts<T> at{Rows<T>(x_data + x_at[b], stride, d), c_data + c_at[b], 1, 0, v_data + v_at[b], p, 1};
      few_products(at, begin, std::min(n, begin + rows), tile.data(), partial.get() + task * p);
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
