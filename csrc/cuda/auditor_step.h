// The whole auditor step on a CUDA device, one block of threads per (fold, group) problem.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <tuple>

namespace amu_fast::cuda {

using AuditorStep =
    std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
               torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>;

// The operator `auditor_step` of amu_fast/ops/auditor_step.py; scores of any floating type are read as they are.
// Waits for the device once: the sizes of the problems decide where their arrays lie. Bitwise the same on every run.
AuditorStep auditor_step(const torch::stable::Tensor& scores, const torch::stable::Tensor& labels,
                         const torch::stable::Tensor& groups, const torch::stable::Tensor& train_masks,
                         const torch::stable::Tensor& held_out_masks, const torch::stable::Tensor& normaliser,
                         int64_t num_groups, int64_t loss, double l2, double width, int64_t payoff, bool standardize,
                         double rtol, int64_t max_steps, int64_t parts);

// The operator `auditor_rows`: the gradient of sum(cotangents * per_problem) in the scores, (N, d) in their dtype.
torch::stable::Tensor auditor_rows(const torch::stable::Tensor& cotangents, const torch::stable::Tensor& scores,
                                   const torch::stable::Tensor& groups, const torch::stable::Tensor& coefficients,
                                   const torch::stable::Tensor& directions);

}  // namespace amu_fast::cuda
