#include "cpu/spd_solve.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

#include "common/target_clones.h"
#include "common/tensors.h"
#include "cpu/spd_lanes.h"
#include "cpu/spd_pack.h"

namespace amu_fast::cpu {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kMinTask = 1 << 14;  // multiply-adds of vectors that are worth a task of their own

typedef double Wide __attribute__((vector_size(kBytes)));
typedef float Narrow __attribute__((vector_size(kBytes / 2)));

// Two vectors of double per vector of float.
struct Pair {
  Wide low, high;
};

AMU_FAST_INLINE Pair widened(const Lanes<float>::Vector* from) {
  Narrow half[2];
  std::memcpy(half, from, sizeof(half));
  return {__builtin_convertvector(half[0], Wide), __builtin_convertvector(half[1], Wide)};
}

AMU_FAST_INLINE void narrow(const Pair& from, Lanes<float>::Vector* to) {
  const Narrow half[2] = {__builtin_convertvector(from.low, Narrow), __builtin_convertvector(from.high, Narrow)};
  std::memcpy(to, half, sizeof(half));
}

// residual -= A u in double, A packed anew panel by panel into `panel`.
AMU_FAST_INLINE void subtract_product(const Sources<float>& from, const Pair* u, Lanes<float>::Vector* panel,
                                      Pair* residual) {
  for (int64_t block = 0; block * kBlock < from.p; ++block) {
    pack_panel<float>(from, block, panel);
    const int64_t i = block * kBlock;
    Pair own[kBlock], rows[kBlock];
#pragma GCC unroll 4
    for (int64_t r = 0; r < kBlock; ++r) own[r] = u[i + r], rows[r] = residual[i + r];
    for (int64_t k = 0; k < i; ++k) {
      Pair column = residual[k];
#pragma GCC unroll 4
      for (int64_t r = 0; r < kBlock; ++r) {
        const Pair a = widened(&panel[k * kBlock + r]);
        column.low -= a.low * own[r].low, column.high -= a.high * own[r].high;
        rows[r].low -= a.low * u[k].low, rows[r].high -= a.high * u[k].high;
      }
      residual[k] = column;
    }
#pragma GCC unroll 4
    for (int64_t c = 0; c < kBlock; ++c) {
#pragma GCC unroll 4
      for (int64_t r = c; r < kBlock; ++r) {
        const Pair a = widened(&panel[(i + c) * kBlock + r]);
        rows[r].low -= a.low * own[c].low, rows[r].high -= a.high * own[c].high;
        if (r > c) rows[c].low -= a.low * own[r].low, rows[c].high -= a.high * own[r].high;
      }
    }
#pragma GCC unroll 4
    for (int64_t r = 0; r < kBlock; ++r) residual[i + r] = rows[r];
  }
}

// The buffers of one tile of problems.
template <typename T>
struct Workspace {
  using Vector = typename Lanes<T>::Vector;
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(Vector* at) const { ::operator delete[](at, kAlign); }
  };
  std::unique_ptr<Vector[], Free> memory;
  typename Lanes<T>::Mask info;
  Factor<T> factor;
  Vector* rest;  // 4 p vectors: in float, u and the residual in double

  explicit Workspace(int64_t p) {
    const int64_t q = padded(p), panels = panel_offset(q / kBlock);
    memory.reset(static_cast<Vector*>(::operator new[]((panels + (kBlock + 6) * q) * sizeof(Vector), kAlign)));
    Vector* at = memory.get() + panels;
    factor = {memory.get(), at, at + kBlock * q, at + (kBlock + 1) * q, &info};
    rest = at + (kBlock + 2) * q;
  }
};

AMU_FAST_TARGET_CLONES
void solve_tile(const Sources<double>& from, Workspace<double>& work) {
  factor<double>(from, work.factor);
  backward<double>(from.p, work.factor);
}

