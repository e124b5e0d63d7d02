// A vector of kLanes doubles and what the mathematics needs of it. Included once per instruction set.

typedef double V __attribute__((vector_size(8 * kLanes)));
typedef int64_t M __attribute__((vector_size(8 * kLanes)));
typedef V Memory __attribute__((may_alias));

FN V splat(double a) { return V{} + a; }
FN V get(const double* a) { return *reinterpret_cast<const Memory*>(a); }
FN void put(double* a, V v) { *reinterpret_cast<Memory*>(a) = v; }
FN V select(M mask, V a, V b) { return mask ? a : b; }
FN V select(bool which, V a, V b) { return which ? a : b; }
FN V vmax(V a, V b) { return a > b ? a : b; }
FN V vmin(V a, V b) { return a < b ? a : b; }
FN V vabs(V a) { return reinterpret_cast<V>(reinterpret_cast<M>(a) & INT64_MAX); }

FN V vsqrt(V a) {
  V out;
  UNROLL for (int k = 0; k < kLanes; ++k) out[k] = __builtin_sqrt(a[k]);
  return out;
}

// e^x for x <= 0, within 1 ulp or so; 0 below the smallest normal number.
FN V exp_nonpositive(V x) {
  constexpr double kMagic = 0x1.8p52;  // adding it rounds to an integer, which the low bits then hold
  const V shifted = x * splat(0x1.71547652b82fep0) + splat(kMagic), n = shifted - splat(kMagic);
  const V r = (x - n * splat(0x1.62e42fefa39efp-1)) - n * splat(0x1.abc9e3b39803fp-56);
  V p = splat(1.0 / 6227020800);
  const double inverse_factorials[] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
      1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  UNROLL for (const double factor : inverse_factorials) p = p * r + splat(factor);
  const M power = (reinterpret_cast<M>(shifted) + 1023) << 52;
  const V value = p * reinterpret_cast<V>(power);
  // A NaN compares false and stays.
  return x < splat(-708) ? splat(0) : value;
}

// log(1 + e) for 0 <= e <= 1: 2 atanh(s) with s = e / (2 + e) <= 1/3, by its series.
FN V log1p_unit(V e) {
  const V s = e / (splat(2) + e), square = s * s;
  V p = splat(1.0 / 35);
  UNROLL for (int k = 33; k >= 1; k -= 2) p = p * square + splat(1.0 / k);
  return splat(2) * s * p;
}

FN double total(V a) {
  double sum[kLanes];
  UNROLL for (int k = 0; k < kLanes; ++k) sum[k] = a[k];
  for (int half = kLanes / 2; half >= 1; half /= 2) {
    UNROLL for (int k = 0; k < half; ++k) sum[k] += sum[k + half];
  }
  return sum[0];
}

// Lanes of two vectors by which blocks of B lanes are added to their neighbours; `Second`: the neighbours'.
template <int B, bool Second, int64_t... L>
FN M blocks(std::integer_sequence<int64_t, L...>) {
  return M{(kLanes * ((L / B) & 1) + (L & ~int64_t{2 * B - 1}) + (L & (B - 1)) + (Second ? B : 0))...};
}

// Lane k of the result is the sum of the lanes of a[k].
template <int B = 1>
FN V totals(const V* a) {
  if constexpr (B == kLanes) {
    return a[0];
  } else {
    constexpr auto lanes = std::make_integer_sequence<int64_t, kLanes>{};
    V sums[kLanes / B];
    UNROLL for (int k = 0; k < kLanes / B / 2; ++k) {
      sums[k] = __builtin_shuffle(a[2 * k], a[2 * k + 1], blocks<B, false>(lanes)) +
                __builtin_shuffle(a[2 * k], a[2 * k + 1], blocks<B, true>(lanes));
    }
    return totals<2 * B>(sums);
  }
}

FN V lane(V a, int k) { return __builtin_shuffle(a, M{} + k); }
