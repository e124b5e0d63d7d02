// Everything of one problem for one instruction set; see auditor_step.cpp. Included once per instruction set.

// Each stands on those before it.
// clang-format off
#include "cpu/auditor/simd.h"
#include "common/auditor/losses.h"
#include "common/auditor/newton.h"
#include "common/auditor/bounds.h"
#include "common/auditor/problem.h"
#include "common/auditor/workspace.h"
#include "cpu/auditor/cholesky.h"
#include "cpu/auditor/team.h"
#include "cpu/auditor/store.h"
// clang-format on

// Rows [begin, end) of the list, standing at row `at` of the columns x; the intercept's 1 is column z.p - 1. Returns a
// sum that is NaN if a score is not finite, else 0.
template <typename T>
FN double load_rows(const Batch& batch, const int64_t* rows, int64_t count, int64_t at, const Sizes& z, double* x) {
  const T* scores = static_cast<const T*>(batch.scores);
  const int64_t d = z.p - 1;
  V finite = splat(0);
  for (int64_t i = 0; i < count; i += kLanes) {
    const T* source[kLanes];
    V present;
    UNROLL for (int k = 0; k < kLanes; ++k) {
      const bool there = i + k < count;
      source[k] = scores + rows[there ? i + k : i] * batch.stride;
      present[k] = there ? 1 : 0;
    }
    double* column = x + at + i;
    for (int64_t j = 0; j < d; ++j, column += z.ld) {
      V value;
      UNROLL for (int k = 0; k < kLanes; ++k) value[k] = source[k][j];
      finite += value * splat(0);
      put(column, value * present);
    }
    put(column, present);
  }
  return total(finite);
}

FN bool load(const Batch& batch, const Task& task, const Sizes& z, const Arrays& at) {
  for (int64_t j = z.p; j < z.pp; ++j) {
    for (int64_t i = 0; i < z.q; i += kLanes) put(at.x + j * z.ld + i, splat(0));
  }
  const auto rows = [&](const int64_t* list, int64_t count, int64_t begin, double t, double weight) LAMBDA {
    for (int64_t i = 0; i < (count + kLanes - 1) / kLanes * kLanes; ++i) {
      const bool there = i < count;
      at.y[begin + i] = there ? batch.labels[list[i]] : 0;
      at.t[begin + i] = there ? t : 0;
      at.weight[begin + i] = there ? weight : 0;
    }
    return batch.single ? load_rows<float>(batch, list, count, begin, z, at.x)
                        : load_rows<double>(batch, list, count, begin, z, at.x);
  };
  const double finite =
      rows(task.rows, z.n, 0, 1 / static_cast<double>(z.n), 0) + rows(task.rows + z.n, z.h, z.np, 0, batch.weight);
  return finite == 0;
}

inline void solve_task(const Batch& batch, const Task& task, const Settings& set, double* workspace,
                       const Outputs& out) {
  const Sizes z = sizes_of(task.n, task.h, batch.d, kLanes);
  Arrays at{};
  carve(z, set, workspace, &at);
  Result result{};
  if (load(batch, task, z, at)) {
    SimdTeam team;
    Problem<SimdTeam>(team, set, z, at, result).solve();
  } else {
    result.status = kNonfinite;
  }
  store(batch, task, set, z, at, result, out);
}
