// Vector updates of conjugate gradients and of the Neumann series: scalars in double, sums in a fixed order.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace amu_fast::cpu {

// Vectors are (*b, N), all float32 or all float64; scalars are (*b) float64, flags (*b) bool. Batch dimensions of what
// is only read broadcast; what is written has the full batch shape. Bitwise the same for any number of threads.

// <a, b>: (*b) float64.
torch::stable::Tensor multi_dot(const torch::stable::Tensor& a, const torch::stable::Tensor& b);

// new = <r, z>; where running: p = restart ? z : z + (new / rz) p, rz = new, restart = false.
void cg_direction(const torch::stable::Tensor& r, const torch::stable::Tensor& z, torch::stable::Tensor p,
                  torch::stable::Tensor rz, torch::stable::Tensor restart, const torch::stable::Tensor& running);

// curvature = <p, hp>; where running and curvature and rz are finite and > 0: y += alpha p, r -= alpha hp with
// alpha = rz / curvature. Returns (curvature, ||r|| afterwards).
std::tuple<torch::stable::Tensor, torch::stable::Tensor> cg_update(const torch::stable::Tensor& p,
                                                                   const torch::stable::Tensor& hp,
                                                                   const torch::stable::Tensor& rz,
                                                                   const torch::stable::Tensor& running,
                                                                   torch::stable::Tensor y, torch::stable::Tensor r);

// r = b - hy; where running: y += eta r. Returns ||r||.
torch::stable::Tensor neumann_step(const torch::stable::Tensor& b, const torch::stable::Tensor& hy,
                                   const torch::stable::Tensor& eta, const torch::stable::Tensor& running,
                                   torch::stable::Tensor y, torch::stable::Tensor r);

}  // namespace amu_fast::cpu
