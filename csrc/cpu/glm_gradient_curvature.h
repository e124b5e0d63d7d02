// A follower's objective, gradient, curvatures and Hessian diagonal, in one pass over the rows.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace amu_fast::cpu {

// With m = y o (X~ w), X~ = [x, 1] if `intercept`, else x: the objective sum t l(m) + l2/2 |w|^2 (2), its gradient (3),
// c = t o l''(m) (4) and diagonal_j = sum_i c_i x~_ij^2 + l2.
//
// x (*b, n, d), y and t (*b, n), w (*b, p), all float32 or all float64; the batch dimensions broadcast. Returns (*b),
// (*b, p), (*b, n), (*b, p), contiguous. Bitwise the same for any number of threads.
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>
glm_gradient_curvature(const torch::stable::Tensor& x, const torch::stable::Tensor& y, const torch::stable::Tensor& t,
                       const torch::stable::Tensor& w, int64_t loss, double l2, double width, bool intercept);

}  // namespace amu_fast::cpu
