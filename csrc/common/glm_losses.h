// The followers' losses l(m), l'(m), l''(m), eight margins at a time, in double.
#pragma once

#include <cstdint>

#include "common/target_clones.h"

namespace amu_fast {

// As in amu_fast/ops/losses.py.
enum Loss : int64_t { kLogistic = 0, kSquaredHinge = 1, kHuberisedHinge = 2 };

constexpr int kLossLanes = 8;
typedef double Doubles __attribute__((vector_size(64)));
typedef int64_t Longs __attribute__((vector_size(64)));

// e^-a for a >= 0, NaN for NaN: 2^-k e^r with a = k ln 2 - r, |r| <= ln 2 / 2.
AMU_FAST_INLINE void exp_minus(const Doubles& a, Doubles& out) {
  constexpr double kLog2e = 0x1.71547652b82fep+0, kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kRound = 0x1.8p52;    // adding it leaves the integer nearest in the low bits
  constexpr double kZeroBeyond = 746.0;  // e^-746 rounds to 0
  constexpr int kTerms = 13;             // |r|^14 / 14! < 2^-57
  constexpr int64_t kBias = 1023, kMantissa = 52;
  const Doubles bounded = a > kZeroBeyond ? Doubles{} + kZeroBeyond : a;
  const Doubles shifted = bounded * kLog2e + kRound;
  const Doubles k = shifted - kRound;
  const Doubles r = (k * kLn2High - bounded) + k * kLn2Low;
  Doubles sum = Doubles{} + 1.0;
  for (int i = kTerms; i >= 1; --i) sum = sum * r * (1.0 / i) + 1.0;
  Longs steps;
  __builtin_memcpy(&steps, &shifted, sizeof(steps));
  Longs rounded;
  const Doubles zero = Doubles{} + kRound;
  __builtin_memcpy(&rounded, &zero, sizeof(rounded));
  steps -= rounded;
  // In two factors: 2^-k alone would vanish where the result is still subnormal.
  const Longs half = steps >> 1, first = (kBias - half) << kMantissa, second = (kBias - (steps - half)) << kMantissa;
  Doubles scale, rest;
  __builtin_memcpy(&scale, &first, sizeof(scale));
  __builtin_memcpy(&rest, &second, sizeof(rest));
  out = sum * scale * rest;
}

// log(1 + e) for 0 <= e <= 1: 2 artanh(s) with s = e / (2 + e) <= 1/3.
AMU_FAST_INLINE void log_one_plus(const Doubles& e, Doubles& out) {
  constexpr int kTerms = 16;  // s^(2 * 17) / 35 < 2^-58
  const Doubles s = e / (2.0 + e), square = s * s;
  Doubles sum = Doubles{} + 1.0 / (2 * kTerms + 1);
  for (int i = kTerms - 1; i >= 0; --i) sum = sum * square + 1.0 / (2 * i + 1);
  out = 2.0 * s * sum;
}

// value = l(m), slope = l'(m), curvature = l''(m), generalised (0 at a kink); NaN stays NaN in value and slope.
AMU_FAST_INLINE void losses(int64_t kind, double width, const Doubles& m, Doubles& value, Doubles& slope,
                            Doubles& curvature) {
  const Doubles zero = Doubles{}, one = zero + 1.0;
  if (kind == kLogistic) {
    Doubles e, log;
    exp_minus(m < 0.0 ? -m : m, e);
    log_one_plus(e, log);
    const Doubles share = one / (one + e);
    value = (m < 0.0 ? -m : zero) + log;
    slope = m < 0.0 ? -share : -(e * share);
    curvature = e * share * share;
    return;
  }
  const Doubles slack = one - m, active = slack < 0.0 ? zero : slack;
  if (kind == kSquaredHinge) {
    value = active * active;
    slope = -2.0 * active;
    curvature = slack > 0.0 ? zero + 2.0 : zero;
    return;
  }
  const Doubles clipped = active > width ? zero + width : active;
  value = clipped * clipped / (2.0 * width) + (active - clipped);
  slope = -(clipped / width);
  curvature = (slack > 0.0) & (slack < width) ? one / width : zero;
}

}  // namespace amu_fast
