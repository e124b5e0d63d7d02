#include "cpu/vectors.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "common/tensors.h"
#include "cpu/vector_loops.h"

namespace amu_fast::cpu {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kChunk = 1 << 14;  // elements of a vector in one task: fixed, whatever the number of threads

// The vectors of one call: `problems` of n elements, each cut into chunks.
struct Sizes {
  int64_t problems, n, chunks;

  Sizes(const Shape& batch, int64_t length)
      : problems(product(batch)), n(length), chunks(std::max<int64_t>(1, (length + kChunk - 1) / kChunk)) {}

  int64_t begin(int64_t chunk) const { return chunk * kChunk; }
  int64_t count(int64_t chunk) const { return std::min(n - begin(chunk), kChunk); }
};

// A tensor that is only read, at the offsets of the batch.
template <typename T>
struct Input {
  Tensor dense;
  const T* data;
  std::vector<int64_t> at;

  Input(const Tensor& tensor, int64_t core, const Shape& batch)
      : dense(core ? with_dense_rows(tensor) : tensor),
        data(dense.const_data_ptr<T>()),
        at(batch_offsets(dense, core, batch)) {}

  const T* operator[](int64_t problem) const { return data + at[problem]; }
};

// A tensor that is written into; by way of a dense copy where its rows are not dense.
template <typename T>
struct Output {
  Tensor original, dense;
  T* data;
  std::vector<int64_t> at;

  Output(const Tensor& tensor, int64_t core, const Shape& batch, const char* name)
      : original(tensor), dense(core ? with_dense_rows(tensor) : tensor), data(dense.mutable_data_ptr<T>()) {
    STD_TORCH_CHECK(batch_shape(tensor, core) == batch, name, " is written into: it must have the full batch shape");
    for (int64_t i = 0; i < tensor.dim(); ++i) {
      STD_TORCH_CHECK(tensor.size(i) <= 1 || tensor.stride(i) != 0, name, " is written into and is expanded; clone it");
    }
    at = batch_offsets(dense, core, batch);
  }

  T* operator[](int64_t problem) const { return data + at[problem]; }

  void finish() {
    if (dense.mutable_data_ptr() != original.mutable_data_ptr()) torch::stable::copy_(original, dense);
  }
};

// Per problem: first(problem, chunk) for all chunks, their sum to between(problem, sum), then second(problem, chunk)
// and its sum to last(problem, sum).
template <typename First, typename Between, typename Second, typename Last>
void two_passes(const Sizes& size, const First& first, const Between& between, const Second& second, const Last& last) {
  const int64_t grain = std::max<int64_t>(1, kChunk / std::max<int64_t>(1, std::min(size.n, kChunk)));
  if (size.chunks == 1) {
    torch::stable::parallel_for(0, size.problems, grain, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        between(b, first(b, 0));
        last(b, second(b, 0));
      }
    });
    return;
  }
  std::vector<double> partial(size.problems * size.chunks);
  const auto sums = [&](const auto& pass, const auto& use) {
    torch::stable::parallel_for(0, size.problems * size.chunks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) partial[task] = pass(task / size.chunks, task % size.chunks);
    });
    for (int64_t b = 0; b < size.problems; ++b) {
      double sum = 0;
      for (int64_t k = 0; k < size.chunks; ++k) sum += partial[b * size.chunks + k];
      use(b, sum);
    }
  };
  sums(first, between);
  sums(second, last);
}

double nothing(int64_t, int64_t) { return 0; }
void ignore(int64_t, double) {}

// ||r|| from sum r^2, which squares of float64 leave beyond 1e+-154; then it is taken again, scaled by max|r|.
template <typename T>
double size_of(const T* r, int64_t n, double sum) {
  constexpr double kTiny = 1e-280;
  if (sizeof(T) == 4 || (sum > kTiny && std::isfinite(sum))) return std::sqrt(sum);
  double top = 0;
  for (int64_t j = 0; j < n; ++j) top = std::max(top, std::abs(static_cast<double>(r[j])));
  if (top == 0 || !std::isfinite(top) || std::isnan(sum)) return std::sqrt(sum);
  double scaled = 0;
  for (int64_t j = 0; j < n; ++j) scaled += (r[j] / top) * (r[j] / top);
  return top * std::sqrt(scaled);
}

