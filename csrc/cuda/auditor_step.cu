#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "common/auditor/block_plan.h"
#include "common/auditor/launch.h"
#include "common/tensors.h"
#include "cuda/auditor_step.cuh"
#include "cuda/auditor_step.h"
#include "cuda/launch.h"

namespace amu_fast::cuda {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;

constexpr int64_t kSmallThreads = 128;  // of a block that shares its multiprocessor with others
constexpr int64_t kClasses = 4;         // of problems: those that need 1/8, 1/4, 1/2 and all of a block's shared memory
constexpr int64_t kResident = 8;        // blocks of a multiprocessor that have a workspace in global memory

Scores scores_of(const Tensor& scores) {
  const auto type = [&] {
    switch (scores.scalar_type()) {
      case ScalarType::Double:
        return kFloat64;
      case ScalarType::Float:
        return kFloat32;
      case ScalarType::Half:
        return kFloat16;
      default:
        STD_TORCH_CHECK(scores.scalar_type() == ScalarType::BFloat16,
                        "scores must be float64, float32, float16 or bfloat16");
        return kBFloat16;
    }
  }();
  return {scores.const_data_ptr(), type, scores.stride(0), scores.size(1)};
}

// Values in ascending order, equal ones in the order of their places, and these places.
std::pair<Tensor, Tensor> sorted(const Tensor& values) {
  StableIValue stack[] = {torch::stable::detail::from(values), torch::stable::detail::from(std::optional<bool>(true)),
                          torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack, TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// Problems whose arrays need about as much shared memory: one launch.
struct Class {
  std::vector<BlockTask> tasks;
  Storage most{};  // doubles of its largest problem
};

Storage need(const BlockTask& task, int64_t d, const Settings& set, int64_t budget) {
  block::Arrays none{};
  return place(block_sizes(task.n, task.h, d), set, budget, nullptr, nullptr, &none);
}

// The problems that can be solved, longest first, by what they need of `budget` doubles. `sizes` (folds, groups, 2) and
// `starts` (groups + 1) as auditor_lists leaves them.
std::vector<Class> classes_of(const int64_t* sizes, const int64_t* starts, const Outputs& out, int64_t d,
                              const Settings& set, int64_t budget) {
  std::vector<BlockTask> tasks;
  for (int64_t index = 0; index < out.folds * out.groups; ++index) {
    const int64_t fold = index / out.groups, group = index % out.groups, n = sizes[2 * index];
    if (n > 0) tasks.push_back({fold, group, fold * out.rows + starts[group], n, sizes[2 * index + 1]});
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [&](const BlockTask& a, const BlockTask& b) { return work(a.n, d) > work(b.n, d); });
  std::vector<Class> classes(kClasses);
  for (const BlockTask& task : tasks) {
    const Storage storage = need(task, d, set, budget);
    int64_t index = kClasses - 1;
    while (storage.global == 0 && index > 0 && storage.shared <= budget >> (kClasses - index)) --index;
    Class& own = classes[index];
    own.tasks.push_back(task);
    own.most.shared = std::max(own.most.shared, storage.shared);
    own.most.global = std::max(own.most.global, storage.global);
  }
  return classes;
}

struct Inputs {
  Tensor scores, labels, groups, train, held, normaliser;
};

// A tensor of int64 beside `like`, from the host.
Tensor upload(const Tensor& like, const std::vector<int64_t>& values) {
  const auto count = static_cast<int64_t>(values.size());
  Tensor host = torch::stable::empty({count}, ScalarType::Long, std::nullopt,
                                     torch::stable::Device(torch::headeronly::DeviceType::CPU));
  std::copy(values.begin(), values.end(), host.mutable_data_ptr<int64_t>());
  return torch::stable::to(host, like.device());
}

void solve(const OnDeviceOf& device, const Inputs& in, const Class& own, int64_t threads, const int64_t* lists,
           const Settings& set, const Outputs& out) {
  const auto count = static_cast<int64_t>(own.tasks.size());
  static_assert(sizeof(BlockTask) == 5 * sizeof(int64_t));
  const auto* words = reinterpret_cast<const int64_t*>(own.tasks.data());
  const Tensor tasks = upload(in.scores, std::vector<int64_t>(words, words + 5 * count));
  // A block with arrays in global memory takes one problem after the other.
  const int64_t blocks = own.most.global > 0 ? std::min(count, kResident * device.multiprocessors()) : count;
  Tensor workspace = torch::stable::new_empty(in.scores, Shape{blocks * own.most.global}, ScalarType::Double);
  const int64_t shared = (kStateDoubles + own.most.shared) * static_cast<int64_t>(sizeof(double));
  const Launch launch(device, dim3(static_cast<unsigned>(blocks)), threads, shared);
  launch(auditor_solve, scores_of(in.scores), in.labels.const_data_ptr<double>(),
         in.normaliser.const_data_ptr<double>(), lists,
         reinterpret_cast<const BlockTask*>(tasks.const_data_ptr<int64_t>()), count, blocks, static_cast<int>(threads),
         set, own.most.shared, workspace.mutable_data_ptr<double>(), own.most.global, out);
}

void run(const Inputs& in, const Settings& set, const Outputs& out) {
  const OnDeviceOf device(in.scores);
  const int64_t problems = out.folds * out.groups, d = in.scores.size(1);
  const auto [groups, order] = sorted(in.groups);
  Tensor starts = torch::stable::new_empty(in.groups, Shape{out.groups + 1});
  Tensor sizes = torch::stable::new_empty(in.groups, Shape{problems, 2});
  Tensor lists = torch::stable::new_empty(in.groups, Shape{out.folds, out.rows});
  const auto grid = [](int64_t count, int64_t size) { return dim3(static_cast<unsigned>((count + size - 1) / size)); };
  constexpr int64_t kListThreads = 32 * kListWarps;
  Launch(device, grid(out.groups + 1, kListThreads), kListThreads, 0)(
      auditor_starts, groups.const_data_ptr<int64_t>(), out.rows, out.groups, starts.mutable_data_ptr<int64_t>());
  const Masks masks{in.labels.const_data_ptr<double>(),
                    in.train.const_data_ptr<bool>(),
                    in.held.const_data_ptr<bool>(),
                    out.rows,
                    out.folds,
                    out.groups};
  Launch(device, grid(problems, kListWarps), kListThreads, 0)(
      auditor_lists, masks, order.const_data_ptr<int64_t>(), starts.const_data_ptr<int64_t>(),
      lists.mutable_data_ptr<int64_t>(), sizes.mutable_data_ptr<int64_t>(), out);

  const torch::stable::Device host(torch::headeronly::DeviceType::CPU);
  const Tensor host_starts = torch::stable::to(starts, host), host_sizes = torch::stable::to(sizes, host);
  const int64_t* first = host_starts.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(first[out.groups] == out.rows, "groups must be below num_groups = ", out.groups, ", and ",
                  out.rows - first[out.groups], " rows have others; raise num_groups");
  const int64_t budget = device.shared_limit() / static_cast<int64_t>(sizeof(double)) - kStateDoubles;
  const auto classes = classes_of(host_sizes.const_data_ptr<int64_t>(), first, out, d, set, budget);
  for (int64_t index = kClasses - 1; index >= 0; --index) {
    const int64_t threads = index < kClasses / 2 ? kSmallThreads : block::kMaxThreads;
    if (!classes[index].tasks.empty()) {
      solve(device, in, classes[index], threads, lists.const_data_ptr<int64_t>(), set, out);
    }
  }
}

template <typename T>
void multiply(const OnDeviceOf& device, const Factors& factors, const Scores& scores, Tensor& out) {
  const int64_t blocks = (factors.rows * factors.d + kRowThreads - 1) / kRowThreads;
  const Launch launch(device, dim3(static_cast<unsigned>(blocks)), kRowThreads, 0);
  launch(auditor_rows_kernel<T>, factors, scores, static_cast<T*>(out.mutable_data_ptr()));
}

}  // namespace

AuditorStep auditor_step(const Tensor& scores, const Tensor& labels, const Tensor& groups, const Tensor& train,
                         const Tensor& held, const Tensor& normaliser, int64_t num_groups, int64_t loss, double l2,
                         double width, int64_t payoff, bool standardize, double rtol, int64_t max_steps,
                         int64_t parts) {
  check_batch(scores, labels, groups, train, held);
  const int64_t folds = train.size(0);
  const Inputs in{with_dense_rows(scores),         dense(labels, ScalarType::Double),
                  dense(groups, ScalarType::Long), dense(train, ScalarType::Bool),
                  dense(held, ScalarType::Bool),   dense(normaliser, ScalarType::Double)};
  Results results(scores, folds, num_groups, standardize);
  for (Tensor* tensor : {&results.per_problem, &results.params, &results.status, &results.measures, &results.counts,
                         &results.coefficients, &results.directions}) {
    torch::stable::zero_(*tensor);
  }
  const Outputs out = results.outputs();
  const Settings set{static_cast<int>(loss),
                     l2,
                     width,
                     static_cast<int>(payoff),
                     standardize,
                     rtol,
                     max_steps,
                     static_cast<int>(parts),
                     cast_error(in.scores.scalar_type())};
  if (folds * num_groups > 0) run(in, set, out);
  return results.tuple();
}

Tensor auditor_rows(const Tensor& cotangents, const Tensor& scores_in, const Tensor& groups, const Tensor& coefficients,
                    const Tensor& directions) {
  const Tensor scores = with_dense_rows(scores_in);
  const FactorTensors tensors(cotangents, scores, groups, coefficients, directions);
  const Factors factors = tensors.factors();
  Tensor out = torch::stable::new_empty(scores, {factors.rows, factors.d});
  if (factors.rows * factors.d == 0) return out;
  const OnDeviceOf device(scores);
  const Scores from = scores_of(scores);
  switch (from.type) {
    case kFloat64:
      multiply<double>(device, factors, from, out);
      break;
    case kFloat32:
      multiply<float>(device, factors, from, out);
      break;
    case kFloat16:
      multiply<Half>(device, factors, from, out);
      break;
    default:
      multiply<BFloat16>(device, factors, from, out);
  }
  return out;
}

}  // namespace amu_fast::cuda
