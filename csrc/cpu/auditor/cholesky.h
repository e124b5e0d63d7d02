// Cholesky factor of one matrix in columns, its solves and its inverse's norm. Included once per instruction set.
// Only rows >= column are read; panels of kLanes columns; the order n is a multiple of kLanes.

// a = L L^T in place, without the diagonal: `inverse` gets 1 / L_kk, and `blocks` the rows of the diagonal blocks.
// False where a pivot is not > 0.
FN bool factor_in_place(double* a, int64_t n, double* inverse, double* blocks) {
  for (int64_t J = 0; J < n; J += kLanes) {
    V panel[kLanes];
    UNROLL for (int c = 0; c < kLanes; ++c) panel[c] = get(a + (J + c) * n + J);
    for (int64_t k = 0; k < J; ++k) {
      const V column = get(a + k * n + J);
      UNROLL for (int c = 0; c < kLanes; ++c) panel[c] -= column * splat(a[k * n + J + c]);
    }
    double smallest = 1;
    UNROLL for (int c = 0; c < kLanes; ++c) {
      const double pivot = panel[c][c];
      smallest = pivot > 0 ? smallest : 0;
      inverse[J + c] = 1 / __builtin_sqrt(pivot);
      panel[c] *= splat(inverse[J + c]);
      UNROLL for (int k = c + 1; k < kLanes; ++k) panel[k] -= panel[c] * lane(panel[c], k);
    }
    if (smallest == 0) return false;
    UNROLL for (int c = 0; c < kLanes; ++c) {
      UNROLL for (int k = 0; k <= c; ++k) panel[c][k] = 0;
      put(a + (J + c) * n + J, panel[c]);
    }
    UNROLL for (int c = 0; c < kLanes; ++c) {
      UNROLL for (int k = 0; k < kLanes; ++k) blocks[(J + c) * kLanes + k] = a[(J + k) * n + J + c];
    }
    for (int64_t I = J + kLanes; I < n; I += kLanes) {
      V rows[kLanes];
      UNROLL for (int c = 0; c < kLanes; ++c) rows[c] = get(a + (J + c) * n + I);
      for (int64_t k = 0; k < J; ++k) {
        const V column = get(a + k * n + I);
        UNROLL for (int c = 0; c < kLanes; ++c) rows[c] -= column * splat(a[k * n + J + c]);
      }
      UNROLL for (int c = 0; c < kLanes; ++c) {
        UNROLL for (int k = 0; k < c; ++k) rows[c] -= rows[k] * splat(a[(J + k) * n + J + c]);
        rows[c] *= splat(inverse[J + c]);
        put(a + (J + c) * n + I, rows[c]);
      }
    }
  }
  return true;
}

// v = L^-1 v.
FN void forward_substitution(const double* a, int64_t n, const double* inverse, double* v) {
  for (int64_t J = 0; J < n; J += kLanes) {
    V sums[4] = {get(v + J)};
    for (int64_t k = 0; k < J; k += kLanes) {
      UNROLL for (int c = 0; c < kLanes; ++c) sums[c & 3] -= get(a + (k + c) * n + J) * splat(v[k + c]);
    }
    V rest = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    const V scale = get(inverse + J);
    UNROLL for (int c = 0; c < kLanes; ++c) rest -= get(a + (J + c) * n + J) * lane(rest * scale, c);
    put(v + J, rest * scale);
  }
}

// v = L^-T v.
FN void backward_substitution(const double* a, int64_t n, const double* inverse, const double* blocks, double* v) {
  for (int64_t J = n - kLanes; J >= 0; J -= kLanes) {
    V sums[kLanes] = {};
    for (int64_t I = J + kLanes; I < n; I += kLanes) {
      const V solved = get(v + I);
      UNROLL for (int c = 0; c < kLanes; ++c) sums[c] += get(a + (J + c) * n + I) * solved;
    }
    V rest = get(v + J) - totals(sums);
    const V scale = get(inverse + J);
    UNROLL for (int c = kLanes - 1; c >= 0; --c) rest -= get(blocks + (J + c) * kLanes) * lane(rest * scale, c);
    put(v + J, rest * scale);
  }
}

// out = L^-1 in rows, blocks on and below the diagonal.
FN void invert_factor(const double* a, int64_t n, const double* inverse, double* out) {
  for (int64_t I = 0; I < n; I += kLanes) {
    for (int64_t J = 0; J <= I; J += kLanes) {
      V rows[kLanes] = {};
      if (I == J) {
        UNROLL for (int c = 0; c < kLanes; ++c) rows[c][c] = 1;
      }
      for (int64_t k = J; k < I; ++k) {
        const V solved = get(out + k * n + J);
        UNROLL for (int c = 0; c < kLanes; ++c) rows[c] -= splat(a[k * n + I + c]) * solved;
      }
      UNROLL for (int c = 0; c < kLanes; ++c) {
        UNROLL for (int k = 0; k < c; ++k) rows[c] -= rows[k] * splat(a[(I + k) * n + I + c]);
        rows[c] *= splat(inverse[I + c]);
        put(out + (I + c) * n + J, rows[c]);
      }
    }
  }
}

// |M^T M|_F over the first p columns, M = L^-1 as `invert_factor` leaves it; the rest is an identity.
FN double product_norm(const double* m, int64_t p, int64_t n) {
  V square = splat(0);
  for (int64_t K = 0; K < n; K += kLanes) {
    for (int64_t J = 0; J <= K; J += kLanes) {
      V sums[kLanes] = {};
      for (int64_t i = K; i < n; ++i) {
        const V row = get(m + i * n + K);
        UNROLL for (int c = 0; c < kLanes; ++c) sums[c] += row * splat(m[i * n + J + c]);
      }
      UNROLL for (int c = 0; c < kLanes; ++c) {
        if (J + c < p) square += splat(J < K ? 2 : 1) * sums[c] * sums[c];
      }
    }
  }
  return __builtin_sqrt(total(square));
}
