#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>

#include <vector>

#include "common/hvp_plan.h"
#include "common/tensors.h"
#include "cuda/glm_hvp_large.cuh"
#include "cuda/glm_hvp_large.h"
#include "cuda/launch.h"

namespace amu_fast::cuda {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::ScalarType;

// (lines, p) of partial sums of v's type.
template <typename R>
Tensor lines(const Tensor& v, int64_t count, int64_t p) {
  return torch::stable::new_empty(v, Shape{count, p});
}

template <typename R>
void finish(const OnDeviceOf& device, const R* partial, int64_t tiles, const R* v, double l2, int64_t p, R* y) {
  const Launch launch(device, dim3(static_cast<unsigned>(hvp::ceil_div(p, 32))), 32 * kFinishLanes,
                      32 * kFinishLanes * sizeof(double));
  launch(hvp_finish<R>, partial, tiles, v, l2, p, y);
}

template <typename T, int kColumns>
void run_clusters(const OnDeviceOf& device, const WideProblem<T, float>& in, const hvp::ClusterPlan& plan,
                  const Tensor& v, double l2, float* y) {
  const auto kernel = hvp_cluster<T, kColumns>;
  const auto grid = [&](int64_t clusters) { return dim3(static_cast<unsigned>(clusters * plan.blocks)); };
  // Without clusters one block fills a multiprocessor's shared memory.
  int64_t slots = device.multiprocessors();
  if (plan.blocks > 1) {
    slots = Launch(device, grid(1), hvp::kThreads, plan.shared_bytes, plan.blocks).clusters(kernel);
  }
  const hvp::RowPlan rows = hvp::row_plan(in.n, slots, hvp::stage_rows(kColumns, sizeof(T)));
  Tensor partial = lines<float>(v, rows.tiles, in.p);
  float* const sums = partial.mutable_data_ptr<float>();
  const Launch launch(device, grid(rows.clusters), hvp::kThreads, plan.shared_bytes, plan.blocks);
  launch(kernel, in, plan, rows, sums);
  finish(device, sums, rows.tiles, in.v, l2, in.p, y);
}

template <typename T, typename R>
void run_chunks(const OnDeviceOf& device, const WideProblem<T, R>& in, const Tensor& v, double l2, R* y) {
  const hvp::ChunkPlan plan = hvp::chunk_plan(in.n, in.d, sizeof(T));
  Tensor partial = lines<R>(v, hvp::chunk_tiles(in.n, plan), in.p);
  Tensor products = torch::stable::new_empty(v, Shape{plan.rows, plan.parts}, ScalarType::Double);
  R* sums = partial.mutable_data_ptr<R>();
  double* const z = products.mutable_data_ptr<double>();
  int64_t tiles = 0;
  for (int64_t first = 0; first < in.n; first += plan.rows) {
    const int64_t rows = std::min(plan.rows, in.n - first), here = hvp::ceil_div(rows, plan.tile_rows);
    const dim3 by_row(static_cast<unsigned>(rows), static_cast<unsigned>(plan.parts));
    const dim3 by_column(static_cast<unsigned>(plan.column_tiles), static_cast<unsigned>(here));
    const int64_t warp_sums = hvp::kChunkThreads / 32 * sizeof(double);
    Launch(device, by_row, hvp::kChunkThreads, warp_sums)(hvp_chunk_rows<T, R>, in, first, plan.parts, z);
    Launch(device, by_column, hvp::kChunkThreads, plan.tile_rows * sizeof(R))(
        hvp_chunk_columns<T, R>, in, first, first + rows, plan, z, sums + tiles * in.p);
    tiles += here;
  }
  finish<R>(device, sums, tiles, in.v, l2, in.p, y);
}

bool whole_vectors(const void* x, int64_t stride, int64_t element) {
  return reinterpret_cast<uintptr_t>(x) % hvp::kVectorBytes == 0 && stride * element % hvp::kVectorBytes == 0;
}

template <typename T, typename R>
void run(const OnDeviceOf& device, const WideProblem<T, R>& in, const Tensor& v, double l2, R* y) {
  if constexpr (sizeof(T) <= 4) {
    const int64_t blocks = device.has_clusters() ? hvp::kMaxBlocks : 1;
    const hvp::ClusterPlan plan = hvp::cluster_plan(in.d, sizeof(T), blocks, device.shared_limit());
    if (plan.columns > 0 && in.n > 0 && whole_vectors(in.x, in.stride, sizeof(T))) {
      plan.columns == 16 ? run_clusters<T, 16>(device, in, plan, v, l2, y)
                         : run_clusters<T, 32>(device, in, plan, v, l2, y);
      return;
    }
  }
  run_chunks<T, R>(device, in, v, l2, y);
}

template <typename T, typename R>
void launch(const Tensor& x, const Tensor& c, const Tensor& v, double l2, const Shape& batch, Tensor& y) {
  const OnDeviceOf device(x);
  const auto x_at = batch_offsets(x, 2, batch), c_at = batch_offsets(c, 1, batch), v_at = batch_offsets(v, 1, batch);
  const int64_t n = x.size(x.dim() - 2), d = x.size(x.dim() - 1), p = v.size(v.dim() - 1);
  const T* const x_data = static_cast<const T*>(x.const_data_ptr());
  // One problem fills the device: they run one after the other.
  for (size_t b = 0; b < x_at.size(); ++b) {
    const WideProblem<T, R> in{x_data + x_at[b],
                               x.stride(x.dim() - 2),
                               c.const_data_ptr<R>() + c_at[b],
                               v.const_data_ptr<R>() + v_at[b],
                               n,
                               d,
                               p};
    run<T, R>(device, in, v, l2, y.mutable_data_ptr<R>() + static_cast<int64_t>(b) * p);
  }
}

}  // namespace

Tensor glm_hvp_large(const Tensor& x_in, const Tensor& c_in, const Tensor& v_in, double l2, bool intercept) {
  const ScalarType type = x_in.scalar_type();
  const bool bfloat16 = type == ScalarType::BFloat16;
  check_same_float(c_in, v_in, "c and v");
  STD_TORCH_CHECK(v_in.scalar_type() == (bfloat16 ? ScalarType::Float : type),
                  "c and v must be float32 for x of bfloat16, else of the type of x; convert the tensors first");
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
  if (bfloat16) {
    launch<BFloat16, float>(x, c, v, l2, batch, y);
  } else if (type == ScalarType::Float) {
    launch<float, float>(x, c, v, l2, batch, y);
  } else {
    launch<double, double>(x, c, v, l2, batch, y);
  }
  return y;
}

}  // namespace amu_fast::cuda
