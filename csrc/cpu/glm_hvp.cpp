#include "cpu/glm_hvp.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/target_clones.h"
#include "common/tensors.h"

namespace amu_fast::cpu {
namespace {

constexpr int64_t kRows = 4;            // rows whose products share one load of v and one update of y
constexpr int64_t kColumns = 1024;      // columns summed in the element's own precision before widening
constexpr int64_t kTile = 128;          // rows summed in the element's own precision before widening
constexpr int64_t kMinChunkRows = 32;   // keeps the chunks' partial sums below 1/16 of the bytes of x
constexpr int64_t kMinChunk = 1 << 16;  // elements of x that are worth a task of their own
constexpr int64_t kMaxChunks = 64;      // chunks per problem: fixed, whatever the number of threads

// Where one problem lies; x has dense rows.
template <typename T>
struct Problem {
  const T* x;
  int64_t row_stride;
  const T* c;
  const T* v;
};

struct Sizes {
  int64_t n, d, p;
  bool intercept;
};

// z[k] = <row k, v> for R rows; lanes of 64 bytes within a block of columns, double across blocks.
template <typename T, int R>
AMU_FAST_INLINE void dot_rows(const T* AMU_FAST_RESTRICT x, int64_t stride, const T* AMU_FAST_RESTRICT v, int64_t d,
                              double* z) {
  constexpr int64_t kLanes = 64 / sizeof(T);
  for (int64_t begin = 0; begin < d; begin += kColumns) {
    const int64_t end = std::min(d, begin + kColumns);
    T lanes[R][kLanes] = {};
    int64_t j = begin;
    for (; j + kLanes <= end; j += kLanes) {
      for (int k = 0; k < R; ++k) {
        for (int64_t lane = 0; lane < kLanes; ++lane) lanes[k][lane] += x[k * stride + j + lane] * v[j + lane];
      }
    }
    for (int k = 0; k < R; ++k) {
      for (int64_t i = j; i < end; ++i) z[k] += static_cast<double>(x[k * stride + i]) * v[i];
      for (int64_t lane = 0; lane < kLanes; ++lane) z[k] += lanes[k][lane];
    }
  }
}

// One block of R rows: z = X~ v, r = c o z, y += X~^T r while the rows are still in cache.
template <typename T, int R>
AMU_FAST_INLINE void block(const Problem<T>& at, const Sizes& size, int64_t row, T* AMU_FAST_RESTRICT y) {
  const T* AMU_FAST_RESTRICT x = at.x + row * at.row_stride;
  double z[R];
  for (int k = 0; k < R; ++k) z[k] = size.intercept ? static_cast<double>(at.v[size.d]) : 0.0;
  dot_rows<T, R>(x, at.row_stride, at.v, size.d, z);
  T r[R];
  for (int k = 0; k < R; ++k) r[k] = static_cast<T>(at.c[row + k] * z[k]);
  for (int64_t j = 0; j < size.d; ++j) {
    T sum = y[j];
    for (int k = 0; k < R; ++k) sum += r[k] * x[k * at.row_stride + j];
    y[j] = sum;
  }
  if (size.intercept) {
    for (int k = 0; k < R; ++k) y[size.d] += r[k];
  }
}

// Rows [begin, end) of one problem into `partial` (p), by way of `tile` (p) in the element's own precision.
template <typename T>
AMU_FAST_INLINE void chunk(const Problem<T>& at, const Sizes& size, int64_t begin, int64_t end,
                           T* AMU_FAST_RESTRICT tile, double* AMU_FAST_RESTRICT partial) {
  std::fill(partial, partial + size.p, 0.0);
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t last = std::min(end, first + kTile);
    std::fill(tile, tile + size.p, T(0));
    int64_t row = first;
    for (; row + kRows <= last; row += kRows) block<T, kRows>(at, size, row, tile);
    for (; row < last; ++row) block<T, 1>(at, size, row, tile);
    for (int64_t j = 0; j < size.p; ++j) partial[j] += tile[j];
  }
}

AMU_FAST_TARGET_CLONES
void run_chunk(const Problem<float>& at, const Sizes& size, int64_t begin, int64_t end, float* tile, double* partial) {
  chunk<float>(at, size, begin, end, tile, partial);
}

AMU_FAST_TARGET_CLONES
void run_chunk(const Problem<double>& at, const Sizes& size, int64_t begin, int64_t end, double* tile,
               double* partial) {
  chunk<double>(at, size, begin, end, tile, partial);
}

// A function of the sizes alone, so that the order of the sums never depends on the machine.
int64_t rows_per_chunk(const Sizes& size) {
  const int64_t worth = kMinChunk / std::max<int64_t>(size.d, 1);
  const int64_t fit = (size.n + kMaxChunks - 1) / kMaxChunks;
  const int64_t rows = std::max({kMinChunkRows, worth, fit});
  return (rows + kRows - 1) / kRows * kRows;
}

// y (batch, p) contiguous, from the strided inputs at the given offsets.
template <typename T>
void launch(const Tensor& x, const Tensor& c, const Tensor& v, double l2, const Sizes& size, const Shape& batch,
            Tensor& y) {
  const auto x_at = batch_offsets(x, 2, batch), c_at = batch_offsets(c, 1, batch), v_at = batch_offsets(v, 1, batch);
  const T* x_data = x.const_data_ptr<T>();
  const T* c_data = c.const_data_ptr<T>();
  const T* v_data = v.const_data_ptr<T>();
  T* y_data = y.mutable_data_ptr<T>();
  const int64_t stride = x.stride(x.dim() - 2);
  const int64_t problems = product(batch), rows = rows_per_chunk(size), chunks = (size.n + rows - 1) / rows;
  const std::unique_ptr<double[]> partial(new double[problems * chunks * size.p]);

  const int64_t work = std::max<int64_t>(1, std::min(rows, size.n) * size.p);
  torch::stable::parallel_for(
      0, problems * chunks, std::max<int64_t>(1, kMinChunk / work), [&](int64_t first, int64_t last) {
        std::vector<T> tile(size.p);
        for (int64_t task = first; task < last; ++task) {
          const int64_t b = task / chunks, begin = task % chunks * rows;
          const Problem<T> at{x_data + x_at[b], stride, c_data + c_at[b], v_data + v_at[b]};
          run_chunk(at, size, begin, std::min(size.n, begin + rows), tile.data(), partial.get() + task * size.p);
        }
      });

  torch::stable::parallel_for(0, problems * size.p, kMinChunk / (chunks + 1) + 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / size.p, j = i % size.p;
      double sum = l2 * static_cast<double>(v_data[v_at[b] + j]);
      for (int64_t k = 0; k < chunks; ++k) sum += partial[(b * chunks + k) * size.p + j];
      y_data[i] = static_cast<T>(sum);
    }
  });
}

}  // namespace

