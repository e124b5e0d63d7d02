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
constexpr int kPanel = 8;                                  // columns that Cholesky eliminates at once

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

struct BlockTeam {
  double* scratch;
  int threads, thread;
  // What `pack` leaves for `gram`: the rows' numbers are in the packed array.
  const double* listed = nullptr;
  int64_t listed_ld = 0;
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

  // out_i = sum_j v_j x_ij: a thread per row, or a warp per row where rows are few.
  __device__ __noinline__ void times(const double* x, int64_t ld, int64_t n, int64_t p, const double* v, double* out) {
    if (4 * n >= threads) {
      for (int64_t i = thread; i < n; i += threads) {
        double sum[4] = {};
        int64_t j = 0;
        for (; j + 4 <= p; j += 4) {
#pragma unroll
          for (int k = 0; k < 4; ++k) sum[k] += v[j + k] * x[(j + k) * ld + i];
        }
        for (; j < p; ++j) sum[0] += v[j] * x[j * ld + i];
        out[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      }
    } else {
      for (int64_t i = warp(); i < n; i += warps()) {
        double sum = 0;
        for (int64_t j = lane(); j < p; j += 32) sum += v[j] * x[j * ld + i];
        sum = warp_sum(sum);
        if (lane() == 0) out[i] = sum;
      }
    }
    barrier();
  }

  // out_j = sum_i s_i x_ij: a warp per column.
  __device__ __noinline__ void transposed_times(const double* x, int64_t ld, int64_t n, int64_t pp, const double* s,
                                                double* out) {
    for (int64_t j = warp(); j < pp; j += warps()) {
      double sum = 0;
      for (int64_t i = lane(); i < n; i += 32) sum += s[i] * x[j * ld + i];
      sum = warp_sum(sum);
      if (lane() == 0) out[j] = sum;
    }
    barrier();
  }

  FN void row_norms(const double* x, int64_t ld, int64_t n, int64_t p, double* out) {
    rows(n, [&](int64_t i) {
      double sum = 0;
      for (int64_t j = 0; j < p; ++j) sum += x[j * ld + i] * x[j * ld + i];
      out[i] = sqrt(sum);
    });
  }

  FN void row_maxima(const double* x, int64_t ld, int64_t n, int64_t columns, double* out) {
    rows(n, [&](int64_t i) {
      double top = 0;
      for (int64_t j = 0; j < columns; ++j) top = vmax(fabs(x[j * ld + i]), top);
      out[i] = top;
    });
  }

  // The numbers of the training rows whose c differs from `before` (or from 0), and the differences in packed_c;
  // returns how many. Every warp finds the same; the first one writes.
  __device__ __noinline__ int64_t pack(const double* x, const Sizes& z, const double* c, const double* before,
                                       double* packed, double* packed_c) {
    int64_t count = 0;
    for (int64_t begin = 0; begin < z.n; begin += 32) {
      const int64_t i = begin + lane();
      const double change = i < z.n ? (before ? c[i] - before[i] : c[i]) : 0;
      const unsigned chosen = warp_ballot(change != 0);
      if (warp() == 0 && change != 0) {
        const int64_t at = count + __popc(chosen & ((1u << lane()) - 1));
        reinterpret_cast<int64_t*>(packed)[at] = i;
        packed_c[at] = change;
      }
      count += __popc(chosen);
    }
    listed = x;
    listed_ld = z.ld;
    barrier();
    return count;
  }

  // gram_jk (+)= sum_i c_i x_ij x_ik, as columns j of rows k >= j. Each thread owns pairs of columns.
  FN void gram(const double* x, int64_t ld, int64_t n, int64_t p, int64_t pp, const double* c, double* gram, bool add) {
    // Only a list stands one row to a column.
    const int64_t* const list = ld == 1 ? reinterpret_cast<const int64_t*>(x) : nullptr;
    const double* const from = list ? listed : x;
    const int64_t stride = list ? listed_ld : ld;
    const int64_t four = (p + 3) / 4, two = (p + 1) / 2;
    if (four * (four + 1) >= threads) {
      gram_tiles<4>(from, stride, list, n, p, pp, c, gram, add);
    } else if (two * (two + 1) >= threads) {
      gram_tiles<2>(from, stride, list, n, p, pp, c, gram, add);
    } else {
      gram_tiles<1>(from, stride, list, n, p, pp, c, gram, add);
    }
  }

  // factor = gram + l2 I, with ones on the padding's diagonal.
  FN void shifted(const double* gram, double* factor, int64_t p, int64_t pp, double l2) {
    for (int64_t j = warp(); j < pp; j += warps()) {
      for (int64_t k = j + lane(); k < pp; k += 32) {
        const double value = k < p ? gram[j * pp + k] : 0;
        factor[j * pp + k] = k > j ? value : j < p ? value + l2 : 1;
      }
    }
    barrier();
  }

  // gram_ik = sum_j x_ij x_kj over rows i, k: columns i of rows k >= i.
  __device__ __noinline__ void row_gram(const double* x, int64_t ld, int64_t n, int64_t p, double* gram) {
    for (int64_t i = warp(); i < n; i += warps()) {
      for (int64_t k = i + lane(); k < n; k += 32) {
        double sum[2] = {};
        for (int64_t j = 0; j + 2 <= p; j += 2) {
          sum[0] += x[j * ld + i] * x[j * ld + k];
          sum[1] += x[(j + 1) * ld + i] * x[(j + 1) * ld + k];
        }
        if (p % 2) sum[0] += x[(p - 1) * ld + i] * x[(p - 1) * ld + k];
        gram[i * n + k] = sum[0] + sum[1];
      }
    }
    barrier();
  }

  // factor = l2 I + C^1/2 gram C^1/2.
  FN void scaled(const double* gram, const double* c, double* factor, int64_t n, double l2, double* root) {
    rows(n, [&](int64_t i) { root[i] = sqrt(c[i]); });
    for (int64_t i = warp(); i < n; i += warps()) {
      for (int64_t k = i + lane(); k < n; k += 32) {
        const double value = root[i] * root[k] * gram[i * n + k];
        factor[i * n + k] = k > i ? value : value + l2;
      }
    }
    barrier();
  }

  // a = L L^T in place; `inverse` gets 1 / L_kk. False where a pivot is not > 0.
  __device__ __noinline__ bool cholesky(double* a, int64_t n, double* inverse, double*) {
    for (int64_t J = 0; J < n; J += kPanel) {
      const int width = n - J < kPanel ? static_cast<int>(n - J) : kPanel;
      if (warp() == 0) factor_diagonal(a + J * n + J, n, width, inverse + J);
      barrier();
      // A pivot that is not > 0 has the inverse infinity or NaN.
      for (int c = 0; c < width; ++c) {
        if (!(inverse[J + c] < INFINITY)) return false;
      }
      for (int64_t i = J + width + thread; i < n; i += threads) {
        double row[kPanel];
#pragma unroll
        for (int c = 0; c < kPanel; ++c) {
          if (c >= width) break;
          row[c] = a[(J + c) * n + i];
#pragma unroll
          for (int k = 0; k < c; ++k) row[c] -= row[k] * a[(J + k) * n + J + c];
          row[c] *= inverse[J + c];
          a[(J + c) * n + i] = row[c];
        }
      }
      barrier();
      for (int64_t k = J + kPanel + warp(); k < n; k += warps()) {
        double left[kPanel];
#pragma unroll
        for (int c = 0; c < kPanel; ++c) left[c] = a[(J + c) * n + k];
        for (int64_t i = k + lane(); i < n; i += 32) {
          double rest = a[k * n + i];
#pragma unroll
          for (int c = 0; c < kPanel; ++c) rest -= left[c] * a[(J + c) * n + i];
          a[k * n + i] = rest;
        }
      }
      barrier();
    }
    return true;
  }

  // v = (L L^T)^-1 v: the first warp solves 32 unknowns, all threads take them out of the rest.
  __device__ __noinline__ void cholesky_solve(const double* a, int64_t n, const double* inverse, const double*,
                                              double* v) {
    for (int64_t J = 0; J < n; J += 32) {
      const int width = n - J < 32 ? static_cast<int>(n - J) : 32;
      if (warp() == 0) {
        double mine = lane() < width ? v[J + lane()] : 0;
        for (int c = 0; c < width; ++c) {
          const double solved = warp_broadcast(mine, c) * inverse[J + c];
          if (lane() == c) mine = solved;
          if (lane() > c && lane() < width) mine -= a[(J + c) * n + J + lane()] * solved;
        }
        if (lane() < width) v[J + lane()] = mine;
      }
      barrier();
      if (J + 32 >= n) break;
      for (int64_t i = J + 32 + thread; i < n; i += threads) {
        double rest = v[i];
        for (int c = 0; c < 32; ++c) rest -= a[(J + c) * n + i] * v[J + c];
        v[i] = rest;
      }
      barrier();
    }
    for (int64_t J = (n - 1) / 32 * 32; J >= 0; J -= 32) {
      const int width = n - J < 32 ? static_cast<int>(n - J) : 32;
      if (warp() == 0) {
        double mine = lane() < width ? v[J + lane()] : 0;
        for (int c = width - 1; c >= 0; --c) {
          const double solved = warp_broadcast(mine, c) * inverse[J + c];
          if (lane() == c) mine = solved;
          if (lane() < c) mine -= a[(J + lane()) * n + J + c] * solved;
        }
        if (lane() < width) v[J + lane()] = mine;
      }
      barrier();
      if (J == 0) break;
      for (int64_t k = thread; k < J; k += threads) {
        double rest = v[k];
        for (int c = 0; c < width; ++c) rest -= a[k * n + J + c] * v[J + c];
        v[k] = rest;
      }
      barrier();
    }
  }

  // |H^-1|_F over the first p columns: L^-1 in rows into `storage`, a thread per column, then its products.
  __device__ __noinline__ double inverse_norm(const double* a, int64_t p, int64_t n, const double* inverse,
                                              double* storage) {
    for (int64_t j = thread; j < p; j += threads) {
      const int64_t top = j / 32 * 32;  // the warp's first column: all its lanes walk the same rows
      for (int64_t i = top; i < p; ++i) {
        double sum[2] = {i == j ? 1.0 : 0.0, 0.0};
        int64_t k = top;
        for (; k + 2 <= i; k += 2) {
          sum[0] -= a[k * n + i] * storage[k * n + j];
          sum[1] -= a[(k + 1) * n + i] * storage[(k + 1) * n + j];
        }
        if (k < i) sum[0] -= a[k * n + i] * storage[k * n + j];
        storage[i * n + j] = (sum[0] + sum[1]) * inverse[i];
      }
    }
    barrier();
    double square = 0;
    for (int64_t j = warp(); j < p; j += warps()) {
      for (int64_t k = lane(); k <= j; k += 32) {
        double sum = 0;
        for (int64_t i = j; i < p; ++i) sum += storage[i * n + j] * storage[i * n + k];
        square += (k < j ? 2 : 1) * sum * sum;
      }
    }
    double total;
    sum<1>(threads, &total, [&](int64_t, V* acc) { acc[0] += square; });
    return sqrt(total);
  }

 private:
  // Whoever writes a set has passed the barrier of the other one, which all reach after they have read this one.
  FN double* next_scratch() {
    set_of_scratch ^= 1;
    return scratch + set_of_scratch * (kScratch / 2);
  }

  // One warp: lane r holds row r of the diagonal block.
  FN void factor_diagonal(double* a, int64_t n, int width, double* inverse) {
    const int r = lane();
    double row[kPanel];
#pragma unroll
    for (int c = 0; c < kPanel; ++c) row[c] = r < width && c <= r ? a[c * n + r] : 0;
#pragma unroll
    for (int c = 0; c < kPanel; ++c) {
      if (c >= width) break;
      const double scale = 1 / sqrt(warp_broadcast(row[c], c));
      row[c] *= scale;
      if (r == 0) inverse[c] = scale;
#pragma unroll
      for (int k = c + 1; k < kPanel; ++k) {
        const double pivot = warp_broadcast(row[c], k);
        if (r >= k) row[k] -= row[c] * pivot;
      }
    }
#pragma unroll
    for (int c = 0; c < kPanel; ++c) {
      if (r < width && c <= r) a[c * n + r] = row[c];
    }
  }

  // Tiles of R x R pairs of columns, `step` apart, so that neighbouring threads read neighbouring columns.
  template <int R>
  __device__ __noinline__ void gram_tiles(const double* x, int64_t ld, const int64_t* list, int64_t n, int64_t p,
                                          int64_t pp, const double* c, double* gram, bool add) {
    const int columns = static_cast<int>(p), step = (columns + R - 1) / R;
    const int64_t tiles = static_cast<int64_t>(step) * (step + 1) / 2;
    for (int64_t tile = thread; tile < tiles; tile += threads) {
      // Tiles (left, right) with right <= left, row after row.
      int left = static_cast<int>((sqrt(8.0 * static_cast<double>(tile) + 1) - 1) / 2);
      if (left * (left + static_cast<int64_t>(1)) / 2 > tile) --left;
      if ((left + 1) * (left + static_cast<int64_t>(2)) / 2 <= tile) ++left;
      const int right = static_cast<int>(tile - left * (left + static_cast<int64_t>(1)) / 2);
      const double *ours[R], *others[R];
#pragma unroll
      for (int k = 0; k < R; ++k) {
        // Beyond the last column another one is computed again, and dropped.
        const int j = left + k * step, i = right + k * step;
        ours[k] = x + (j < columns ? j : left) * ld;
        others[k] = x + (i < columns ? i : right) * ld;
      }
      double sum[R][R] = {};
      for (int64_t i = 0; i < n; ++i) {
        const int64_t row = list ? list[i] : i;
        double scaled_column[R], other[R];
#pragma unroll
        for (int k = 0; k < R; ++k) scaled_column[k] = c[i] * ours[k][row], other[k] = others[k][row];
#pragma unroll
        for (int k = 0; k < R; ++k) {
#pragma unroll
          for (int l = 0; l < R; ++l) sum[k][l] += scaled_column[k] * other[l];
        }
      }
#pragma unroll
      for (int k = 0; k < R; ++k) {
#pragma unroll
        for (int l = 0; l < R; ++l) {
          const int j = left + k * step, i = right + l * step;
          if (j >= columns || i >= columns || (left == right && l > k)) continue;
          double& out = gram[j < i ? j * pp + i : i * pp + j];
          out = add ? out + sum[k][l] : sum[k][l];
        }
      }
    }
    barrier();
  }
};

#undef FN
#undef LAMBDA

}  // namespace amu_fast::auditor::block
