// The few device instructions that kernels use beyond plain CUDA, so that a test can put an emulation in their place.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace amu_fast::cuda {

__device__ inline char* shared_memory() {
  extern __shared__ __align__(16) char bytes[];
  return bytes;
}

// Copies `bytes` <= 16 of an aligned vector and fills the rest with zeros, behind the thread's back.
__device__ inline void copy_async(void* shared, const void* global, int bytes) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}

__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `kPending` of this thread's groups of copies are under way.
template <int kPending>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// The sum over the warp, the same bits in every lane.
__device__ inline double warp_sum(double value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

__device__ inline double warp_max(double value) {
  for (int step = 16; step > 0; step /= 2) value = fmax(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

// Lane `lane`'s value.
__device__ inline double warp_broadcast(double value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }

// Bit k tells whether lane k says yes.
__device__ inline unsigned warp_ballot(bool yes) { return __ballot_sync(0xffffffffu, yes); }

// This block's place in its cluster; 0 where there are no clusters.
__device__ inline int cluster_rank() {
#if __CUDA_ARCH__ >= 900
  return static_cast<int>(__clusterRelativeBlockRank());
#else
  return 0;
#endif
}

// A barrier of all threads of a cluster of `blocks` blocks; shared memory written before it is seen after it.
__device__ inline void cluster_barrier(int64_t blocks) {
#if __CUDA_ARCH__ >= 900
  if (blocks > 1) {
    __cluster_barrier_arrive();
    __cluster_barrier_wait();
    return;
  }
#endif
  __syncthreads();
}

// The same place in the shared memory of block `rank` of the cluster of `blocks` blocks.
template <typename T>
__device__ inline T* in_block(T* shared, int64_t blocks, int rank) {
#if __CUDA_ARCH__ >= 900
  if (blocks > 1) return static_cast<T*>(__cluster_map_shared_rank(shared, rank));
#endif
  return shared;
}

}  // namespace amu_fast::cuda