Tensor glm_hvp(const Tensor& x_in, const Tensor& c_in, const Tensor& v_in, double l2, bool intercept) {
  check_same_float(x_in, c_in, "x and c");
  check_same_float(x_in, v_in, "x and v");
  const Shape batch = broadcast(broadcast(batch_shape(x_in, 2), batch_shape(c_in, 1)), batch_shape(v_in, 1));
  const Tensor x = with_dense_rows(x_in), c = with_dense_rows(c_in), v = with_dense_rows(v_in);
  const Sizes size{x.size(x.dim() - 2), x.size(x.dim() - 1), v.size(v.dim() - 1), intercept};
  STD_TORCH_CHECK(c.size(c.dim() - 1) == size.n, "c has ", c.size(c.dim() - 1), " entries, x has ", size.n, " rows");
  STD_TORCH_CHECK(size.p == size.d + intercept, "v has ", size.p, " entries, x has ", size.d, " columns",
                  intercept ? " and an intercept" : "");
  Shape out = batch;
  out.push_back(size.p);
  Tensor y = torch::stable::new_empty(v, out);
  if (y.numel() == 0) return y;
  if (x.scalar_type() == torch::headeronly::ScalarType::Float) {
    launch<float>(x, c, v, l2, size, batch, y);
  } else {
    launch<double>(x, c, v, l2, size, batch, y);
  }
  return y;
}

}  // namespace amu_fast::cpu
