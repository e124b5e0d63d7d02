// One follower problem from its rows to its gradient: fit, payoff, adjoint, bounds, equations (2)-(9), (S).
// Included once per instruction set.

template <class Team>
struct Problem {
  Newton<Team> f;
  Result& out;

  FN Problem(Team& team, const Settings& set, const Sizes& z, const Arrays& at, Result& result)
      : f{team, set, z, at}, out(result) {}

  // Expects x, y, t and weight; leaves w, u, alpha, beta, mean, scale, a, b.
  FN void solve() {
    if (f.set.standardize) standardise();
    f.team.row_norms(f.at.x, f.z.ld, f.z.q, f.z.p, f.at.r);
    f.team.rows(f.z.np, [&](int64_t i) LAMBDA { put(f.at.c_old + i, splat(0)); });
    out.status = f.minimise();
    out.steps = f.steps;
    out.uncertain = 0;
    for (int k = 0; k < kMeasures; ++k) out.measures[k] = NAN;
    out.measures[kGradientNorm] = f.norm;
    judge();
    if (!(out.payoff - out.payoff == 0) || out.status == kNonfinite) {
      out.status = kNonfinite;
      return;
    }
    if (f.set.parts == kValueOnly) return;
    const double residual = adjoint();
    out.measures[kAdjointResidual] = residual;
    coefficients();
    if (f.set.standardize) pull_back();
    bound(residual);
  }

 private:
  // x = (s - mean) / sd by the training rows' moments (divisor n); constant columns become 0.
  FN void standardise() {
    const Sizes& z = f.z;
    f.team.columns(z.p - 1, [&](auto& team, int64_t j) LAMBDA { standardise_column(team, j); });
    for (int64_t j = z.p - 1; j < z.pp; ++j) f.team.set(f.at.mean + j, 0), f.team.set(f.at.scale + j, 0);
    f.team.barrier();
  }

  // By a team that owns the column, or shares all of them.
  template <class Owner>
  FN void standardise_column(Owner& team, int64_t j) {
    const Sizes& z = f.z;
    const double count = static_cast<double>(z.n);
    double* column = f.at.x + j * z.ld;
    double sum, top, square;
    team.template sum<1>(z.np, &sum, [&](int64_t i, V* acc) LAMBDA { acc[0] += get(column + i); });
    const double mean = sum / count;
    // Squares of scores beyond 1e+-154 would leave the range of a double.
    top = team.max(z.np, [&](int64_t i) LAMBDA {
      return select(get(f.at.t + i) > splat(0), vabs(get(column + i) - splat(mean)), splat(0));
    });
    const double unit = top > 1e-140 && top < 1e140 ? 1 : fmax(top, 0x1p-1022);
    team.template sum<1>(z.np, &square, [&](int64_t i, V* acc) LAMBDA {
      const V centred = (get(column + i) - splat(mean)) / splat(unit);
      acc[0] += select(get(f.at.t + i) > splat(0), centred * centred, splat(0));
    });
    const double deviation = unit * sqrt(square / count);
    const double scale = deviation <= 1e-6 * fmax(fabs(mean), 0x1p-1022) ? 0 : 1 / deviation;
    team.rows(z.q, [&](int64_t i) LAMBDA {
      const V used = get(f.at.t + i) + get(f.at.weight + i);
      const V x = (get(column + i) - splat(mean)) * splat(scale);
      put(column + i, select((used > splat(0)) & (splat(scale) > splat(0)), x, splat(0)));
    });
    team.set(f.at.mean + j, mean);
    team.set(f.at.scale + j, scale);
  }

  // Payoff (5) and accuracy on the held-out rows.
  FN void judge() {
    f.margins(f.at.w, f.at.m, f.z.np, f.z.q - f.z.np);
    double sum[2];
    f.team.template sum<2>(f.z.q - f.z.np, sum, [&](int64_t j, V* acc) LAMBDA {
      const V m = get(f.at.m + f.z.np + j), weight = get(f.at.weight + f.z.np + j);
      acc[0] += weight * payoff_loss(f.set, m);
      acc[1] += select((m > splat(0)) & (weight > splat(0)), splat(1), splat(0));
    });
    // Not the negative, which would make a payoff of nothing -0.
    out.payoff = 0 - sum[0];
    out.measures[kAccuracy] = sum[1] / static_cast<double>(f.z.h);
  }

