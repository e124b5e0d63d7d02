// Kernels of the auditor step: lists of rows per problem, one block per problem, gradients out of their factors.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

#include "common/auditor/block_plan.h"
#include "common/auditor/task.h"
#include "cuda/auditor_team.cuh"
#include "cuda/device.cuh"

namespace amu_fast::cuda {

using namespace amu_fast::auditor;

enum ScoreType { kFloat64, kFloat32, kFloat16, kBFloat16 };

// (N, d) scores of any type with dense rows.
struct Scores {
  const void* data;
  ScoreType type;
  int64_t stride, columns;

  __device__ double at(int64_t row, int64_t column) const {
    const int64_t place = row * stride + column;
    switch (type) {
      case kFloat64:
        return static_cast<const double*>(data)[place];
      case kFloat32:
        return static_cast<const float*>(data)[place];
      case kFloat16:
        return static_cast<float>(static_cast<const torch::headeronly::Half*>(data)[place]);
      default:
        return static_cast<float>(static_cast<const torch::headeronly::BFloat16*>(data)[place]);
    }
  }
};

struct Masks {
  const double* labels;
  const bool *train, *held;
  int64_t rows, folds, groups;
};

constexpr int kListWarps = 4;  // problems of a block that makes lists

// starts (groups + 1): where each group begins in `sorted` (N), ascending.
__global__ void __launch_bounds__(32 * kListWarps)
    auditor_starts(const int64_t* sorted, int64_t rows, int64_t groups, int64_t* starts) {
  const int64_t group = blockIdx.x * static_cast<int64_t>(32 * kListWarps) + threadIdx.x;
  if (group > groups) return;
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (sorted[middle] < group) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  starts[group] = low;
}

struct Cell {
  int64_t rows, members;
};

// Writes the rows that `mask` holds, in order, to `list`; counts them and the members among them. One warp.
__device__ inline Cell pick(const int64_t* order, int64_t begin, int64_t end, const bool* mask, const bool* except,
                            const double* labels, int64_t* list) {
  const int lane = threadIdx.x % 32;
  Cell cell{};
  for (int64_t first = begin; first < end; first += 32) {
    const int64_t row = first + lane < end ? order[first + lane] : -1;
    const bool chosen = row >= 0 && mask[row] && !(except && except[row]);
    const unsigned bits = warp_ballot(chosen);
    const unsigned positive = warp_ballot(chosen && labels[row] > 0);
    if (chosen) list[cell.rows + __popc(bits & ((1u << lane) - 1))] = row;
    cell.rows += __popc(bits);
    cell.members += __popc(positive);
  }
  return cell;
}

// Per problem (fold, group), a warp each: its training rows and then its held-out rows into `lists` (folds, rows), and
// sizes (folds, groups, 2), n = 0 where it is degenerate: a membership cell with fewer than 2 rows, or training rows
// of one side only. Degenerate problems get their status here; their other outputs are 0 already.
__global__ void __launch_bounds__(32 * kListWarps)
    auditor_lists(Masks in, const int64_t* order, const int64_t* starts, int64_t* lists, int64_t* sizes, Outputs out) {
  const int64_t problem = blockIdx.x * static_cast<int64_t>(kListWarps) + threadIdx.x / 32;
  if (problem >= in.folds * in.groups) return;
  const int64_t fold = problem / in.groups, group = problem % in.groups;
  const bool *train = in.train + fold * in.rows, *held = in.held + fold * in.rows;
  int64_t* const list = lists + fold * in.rows + starts[group];
  const int64_t begin = starts[group], end = starts[group + 1];
  const Cell fitted = pick(order, begin, end, train, nullptr, in.labels, list);
  const Cell judged = pick(order, begin, end, held, train, in.labels, list + fitted.rows);
  const int64_t members = fitted.members + judged.members, others = fitted.rows + judged.rows - members;
  const bool usable = members >= 2 && others >= 2 && fitted.members > 0 && fitted.members < fitted.rows;
  if (threadIdx.x % 32 != 0) return;
  sizes[2 * problem] = usable ? fitted.rows : 0;
  sizes[2 * problem + 1] = judged.rows;
  if (usable) return;
  out.status[problem] = kSkipped;
  out.measures[problem * kMeasures + kAccuracy] = NAN;
}

// Labels, weights and rows of a problem into its arrays; whether all scores are finite.
__device__ inline bool load(block::BlockTeam& team, const Scores& scores, const double* labels, double weight,
                            const int64_t* list, const Sizes& z, const block::Arrays& at) {
  const double t = 1 / static_cast<double>(z.n);
  team.rows(z.q, [&](int64_t i) {
    const bool training = i < z.n, held = i >= z.np;
    at.y[i] = training || held ? labels[list[training ? i : z.n + i - z.np]] : 0;
    at.t[i] = training ? t : 0;
    at.weight[i] = held ? weight : 0;
  });
  double wrong = 0;
  // A warp per row: its scores lie side by side in global memory, and an odd number of doubles apart in x.
  for (int64_t i = team.warp(); i < z.q; i += team.warps()) {
    const bool training = i < z.n, there = training || i >= z.np;
    const int64_t row = there ? list[training ? i : z.n + i - z.np] : 0;
    for (int64_t j = team.lane(); j < z.pp; j += 32) {
      const double value = !there || j >= z.p ? 0 : j == z.p - 1 ? 1 : scores.at(row, j);
      if (!(value - value == 0)) wrong = 1;
      at.x[j * z.ld + i] = value;
    }
  }
  return team.max(team.threads, [&](int64_t) { return wrong; }) == 0;
}

__device__ inline void store(block::BlockTeam& team, const BlockTask& task, const int64_t* list, const Settings& set,
                             const Sizes& z, const block::Arrays& at, const Result& result, const Outputs& out) {
  const int64_t index = task.fold * out.groups + task.group, d = z.p - 1;
  const bool bad = result.status == kNonfinite, lost = bad || set.parts == kValueOnly;
  if (team.thread == 0) {
    out.per_problem[index] = bad ? NAN : result.payoff;
    out.status[index] = static_cast<int8_t>(result.status);
    for (int k = 0; k < kMeasures; ++k) out.measures[index * kMeasures + k] = bad ? NAN : result.measures[k];
    out.counts[2 * index] = result.uncertain;
    out.counts[2 * index + 1] = result.steps;
  }
  const int64_t vectors = directions(set.standardize);
  double* const to = out.directions + index * vectors * d;
  for (int64_t j = team.thread; j <= d; j += team.threads) {
    out.params[index * (d + 1) + j] = bad ? NAN : at.w[j];
    if (j == d) break;
    const double scale = lost || !set.standardize ? 1 : at.scale[j];
    to[j] = lost ? NAN : at.u[j] * scale;
    to[d + j] = lost ? NAN : at.w[j] * scale;
    if (!set.standardize) continue;
    to[2 * d + j] = lost ? NAN : at.a[j];
    to[3 * d + j] = lost ? NAN : at.b[j];
    to[4 * d + j] = lost ? NAN : at.mean[j];
  }
  for (int64_t i = team.thread; i < z.n + z.h; i += team.threads) {
    const int64_t local = i < z.n ? i : z.np + i - z.n;
    double* const row = out.coefficients + (task.fold * out.rows + list[i]) * kCoefficients;
    row[0] = lost ? NAN : at.alpha[local];
    row[1] = lost ? NAN : at.beta[local];
    row[2] = lost ? NAN : set.standardize ? at.t[local] : 0;
  }
}

// What a block shares besides its problem's arrays.
struct BlockState {
  double scratch[block::kScratch];
  block::Arrays at;
  Sizes z;
  BlockTask task;
};
constexpr int64_t kStateDoubles = (sizeof(BlockState) + 7) / 8;

// The problem that `state` describes, from its scores to its outputs.
__device__ inline __noinline__ void solve(block::BlockTeam& team, const BlockState& state, const Scores& scores,
                                          const double* labels, double weight, const int64_t* lists,
                                          const Settings& set, const Outputs& out) {
  const int64_t* const list = lists + state.task.first;
  Result result{};
  if (load(team, scores, labels, weight, list, state.z, state.at)) {
    block::Problem<block::BlockTeam>(team, set, state.z, state.at, result).solve();
  } else {
    result.status = kNonfinite;
  }
  team.barrier();
  store(team, state.task, list, set, state.z, state.at, result, out);
}

// The bound is not the block's size but the compiler's leave to use 168 registers: enough to keep everything in them,
// and three small blocks share a multiprocessor.
constexpr int kRegisterThreads = 384;

// Solves tasks blockIdx.x, blockIdx.x + blocks, ...: `budget` doubles of shared memory each, the rest of a problem's
// arrays in this block's `stride` doubles of `workspace`.
__global__ void __launch_bounds__(kRegisterThreads)
    auditor_solve(Scores scores, const double* labels, const double* normaliser, const int64_t* lists,
                  const BlockTask* tasks, int64_t count, int64_t blocks, int threads, Settings set, int64_t budget,
                  double* workspace, int64_t stride, Outputs out) {
  BlockState& state = *reinterpret_cast<BlockState*>(shared_memory());
  double* const shared = reinterpret_cast<double*>(shared_memory()) + kStateDoubles;
  block::BlockTeam team{state.scratch, threads, static_cast<int>(threadIdx.x)};
  for (int64_t index = blockIdx.x; index < count; index += blocks) {
    // The problem before this one is stored.
    team.barrier();
    if (team.thread == 0) {
      state.task = tasks[index];
      state.z = block_sizes(state.task.n, state.task.h, scores.columns);
      place(state.z, set, budget, shared, workspace + blockIdx.x * stride, &state.at);
    }
    team.barrier();
    solve(team, state, scores, labels, 1 / *normaliser, lists, set, out);
  }
}

constexpr int kRowThreads = 256;

// One thread per score: the sum over the folds, in their order.
template <typename T>
__global__ void __launch_bounds__(kRowThreads) auditor_rows_kernel(Factors in, Scores scores, T* out) {
  const int64_t place = blockIdx.x * static_cast<int64_t>(kRowThreads) + threadIdx.x;
  if (place >= in.rows * in.d) return;
  const int64_t i = place / in.d, j = place % in.d, group = in.group[i];
  double sum = 0;
  for (int64_t k = 0; group >= 0 && k < in.folds; ++k) {
    const double weight = in.cotangents[k * in.groups + group];
    const double* const row = in.coefficients + (k * in.rows + i) * kCoefficients;
    // A problem that the caller left out must not spread its NaN, nor a row that is in none.
    if (weight == 0 || (row[0] == 0 && row[1] == 0 && row[2] == 0)) continue;
    const double* const vectors = in.directions + (k * in.groups + group) * in.count * in.d + j;
    sum += weight * row[0] * vectors[0] + weight * row[1] * vectors[in.d];
    if (in.count > 2 && row[2] != 0) {
      const double centred = scores.at(i, j) - vectors[4 * in.d];
      sum += weight * row[2] * (vectors[2 * in.d] + centred * vectors[3 * in.d]);
    }
  }
  out[place] = static_cast<T>(0 - sum);
}

}  // namespace amu_fast::cuda
