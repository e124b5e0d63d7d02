// Cholesky factors on a block of threads: columns of one matrix, panels of kPanel of them.
#pragma once

#include "cuda/auditor_loops.cuh"

namespace amu_fast::auditor::block {

constexpr int kPanel = 8;  // columns that are eliminated at once

struct BlockCholesky : BlockLoops {
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
};

}  // namespace amu_fast::auditor::block
