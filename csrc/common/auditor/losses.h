// The follower's losses and the auditor's payoffs of a margin m: the table of amu_fast/ops/losses.py.
// Included once per instruction set: V is a vector of doubles (one double on a GPU), M its comparison mask.

// e^-|m|, what the logistic functions are made of.
FN V decay(V m) { return exp_nonpositive(-vabs(m)); }

// s(-m) = 1 / (1 + e^m) from e = e^-|m|.
FN V sigmoid_minus(V m, V e) { return select(m >= splat(0), e, splat(1)) / (splat(1) + e); }

FN V logistic_loss(V m) { return vmax(-m, splat(0)) + log1p_unit(decay(m)); }

FN V slack_of(V m) { return vmax(splat(1) - m, splat(0)); }

FN V loss(const Settings& s, V m) {
  if (s.loss == kLogistic) return logistic_loss(m);
  const V slack = slack_of(m);
  if (s.loss == kSquaredHinge) return slack * slack;
  return select(slack < splat(s.width), slack * slack / splat(2 * s.width), slack - splat(s.width / 2));
}

FN V slope(const Settings& s, V m) {
  if (s.loss == kLogistic) return -sigmoid_minus(m, decay(m));
  const V slack = slack_of(m);
  if (s.loss == kSquaredHinge) return splat(-2) * slack;
  return -vmin(slack / splat(s.width), splat(1));
}

// Generalised at the kinks: 0.
FN V curvature(const Settings& s, V m) {
  if (s.loss == kLogistic) {
    const V e = decay(m), one = splat(1) + e;
    return e / (one * one);
  }
  if (s.loss == kSquaredHinge) return select(m < splat(1), splat(2), splat(0));
  // 1 - m and not m - (1 - width): the region's ends must be those of `slope`.
  const V slack = splat(1) - m;
  return select((slack > splat(0)) & (slack < splat(s.width)), splat(1 / s.width), splat(0));
}

// L: the Lipschitz constant of l'.
FN double slope_lipschitz(const Settings& s) {
  return s.loss == kLogistic ? 0.25 : s.loss == kSquaredHinge ? 2.0 : 1 / s.width;
}

FN V payoff_loss(const Settings& s, V m) { return s.payoff == kHingePayoff ? slack_of(m) : logistic_loss(m); }

FN V payoff_slope(const Settings& s, V m) {
  if (s.payoff == kHingePayoff) return select(m < splat(1), splat(-1), splat(0));
  return -sigmoid_minus(m, decay(m));
}
