#include "cpu/auditor_step.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <vector>

#include "common/auditor/launch.h"
#include "common/tensors.h"
#include "cpu/auditor/kernels.h"

namespace amu_fast::cpu {
namespace {

using namespace amu_fast::auditor;
using torch::headeronly::ScalarType;

// Work in multiplications, under which more threads cost more than they save: some 300 microseconds.
constexpr double kSerial = 3e5;
constexpr int64_t kAlignment = 8;

// Rows of every group in their order, one after the other: starts (G + 1), rows.
struct Members {
  std::vector<int64_t> starts, rows;

  Members(const int64_t* groups, int64_t n, int64_t num_groups) : starts(num_groups + 1, 0), rows(n) {
    for (int64_t i = 0; i < n; ++i) {
      if (groups[i] < 0) continue;
      STD_TORCH_CHECK(groups[i] < num_groups, "groups must be below num_groups = ", num_groups, ", got ", groups[i]);
      ++starts[groups[i] + 1];
    }
    for (int64_t g = 0; g < num_groups; ++g) starts[g + 1] += starts[g];
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t i = 0; i < n; ++i) {
      if (groups[i] >= 0) rows[next[groups[i]]++] = i;
    }
  }
};

// The problems of all folds and groups, those that can be solved apart from the degenerate; `rows` holds their lists.
struct Plan {
  std::vector<int64_t> rows;
  std::vector<Task> tasks, skipped;

  Plan(const Members& members, const double* labels, const bool* train, const bool* held, int64_t folds, int64_t n) {
    const int64_t groups = static_cast<int64_t>(members.starts.size()) - 1;
    // One entry more, which the last row's write may touch.
    rows.resize(folds * members.starts.back() + 1);
    judging.resize(members.rows.size() + 1);
    int64_t* list = rows.data();
    for (int64_t k = 0; k < folds; ++k) {
      for (int64_t g = 0; g < groups; ++g) {
        const Task task = cut(members, labels, train + k * n, held + k * n, k, g, list);
        list += task.n + task.h;
        (task.n > 0 ? tasks : skipped).push_back(task);
      }
    }
  }

 private:
  // n = 0 for a degenerate problem: a membership cell with fewer than 2 rows, or training rows of one side only.
  // Without branches on the masks, which nobody can predict: each row is written to the end of both lists, and a list
  // grows where its mask says so.
  Task cut(const Members& members, const double* labels, const bool* train, const bool* held, int64_t k, int64_t g,
           int64_t* list) {
    const int64_t *begin = members.rows.data() + members.starts[g], *end = members.rows.data() + members.starts[g + 1];
    int64_t n = 0, h = 0, train_members = 0, held_members = 0;
    for (const int64_t* row = begin; row < end; ++row) {
      const int64_t trains = train[*row], judges = held[*row] & !train[*row], member = labels[*row] > 0;
      list[n] = judging[h] = *row;
      n += trains, train_members += trains & member;
      h += judges, held_members += judges & member;
    }
    const int64_t used_members = train_members + held_members;
    const bool few = used_members < 2 || n + h - used_members < 2;
    if (few || train_members == 0 || train_members == n) return Task{k, g, list, 0, 0};
    std::copy_n(judging.data(), h, list + n);
    return Task{k, g, list, n, h};
  }

