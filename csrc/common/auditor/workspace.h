// Where one problem's arrays lie. Included once per instruction set.

// Cuts the arrays of a problem of size z from `base`, each aligned to 64 bytes; returns the number of doubles used.
// With base = nullptr it only counts.
inline int64_t carve(const Sizes& z, const Settings& set, double* base, Arrays* at) {
  int64_t used = 0;
  const auto take = [&](int64_t count) {
    double* start = base ? base + used : nullptr;
    used += (count + 7) / 8 * 8;
    return start;
  };
  const bool differentiates = set.parts != kValueOnly;
  for (double** rows : {&at->y, &at->t, &at->weight, &at->m, &at->s, &at->c, &at->r}) *rows = take(z.q);
  for (double** rows : {&at->c_old, &at->change, &at->loss0}) *rows = take(z.np);
  for (double** columns : {&at->w, &at->g, &at->d, &at->scratch}) *columns = take(z.pp);
  if (differentiates) {
    for (double** rows : {&at->xu, &at->alpha, &at->beta}) *rows = take(z.q);
    for (double** columns : {&at->v, &at->u, &at->residual, &at->better}) *columns = take(z.pp);
  }
  if (set.standardize) {
    for (double** columns : {&at->mean, &at->scale, &at->a, &at->b}) *columns = take(z.pp);
  }
  at->inner = take(z.dual ? z.np : 0);
  at->inverse = take(z.dim);
  at->blocks = take(z.dim * kLanes);
  at->gram = take(z.dim * z.dim);
  at->factor = take(z.dim * z.dim);
  at->packed_c = take(z.dual ? 0 : z.np);
  at->packed = take(z.dual ? 0 : z.lp * z.pp);
  at->x = take(z.ld * z.pp);
  return used;
}
