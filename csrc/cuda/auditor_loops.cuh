// The loops of one follower problem on one block of threads, and the mathematics of common/auditor on top of them.
//
// All threads carry the same scalars, bit by bit, so they take the same branches. Sums are per thread over every
// `threads`-th row, then over the lanes, then over the warps: in an order that depends on nothing but the block's size.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/auditor/block_plan.h"
#include "common/auditor/settings.h"
#include "cuda/device.cuh"

namespace amu_fast::auditor::block {

using cuda::warp_ballot;
using cuda::warp_broadcast;
using cuda::warp_max;
using cuda::warp_sum;

constexpr int kMaxThreads = 256;
constexpr int kMaxSums = 4;                                // of one reduction
constexpr int kScratch = 2 * kMaxSums * kMaxThreads / 32;  // doubles: two sets, used by turns

using V = double;
using M = bool;

#define FN __device__ inline
#define LAMBDA

FN V splat(double a) { return a; }
FN V get(const double* a) { return *a; }
FN void put(double* a, V v) { *a = v; }
FN V select(M mask, V a, V b) { return mask ? a : b; }
FN V vmax(V a, V b) { return a > b ? a : b; }
FN V vmin(V a, V b) { return a < b ? a : b; }
FN V vabs(V a) { return fabs(a); }
FN V vsqrt(V a) { return sqrt(a); }
FN V exp_nonpositive(V x) { return x < -708 ? 0 : exp(x); }
FN V log1p_unit(V e) { return log1p(e); }

// Calls, not copies: the same few functions stand in many places, and copies would cost registers and compilation.
#undef FN
#define FN __device__ inline __noinline__
// clang-format off
#include "common/auditor/losses.h"
#include "common/auditor/newton.h"
#include "common/auditor/bounds.h"
#include "common/auditor/problem.h"
// clang-format on
#undef FN
#define FN __device__ inline

// One warp that owns a column. Every lane keeps to its rows, so there is nothing to wait for.
struct WarpTeam {
  int lane;

  template <class F>
  FN void rows(int64_t n, F f) {
    for (int64_t i = lane; i < n; i += 32) f(i);
  }

  template <int K, class F>
  FN void sum(int64_t n, double* out, F f) {
    V acc[K] = {};
    for (int64_t i = lane; i < n; i += 32) f(i, acc);
#pragma unroll
    for (int k = 0; k < K; ++k) out[k] = warp_sum(acc[k]);
  }

  template <class F>
  FN double max(int64_t n, F f) {
    double top = 0;
    for (int64_t i = lane; i < n; i += 32) top = vmax(f(i), top);
    return warp_max(top);
  }

  FN void set(double* a, double value) const {
    if (lane == 0) *a = value;
  }
};

// The loops of a block.
struct BlockLoops {
  double* scratch;
  int threads, thread;
  int set_of_scratch = 0;

  FN int lane() const { return thread % 32; }
  FN int warp() const { return thread / 32; }
  FN int warps() const { return threads / 32; }
  FN void barrier() const { __syncthreads(); }

  template <class F>
  FN void rows(int64_t n, F f) {
    for (int64_t i = thread; i < n; i += threads) f(i);
    barrier();
  }

  template <int K, class F>
  FN void sum(int64_t n, double* out, F f) {
    V acc[K] = {};
    for (int64_t i = thread; i < n; i += threads) f(i, acc);
    double* const mine = next_scratch();
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const double total = warp_sum(acc[k]);
      if (lane() == 0) mine[k * warps() + warp()] = total;
    }
    barrier();
#pragma unroll
    for (int k = 0; k < K; ++k) {
      out[k] = 0;
      for (int i = 0; i < warps(); ++i) out[k] += mine[k * warps() + i];
    }
  }

  // The largest f, at least 0.
  template <class F>
  FN double max(int64_t n, F f) {
    double top = 0;
    for (int64_t i = thread; i < n; i += threads) top = vmax(f(i), top);
    double* const mine = next_scratch();
    top = warp_max(top);
    if (lane() == 0) mine[warp()] = top;
    barrier();
    for (int i = 0; i < warps(); ++i) top = vmax(mine[i], top);
    return top;
  }

  // f(team, j) for every column, a warp each.
  template <class F>
  FN void columns(int64_t count, F f) {
    WarpTeam team{lane()};
    for (int64_t j = warp(); j < count; j += warps()) f(team, j);
    barrier();
  }

  FN double at(const double* a) const { return *a; }
  FN void set(double* a, double value) const {
    if (thread == 0) *a = value;
  }

 protected:
  // Whoever writes a set has passed the barrier of the other one, which all reach after they have read this one.
  FN double* next_scratch() {
    set_of_scratch ^= 1;
    return scratch + set_of_scratch * (kScratch / 2);
  }
};

}  // namespace amu_fast::auditor::block