template <typename T>
void launch_dot(const Tensor& a_in, const Tensor& b_in, const Shape& batch, Tensor& out) {
  const Input<T> a(a_in, 1, batch), b(b_in, 1, batch);
  const Sizes size(batch, a_in.size(a_in.dim() - 1));
  double* result = out.mutable_data_ptr<double>();
  two_passes(
      size, [&](int64_t i, int64_t k) { return run_dot(a[i] + size.begin(k), b[i] + size.begin(k), size.count(k)); },
      [&](int64_t i, double sum) { result[i] = sum; }, nothing, ignore);
}

template <typename T>
void launch_direction(const Tensor& r_in, const Tensor& z_in, Tensor& p_in, Tensor& rz_in, Tensor& restart_in,
                      const Tensor& running_in, const Shape& batch) {
  const Input<T> r(r_in, 1, batch), z(z_in, 1, batch);
  const Input<bool> running(running_in, 0, batch);
  Output<T> p(p_in, 1, batch, "p");
  const Output<double> rz(rz_in, 0, batch, "rz");
  const Output<bool> restart(restart_in, 0, batch, "restart");
  const Sizes size(batch, p_in.size(p_in.dim() - 1));
  std::vector<T> beta(size.problems);
  std::vector<uint8_t> anew(size.problems);
  two_passes(
      size, [&](int64_t i, int64_t k) { return run_dot(r[i] + size.begin(k), z[i] + size.begin(k), size.count(k)); },
      [&](int64_t i, double sum) {
        if (!*running[i]) return;
        beta[i] = static_cast<T>(sum / *rz[i]);
        anew[i] = *restart[i];
        *rz[i] = sum;
        *restart[i] = false;
      },
      [&](int64_t i, int64_t k) {
        T* to = p[i] + size.begin(k);
        const T* from = z[i] + size.begin(k);
        if (*running[i] && anew[i]) std::copy(from, from + size.count(k), to);
        if (*running[i] && !anew[i]) run_follow(from, beta[i], to, size.count(k));
        return 0.0;
      },
      ignore);
  p.finish();
}

template <typename T>
void launch_update(const Tensor& p_in, const Tensor& hp_in, const Tensor& rz_in, const Tensor& running_in, Tensor& y_in,
                   Tensor& r_in, const Shape& batch, Tensor& curvature_out, Tensor& size_out) {
  const Input<T> p(p_in, 1, batch), hp(hp_in, 1, batch);
  const Input<double> rz(rz_in, 0, batch);
  const Input<bool> running(running_in, 0, batch);
  Output<T> y(y_in, 1, batch, "y"), r(r_in, 1, batch, "r");
  const Sizes size(batch, y_in.size(y_in.dim() - 1));
  double* curvature = curvature_out.mutable_data_ptr<double>();
  double* norm = size_out.mutable_data_ptr<double>();
  const auto moves = [&](int64_t i) {
    return *running[i] && std::isfinite(curvature[i]) && std::isfinite(*rz[i]) && curvature[i] > 0 && *rz[i] > 0;
  };
  two_passes(
      size, [&](int64_t i, int64_t k) { return run_dot(p[i] + size.begin(k), hp[i] + size.begin(k), size.count(k)); },
      [&](int64_t i, double sum) { curvature[i] = sum; },
      [&](int64_t i, int64_t k) {
        const int64_t at = size.begin(k), n = size.count(k);
        if (!moves(i)) return run_dot(r[i] + at, r[i] + at, n);
        return run_advance(p[i] + at, hp[i] + at, static_cast<T>(*rz[i] / curvature[i]), y[i] + at, r[i] + at, n);
      },
      [&](int64_t i, double sum) { norm[i] = size_of(r[i], size.n, sum); });
  y.finish();
  r.finish();
}

