// Checks and shapes shared by all launchers: validate at the door, trust inside.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <vector>

namespace amu_fast {

using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

// The leading sizes of `tensor`, without its last `core` dimensions.
Shape batch_shape(const Tensor& tensor, int64_t core);

// The common shape of two batch shapes under broadcasting; throws where they do not fit.
Shape broadcast(const Shape& a, const Shape& b);

int64_t product(const Shape& shape);

// Offset in elements of every problem of `batch` in `tensor`, whose batch dimensions may be broadcast (stride 0).
std::vector<int64_t> batch_offsets(const Tensor& tensor, int64_t core, const Shape& batch);

// `tensor` itself where its last dimension is dense, else a contiguous copy.
Tensor with_dense_rows(const Tensor& tensor);

// `tensor` itself where it is dense and of the type, else a copy that is.
Tensor dense(const Tensor& tensor, torch::headeronly::ScalarType type);

// Throws unless both are of the same floating-point type, float32 or float64.
void check_same_float(const Tensor& a, const Tensor& b, const char* what);

}  // namespace amu_fast
