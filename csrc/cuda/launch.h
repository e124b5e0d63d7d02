// What every CUDA launcher needs: the tensor's device and its current stream, and facts about the device.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>

namespace amu_fast::cuda {

// Makes the device of `tensor` current for its own lifetime; launches go to that device's current stream.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const torch::stable::Tensor& tensor)
      : device_(static_cast<int32_t>(tensor.get_device_index())), guard_(device_) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  int64_t multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount); }

  // Bytes of shared memory that one block may ask for.
  int64_t shared_limit() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

  bool has_clusters() const { return attribute(cudaDevAttrClusterLaunch) != 0; }

 private:
  int64_t attribute(cudaDeviceAttr name) const {
    int value = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device_));
    return value;
  }

  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// Where a kernel runs: clusters of `cluster` blocks (1: none), `shared` bytes of dynamic shared memory each.
class Launch {
 public:
  Launch(const OnDeviceOf& device, dim3 grid, int64_t threads, int64_t shared, int64_t cluster = 1) {
    config_.gridDim = grid;
    config_.blockDim = dim3(static_cast<unsigned>(threads));
    config_.dynamicSmemBytes = static_cast<size_t>(shared);
    config_.stream = device.stream();
    cluster_.id = cudaLaunchAttributeClusterDimension;
    cluster_.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
    config_.attrs = &cluster_;
    config_.numAttrs = cluster > 1;
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), Arguments&&... arguments) const {
    allow_shared(kernel);
    STD_CUDA_CHECK(cudaLaunchKernelEx(&config_, kernel, static_cast<Parameters>(arguments)...));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  // Clusters that run at once, at least 1.
  template <typename... Parameters>
  int64_t clusters(void (*kernel)(Parameters...)) const {
    allow_shared(kernel);
    int count = 0;
    STD_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&count, kernel, &config_));
    return count > 0 ? count : 1;
  }

 private:
  template <typename... Parameters>
  void allow_shared(void (*kernel)(Parameters...)) const {
    STD_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(config_.dynamicSmemBytes)));
  }

  cudaLaunchConfig_t config_ = {};
  cudaLaunchAttribute cluster_ = {};
};

}  // namespace amu_fast::cuda
