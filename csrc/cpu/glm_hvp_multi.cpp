#include "cpu/glm_hvp_multi.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/tensors.h"
#include "cpu/glm_hvp_columns.h"
#include "cpu/glm_hvp_rows.h"
#include "cpu/glm_rows.h"

namespace amu_fast::cpu {
namespace {

constexpr int64_t kVectorBytes = 1 << 19;  // of V and Y that stay in L2 beside a block of rows
constexpr int64_t kRowsPerColumn = 16;     // rows per chunk and right-hand side: keeps partial sums below 1/4 of x

// Columns [first, first + k) of V in one pass over x.
struct Pass {
  int64_t n, d, p, first, k;
  int64_t kp;  // k for few columns, else padded to whole registers

  bool few() const { return k <= kFew; }
  // Where entry (j, i) of row j and column i lies among `count` rows of V or Y.
  int64_t row_step() const { return few() ? 1 : kp; }
  int64_t column_step(int64_t count) const { return few() ? count : 1; }
};

template <typename T>
int64_t padded(int64_t k) {
  return k <= kFew ? k : (k + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <typename T>
int64_t columns_per_pass(int64_t p) {
  constexpr int64_t kPair = 2 * kLanes<T>;
  return std::max(kPair,
                  kVectorBytes / (2 * std::max<int64_t>(p, 1) * static_cast<int64_t>(sizeof(T))) / kPair * kPair);
}

// Where a problem's columns begin and how far apart their rows are.
template <typename T>
struct Columns {
  const T* at;
  int64_t row, column;
};

// V of one pass, padded with zeros.
template <typename T>
void pack(const Columns<T>& v, const Pass& pass, T* packed) {
  const int64_t row_step = pass.row_step(), column_step = pass.column_step(pass.p);
  for (int64_t j = 0; j < pass.p; ++j) {
    for (int64_t i = 0; i < pass.kp; ++i) {
      packed[j * row_step + i * column_step] = i < pass.k ? v.at[j * v.row + i * v.column] : T(0);
    }
  }
}

// What one thread keeps.
template <typename T>
struct Workspace {
  std::vector<T> packed, tile, z;
  std::vector<double> intercept;
  int64_t packed_of = -1;

  explicit Workspace(const Pass& pass)
      : packed(pass.p * pass.kp), tile(pass.p * pass.kp), z(kMaxBlock * pass.kp), intercept(pass.kp) {}
};

template <typename T>
void run(const Rows<T>& rows, const Columns<T>& c, const Pass& pass, int64_t begin, int64_t end, Workspace<T>& own,
         double* partial) {
  if (pass.few()) {
    const FewProducts<T> at{rows, c.at, c.row, c.column, own.packed.data(), pass.p, pass.k};
    few_products(at, begin, end, own.tile.data(), partial);
  } else {
    const ManyProducts<T> at{rows, c.at, c.row, c.column, own.packed.data(), pass.p, pass.k, pass.kp};
    many_products(at, begin, end, Scratch<T>{own.z.data(), own.tile.data(), own.intercept.data()}, partial);
  }
}

// The pass's columns of one problem's y (p, *) from its partial sums and l2 v, rows [first, last).
template <typename T>
void finish(const double* partial, int64_t chunks, const Pass& pass, int64_t first, int64_t last, double l2,
            const Columns<T>& v, T* y, int64_t y_row, double* sum) {
  const int64_t count = last - first, size = pass.p * pass.kp;
  std::fill(sum, sum + count * pass.kp, 0.0);
  if (pass.few()) {
    for (int64_t i = 0; i < pass.k; ++i) {
      add_partials(partial + i * pass.p + first, chunks, size, count, sum + i * count);
    }
  } else {
    add_partials(partial + first * pass.kp, chunks, size, count * pass.kp, sum);
  }
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t i = 0; i < pass.k; ++i) {
      const double regular = l2 * static_cast<double>(v.at[(first + j) * v.row + i * v.column]);
      y[(first + j) * y_row + i] = static_cast<T>(sum[j * pass.row_step() + i * pass.column_step(count)] + regular);
    }
  }
}

template <typename T>
void launch(const Tensor& x, const Tensor& c, const Tensor& v, double l2, const Pass& pass, const Shape& batch,
            Tensor& y) {
  const auto x_at = batch_offsets(x, 2, batch), c_at = batch_offsets(c, 2, batch), v_at = batch_offsets(v, 2, batch);
  const T* x_data = x.const_data_ptr<T>();
  const T* c_data = c.const_data_ptr<T>();
  const T* v_data = v.const_data_ptr<T>();
  T* y_data = y.mutable_data_ptr<T>();
  const int64_t n = pass.n, d = pass.d, size = pass.p * pass.kp, all = v.size(v.dim() - 1);
  const int64_t stride = n > 1 ? x.stride(x.dim() - 2) : d;
  const int64_t c_column = c.size(c.dim() - 1) == 1 ? 0 : 1;
  const int64_t problems = product(batch);
  const int64_t rows = rows_per_chunk(n, d, std::max(kMinChunkRows, kRowsPerColumn * pass.kp));
  const int64_t chunks = (n + rows - 1) / rows;
  const std::unique_ptr<double[]> partial(new double[problems * chunks * size]);
  const auto vectors = [&](int64_t b) { return Columns<T>{v_data + v_at[b] + pass.first, v.stride(v.dim() - 2), 1}; };

  for_each_task(problems * chunks, std::min(rows, n) * pass.p * pass.k, [&] {
    return [&, own = Workspace<T>(pass)](int64_t task) mutable {
      const int64_t b = task / chunks, begin = task % chunks * rows;
      if (b != own.packed_of) pack(vectors(b), pass, own.packed.data());
      own.packed_of = b;
      const Columns<T> weights{c_data + c_at[b] + pass.first * c_column, c.stride(c.dim() - 2), c_column};
      run(Rows<T>(x_data + x_at[b], stride, d), weights, pass, begin, std::min(n, begin + rows), own,
          partial.get() + task * size);
    };
  });

  const int64_t width = std::max<int64_t>(1, kSumWidth / pass.kp), pieces = (pass.p + width - 1) / width;
  for_each_task(problems * pieces, width * pass.kp * chunks, [&] {
    return [&, sum = std::vector<double>(width * pass.kp)](int64_t task) mutable {
      const int64_t b = task / pieces, first = task % pieces * width;
      finish(partial.get() + b * chunks * size, chunks, pass, first, std::min(pass.p, first + width), l2, vectors(b),
             y_data + b * pass.p * all + pass.first, all, sum.data());
    };
  });
}

// All columns, as many in one pass over x as keep their vectors in cache.
template <typename T>
void passes(const Tensor& x, const Tensor& c, const Tensor& v, double l2, const Shape& batch, Tensor& y) {
  const int64_t p = v.size(v.dim() - 2), all = v.size(v.dim() - 1), most = columns_per_pass<T>(p);
  for (int64_t first = 0; first < all; first += most) {
    const int64_t k = std::min(most, all - first);
    const Pass pass{x.size(x.dim() - 2), x.size(x.dim() - 1), p, first, k, padded<T>(k)};
    launch<T>(x, c, v, l2, pass, batch, y);
  }
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
    passes<float>(x, c, v, l2, batch, y);
  } else {
    passes<double>(x, c, v, l2, batch, y);
  }
  return y;
}

}  // namespace amu_fast::cpu
