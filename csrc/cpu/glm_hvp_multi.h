// Products with the Hessian of a generalised linear model for several right-hand sides, in one pass over the rows.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace amu_fast::cpu {

// Y = X~^T (C o (X~ V)) + l2 V, equation (4) for every column; X~ = [x, 1] if `intercept`, else x.
//
// x (*b, n, d), c (*b, n, k) or (*b, n, 1), v (*b, p, k), all float32 or all float64; the batch dimensions broadcast.
// Returns (*b, p, k), contiguous. Bitwise the same for any number of threads.
torch::stable::Tensor glm_hvp_multi(const torch::stable::Tensor& x, const torch::stable::Tensor& c,
                                    const torch::stable::Tensor& v, double l2, bool intercept);

}  // namespace amu_fast::cpu