  std::vector<int64_t> judging;  // the held-out rows of the problem at hand
};

// Multiplications of about six Newton steps.
double work(const Task& task, int64_t d) {
  const double n = static_cast<double>(task.n), p = static_cast<double>(d + 1), m = std::min(n, p);
  return 6 * (n * p * (n < p ? 4 : p / 2) + m * m * m / 6 + 4 * n * p);
}

void run(const Batch& batch, const Settings& set, std::vector<Task> tasks, const Outputs& out) {
  const Kernel& kernel = best_kernel();
  std::stable_sort(tasks.begin(), tasks.end(),
                   [&](const Task& a, const Task& b) { return work(a, batch.d) > work(b, batch.d); });
  double total = 0;
  int64_t doubles = 0;
  for (const Task& task : tasks) {
    total += work(task, batch.d);
    doubles = std::max(doubles, kernel.workspace(task, batch.d, set));
  }
  const int64_t threads = total < kSerial ? 1 : std::min<int64_t>(torch::stable::get_num_threads(), tasks.size());
  std::atomic<size_t> next{0};
  // Longest first, each thread takes the next: every problem is solved by one thread, so the order does not matter.
  torch::stable::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t thread = first; thread < last; ++thread) {
      const std::unique_ptr<double[]> storage(new double[doubles + kAlignment]);
      const auto address = reinterpret_cast<uintptr_t>(storage.get());
      double* aligned = storage.get() + (64 - address % 64) % 64 / sizeof(double);
      for (size_t i; (i = next.fetch_add(1)) < tasks.size();) kernel.solve(batch, tasks[i], set, aligned, out);
    }
  });
}

void skip(const std::vector<Task>& tasks, int64_t d, int64_t vectors, const Outputs& out) {
  for (const Task& task : tasks) {
    const int64_t index = task.fold * out.groups + task.group;
    out.status[index] = kSkipped;
    out.per_problem[index] = 0;
    std::fill_n(out.params + index * (d + 1), d + 1, 0.0);
    std::fill_n(out.directions + index * vectors * d, vectors * d, 0.0);
    std::fill_n(out.measures + index * kMeasures, int{kMeasures}, 0.0);
    out.measures[index * kMeasures + kAccuracy] = std::numeric_limits<double>::quiet_NaN();
    std::fill_n(out.counts + index * 2, 2, int64_t{0});
  }
}

}  // namespace

AuditorStep auditor_step(const Tensor& scores_in, const Tensor& labels_in, const Tensor& groups_in,
                         const Tensor& train_in, const Tensor& held_in, const Tensor& normaliser_in, int64_t num_groups,
                         int64_t loss, double l2, double width, int64_t payoff, bool standardize, double rtol,
                         int64_t max_steps, int64_t parts) {
  check_batch(scores_in, labels_in, groups_in, train_in, held_in);
  const int64_t n = scores_in.size(0), d = scores_in.size(1), folds = train_in.size(0);
  const bool single = scores_in.scalar_type() == ScalarType::Float;
  const double cast = cast_error(scores_in.scalar_type());
  const Tensor scores = single ? with_dense_rows(scores_in) : with_dense_rows(dense(scores_in, ScalarType::Double));
  const Tensor labels = dense(labels_in, ScalarType::Double), groups = dense(groups_in, ScalarType::Long);
  const Tensor train = dense(train_in, ScalarType::Bool), held = dense(held_in, ScalarType::Bool);
  const Tensor normaliser = dense(normaliser_in, ScalarType::Double);

  Results results(scores, folds, num_groups, standardize);
  const Outputs out = results.outputs();
  std::fill_n(out.coefficients, results.coefficients.numel(), 0.0);

  const Members members(groups.const_data_ptr<int64_t>(), n, num_groups);
  const Plan plan(members, labels.const_data_ptr<double>(), train.const_data_ptr<bool>(), held.const_data_ptr<bool>(),
                  folds, n);
  const Batch batch{scores.const_data_ptr(),
                    single,
                    scores.stride(0),
                    d,
                    labels.const_data_ptr<double>(),
                    1 / *normaliser.const_data_ptr<double>()};
  const Settings set{static_cast<int>(loss),  l2,  width, static_cast<int>(payoff), standardize, rtol, max_steps,
                     static_cast<int>(parts), cast};
  skip(plan.skipped, d, directions(standardize), out);
  if (!plan.tasks.empty()) run(batch, set, plan.tasks, out);
  return results.tuple();
}

}  // namespace amu_fast::cpu
