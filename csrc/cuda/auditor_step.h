// The whole auditor step on a CUDA device, one block of threads per (fold, group) problem.
#pragma once

#include <cstdint>

#include "common/auditor/launch.h"

namespace amu_fast::cuda {

using auditor::AuditorStep;

// The operator `auditor_step` of amu_fast/ops/auditor_step.py; scores of any floating type are read as they are.
// Waits for the device once: the sizes of the problems decide where their arrays lie. Bitwise the same on every run.
AuditorStep auditor_step(const Tensor& scores, const Tensor& labels, const Tensor& groups, const Tensor& train_masks,
                         const Tensor& held_out_masks, const Tensor& normaliser, int64_t num_groups, int64_t loss,
                         double l2, double width, int64_t payoff, bool standardize, double rtol, int64_t max_steps,
                         int64_t parts);

// The operator `auditor_rows`: the gradient of sum(cotangents * per_problem) in the scores, (N, d) in their dtype.
Tensor auditor_rows(const Tensor& cotangents, const Tensor& scores, const Tensor& groups, const Tensor& coefficients,
                    const Tensor& directions);

}  // namespace amu_fast::cuda
