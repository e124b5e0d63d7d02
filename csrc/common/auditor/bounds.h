// How wrong a problem's gradient can be: equation (9) of docs/game.md, as amu_fast/ops/bounds.py has it.
// Included once per instruction set.

// Largest |l'''| of the logistic loss: 1/(6 sqrt 3).
constexpr double kLogisticCurvatureSlope = 0.0963;

template <class Team>
struct Bounds {
  Newton<Team>& f;
  double w_norm, u_norm, c, margin_rounding, lipschitz;
  double floor = 0, delta = 0, eps_u = 0, uncertain = 0;

  FN explicit Bounds(Newton<Team>& newton)
      : f(newton),
        w_norm(newton.norm_of(newton.at.w, newton.z.pp)),
        u_norm(newton.norm_of(newton.at.u, newton.z.pp)),
        c(kEps * static_cast<double>(newton.z.n + newton.z.h + newton.z.p + 8)),
        margin_rounding(static_cast<double>(newton.z.p + 2) * kEps * w_norm),
        lipschitz(slope_lipschitz(newton.set)) {}

  // Rows that may lie on the other side of a kink of the loss, given the error e of their margins.
  FN M crosses(V m, V e) {
    M crosses = vabs(splat(1) - m) <= e;
    if (f.set.loss == kHuberisedHinge) crosses = crosses | (vabs(splat(1 - f.set.width) - m) <= e);
    return crosses;
  }

  // Error of the curvature l''.
  FN V kappa(V m, V e) {
    if (f.set.loss == kLogistic) return vmin(splat(kLogisticCurvatureSlope) * e, splat(0.25));
    return select(crosses(m, e), splat(lipschitz), splat(0));
  }

  // Error of the slope l'.
  FN V slope_error(V m, V e, V curve) {
    if (f.set.loss == kLogistic) return vmin(vmin(curve + kappa(m, e), splat(0.25)) * e, splat(1));
    const V error = select(crosses(m, e), splat(lipschitz), curve) * e;
    return f.set.loss == kSquaredHinge ? error : vmin(error, splat(1));
  }

  // Error of the payoff's slope h'.
  FN V payoff_error(V m, V e) {
    if (f.set.payoff == kHingePayoff) return select(vabs(splat(1) - m) <= e, splat(1), splat(0));
    const V s = sigmoid_minus(m, decay(m));
    return vmin(s * (splat(1) - s) + splat(kLogisticCurvatureSlope) * e, splat(0.25)) * e;
  }

  FN V margin_error(int64_t i) { return get(f.at.r + i) * splat(delta + margin_rounding); }

  // delta >= |w - w*| and `floor`, a lower bound of the Hessian's eigenvalues around w.
  FN void params() {
    const double l2 = f.set.l2;
    double sum;
    f.team.template sum<1>(f.z.np, &sum, [&](int64_t i, V* acc) LAMBDA {
      const V r = get(f.at.r + i), slopes = vabs(slope(f.set, get(f.at.m + i)));
      acc[0] += get(f.at.t + i) * (slopes + splat(lipschitz * w_norm) * r) * r;
    });
    const double eta = c * (sum + l2 * w_norm), gamma = f.norm + eta;
    delta = gamma / l2;
    f.team.template sum<1>(f.z.np, &sum, [&](int64_t i, V* acc) LAMBDA {
      const V r = get(f.at.r + i);
      acc[0] += get(f.at.t + i) * kappa(get(f.at.m + i), margin_error(i)) * r * r;
    });
    floor = l2;
    if (!f.z.dual && f.usable) {
      floor = fmax(l2, 1 / f.team.inverse_norm(f.at.factor, f.z.p, f.z.dim, f.at.inverse, f.at.gram) - sum);
      f.has_gram = f.valid = false;  // its storage held the inverse
    }
    f.solve(f.at.g, f.at.d);
    const double step = f.norm_of(f.at.d, f.z.pp);
    // Not fmin, which would drop a NaN.
    const double close = step * (1 + sum / floor) + eta / floor, far = gamma / floor;
    delta = close < far || close != close ? close : far;
  }

  // eps_u >= |u - u*|, from the residual's norm.
  FN void adjoint(double residual) {
    double train[2], held[2];
    f.team.template sum<2>(f.z.np, train, [&](int64_t i, V* acc) LAMBDA {
      const V m = get(f.at.m + i), r = get(f.at.r + i), t = get(f.at.t + i);
      acc[0] += get(f.at.c + i) * r * r;
      acc[1] += t * kappa(m, margin_error(i)) * vabs(get(f.at.xu + i)) * r;
    });
    f.team.template sum<2>(f.z.q - f.z.np, held, [&](int64_t j, V* acc) LAMBDA {
      const int64_t i = f.z.np + j;
      const V m = get(f.at.m + i), wr = get(f.at.weight + i) * get(f.at.r + i);
      acc[0] += wr * vabs(payoff_slope(f.set, m));
      acc[1] += wr * payoff_error(m, margin_error(i));
    });
    const double rho = residual + c * (held[0] + (train[0] + f.set.l2) * u_norm);
    eps_u = (rho + held[1] + train[1]) / floor;
  }

  // Every row's bound, before (S) and the cast of the output, into `out` (q); counts the uncertain rows.
  FN void rows(double* out) {
    const double own = static_cast<double>(f.z.p + 8) * kEps, wide_w = w_norm + delta, wide_u = u_norm + eps_u;
    double train, held;
    f.team.template sum<1>(f.z.np, &train, [&](int64_t i, V* acc) LAMBDA {
      const V m = get(f.at.m + i), r = get(f.at.r + i), t = get(f.at.t + i), xu = vabs(get(f.at.xu + i));
      const V e = margin_error(i), curve = curvature(f.set, m), slopes = vabs(slope(f.set, m)), k = kappa(m, e);
      const V drift = r * splat(eps_u);
      const V along_w = curve * (drift * splat(wide_w) + xu * splat(delta)) + k * (xu + drift) * splat(wide_w);
      const V error = slopes * splat(eps_u) + slope_error(m, e, curve) * splat(wide_u) + along_w;
      put(out + i, t * (error + splat(own) * (slopes * splat(u_norm) + curve * xu * splat(w_norm))));
      if (f.set.loss != kLogistic) acc[0] += select(crosses(m, e) & (t > splat(0)), splat(1), splat(0));
    });
    f.team.template sum<1>(f.z.q - f.z.np, &held, [&](int64_t j, V* acc) LAMBDA {
      const int64_t i = f.z.np + j;
      const V m = get(f.at.m + i), weight = get(f.at.weight + i), slopes = vabs(payoff_slope(f.set, m));
      const V b = payoff_error(m, margin_error(i));
      put(out + i, weight * (slopes * splat(delta + own * w_norm) + b * splat(wide_w)));
      if (f.set.payoff == kHingePayoff) acc[0] += select((b > splat(0)) & (weight > splat(0)), splat(1), splat(0));
    });
    uncertain = train + held;
  }
};
