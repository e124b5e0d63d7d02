// The mixed derivative of a follower's objective along an adjoint, in one pass over the rows.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace amu_fast::cpu {

// Rows -[t_i y_i l'(m_i) u + t_i l''(m_i) <x~_i, u> w] without the intercept's entry, equation (7); m = y o (X~ w),
// X~ = [x, 1] if `intercept`, else x.
//
// x (*b, n, d), y and t (*b, n), w and u (*b, p), all float32 or all float64; the batch dimensions broadcast. Returns
// (*b, n, d), contiguous. Bitwise the same for any number of threads.
torch::stable::Tensor glm_mixed_vjp(const torch::stable::Tensor& x, const torch::stable::Tensor& y,
                                    const torch::stable::Tensor& t, const torch::stable::Tensor& w,
                                    const torch::stable::Tensor& u, int64_t loss, double width, bool intercept);

}  // namespace amu_fast::cpu
