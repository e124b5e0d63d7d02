// The loops of one follower problem on one thread: vectors of kLanes rows. Included once per instruction set.

struct SimdTeam {
  template <class F>
  FN void rows(int64_t n, F f) {
    for (int64_t i = 0; i < n; i += kLanes) f(i);
  }

  template <int K, class F>
  FN void sum(int64_t n, double* out, F f) {
    V acc[K] = {};
    for (int64_t i = 0; i < n; i += kLanes) f(i, acc);
    for (int k = 0; k < K; ++k) out[k] = total(acc[k]);
  }

  // The largest f, at least 0.
  template <class F>
  FN double max(int64_t n, F f) {
    V top = splat(0);
    for (int64_t i = 0; i < n; i += kLanes) top = vmax(f(i), top);
    double out = 0;
    for (int k = 0; k < kLanes; ++k) out = out < top[k] ? top[k] : out;
    return out;
  }

  // f(team, j) for every column.
  template <class F>
  FN void columns(int64_t count, F f) {
    for (int64_t j = 0; j < count; ++j) f(*this, j);
  }

  FN double at(const double* a) { return *a; }
  FN void set(double* a, double value) { *a = value; }
  FN void barrier() {}

  // out_i = sum_j v_j x_ij.
  FN void times(const double* x, int64_t ld, int64_t n, int64_t p, const double* v, double* out) {
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) product<4, 1>(x + i, ld, p, v, out + i);
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) product<2, 4>(x + i, ld, p, v, out + i);
    for (; i < n; i += kLanes) product<1, 8>(x + i, ld, p, v, out + i);
  }

  // out_j = sum_i s_i x_ij.
  FN void transposed_times(const double* x, int64_t ld, int64_t n, int64_t pp, const double* s, double* out) {
    for (int64_t j = 0; j < pp; j += kLanes) {
      V acc[kLanes] = {};
      for (int64_t i = 0; i < n; i += kLanes) {
        const V row = get(s + i);
        UNROLL for (int c = 0; c < kLanes; ++c) acc[c] += row * get(x + (j + c) * ld + i);
      }
      put(out + j, totals(acc));
    }
  }

  FN void row_norms(const double* x, int64_t ld, int64_t n, int64_t p, double* out) {
    constexpr int kSums = 8;  // hide the latency of a multiply-add
    for (int64_t i = 0; i < n; i += kLanes) {
      V sum[kSums] = {};
      int64_t j = 0;
      for (; j + kSums <= p; j += kSums) {
        UNROLL for (int c = 0; c < kSums; ++c) {
          const V value = get(x + (j + c) * ld + i);
          sum[c] += value * value;
        }
      }
      for (; j < p; ++j) sum[0] += get(x + j * ld + i) * get(x + j * ld + i);
      UNROLL for (int c = 1; c < kSums; ++c) sum[0] += sum[c];
      put(out + i, vsqrt(sum[0]));
    }
  }

  FN void row_maxima(const double* x, int64_t ld, int64_t n, int64_t columns, double* out) {
    for (int64_t i = 0; i < n; i += kLanes) {
      V top = splat(0);
      for (int64_t j = 0; j < columns; ++j) top = vmax(vabs(get(x + j * ld + i)), top);
      put(out + i, top);
    }
  }

  // Training rows whose c differs from `before` (or from 0), padded by zeros, with the difference in packed_c; returns
  // the padded number of rows.
  FN int64_t pack(const double* x, const Sizes& z, const double* c, const double* before, double* packed,
                  double* packed_c) {
    int64_t rows = 0;
    for (int64_t i = 0; i < z.n; ++i) {
      const double change = before ? c[i] - before[i] : c[i];
      if (change == 0) continue;
      packed_c[rows] = change;
      for (int64_t j = 0; j < z.p; ++j) packed[j * z.lp + rows] = x[j * z.ld + i];
      ++rows;
    }
    for (; rows % kLanes != 0; ++rows) {
      packed_c[rows] = 0;
      for (int64_t j = 0; j < z.p; ++j) packed[j * z.lp + rows] = 0;
    }
    for (int64_t j = z.p; j < z.pp; ++j) std::fill_n(packed + j * z.lp, rows, 0.0);
    return rows;
  }

  // gram_jk (+)= sum_i c_i x_ij x_ik, as columns j of rows k >= j, whole vectors.
  FN void gram(const double* x, int64_t ld, int64_t n, int64_t p, int64_t pp, const double* c, double* gram, bool add) {
    for (int64_t k = 0; k < pp; k += kLanes) {
      int64_t j = 0;
      const int64_t last = k + kLanes < p ? k + kLanes : p;
      for (; j + 3 <= last; j += 3) gram_tile<3>(x, ld, n, j, k, c, gram + j * pp + k, pp, add);
      for (; j < last; ++j) gram_tile<1>(x, ld, n, j, k, c, gram + j * pp + k, pp, add);
    }
  }

  // factor = gram + l2 I, with ones on the padding's diagonal.
  FN void shifted(const double* gram, double* factor, int64_t p, int64_t pp, double l2) {
    for (int64_t j = 0; j < pp; ++j) {
      for (int64_t k = j / kLanes * kLanes; k < pp; k += kLanes) {
        put(factor + j * pp + k, j < p ? get(gram + j * pp + k) : splat(0));
      }
      factor[j * pp + j] = j < p ? factor[j * pp + j] + l2 : 1;
    }
  }

  // gram_ik = sum_j x_ij x_kj over rows i, k: columns i of rows k >= i.
  FN void row_gram(const double* x, int64_t ld, int64_t n, int64_t p, double* gram) {
    for (int64_t k = 0; k < n; k += kLanes) {
      for (int64_t i = 0; i <= k; i += kLanes) {
        V acc[kLanes] = {};
        for (int64_t j = 0; j < p; ++j) {
          const V row = get(x + j * ld + k);
          UNROLL for (int c = 0; c < kLanes; ++c) acc[c] += row * splat(x[j * ld + i + c]);
        }
        UNROLL for (int c = 0; c < kLanes; ++c) put(gram + (i + c) * n + k, acc[c]);
      }
    }
  }

  // factor = l2 I + C^1/2 gram C^1/2.
  FN void scaled(const double* gram, const double* c, double* factor, int64_t n, double l2, double* root) {
    rows(n, [&](int64_t i) LAMBDA { put(root + i, vsqrt(get(c + i))); });
    for (int64_t i = 0; i < n; ++i) {
      const V scale = splat(root[i]);
      for (int64_t k = i / kLanes * kLanes; k < n; k += kLanes) {
        put(factor + i * n + k, scale * get(root + k) * get(gram + i * n + k));
      }
      factor[i * n + i] += l2;
    }
  }

  FN bool cholesky(double* a, int64_t n, double* inverse, double* blocks) {
    return factor_in_place(a, n, inverse, blocks);
  }
  FN void cholesky_solve(const double* a, int64_t n, const double* inverse, const double* blocks, double* v) {
    forward_substitution(a, n, inverse, v);
    backward_substitution(a, n, inverse, blocks, v);
  }
  FN double inverse_norm(const double* a, int64_t p, int64_t n, const double* inverse, double* storage) {
    invert_factor(a, n, inverse, storage);
    return product_norm(storage, p, n);
  }

 private:
  // R vectors of rows, the columns dealt out to C independent sums.
  template <int R, int C>
  FN void product(const double* x, int64_t ld, int64_t p, const double* v, double* out) {
    V acc[C][R] = {};
    int64_t j = 0;
    for (; j + C <= p; j += C) {
      UNROLL for (int c = 0; c < C; ++c) {
        UNROLL for (int r = 0; r < R; ++r) acc[c][r] += splat(v[j + c]) * get(x + (j + c) * ld + r * kLanes);
      }
    }
    for (; j < p; ++j) {
      UNROLL for (int r = 0; r < R; ++r) acc[0][r] += splat(v[j]) * get(x + j * ld + r * kLanes);
    }
    UNROLL for (int c = 1; c < C; ++c) { UNROLL for (int r = 0; r < R; ++r) acc[0][r] += acc[c][r]; }
    UNROLL for (int r = 0; r < R; ++r) put(out + r * kLanes, acc[0][r]);
  }

  template <int R>
  FN void gram_tile(const double* x, int64_t ld, int64_t n, int64_t j, int64_t k, const double* c, double* gram,
                    int64_t pp, bool add) {
    V acc[R][kLanes] = {};
    for (int64_t i = 0; i < n; i += kLanes) {
      V left[R];
      UNROLL for (int r = 0; r < R; ++r) left[r] = get(c + i) * get(x + (j + r) * ld + i);
      UNROLL for (int q = 0; q < kLanes; ++q) {
        const V right = get(x + (k + q) * ld + i);
        UNROLL for (int r = 0; r < R; ++r) acc[r][q] += left[r] * right;
      }
    }
    UNROLL for (int r = 0; r < R; ++r) {
      const V sums = totals(acc[r]);
      put(gram + r * pp, add ? get(gram + r * pp) + sums : sums);
    }
  }
};