  // H u = v = dM/dw, refined once where that helps; the true residual's norm. Leaves <x, u> of the training rows.
  FN double adjoint() {
    const Sizes& z = f.z;
    const Arrays& at = f.at;
    f.team.rows(z.q - z.np, [&](int64_t j) LAMBDA {
      const int64_t i = z.np + j;
      put(at.s + i, -(get(at.weight + i) * payoff_slope(f.set, get(at.m + i)) * get(at.y + i)));
    });
    f.team.transposed_times(at.x + z.np, z.ld, z.q - z.np, z.pp, at.s + z.np, at.v);
    f.factorise();
    f.solve(at.v, at.u);
    const double first = residual_of(at.u);
    f.solve(at.residual, at.better);
    f.team.rows(z.pp, [&](int64_t j) LAMBDA { put(at.better + j, get(at.better + j) + get(at.u + j)); });
    const double second = residual_of(at.better);
    if (!(second < first)) return residual_of(at.u);
    f.team.rows(z.pp, [&](int64_t j) LAMBDA { put(at.u + j, get(at.better + j)); });
    return second;
  }

  // |v - H u| into at.residual, undamped, by products with the rows themselves.
  FN double residual_of(const double* u) {
    const Arrays& at = f.at;
    f.team.times(at.x, f.z.ld, f.z.np, f.z.p, u, at.xu);
    f.team.rows(f.z.np, [&](int64_t i) LAMBDA { put(at.s + i, get(at.c + i) * get(at.xu + i)); });
    f.team.transposed_times(at.x, f.z.ld, f.z.np, f.z.pp, at.s, at.residual);
    f.team.rows(f.z.pp, [&](int64_t j) LAMBDA {
      put(at.residual + j, get(at.v + j) - (get(at.residual + j) + splat(f.set.l2) * get(u + j)));
    });
    return f.norm_of(at.residual, f.z.pp);
  }

  // Equations (7), (8): the gradient of row i is -(alpha_i u + beta_i w).
  FN void coefficients() {
    const Arrays& at = f.at;
    const bool implicit = f.set.parts != kDirect, direct = f.set.parts != kImplicit;
    f.team.rows(f.z.np, [&](int64_t i) LAMBDA {
      const V along = get(at.t + i) * get(at.y + i) * slope(f.set, get(at.m + i));
      put(at.alpha + i, implicit ? along : splat(0));
      put(at.beta + i, implicit ? get(at.c + i) * get(at.xu + i) : splat(0));
    });
    f.team.rows(f.z.q - f.z.np, [&](int64_t j) LAMBDA {
      const int64_t i = f.z.np + j;
      const V along = get(at.weight + i) * payoff_slope(f.set, get(at.m + i)) * get(at.y + i);
      put(at.alpha + i, splat(0));
      put(at.beta + i, direct ? along : splat(0));
    });
  }

  // Equation (S): training rows in addition -(A + x o B) / (n sd); a = A / sd, b = B / sd^2, to be used with s - mean.
  FN void pull_back() {
    const Arrays& at = f.at;
    double sum[2];
    f.team.template sum<2>(f.z.q, sum, [&](int64_t i, V* acc) LAMBDA {
      acc[0] += get(at.alpha + i);
      acc[1] += get(at.beta + i);
    });
    f.team.transposed_times(at.x, f.z.ld, f.z.q, f.z.pp, at.alpha, at.d);
    f.team.transposed_times(at.x, f.z.ld, f.z.q, f.z.pp, at.beta, at.scratch);
    f.team.rows(f.z.pp, [&](int64_t j) LAMBDA {
      const V u = get(at.u + j), w = get(at.w + j), scale = get(at.scale + j);
      put(at.a + j, -(splat(sum[0]) * u + splat(sum[1]) * w) * scale);
      put(at.b + j, -(get(at.d + j) * u + get(at.scratch + j) * w) * scale * scale);
    });
  }

