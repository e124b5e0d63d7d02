#include "common/tensors.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>

namespace amu_fast {

using torch::headeronly::ScalarType;

Shape batch_shape(const Tensor& tensor, int64_t core) {
  STD_TORCH_CHECK(tensor.dim() >= core, "expected at least ", core, " dimensions, got ", tensor.dim());
  const auto sizes = tensor.sizes();
  return Shape(sizes.begin(), sizes.end() - core);
}

Shape broadcast(const Shape& a, const Shape& b) {
  const Shape& longer = a.size() >= b.size() ? a : b;
  const Shape& shorter = a.size() >= b.size() ? b : a;
  Shape out = longer;
  const size_t shift = longer.size() - shorter.size();
  for (size_t i = 0; i < shorter.size(); ++i) {
    int64_t& size = out[i + shift];
    STD_TORCH_CHECK(size == shorter[i] || size == 1 || shorter[i] == 1, "batch dimensions ", size, " and ", shorter[i],
                    " do not broadcast");
    if (size == 1) size = shorter[i];
  }
  return out;
}

int64_t product(const Shape& shape) {
  int64_t total = 1;
  for (const int64_t size : shape) total *= size;
  return total;
}

std::vector<int64_t> batch_offsets(const Tensor& tensor, int64_t core, const Shape& batch) {
  const int64_t own = tensor.dim() - core;
  const int64_t rank = static_cast<int64_t>(batch.size());
  Shape strides(batch.size(), 0);
  for (int64_t i = 0; i < own; ++i) {
    strides[rank - own + i] = tensor.size(i) == 1 ? 0 : tensor.stride(i);
  }
  std::vector<int64_t> offsets(product(batch), 0);
  for (size_t problem = 0; problem < offsets.size(); ++problem) {
    int64_t rest = static_cast<int64_t>(problem);
    for (int64_t i = rank - 1; i >= 0; --i) {
      offsets[problem] += (rest % batch[i]) * strides[i];
      rest /= batch[i];
    }
  }
  return offsets;
}

Tensor with_dense_rows(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  return tensor.size(last) <= 1 || tensor.stride(last) == 1 ? tensor : torch::stable::contiguous(tensor);
}

Tensor dense(const Tensor& tensor, ScalarType type) {
  const Tensor typed = tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
  // Asking is cheaper than a call of the dispatcher that changes nothing.
  return typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
}

void check_same_float(const Tensor& a, const Tensor& b, const char* what) {
  const ScalarType type = a.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, what,
                  " must be float32 or float64; convert the tensors first");
  STD_TORCH_CHECK(b.scalar_type() == type, what, " must share one dtype; convert the tensors first");
}

}  // namespace amu_fast
