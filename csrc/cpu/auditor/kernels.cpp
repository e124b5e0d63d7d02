#include "cpu/auditor/kernels.h"

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

// Vectors are arguments of inlined functions only.
#pragma GCC diagnostic ignored "-Wpsabi"

#define FN inline __attribute__((always_inline))
#define LAMBDA __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

#define AMU_FAST_KERNEL                                                    \
  int64_t workspace_of(const Task& task, int64_t d, const Settings& set) { \
    Arrays at{};                                                           \
    return carve(sizes_of(task.n, task.h, d, kLanes), set, nullptr, &at);  \
  }                                                                        \
  constexpr Kernel kKernel{workspace_of, solve_task};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && !defined(AMU_FAST_NO_CLONES)
#define AMU_FAST_DISPATCH

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
namespace amu_fast::auditor::v4 {
namespace {
constexpr int kLanes = 8;
#include "cpu/auditor/kernel.h"
AMU_FAST_KERNEL
}  // namespace
}  // namespace amu_fast::auditor::v4
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
namespace amu_fast::auditor::v3 {
namespace {
constexpr int kLanes = 4;
#include "cpu/auditor/kernel.h"
AMU_FAST_KERNEL
}  // namespace
}  // namespace amu_fast::auditor::v3
#pragma GCC pop_options
#endif

namespace amu_fast::auditor {
namespace baseline {
namespace {
constexpr int kLanes = 2;
#include "cpu/auditor/kernel.h"
AMU_FAST_KERNEL
}  // namespace
}  // namespace baseline

const Kernel& kernel_for(const std::string& wanted) {
  const bool any = wanted.empty() || wanted == "auto";
#ifdef AMU_FAST_DISPATCH
  if ((any || wanted == "avx512") && __builtin_cpu_supports("x86-64-v4")) return v4::kKernel;
  if ((any || wanted == "avx2") && __builtin_cpu_supports("x86-64-v3")) return v3::kKernel;
#endif
  STD_TORCH_CHECK(any || wanted == "baseline", "AMU_FAST_ISA must be auto, avx512, avx2 or baseline and one that this ",
                  "processor and build have, got ", wanted);
  return baseline::kKernel;
}

const Kernel& best_kernel() {
  const char* wanted = std::getenv("AMU_FAST_ISA");
  return kernel_for(wanted ? wanted : "");
}

}  // namespace amu_fast::auditor
