// Product with the Hessian of a generalised linear model, in one pass over the rows.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace amu_fast::cpu {

// y = X~^T (c o (X~ v)) + l2 v, equation (4); X~ = [x, 1] if `intercept`, else x.
//
// x (*b, n, d), c (*b, n), v (*b, p), all float32 or all float64; the batch dimensions broadcast. Returns (*b, p),
// contiguous. Bitwise the same for any number of threads.
torch::stable::Tensor glm_hvp(const torch::stable::Tensor& x, const torch::stable::Tensor& c,
                              const torch::stable::Tensor& v, double l2, bool intercept);

}  // namespace amu_fast::cpu
