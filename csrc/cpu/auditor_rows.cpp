#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/auditor/launch.h"
#include "common/target_clones.h"
#include "common/tensors.h"
#include "cpu/auditor_step.h"

namespace amu_fast::cpu {
namespace {

using auditor::Factors;
using auditor::kCoefficients;
using torch::headeronly::ScalarType;

constexpr int64_t kMinChunk = 1 << 15;  // doubles read or written that are worth a thread of their own

// sum += x a + y b, elementwise in v of d numbers each.
AMU_FAST_TARGET_CLONES
void add_pair(double a, const double* AMU_FAST_RESTRICT x, double b, const double* AMU_FAST_RESTRICT y, int64_t d,
              double* AMU_FAST_RESTRICT sum) {
  for (int64_t j = 0; j < d; ++j) sum[j] += a * x[j] + b * y[j];
}

template <typename T>
AMU_FAST_INLINE void moments(double t, const T* AMU_FAST_RESTRICT s, const double* AMU_FAST_RESTRICT a,
                             const double* AMU_FAST_RESTRICT b, const double* AMU_FAST_RESTRICT mean, int64_t d,
                             double* AMU_FAST_RESTRICT sum) {
  for (int64_t j = 0; j < d; ++j) sum[j] += t * (a[j] + (static_cast<double>(s[j]) - mean[j]) * b[j]);
}

AMU_FAST_TARGET_CLONES
void add_moments(double t, const float* s, const double* vectors, int64_t d, double* sum) {
  moments<float>(t, s, vectors + 2 * d, vectors + 3 * d, vectors + 4 * d, d, sum);
}

AMU_FAST_TARGET_CLONES
void add_moments(double t, const double* s, const double* vectors, int64_t d, double* sum) {
  moments<double>(t, s, vectors + 2 * d, vectors + 3 * d, vectors + 4 * d, d, sum);
}

template <typename T>
void write_row(const Factors& f, int64_t i, const T* scores, double* sum, T* out) {
  std::fill(sum, sum + f.d, 0.0);
  const int64_t g = f.group[i];
  for (int64_t k = 0; g >= 0 && k < f.folds; ++k) {
    const double weight = f.cotangents[k * f.groups + g];
    const double* row = f.coefficients + (k * f.rows + i) * kCoefficients;
    // A problem that the caller left out must not spread its NaN, nor a row that is in none.
    if (weight == 0 || (row[0] == 0 && row[1] == 0 && row[2] == 0)) continue;
    const double* vectors = f.directions + (k * f.groups + g) * f.count * f.d;
    add_pair(weight * row[0], vectors, weight * row[1], vectors + f.d, f.d, sum);
    if (f.count > 2 && row[2] != 0) add_moments(weight * row[2], scores, vectors, f.d, sum);
  }
  for (int64_t j = 0; j < f.d; ++j) out[j] = static_cast<T>(0 - sum[j]);
}

template <typename T>
void launch(const Factors& f, const Tensor& scores, Tensor& out) {
  const T* source = scores.const_data_ptr<T>();
  T* rows = out.mutable_data_ptr<T>();
  const int64_t stride = scores.stride(0), work = f.folds * f.count * f.d + 1;
  torch::stable::parallel_for(0, f.rows, std::max<int64_t>(1, kMinChunk / work), [&](int64_t first, int64_t last) {
    std::vector<double> sum(f.d);
    for (int64_t i = first; i < last; ++i) write_row(f, i, source + i * stride, sum.data(), rows + i * f.d);
  });
}

}  // namespace

Tensor auditor_rows(const Tensor& cotangents, const Tensor& scores_in, const Tensor& groups, const Tensor& coefficients,
                    const Tensor& directions) {
  const ScalarType type = scores_in.scalar_type();
  const bool native = type == ScalarType::Float || type == ScalarType::Double;
  const Tensor scores = with_dense_rows(native ? scores_in : torch::stable::to(scores_in, ScalarType::Double));
  const auditor::FactorTensors tensors(cotangents, scores, groups, coefficients, directions);
  const Factors f = tensors.factors();
  Tensor out = torch::stable::new_empty(scores, {f.rows, f.d});
  if (scores.scalar_type() == ScalarType::Float) {
    launch<float>(f, scores, out);
  } else {
    launch<double>(f, scores, out);
  }
  return native ? out : torch::stable::to(out, type);
}

}  // namespace amu_fast::cpu
