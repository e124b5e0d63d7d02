// What the launchers of every device do alike: check the batch, make the outputs, take the factors of a gradient.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <tuple>

#include "common/auditor/task.h"
#include "common/tensors.h"

namespace amu_fast::auditor {

// Results of the operator `auditor_step`, in the schema's order.
using AuditorStep = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Throws unless scores are (N, d), labels and groups (N,), groups int64, and both masks (K, N) bool.
void check_batch(const Tensor& scores, const Tensor& labels, const Tensor& groups, const Tensor& train,
                 const Tensor& held);

// Relative error of casting a gradient row to `type`; throws where scores cannot have it.
double cast_error(torch::headeronly::ScalarType type);

// The operator's outputs beside the scores (N, d), unwritten, and where a kernel finds them.
struct Results {
  Tensor per_problem, params, status, measures, counts, coefficients, directions;

  Results(const Tensor& scores, int64_t folds, int64_t groups, bool standardize);
  Outputs outputs();
  AuditorStep tuple() const { return {per_problem, params, status, measures, counts, coefficients, directions}; }
};

// The arguments of `auditor_rows`, dense, checked against each other, and where a kernel finds them.
struct FactorTensors {
  Tensor cotangents, groups, coefficients, directions;

  FactorTensors(const Tensor& cotangents, const Tensor& scores, const Tensor& groups, const Tensor& coefficients,
                const Tensor& directions);
  Factors factors() const;
};

}  // namespace amu_fast::auditor
