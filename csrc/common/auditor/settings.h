// Options, sizes and results of one follower problem, shared by every device.
#pragma once

#include <cstdint>

namespace amu_fast::auditor {

enum Loss { kLogistic = 0, kSquaredHinge = 1, kHuberisedHinge = 2 };
enum Payoff { kHingePayoff = 0, kLogisticPayoff = 1 };
enum Parts { kFull = 0, kDirect = 1, kImplicit = 2, kValueOnly = 3 };
enum Status {
  kConverged = 0,
  kMaxSteps = 1,
  kIndefinite = 2,
  kNonfinite = 3,
  kStagnated = 4,
  kDiverged = 5,
  kSkipped = 6
};
enum Measure { kAccuracy, kParamBound, kAdjointBound, kGradientBound, kGradientNorm, kAdjointResidual, kMeasures };

constexpr double kEps = 0x1p-53;

struct Settings {
  int loss;
  double l2, width;
  int payoff;
  bool standardize;
  double rtol;
  int64_t max_steps;
  int parts;
  double cast;  // relative error of casting a gradient row to the dtype of the scores
};

// n training and h held-out rows of p columns, the intercept's included; padded to whole vectors.
struct Sizes {
  int64_t n, h, p;
  int64_t np, q;  // training rows; training and held-out rows
  int64_t ld;     // from one column of x to the next
  int64_t lp;     // the same of the training rows packed apart
  int64_t pp;     // columns
  bool dual;      // H is solved through the n x n Gram matrix
  int64_t dim;    // of the factored matrix: pp, or np in the dual form
};

struct Result {
  double payoff;
  double measures[kMeasures];
  int64_t uncertain, steps;
  int status;
};

// From one column to the next: whole vectors, and never a multiple of 4 KiB, where columns share cache sets.
constexpr int64_t column_stride(int64_t rows) { return rows % 64 == 0 ? rows + 8 : rows; }

inline Sizes sizes_of(int64_t n, int64_t h, int64_t d, int64_t lanes) {
  const auto padded = [lanes](int64_t k) { return (k + lanes - 1) / lanes * lanes; };
  Sizes z{};
  z.n = n, z.h = h, z.p = d + 1;
  z.np = padded(n), z.q = z.np + padded(h), z.pp = padded(z.p);
  z.ld = column_stride(z.q), z.lp = column_stride(z.np);
  z.dual = n < z.p;
  z.dim = z.dual ? z.np : z.pp;
  return z;
}

}  // namespace amu_fast::auditor
