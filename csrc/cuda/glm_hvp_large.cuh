// Kernels of y = X~^T (c o (X~ v)) + l2 v for wide rows: two ways to the same partial sums, which one kernel adds.
//
// Cluster form: a row's slice lies in the shared memory of each block of a cluster, so x is read once. Every thread
// copies what it alone reads: shared memory is its queue, and the one barrier per stage is that of the rows' products.
// Chunk form: rows that fit the second-level cache are multiplied and then read again from it.
// Both sum a tile of rows in the element's own precision (bf16: float32) and everything else in double, in fixed order.
#pragma once

#include <cstdint>

#include "common/hvp_plan.h"
#include "cuda/device.cuh"

namespace amu_fast::cuda {

// One problem: x has dense rows; R is the type of c, v and y.
template <typename T, typename R>
struct WideProblem {
  const T* x;
  int64_t stride;
  const R* c;
  const R* v;
  int64_t n, d, p;

  __device__ double bias() const { return p > d ? static_cast<double>(v[d]) : 0.0; }
};

template <typename T>
struct alignas(hvp::kVectorBytes) Vector {
  T at[hvp::kVectorBytes / sizeof(T)];
};

// One thread's share of a cluster: its columns of its block's slice, of rows [first, end).
template <typename T, int kColumns>
struct Share {
  static constexpr int kVector = hvp::kVectorBytes / sizeof(T);
  static constexpr int kVectors = kColumns / kVector;
  static constexpr int kRows = static_cast<int>(hvp::stage_rows(kColumns, sizeof(T)));

  const WideProblem<T, float>& in;
  const hvp::ClusterPlan& plan;
  T* queue;
  int64_t left, first, end;
  int width, slice;

  __device__ int column(int vector) const {
    return (vector * static_cast<int>(hvp::kThreads) + static_cast<int>(threadIdx.x)) * kVector;
  }

  __device__ T* place(int stage, int row) const { return queue + (stage * kRows + row) * slice; }

  // Starts the copies of a stage; beyond the last row there is nothing to copy, but a group to count.
  __device__ void fetch(int step, int stage) const {
    for (int k = 0; k < kRows; ++k) {
      const int64_t row = first + static_cast<int64_t>(step) * kRows + k;
      if (row >= end) break;
      const T* const x = in.x + row * in.stride + left;
      for (int i = 0; i < kVectors; ++i) {
        const int j = column(i), rest = (width - j) * static_cast<int>(sizeof(T));
        if (rest <= 0) break;
        constexpr int kWhole = static_cast<int>(hvp::kVectorBytes);
        copy_async(place(stage, k) + j, x + j, rest < kWhole ? rest : kWhole);
      }
    }
    copy_commit();
  }

  __device__ void wait() const {
    if (plan.stages == hvp::kMaxStages) {
      copy_wait<hvp::kMaxStages - 1>();
    } else {
      copy_wait<1>();
    }
  }

  __device__ Vector<T> vector(int stage, int row, int i) const {
    return *reinterpret_cast<const Vector<T>*>(place(stage, row) + column(i));
  }

  __device__ float product(int stage, int row, const float (&v)[kColumns]) const {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (column(i) >= width) continue;
      const Vector<T> x = vector(stage, row, i);
#pragma unroll
      for (int e = 0; e < kVector; ++e) sum += static_cast<float>(x.at[e]) * v[i * kVector + e];
    }
    return sum;
  }

  __device__ void add(int stage, int row, float r, float (&y)[kColumns]) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (column(i) >= width) continue;
      const Vector<T> x = vector(stage, row, i);
#pragma unroll
      for (int e = 0; e < kVector; ++e) y[i * kVector + e] += r * static_cast<float>(x.at[e]);
    }
  }

  __device__ void load(const float* from, float (&v)[kColumns]) const {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int j = column(i / kVector) + i % kVector;
      v[i] = j < width ? from[left + j] : 0.0f;
    }
  }

  __device__ void store(const float (&y)[kColumns], float* to) const {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int j = column(i / kVector) + i % kVector;
      if (j < width) to[left + j] = y[i];
    }
  }
};

