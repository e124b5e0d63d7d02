#include "common/auditor/launch.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

namespace amu_fast::auditor {

using torch::headeronly::ScalarType;

void check_batch(const Tensor& scores, const Tensor& labels, const Tensor& groups, const Tensor& train,
                 const Tensor& held) {
  STD_TORCH_CHECK(scores.dim() == 2, "scores must be (N, d), got ", scores.dim(), " dimensions");
  const int64_t n = scores.size(0);
  STD_TORCH_CHECK(labels.dim() == 1 && labels.size(0) == n, "labels must be (", n, ",)");
  STD_TORCH_CHECK(groups.dim() == 1 && groups.size(0) == n && groups.scalar_type() == ScalarType::Long,
                  "groups must be (", n, ",) int64");
  for (const Tensor* mask : {&train, &held}) {
    STD_TORCH_CHECK(mask->dim() == 2 && mask->size(0) == train.size(0) && mask->size(1) == n &&
                        mask->scalar_type() == ScalarType::Bool,
                    "masks must be (K, ", n, ") bool");
  }
}

double cast_error(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
      return 0;
    case ScalarType::Float:
      return 0x1p-24;
    case ScalarType::Half:
      return 0x1p-11;
    case ScalarType::BFloat16:
      return 0x1p-8;
    default:
      STD_TORCH_CHECK(false, "scores must be float64, float32, float16 or bfloat16");
      return 0;
  }
}

Results::Results(const Tensor& scores, int64_t folds, int64_t groups, bool standardize) {
  const auto empty = [&](const Shape& shape, ScalarType type) { return torch::stable::new_empty(scores, shape, type); };
  const int64_t n = scores.size(0), d = scores.size(1);
  per_problem = empty({folds, groups}, ScalarType::Double);
  params = empty({folds, groups, d + 1}, ScalarType::Double);
  status = empty({folds, groups}, ScalarType::Char);
  measures = empty({folds, groups, kMeasures}, ScalarType::Double);
  counts = empty({folds, groups, 2}, ScalarType::Long);
  coefficients = empty({folds, n, kCoefficients}, ScalarType::Double);
  directions = empty({folds, groups, auditor::directions(standardize), d}, ScalarType::Double);
}

Outputs Results::outputs() {
  return {per_problem.size(0),
          per_problem.size(1),
          coefficients.size(1),
          per_problem.mutable_data_ptr<double>(),
          params.mutable_data_ptr<double>(),
          measures.mutable_data_ptr<double>(),
          coefficients.mutable_data_ptr<double>(),
          directions.mutable_data_ptr<double>(),
          status.mutable_data_ptr<int8_t>(),
          counts.mutable_data_ptr<int64_t>()};
}

FactorTensors::FactorTensors(const Tensor& cotangents_in, const Tensor& scores, const Tensor& groups_in,
                             const Tensor& coefficients_in, const Tensor& directions_in)
    : cotangents(dense(cotangents_in, ScalarType::Double)),
      groups(dense(groups_in, ScalarType::Long)),
      coefficients(dense(coefficients_in, ScalarType::Double)),
      directions(dense(directions_in, ScalarType::Double)) {
  STD_TORCH_CHECK(scores.dim() == 2 && coefficients.dim() == 3 && directions.dim() == 4 && cotangents.dim() == 2,
                  "auditor_rows: scores, coefficients, directions, cotangents need 2, 3, 4, 2 dimensions");
  STD_TORCH_CHECK(coefficients.size(0) == cotangents.size(0) && coefficients.size(1) == scores.size(0) &&
                      directions.size(0) == cotangents.size(0) && directions.size(1) == cotangents.size(1) &&
                      directions.size(3) == scores.size(1) && groups.size(0) == scores.size(0),
                  "auditor_rows: the factors belong to another batch of scores");
}

Factors FactorTensors::factors() const {
  return {cotangents.size(0),
          cotangents.size(1),
          coefficients.size(1),
          directions.size(3),
          directions.size(2),
          cotangents.const_data_ptr<double>(),
          coefficients.const_data_ptr<double>(),
          directions.const_data_ptr<double>(),
          groups.const_data_ptr<int64_t>()};
}

}  // namespace amu_fast::auditor
