// Many small symmetric positive definite systems at once, one problem per SIMD lane.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace amu_fast::cpu {

// Solves A u = b for matrix (*b, p, p), of which the lower triangle is read, and rhs (*b, p), both float32 or both
// float64; batch dimensions broadcast. float32 is refined once with the residual in double.
//
// Returns the solution (*b, p), NaN where A is not positive definite, and info (*b) int32: 0, or the 1-based order of
// the first pivot that is not > 0. A problem's digits depend neither on the number of threads nor on its neighbours.
std::tuple<torch::stable::Tensor, torch::stable::Tensor> spd_solve(const torch::stable::Tensor& matrix,
                                                                   const torch::stable::Tensor& rhs);

}  // namespace amu_fast::cpu
