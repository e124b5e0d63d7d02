// Stands in for csrc/cuda/launch.h: launchers run as they are, on CPU tensors and an imagined device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "cuda/device.cuh"

namespace emulated {

struct Device {
  int64_t multiprocessors = 4, shared_limit = 232448;
  bool clusters = true;
};

inline Device device;

}  // namespace emulated

namespace amu_fast::cuda {

class OnDeviceOf {
 public:
  explicit OnDeviceOf(const torch::stable::Tensor&) {}

  int64_t multiprocessors() const { return emulated::device.multiprocessors; }
  int64_t shared_limit() const { return emulated::device.shared_limit; }
  bool has_clusters() const { return emulated::device.clusters; }
};

class Launch {
 public:
  Launch(const OnDeviceOf&, dim3 grid, int64_t threads, int64_t shared, int64_t cluster = 1)
      : grid_(grid), threads_(threads), shared_(shared), cluster_(cluster) {}

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), Arguments&&... arguments) const {
    emulated::run(grid_, threads_, shared_, cluster_, [&] { kernel(static_cast<Parameters>(arguments)...); });
  }

  template <typename... Parameters>
  int64_t clusters(void (*)(Parameters...)) const {
    return std::max<int64_t>(1, emulated::device.multiprocessors / cluster_);
  }

 private:
  dim3 grid_;
  int64_t threads_, shared_, cluster_;
};

}  // namespace amu_fast::cuda