template <typename T, int kColumns>
__global__ void __launch_bounds__(hvp::kThreads, 1)
    hvp_cluster(WideProblem<T, float> in, hvp::ClusterPlan plan, hvp::RowPlan rows, float* partial) {
  using Mine = Share<T, kColumns>;
  constexpr int kRows = Mine::kRows;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = cluster_rank();
  const int slots = static_cast<int>(plan.blocks * hvp::kWarps);
  double* const products = reinterpret_cast<double*>(shared_memory());
  const int64_t left = rank * plan.slice, first = blockIdx.x / plan.blocks * rows.cluster_rows;
  const int64_t end = in.n - first < rows.cluster_rows ? in.n : first + rows.cluster_rows;
  const int width = static_cast<int>(in.d - left < plan.slice ? in.d - left : plan.slice);
  T* const queue = reinterpret_cast<T*>(products + 2 * kRows * slots);
  const Mine mine{in, plan, queue, left, first, end, width, static_cast<int>(plan.slice)};

  float v[kColumns], y[kColumns] = {};
  mine.load(in.v, v);
  double ones = 0.0;
  const double bias = in.bias();
  const int stages = static_cast<int>(plan.stages);
  for (int step = 0; step < stages - 1; ++step) mine.fetch(step, step);
  // A block's shared memory may be written from outside only once the block runs.
  cluster_barrier(plan.blocks);

  const int steps = static_cast<int>(hvp::ceil_div(end - first, kRows));
  for (int step = 0, stage = 0; step < steps; ++step, stage = stage + 1 < stages ? stage + 1 : 0) {
    mine.fetch(step + stages - 1, stage > 0 ? stage - 1 : stages - 1);
    const int64_t row = first + static_cast<int64_t>(step) * kRows;
    const int here = end - row < kRows ? static_cast<int>(end - row) : kRows;
    float r[kRows];
#pragma unroll
    for (int k = 0; k < kRows; ++k) r[k] = k < here ? in.c[row + k] : 0.0f;
    mine.wait();
    // Two sets of slots: whoever is a step ahead writes the other one, and nobody is two steps ahead.
    double* const slot = products + step % 2 * kRows * slots;
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (k >= here) continue;
      const double total = warp_sum(mine.product(stage, k, v));
      if (lane < plan.blocks) in_block(slot, plan.blocks, lane)[k * slots + rank * hvp::kWarps + warp] = total;
    }
    cluster_barrier(plan.blocks);
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (k >= here) continue;
      double z = 0.0;
      for (int i = lane; i < slots; i += 32) z += slot[k * slots + i];
      r[k] = static_cast<float>(r[k] * (warp_sum(z) + bias));
      ones += r[k];
      mine.add(stage, k, r[k], y);
    }
    const int64_t done = (step + static_cast<int64_t>(1)) * kRows;
    if (step + 1 < steps && done % rows.tile_rows != 0) continue;
    float* const out = partial + (first + done - kRows) / rows.tile_rows * in.p;
    mine.store(y, out);
    if (in.p > in.d && rank == 0 && threadIdx.x == 0) out[in.d] = static_cast<float>(ones);
    for (float& sum : y) sum = 0.0f;
    ones = 0.0;
  }
}

// z (rows, parts): parts of the products of rows [first, first + gridDim.x) with v.
template <typename T, typename R>
__global__ void __launch_bounds__(hvp::kChunkThreads)
    hvp_chunk_rows(WideProblem<T, R> in, int64_t first, int64_t parts, double* z) {
  constexpr int kWarps = hvp::kChunkThreads / 32;
  double* const sums = reinterpret_cast<double*>(shared_memory());
  const int thread = threadIdx.x;
  const int64_t part = blockIdx.y, begin = part * hvp::kChunkColumns;
  const int64_t end = in.d < begin + hvp::kChunkColumns ? in.d : begin + hvp::kChunkColumns;
  const T* const x = in.x + (first + blockIdx.x) * in.stride;
  R sum = 0;
#pragma unroll 8
  for (int64_t j = begin + thread; j < end; j += hvp::kChunkThreads) sum += static_cast<R>(x[j]) * in.v[j];
  const double total = warp_sum(sum);
  if (thread % 32 == 0) sums[thread / 32] = total;
  __syncthreads();
  if (thread != 0) return;
  double product = 0.0;
  for (int i = 0; i < kWarps; ++i) product += sums[i];
  z[blockIdx.x * parts + part] = product;
}

// Rows [begin, begin + tile_rows) below `end`, of tile blockIdx.y, into their line of the partial sums.
template <typename T, typename R>
__global__ void __launch_bounds__(hvp::kChunkThreads)
    hvp_chunk_columns(WideProblem<T, R> in, int64_t first, int64_t end, hvp::ChunkPlan plan, const double* z,
                      R* partial) {
  R* const r = reinterpret_cast<R*>(shared_memory());
  const int thread = threadIdx.x;
  const int64_t begin = first + blockIdx.y * plan.tile_rows;
  const int64_t rows = end - begin < plan.tile_rows ? end - begin : plan.tile_rows;
  for (int64_t i = thread; i < rows; i += hvp::kChunkThreads) {
    double product = in.bias();
    for (int64_t k = 0; k < plan.parts; ++k) product += z[(begin - first + i) * plan.parts + k];
    r[i] = static_cast<R>(in.c[begin + i] * product);
  }
  __syncthreads();
  R* const out = partial + blockIdx.y * in.p;
  const int64_t j = blockIdx.x * hvp::kChunkThreads + thread;
  if (j < in.d) {
    const T* const x = in.x + begin * in.stride + j;
    R sum = 0;
#pragma unroll 8
    for (int64_t i = 0; i < rows; ++i) sum += r[i] * static_cast<R>(x[i * in.stride]);
    out[j] = sum;
  }
  if (in.p > in.d && blockIdx.x == 0 && thread == 0) {
    double sum = 0.0;
    for (int64_t i = 0; i < rows; ++i) sum += r[i];
    out[in.d] = static_cast<R>(sum);
  }
}

constexpr int kFinishLanes = 8;  // tiles are dealt to so many sums per column

// y = l2 v + the sum of the tiles' lines, 32 columns a block.
template <typename R>
__global__ void __launch_bounds__(32 * kFinishLanes)
    hvp_finish(const R* partial, int64_t tiles, const R* v, double l2, int64_t p, R* y) {
  double* const sums = reinterpret_cast<double*>(shared_memory());
  const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
  const int64_t j = blockIdx.x * static_cast<int64_t>(32) + lane;
  double sum = 0.0;
  if (j < p) {
#pragma unroll 4
    for (int64_t k = part; k < tiles; k += kFinishLanes) sum += partial[k * p + j];
  }
  sums[part * 32 + lane] = sum;
  __syncthreads();
  if (part != 0 || j >= p) return;
  double total = l2 * static_cast<double>(v[j]);
  for (int k = 0; k < kFinishLanes; ++k) total += sums[k * 32 + lane];
  y[j] = static_cast<R>(total);
}

}  // namespace amu_fast::cuda
