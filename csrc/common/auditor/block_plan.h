// Sizes and storage of one follower problem that a block of GPU threads solves. Tested without a device.
#pragma once

#include <cstdint>

#include "common/auditor/settings.h"

namespace amu_fast::auditor {

// One (fold, group) among the lists of rows: its n training rows stand at `first`, its h held-out rows behind them.
struct BlockTask {
  int64_t fold, group, first, n, h;
};

// From one column to the next an odd number of doubles: lanes that walk along a row then use all banks.
constexpr int64_t odd(int64_t count) { return count | 1; }

constexpr Sizes block_sizes(int64_t n, int64_t h, int64_t d) {
  Sizes z{};
  z.n = n, z.h = h, z.p = d + 1;
  z.np = odd(n), z.q = z.np + h, z.pp = odd(z.p);
  z.ld = odd(z.q), z.lp = 1;
  z.dual = n < z.p;
  z.dim = z.dual ? z.np : z.pp;
  return z;
}

// Doubles in shared memory and, where that is full, in global memory.
struct Storage {
  int64_t shared, global;
};

// Cuts a problem's arrays from two places, what is used most first; an array goes to global memory where `budget`
// doubles of shared memory cannot hold it. With null pointers it only counts. `Arrays` is that of newton.h; what only
// another team needs stays null.
template <class Arrays>
constexpr Storage place(const Sizes& z, const Settings& set, int64_t budget, double* shared, double* global,
                        Arrays* at) {
  Storage used{};
  const auto take = [&](int64_t count) -> double* {
    const bool fits = used.shared + count <= budget;
    int64_t& at_place = fits ? used.shared : used.global;
    double* const base = fits ? shared : global;
    double* const start = base ? base + at_place : nullptr;
    at_place += count;
    return start;
  };
  const bool differentiates = set.parts != kValueOnly;
  at->factor = take(z.dim * z.dim);
  at->inverse = take(z.dim);
  for (double** rows : {&at->y, &at->t, &at->weight, &at->m, &at->s, &at->c, &at->r}) *rows = take(z.q);
  for (double** rows : {&at->c_old, &at->change, &at->loss0}) *rows = take(z.np);
  for (double** columns : {&at->w, &at->g, &at->d, &at->scratch}) *columns = take(z.pp);
  for (double** rows : {&at->xu, &at->alpha, &at->beta}) *rows = take(differentiates ? z.q : 0);
  for (double** columns : {&at->v, &at->u, &at->residual, &at->better}) *columns = take(differentiates ? z.pp : 0);
  for (double** columns : {&at->mean, &at->scale, &at->a, &at->b}) *columns = take(set.standardize ? z.pp : 0);
  at->inner = take(z.dual ? z.np : 0);
  for (double** rows : {&at->packed, &at->packed_c}) *rows = take(z.dual ? 0 : z.np);
  at->x = take(z.ld * z.pp);
  at->gram = take(z.dim * z.dim);
  return used;
}

// Multiplications of about six Newton steps: the order of the queue.
inline double work(int64_t n, int64_t d) {
  const double rows = static_cast<double>(n), p = static_cast<double>(d + 1), m = rows < p ? rows : p;
  return 6 * (rows * p * (rows < p ? 4 : p / 2) + m * m * m / 6 + 4 * rows * p);
}

}  // namespace amu_fast::auditor