template <typename T>
void launch_neumann(const Tensor& b_in, const Tensor& hy_in, const Tensor& eta_in, const Tensor& running_in,
                    Tensor& y_in, Tensor& r_in, const Shape& batch, Tensor& size_out) {
  const Input<T> b(b_in, 1, batch), hy(hy_in, 1, batch);
  const Input<double> eta(eta_in, 0, batch);
  const Input<bool> running(running_in, 0, batch);
  Output<T> y(y_in, 1, batch, "y"), r(r_in, 1, batch, "r");
  const Sizes size(batch, y_in.size(y_in.dim() - 1));
  double* norm = size_out.mutable_data_ptr<double>();
  two_passes(
      size,
      [&](int64_t i, int64_t k) {
        const int64_t at = size.begin(k), n = size.count(k);
        if (!*running[i]) return run_subtract(b[i] + at, hy[i] + at, r[i] + at, n);
        return run_subtract_and_add(b[i] + at, hy[i] + at, static_cast<T>(*eta[i]), y[i] + at, r[i] + at, n);
      },
      [&](int64_t i, double sum) { norm[i] = size_of(r[i], size.n, sum); }, nothing, ignore);
  y.finish();
  r.finish();
}

// All vectors of one dtype and one length.
void check_alike(const Tensor& a, std::initializer_list<const Tensor*> others, const char* what) {
  for (const Tensor* other : others) {
    check_same_float(a, *other, what);
    STD_TORCH_CHECK(a.dim() > 0 && other->dim() > 0 && a.size(a.dim() - 1) == other->size(other->dim() - 1), what,
                    " need one length");
  }
}

bool is_float(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Float; }

}  // namespace

Tensor multi_dot(const Tensor& a, const Tensor& b) {
  check_alike(a, {&b}, "a and b");
  const Shape batch = broadcast(batch_shape(a, 1), batch_shape(b, 1));
  Tensor out = torch::stable::new_empty(a, batch, ScalarType::Double);
  is_float(a) ? launch_dot<float>(a, b, batch, out) : launch_dot<double>(a, b, batch, out);
  return out;
}

void cg_direction(const Tensor& r, const Tensor& z, Tensor p, Tensor rz, Tensor restart, const Tensor& running) {
  check_alike(p, {&r, &z}, "r, z and p");
  const Shape batch = batch_shape(p, 1);
  is_float(p) ? launch_direction<float>(r, z, p, rz, restart, running, batch)
              : launch_direction<double>(r, z, p, rz, restart, running, batch);
}

std::tuple<Tensor, Tensor> cg_update(const Tensor& p, const Tensor& hp, const Tensor& rz, const Tensor& running,
                                     Tensor y, Tensor r) {
  check_alike(y, {&p, &hp, &r}, "p, hp, y and r");
  const Shape batch = batch_shape(y, 1);
  Tensor curvature = torch::stable::new_empty(y, batch, ScalarType::Double);
  Tensor size = torch::stable::new_empty(y, batch, ScalarType::Double);
  is_float(y) ? launch_update<float>(p, hp, rz, running, y, r, batch, curvature, size)
              : launch_update<double>(p, hp, rz, running, y, r, batch, curvature, size);
  return {curvature, size};
}

Tensor neumann_step(const Tensor& b, const Tensor& hy, const Tensor& eta, const Tensor& running, Tensor y, Tensor r) {
  check_alike(y, {&b, &hy, &r}, "b, hy, y and r");
  const Shape batch = batch_shape(y, 1);
  Tensor size = torch::stable::new_empty(y, batch, ScalarType::Double);
  is_float(y) ? launch_neumann<float>(b, hy, eta, running, y, r, batch, size)
              : launch_neumann<double>(b, hy, eta, running, y, r, batch, size);
  return size;
}

}  // namespace amu_fast::cpu
