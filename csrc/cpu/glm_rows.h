// Blocks of rows of a generalised linear model: products with them, sums of them, and how they are cut into tasks.
//
// A block of kRows rows goes twice through the core, once for <row, v> and once for sums of rows; the second time it
// comes from cache. Meanwhile the rows to come are fetched, so that memory does not wait for the arithmetic.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <type_traits>

#include "common/target_clones.h"

namespace amu_fast::cpu {

constexpr int kRows = 4;                // rows that share one load of v and one update of y
constexpr int64_t kColumns = 2048;      // columns summed in the element's own precision before widening
constexpr int64_t kTile = 256;          // rows summed in the element's own precision before widening
constexpr int64_t kMinChunkRows = 64;   // keeps the chunks' partial sums below 1/16 of the bytes of x
constexpr int64_t kMinChunk = 1 << 16;  // elements of x that are worth a task of their own
constexpr int64_t kMaxChunks = 64;      // chunks per problem: fixed, whatever the number of threads
constexpr int64_t kSumWidth = 512;      // entries of a result that one task sums over the chunks
constexpr int64_t kShortRow = 1 << 11;  // bytes of a row up to which rows are multiplied one by one
constexpr int64_t kMinAhead = 1 << 15;  // bytes between the rows at work and those being fetched

// A register, and the same lying anywhere in memory. 32 bytes: the AVX2 copy keeps a block's sums in its 16 registers,
// and Zen's AVX-512 issues two of them per cycle.
template <typename T>
struct VecOf {
  typedef T type __attribute__((vector_size(32)));
  typedef T loose __attribute__((vector_size(32), aligned(sizeof(T)), may_alias));
};
template <typename T>
using Vec = typename VecOf<T>::type;
template <typename T>
using Mask = Vec<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;
template <typename T>
constexpr int64_t kLanes = 32 / sizeof(T);

// The vector that starts at `from`, by reference: vectors passed by value would depend on the copy's instruction set.
template <typename T>
AMU_FAST_INLINE const typename VecOf<T>::loose& load(const T* from) {
  return *reinterpret_cast<const typename VecOf<T>::loose*>(from);
}

template <typename T>
AMU_FAST_INLINE typename VecOf<T>::loose& at_vector(T* to) {
  return *reinterpret_cast<typename VecOf<T>::loose*>(to);
}

AMU_FAST_INLINE float add_lanes(const Vec<float>& a) {
  const auto half = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (half[0] + half[2]) + (half[1] + half[3]);
}

AMU_FAST_INLINE double add_lanes(const Vec<double>& a) {
  const auto half = __builtin_shufflevector(a, a, 0, 1) + __builtin_shufflevector(a, a, 2, 3);
  return half[0] + half[1];
}

// Rows of one problem: dense, `stride` elements apart.
template <typename T>
struct Rows {
  const T* x;
  int64_t stride, d;
  Mask<T> fresh;  // lanes of the vector at columns [d - kLanes, d) that no full vector from column 0 has covered

  Rows(const T* x, int64_t stride, int64_t d) : x(x), stride(stride), d(d) {
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) fresh[lane] = lane >= kLanes<T> - d % kLanes<T> ? -1 : 0;
  }
};

// Fetches rows to come into L2 in the order in which they lie in memory: half a row's lines per pass over a row.
struct Ahead {
  const char* at;  // null: nothing is fetched

  // Short rows are left to the hardware, and rows with gaps too: lines in memory order would fetch the gaps.
  template <typename T>
  static AMU_FAST_INLINE Ahead of(const Rows<T>& rows, int64_t row, int64_t block = kRows) {
    const int64_t bytes = rows.d * static_cast<int64_t>(sizeof(T));
    if (rows.stride != rows.d || bytes <= kShortRow) return {nullptr};
    return {reinterpret_cast<const char*>(rows.x + row * rows.stride) + std::max(kMinAhead, block * bytes)};
  }

  AMU_FAST_INLINE void lines(int count) {
    if (at == nullptr) return;
    for (int i = 0; i < count; ++i) __builtin_prefetch(at + 64 * i, 0, 2);
    at += 64 * count;
  }
};

// z[i][k] += <row k, v[i]> for R rows from `x` on and V vectors.
template <typename T, int R, int V>
AMU_FAST_INLINE void dot_rows(const Rows<T>& rows, const T* x, const T* const* v, double (*z)[R], Ahead& ahead) {
  constexpr int64_t L = kLanes<T>;
  constexpr int kSums = std::clamp(8 / (R * V), 1, 4);  // 8 chains hide the latency of a multiply-add
  constexpr int kStep = std::max(2, kSums);
  for (int64_t begin = 0; begin < rows.d; begin += kColumns) {
    const int64_t end = std::min(rows.d, begin + kColumns);
    Vec<T> sum[V][R][kSums] = {};
    const auto multiply = [&](int64_t j, int u) __attribute__((always_inline)) {
      for (int k = 0; k < R; ++k) {
        for (int i = 0; i < V; ++i) sum[i][k][u] += load(x + k * rows.stride + j) * load(v[i] + j);
      }
    };
    int64_t j = begin;
    for (; j + kStep * L <= end; j += kStep * L) {
      for (int u = 0; u < kStep; ++u) multiply(j + u * L, u % kSums);
      ahead.lines(R / 2);
    }
    for (; j + L <= end; j += L) multiply(j, 0);
    if (j < end && rows.d >= L) {
      for (int k = 0; k < R; ++k) {
        const Vec<T> last = rows.fresh ? load(x + k * rows.stride + end - L) : Vec<T>{};
        for (int i = 0; i < V; ++i) sum[i][k][0] += rows.fresh ? last * load(v[i] + end - L) : Vec<T>{};
      }
      j = end;
    }
    for (int k = 0; k < R; ++k) {
      for (int i = 0; i < V; ++i) {
        for (int u = 1; u < kSums; ++u) sum[i][k][0] += sum[i][k][u];
        z[i][k] += static_cast<double>(add_lanes(sum[i][k][0]));
        for (int64_t column = j; column < end; ++column) z[i][k] += x[k * rows.stride + column] * v[i][column];
      }
    }
  }
}

