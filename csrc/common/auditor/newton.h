// One follower problem and damped Newton on it, in float64: equations (2), (3), (4) of docs/game.md.
//
//   g(w) = sum_i t_i l(m_i) + (l2/2) |w|^2,   m_i = y_i <x_i, w>,   t_i = 1/n
//
// The mathematics is written once; a team does the loops: SIMD lanes on a CPU, a block of threads on a GPU.
// Included once per instruction set.

constexpr int kLineSteps = 60;
constexpr double kArmijo = 1e-4;
// Rounding of a sum of losses: a step whose change of g is below this is judged by its slope instead.
constexpr double kSlack = 4e-16;

// Pointers into one problem's workspace. Rows: training first, then held-out; padding is 0.
struct Arrays {
  double* x;                                                // (pp, ld) columns; the last is the intercept's
  double *y, *t, *weight;                                   // (q): labels, 1/n on training rows, 1/N on held-out ones
  double *m, *s, *c, *r, *xu, *alpha, *beta;                // (q)
  double *c_old, *change, *loss0;                           // (np)
  double *w, *g, *d, *v, *u, *residual, *better, *scratch;  // (pp)
  double *mean, *scale, *a, *b;                             // (pp): equation (S)
  double *gram, *factor;                                    // (dim, dim)
  double *inverse, *blocks;                                 // (dim), (dim, lanes): of the factor's diagonal
  double *packed, *packed_c;                                // (pp, lp), (np): rows of a partial Gram matrix
  double* inner;                                            // (np)
};

template <class Team>
struct Newton {
  Team& team;
  const Settings& set;
  const Sizes& z;
  const Arrays& at;
  double norm = 0, tolerance = 0;
  int64_t steps = 0;
  bool stuck = false, has_gram = false, valid = false, usable = false;

  // out_i = y_i <x_i, v> for rows [begin, begin + count).
  FN void margins(const double* v, double* out, int64_t begin, int64_t count) {
    team.times(at.x + begin, z.ld, count, z.p, v, out + begin);
    team.rows(count, [&](int64_t i) LAMBDA { put(out + begin + i, get(out + begin + i) * get(at.y + begin + i)); });
  }

  FN double dot(const double* a, const double* b, int64_t count) {
    double sum;
    team.template sum<1>(count, &sum, [&](int64_t i, V* acc) LAMBDA { acc[0] += get(a + i) * get(b + i); });
    return sum;
  }

  FN double norm_of(const double* a, int64_t count) { return sqrt(dot(a, a, count)); }

  // Equation (3) at the margins m.
  FN void gradient() {
    team.rows(z.np,
              [&](int64_t i) LAMBDA { put(at.s + i, get(at.t + i) * get(at.y + i) * slope(set, get(at.m + i))); });
    team.transposed_times(at.x, z.ld, z.np, z.pp, at.s, at.g);
    team.rows(z.pp, [&](int64_t j) LAMBDA { put(at.g + j, get(at.g + j) + splat(set.l2) * get(at.w + j)); });
    norm = norm_of(at.g, z.pp);
  }

  // H at the margins m, factored: nothing is done where the curvatures have not changed since.
  FN void factorise() {
    double count[2];
    team.template sum<2>(z.np, count, [&](int64_t i, V* acc) LAMBDA {
      const V c = get(at.t + i) * curvature(set, get(at.m + i));
      put(at.c + i, c);
      acc[0] += select(c != get(at.c_old + i), splat(1), splat(0));
      acc[1] += select(c != splat(0), splat(1), splat(0));
    });
    if (valid && count[0] == 0) return;
    if (z.dual) {
      if (!has_gram) team.row_gram(at.x, z.ld, z.np, z.p, at.gram);
      team.scaled(at.gram, at.c, at.factor, z.np, set.l2, at.inner);
    } else {
      accumulate(count[0], count[1]);
      team.shifted(at.gram, at.factor, z.p, z.pp, set.l2);
    }
    team.rows(z.np, [&](int64_t i) LAMBDA { put(at.c_old + i, get(at.c + i)); });
    has_gram = valid = true;
    usable = team.cholesky(at.factor, z.dim, at.inverse, at.blocks);
  }

  // X^T C X. A hinge's curvatures are 0 or constant: only rows that changed sides are added or subtracted.
  FN void accumulate(double changed, double active) {
    const bool update = has_gram && set.loss != kLogistic && 2 * changed <= active;
    // Copying a row costs about as much as its share of a Gram matrix of 14 columns.
    const double n = static_cast<double>(z.n), p = static_cast<double>(z.p);
    if (update || active * (p + 14) <= n * p) {
      const double* before = update ? at.c_old : nullptr;
      const int64_t rows = team.pack(at.x, z, at.c, before, at.packed, at.packed_c);
      team.gram(at.packed, z.lp, rows, z.p, z.pp, at.packed_c, at.gram, update);
    } else {
      team.gram(at.x, z.ld, z.np, z.p, z.pp, at.c, at.gram, false);
    }
  }

