// What one follower problem needs of a block of threads: products with its rows on top of loops and factors.
#pragma once

#include "cuda/auditor_cholesky.cuh"

namespace amu_fast::auditor::block {

struct BlockTeam : BlockCholesky {
  // What `pack` leaves for `gram`: the rows' numbers are in the packed array.
  const double* listed = nullptr;
  int64_t listed_ld = 0;

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

 private:
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