// u = A^-1 b in float, then u += A^-1 (b - A u) with u and the residual in double.
AMU_FAST_TARGET_CLONES
void solve_tile(const Sources<float>& from, Workspace<float>& work) {
  const int64_t q = padded(from.p);
  Pair* u = reinterpret_cast<Pair*>(work.rest);
  Pair* residual = u + q;
  const Factor<float>& f = work.factor;
  for (int64_t i = 0; i < q; ++i) residual[i] = widened(&f.y[i]);
  factor<float>(from, f);
  backward<float>(from.p, f);
  for (int64_t i = 0; i < q; ++i) u[i] = widened(&f.y[i]);
  subtract_product(from, u, f.row, residual);
  for (int64_t i = 0; i < q; ++i) narrow(residual[i], &f.y[i]);
  forward<float>(from.p, f);
  backward<float>(from.p, f);
  for (int64_t i = 0; i < q; ++i) {
    const Pair step = widened(&f.y[i]);
    narrow({u[i].low + step.low, u[i].high + step.high}, &f.y[i]);
  }
}

template <typename T>
void launch(const Tensor& matrix, const Tensor& rhs, const Shape& batch, Tensor& solution, Tensor& info) {
  constexpr int64_t kCount = Lanes<T>::kCount;
  const auto matrix_at = batch_offsets(matrix, 2, batch), rhs_at = batch_offsets(rhs, 1, batch);
  const T* a = matrix.const_data_ptr<T>();
  const T* b = rhs.const_data_ptr<T>();
  T* u = solution.mutable_data_ptr<T>();
  int32_t* failed = info.mutable_data_ptr<int32_t>();
  const int64_t p = rhs.size(rhs.dim() - 1), problems = product(batch), tiles = (problems + kCount - 1) / kCount;
  const int64_t work = p * (p + 8) * (p + 8) / 6 + 1;
  torch::stable::parallel_for(0, tiles, std::max<int64_t>(1, kMinTask / work), [&](int64_t begin, int64_t end) {
    Workspace<T> space(p);
    T* y = reinterpret_cast<T*>(space.factor.y);
    Sources<T> from{{}, matrix.stride(matrix.dim() - 2), p};
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * kCount, count = std::min(kCount, problems - first);
      space.info = typename Lanes<T>::Mask{};
      std::fill(y + p * kCount, y + padded(p) * kCount, T(0));
      for (int64_t lane = 0; lane < kCount; ++lane) {
        // Lanes beyond the last problem repeat it.
        const int64_t problem = first + std::min(lane, count - 1);
        from.matrix[lane] = a + matrix_at[problem];
        for (int64_t i = 0; i < p; ++i) y[i * kCount + lane] = b[rhs_at[problem] + i];
      }
      solve_tile(from, space);
      for (int64_t lane = 0; lane < count; ++lane) {
        const int32_t order = static_cast<int32_t>(space.info[lane]);
        failed[first + lane] = order;
        T* out = u + (first + lane) * p;
        for (int64_t i = 0; i < p; ++i) out[i] = order ? std::numeric_limits<T>::quiet_NaN() : y[i * kCount + lane];
      }
    }
  });
}

}  // namespace

std::tuple<Tensor, Tensor> spd_solve(const Tensor& matrix_in, const Tensor& rhs_in) {
  check_same_float(matrix_in, rhs_in, "matrix and rhs");
  const Shape batch = broadcast(batch_shape(matrix_in, 2), batch_shape(rhs_in, 1));
  const Tensor matrix = with_dense_rows(matrix_in), rhs = with_dense_rows(rhs_in);
  const int64_t p = rhs.size(rhs.dim() - 1);
  STD_TORCH_CHECK(matrix.size(matrix.dim() - 1) == p && matrix.size(matrix.dim() - 2) == p,
                  "matrix must be square with ", p, " rows, one per entry of rhs");
  Shape out = batch;
  out.push_back(p);
  Tensor solution = torch::stable::new_empty(rhs, out);
  Tensor info = torch::stable::new_zeros(rhs, batch, ScalarType::Int);
  if (solution.numel() == 0) return {solution, info};
  if (rhs.scalar_type() == ScalarType::Float) {
    launch<float>(matrix, rhs, batch, solution, info);
  } else {
    launch<double>(matrix, rhs, batch, solution, info);
  }
  return {solution, info};
}

}  // namespace amu_fast::cpu
