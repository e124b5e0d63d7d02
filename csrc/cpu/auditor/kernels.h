// The problem solver, compiled once per instruction set and chosen when the program runs.
#pragma once

#include "common/auditor/task.h"

namespace amu_fast::auditor {

struct Kernel {
  // Doubles of workspace for one task.
  int64_t (*workspace)(const Task& task, int64_t d, const Settings& set);
  // Solves one problem; `workspace` is aligned to 64 bytes.
  void (*solve)(const Batch& batch, const Task& task, const Settings& set, double* workspace, const Outputs& out);
};

// The fastest that this processor runs, or the one that the environment variable AMU_FAST_ISA names: avx512, avx2 or
// baseline (for tests, and for results that are the same bits on every x86-64).
const Kernel& best_kernel();

}  // namespace amu_fast::auditor
