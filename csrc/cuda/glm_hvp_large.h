// Product with the Hessian of a generalised linear model whose rows are too wide for one block's registers.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace amu_fast::cuda {

// y = X~^T (c o (X~ v)) + l2 v as `cpu::glm_hvp`, for any sizes and strides; meant for d > 4096.
//
// x (*b, n, d) float32, float64 or bfloat16; c (*b, n), v (*b, p) and the result of x's type, float32 for bfloat16.
// Bitwise the same on every run on one kind of device.
torch::stable::Tensor glm_hvp_large(const torch::stable::Tensor& x, const torch::stable::Tensor& c,
                                    const torch::stable::Tensor& v, double l2, bool intercept);

}  // namespace amu_fast::cuda
