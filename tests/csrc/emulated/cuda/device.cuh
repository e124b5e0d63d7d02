// Stands in for csrc/cuda/device.cuh: runs a kernel's own source on the CPU, every thread as a fibre.
//
// Harsher than a device where that finds faults: shared memory starts as NaN and ends in canaries, the target of an
// asynchronous copy is NaN until its wait, fibres run in another order in every round, and a barrier that not all
// threads reach ends the program with a message.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulated {

struct Copy {
  char* to;
  const char* from;
  int bytes;
};

struct Barrier {
  int64_t size = 0, arrived = 0, round = 0;
};

struct Warp {
  Barrier barrier;
  double values[2][32];
};

struct Block {
  std::vector<char> shared;
  Barrier barrier;
  std::vector<Warp> warps;
  dim3 index;
  int rank = 0;
};

struct Thread {
  dim3 index;
  Block* block;
  std::vector<Block>* cluster;
  Barrier* cluster_barrier;
  int64_t exchanges = 0;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> pending;
};

inline Thread* current = nullptr;

// Waits for all threads of `barrier`.
void wait(Barrier& barrier);

// Runs `body` once per thread of the grid, cluster after cluster.
void run(dim3 grid, int64_t threads, int64_t shared, int64_t cluster, const std::function<void()>& body);

inline char* aligned(std::vector<char>& shared) {
  const auto address = reinterpret_cast<uintptr_t>(shared.data());
  return shared.data() + (16 - address % 16) % 16;
}

// All lanes' values, the same in every lane; two buffers, since a lane may be one exchange ahead.
inline const double* exchange(double value) {
  Warp& warp = current->block->warps[current->index.x / 32];
  double* const values = warp.values[current->exchanges++ % 2];
  values[current->index.x % 32] = value;
  wait(warp.barrier);
  return values;
}

}  // namespace emulated

#define threadIdx (emulated::current->index)
#define blockIdx (emulated::current->block->index)

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline void __syncthreads() { emulated::wait(emulated::current->block->barrier); }

namespace amu_fast::cuda {

inline char* shared_memory() { return emulated::aligned(emulated::current->block->shared); }

inline void copy_async(void* shared, const void* global, int bytes) {
  std::memset(shared, 0xff, 16);
  emulated::current->open.push_back({static_cast<char*>(shared), static_cast<const char*>(global), bytes});
}

inline void copy_commit() {
  emulated::current->pending.push_back(std::move(emulated::current->open));
  emulated::current->open.clear();
}

template <int kPending>
void copy_wait() {
  auto& pending = emulated::current->pending;
  for (; pending.size() > kPending; pending.pop_front()) {
    for (const emulated::Copy& copy : pending.front()) {
      std::memset(copy.to, 0, 16);
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
  }
}

// In the order of the device's butterfly: the halves, the quarters, ...
template <typename Combine>
double butterfly(double value, Combine combine) {
  const double* const all = emulated::exchange(value);
  double values[32];
  std::copy(all, all + 32, values);
  for (int step = 16; step > 0; step /= 2) {
    for (int lane = 0; lane < step; ++lane) values[lane] = combine(values[lane], values[lane + step]);
  }
  return values[0];
}

inline double warp_sum(double value) {
  return butterfly(value, [](double a, double b) { return a + b; });
}

inline double warp_max(double value) {
  return butterfly(value, [](double a, double b) { return std::fmax(a, b); });
}

inline double warp_broadcast(double value, int lane) { return emulated::exchange(value)[lane]; }

inline unsigned warp_ballot(bool yes) {
  const double* const all = emulated::exchange(yes);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(all[lane] != 0) << lane;
  return bits;
}

inline int cluster_rank() { return emulated::current->block->rank; }

inline void cluster_barrier(int64_t blocks) {
  blocks > 1 ? emulated::wait(*emulated::current->cluster_barrier) : __syncthreads();
}

template <typename T>
T* in_block(T* shared, int64_t blocks, int rank) {
  emulated::Block& own = *emulated::current->block;
  emulated::Block& other = (*emulated::current->cluster)[blocks > 1 ? rank : own.rank];
  const auto offset = reinterpret_cast<char*>(shared) - emulated::aligned(own.shared);
  return reinterpret_cast<T*>(emulated::aligned(other.shared) + offset);
}

}  // namespace amu_fast::cuda
