// The auditing batch, its problems and where their results go: what the launcher and the kernels share.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/auditor/settings.h"

namespace amu_fast::auditor {

struct Batch {
  const void* scores;  // (N, d) float32 if `single`, else float64
  bool single;
  int64_t stride, d;
  const double* labels;
  double weight;  // 1/N of equation (5)
};

// One (fold, group): its training rows, then its held-out rows.
struct Task {
  int64_t fold, group;
  const int64_t* rows;
  int64_t n, h;
};

struct Outputs {
  int64_t folds, groups, rows;
  double *per_problem, *params, *measures, *coefficients, *directions;
  int8_t* status;
  int64_t* counts;
};

// The factors of the gradient of all folds, see amu_fast/ops/auditor_rows.py; `count` directions a problem.
struct Factors {
  int64_t folds, groups, rows, d, count;
  const double *cotangents, *coefficients, *directions;
  const int64_t* group;
};

// Doubles of one row's coefficients: alpha, beta, and t where (S) applies.
constexpr int64_t kCoefficients = 3;

// Vectors of one problem's directions: u, w, and with (S) u/sd, w/sd, A/sd, B/sd^2, mean.
constexpr int64_t directions(bool standardize) { return standardize ? 5 : 2; }

}  // namespace amu_fast::auditor