  FN void bound(double residual) {
    Bounds<Team> bounds(f);
    bounds.params();
    bounds.adjoint(residual);
    bounds.rows(f.at.s);
    out.uncertain = static_cast<int64_t>(bounds.uncertain);
    out.measures[kParamBound] = bounds.delta;
    out.measures[kAdjointBound] = bounds.eps_u;
    if (f.set.parts != kFull) return;
    const double size_u = norm_without_intercept(f.at.u), size_w = norm_without_intercept(f.at.w);
    out.measures[kGradientBound] = f.set.standardize ? through_moments(size_u, size_w) : as_they_are(size_u, size_w);
  }

  FN double norm_without_intercept(const double* v) {
    const double intercept = f.team.at(v + f.z.p - 1);
    return sqrt(fmax(f.dot(v, v, f.z.pp) - intercept * intercept, 0));
  }

  // The norm of all rows' bounds with the cast of their gradients, |alpha| |u| + |beta| |w| at most.
  FN double as_they_are(double size_u, double size_w) {
    const Arrays& at = f.at;
    double square;
    f.team.template sum<1>(f.z.q, &square, [&](int64_t i, V* acc) LAMBDA {
      const V size = vabs(get(at.alpha + i)) * splat(size_u) + vabs(get(at.beta + i)) * splat(size_w);
      const V bound = get(at.s + i) + splat(f.set.cast) * size;
      acc[0] += bound * bound;
    });
    return sqrt(square);
  }

  // The same through (S), with the rounding of (S) itself.
  FN double through_moments(double size_u, double size_w) {
    const Sizes& z = f.z;
    const Arrays& at = f.at;
    f.team.row_maxima(at.x, z.ld, z.q, z.p - 1, at.xu);
    double sum[2], columns[3], square;
    f.team.template sum<2>(z.q, sum, [&](int64_t i, V* acc) LAMBDA {
      const V size = vabs(get(at.alpha + i)) * splat(size_u) + vabs(get(at.beta + i)) * splat(size_w);
      const V total = get(at.s + i) + splat(kEps * static_cast<double>(z.n + z.h + 8)) * size;
      put(at.s + i, total);
      acc[0] += total;
      acc[1] += total * get(at.xu + i);
    });
    f.team.template sum<3>(z.pp, columns, [&](int64_t j, V* acc) LAMBDA {
      const V scale = get(at.scale + j), u = get(at.u + j) * scale, w = get(at.w + j) * scale, a = get(at.a + j);
      acc[0] += u * u, acc[1] += w * w, acc[2] += a * a;
    });
    const double widest_scale = f.team.max(z.pp, [&](int64_t j) LAMBDA { return get(at.scale + j); });
    const double b = f.team.max(z.pp, [&](int64_t j) LAMBDA {
      return select(get(at.scale + j) > splat(0), vabs(get(at.b + j)) / get(at.scale + j), splat(0));
    });
    const double scaled_u = sqrt(columns[0]), scaled_w = sqrt(columns[1]), a = sqrt(columns[2]);
    f.team.template sum<1>(z.q, &square, [&](int64_t i, V* acc) LAMBDA {
      const V t = get(at.t + i), widest = get(at.xu + i);
      const V own = vabs(get(at.alpha + i)) * splat(scaled_u) + vabs(get(at.beta + i)) * splat(scaled_w);
      const V size = own + t * (splat(a) + get(at.r + i) * splat(b));
      const V moved = get(at.s + i) + t * (splat(sum[0]) + widest * splat(sum[1]));
      const V bound = splat(widest_scale) * moved + splat(f.set.cast) * size;
      acc[0] += bound * bound;
    });
    return sqrt(square);
  }
};
