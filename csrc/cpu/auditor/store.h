// Results of one problem into the operator's outputs. Included once per instruction set.

FN void store_directions(const Settings& set, const Sizes& z, const Arrays& at, double* out) {
  const int64_t d = z.p - 1;
  for (int64_t j = 0; j < d; ++j) {
    const double scale = set.standardize ? at.scale[j] : 1;
    out[j] = at.u[j] * scale;
    out[d + j] = at.w[j] * scale;
    if (!set.standardize) continue;
    out[2 * d + j] = at.a[j];
    out[3 * d + j] = at.b[j];
    out[4 * d + j] = at.mean[j];
  }
}

FN void store(const Batch& batch, const Task& task, const Settings& set, const Sizes& z, const Arrays& at,
              const Result& result, const Outputs& out) {
  const int64_t index = task.fold * out.groups + task.group, d = batch.d;
  const bool bad = result.status == kNonfinite;
  out.per_problem[index] = bad ? NAN : result.payoff;
  out.status[index] = static_cast<int8_t>(result.status);
  for (int k = 0; k < kMeasures; ++k) out.measures[index * kMeasures + k] = bad ? NAN : result.measures[k];
  out.counts[2 * index] = result.uncertain;
  out.counts[2 * index + 1] = result.steps;
  for (int64_t j = 0; j <= d; ++j) out.params[index * (d + 1) + j] = bad ? NAN : at.w[j];
  const bool lost = bad || set.parts == kValueOnly;
  double* vectors = out.directions + index * directions(set.standardize) * d;
  if (lost) {
    for (int64_t j = 0; j < directions(set.standardize) * d; ++j) vectors[j] = NAN;
  } else {
    store_directions(set, z, at, vectors);
  }
  for (int64_t i = 0; i < z.n + z.h; ++i) {
    const int64_t local = i < z.n ? i : z.np + i - z.n;
    double* row = out.coefficients + (task.fold * out.rows + task.rows[i]) * kCoefficients;
    row[0] = lost ? NAN : at.alpha[local];
    row[1] = lost ? NAN : at.beta[local];
    row[2] = lost ? NAN : set.standardize ? at.t[local] : 0;
  }
}