// The same, Step rows at a time.
template <typename T, int R, int V, int Step>
AMU_FAST_INLINE void dot_in_steps(const Rows<T>& rows, const T* x, const T* const* v, double (*z)[R], Ahead& ahead) {
  for (int k = 0; k < R; k += Step) {
    double part[V][Step];
    for (int i = 0; i < V; ++i) std::copy(z[i] + k, z[i] + k + Step, part[i]);
    dot_rows<T, Step, V>(rows, x + k * rows.stride, v, part, ahead);
    for (int i = 0; i < V; ++i) std::copy(part[i], part[i] + Step, z[i] + k);
  }
}

// The same, one row after the other where rows are short: the hardware fetches one dense stream better than R. More
// than two vectors leave registers for two rows only.
template <typename T, int R, int V>
AMU_FAST_INLINE void dot_block(const Rows<T>& rows, const T* x, const T* const* v, double (*z)[R], Ahead& ahead) {
  if (rows.d * static_cast<int64_t>(sizeof(T)) <= kShortRow) return dot_in_steps<T, R, V, 1>(rows, x, v, z, ahead);
  dot_in_steps<T, R, V, std::min(R, V > 2 ? 2 : 4)>(rows, x, v, z, ahead);
}

// The i-th of V sums, at y + i stride, gets sum_k r[i][k] x[k] of R rows at columns [j, j + kLanes), all of them or
// the `fresh` ones. With `Squares` the last sum is one of squares.
template <typename T, int R, int V, bool Squares>
AMU_FAST_INLINE void add_vector(const Rows<T>& rows, const T* x, const T (*r)[R], int64_t j, T* y, int64_t stride,
                                const Mask<T>* fresh) {
  Vec<T> sum[V] = {};
  for (int k = 0; k < R; ++k) {
    const Vec<T> row = load(x + k * rows.stride + j);
    for (int i = 0; i < V; ++i) {
      const Vec<T> term = Squares && i == V - 1 ? row * row : row;
      sum[i] = k == 0 ? term * r[i][0] : sum[i] + term * r[i][k];
    }
  }
  for (int i = 0; i < V; ++i) at_vector(y + i * stride + j) += fresh ? (*fresh ? sum[i] : Vec<T>{}) : sum[i];
}

// The same for all columns.
template <typename T, int R, int V, bool Squares = false>
AMU_FAST_INLINE void add_rows(const Rows<T>& rows, const T* AMU_FAST_RESTRICT x, const T (*r)[R],
                              T* AMU_FAST_RESTRICT y, int64_t stride, Ahead& ahead) {
  constexpr int64_t L = kLanes<T>;
  const int64_t d = rows.d;
  int64_t j = 0;
  for (; j + 2 * L <= d; j += 2 * L) {
    for (int u = 0; u < 2; ++u) add_vector<T, R, V, Squares>(rows, x, r, j + u * L, y, stride, nullptr);
    ahead.lines(R / 2);
  }
  if (j + L <= d) {
    add_vector<T, R, V, Squares>(rows, x, r, j, y, stride, nullptr);
    j += L;
  }
  if (j == d) return;
  if (d >= L) return add_vector<T, R, V, Squares>(rows, x, r, d - L, y, stride, &rows.fresh);
  for (; j < d; ++j) {
    for (int k = 0; k < R; ++k) {
      const T entry = x[k * rows.stride + j];
      for (int i = 0; i < V; ++i) y[i * stride + j] += r[i][k] * (Squares && i == V - 1 ? entry * entry : entry);
    }
  }
}

// Rows of one task: a function of the sizes alone, so that the order of the sums never depends on the machine.
inline int64_t rows_per_chunk(int64_t n, int64_t d, int64_t least = kMinChunkRows) {
  const int64_t worth = kMinChunk / std::max<int64_t>(d, 1);
  const int64_t fit = (n + kMaxChunks - 1) / kMaxChunks;
  const int64_t rows = std::max({least, worth, fit});
  return (rows + 2 * kRows - 1) / (2 * kRows) * (2 * kRows);
}

// Runs make()(task) for every task, on as many threads as `work` elements per task are worth. `make` builds what one
// thread keeps. Whoever is free takes the next task: cores are not equally fast.
template <typename Make>
void for_each_task(int64_t tasks, int64_t work, const Make& make) {
  std::atomic<int64_t> next{0};
  const int64_t grain = std::max<int64_t>(1, kMinChunk / std::max<int64_t>(work, 1));
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t, int64_t) {
    auto run = make();
    for (int64_t task = next++; task < tasks; task = next++) run(task);
  });
}

// sum[j] += the entries `j` of `chunks` partial sums that lie `stride` apart, in their order.
inline void add_partials(const double* AMU_FAST_RESTRICT partial, int64_t chunks, int64_t stride, int64_t width,
                         double* AMU_FAST_RESTRICT sum) {
  for (int64_t k = 0; k < chunks; ++k) {
    for (int64_t j = 0; j < width; ++j) sum[j] += partial[k * stride + j];
  }
}

}  // namespace amu_fast::cpu