  // out = H^-1 v by the factor; NaN where there is none.
  FN void solve(const double* v, double* out) {
    if (!usable) {
      team.rows(z.pp, [&](int64_t j) LAMBDA { put(out + j, splat(NAN)); });
      return;
    }
    if (!z.dual) {
      team.rows(z.pp, [&](int64_t j) LAMBDA { put(out + j, get(v + j)); });
      team.cholesky_solve(at.factor, z.dim, at.inverse, at.blocks, out);
      return;
    }
    team.times(at.x, z.ld, z.np, z.p, v, at.inner);
    team.rows(z.np, [&](int64_t i) LAMBDA { put(at.inner + i, get(at.inner + i) * vsqrt(get(at.c + i))); });
    team.cholesky_solve(at.factor, z.dim, at.inverse, at.blocks, at.inner);
    team.rows(z.np, [&](int64_t i) LAMBDA { put(at.inner + i, get(at.inner + i) * vsqrt(get(at.c + i))); });
    team.transposed_times(at.x, z.ld, z.np, z.pp, at.inner, at.scratch);
    const double scale = 1 / set.l2;
    team.rows(z.pp, [&](int64_t j) LAMBDA { put(out + j, (get(v + j) - get(at.scratch + j)) * splat(scale)); });
  }

  // The largest step along d that is good enough; false where there is none. s = 1 is taken if it decreases g enough
  // (Armijo) or nearly zeroes the slope; else the zero of the slope, by Newton inside a bracket.
  FN bool line_search(double* taken) {
    margins(at.d, at.change, 0, z.np);
    const double first = dot(at.g, at.d, z.pp), wd = dot(at.w, at.d, z.pp), dd = dot(at.d, at.d, z.pp);
    if (!(first < 0 && first > -INFINITY)) return false;
    double start;
    team.template sum<1>(z.np, &start, [&](int64_t i, V* acc) LAMBDA {
      const V value = loss(set, get(at.m + i));
      put(at.loss0 + i, value);
      acc[0] += get(at.t + i) * value;
    });
    const double slack = kSlack * (start + set.l2 / 2 * dot(at.w, at.w, z.pp));
    double low = 0, high = INFINITY, s = 1;
    for (int trial = 0; trial < kLineSteps; ++trial) {
      double sum[4];
      team.template sum<4>(z.np, sum, [&](int64_t i, V* acc) LAMBDA {
        const V change = get(at.change + i), t = get(at.t + i), m = get(at.m + i) + splat(s) * change;
        const V along = t * slope(set, m) * change;
        acc[0] += t * (loss(set, m) - get(at.loss0 + i));
        acc[1] += along;
        acc[2] += vabs(along);
        acc[3] += t * curvature(set, m) * change * change;
      });
      const double rise = sum[0] + set.l2 * (s * wd + s * s / 2 * dd), ridge = set.l2 * (wd + s * dd);
      const double along = sum[1] + ridge, rounding = 8 * kEps * (sum[2] + fabs(ridge));
      const bool flat = fabs(along) <= fmax(-0.1 * first, rounding) && rise <= slack;
      if (flat || (trial == 0 && rise <= kArmijo * first)) {
        *taken = s;
        return true;
      }
      if (along < 0) low = s;
      if (along >= 0) high = s;
      const double newton = s - along / (sum[3] + set.l2 * dd);
      const bool inside = newton > low && newton < high && trial < kLineSteps / 2;
      s = inside ? newton : high == INFINITY ? 2 * s : (low + high) / 2;
    }
    // The slope is negative all the way to `low`, so g falls up to there.
    *taken = low;
    return low != 0;
  }

  // Margins of the training rows from w itself, and what follows from them.
  FN void refresh() {
    margins(at.w, at.m, 0, z.np);
    gradient();
  }

  // From w = 0. Converged means |dg(w)| <= max(rtol |dg(0)|, 32 eps sum_i t_i |x_i|), by margins computed from w.
  FN int minimise() {
    team.rows(z.pp, [&](int64_t j) LAMBDA { put(at.w + j, splat(0)); });
    team.rows(z.np, [&](int64_t i) LAMBDA { put(at.m + i, splat(0)); });
    gradient();
    tolerance = fmax(set.rtol * norm, 32 * kEps * dot(at.t, at.r, z.np));
    bool exact = true;
    for (;;) {
      const bool done = !(norm > tolerance) || norm == INFINITY || stuck || steps == set.max_steps;
      if (done && exact) break;
      if (done) {
        refresh();
        exact = true;
        continue;
      }
      factorise();
      solve(at.g, at.d);
      team.rows(z.pp, [&](int64_t j) LAMBDA { put(at.d + j, -get(at.d + j)); });
      double s = 0;
      stuck = !line_search(&s);
      ++steps;
      if (stuck) continue;
      // Between checks the margins follow w by their change.
      team.rows(z.pp, [&](int64_t j) LAMBDA { put(at.w + j, get(at.w + j) + splat(s) * get(at.d + j)); });
      team.rows(z.np, [&](int64_t i) LAMBDA { put(at.m + i, get(at.m + i) + splat(s) * get(at.change + i)); });
      exact = false;
      gradient();
    }
    if (!(norm - norm == 0)) return kNonfinite;
    return norm <= tolerance ? kConverged : stuck ? kStagnated : kMaxSteps;
  }
};
