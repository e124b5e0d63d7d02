// The size calculators of csrc/common as plain functions, for ctypes.
#include "common/auditor/block_plan.h"
#include "common/hvp_plan.h"
#include "cuda/auditor_team.cuh"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void hvp_cluster_plan(int64_t d, int64_t element, int64_t max_blocks, int64_t shared_limit, int64_t* out) {
  const auto plan = amu_fast::hvp::cluster_plan(d, element, max_blocks, shared_limit);
  const int64_t rows = plan.columns ? amu_fast::hvp::stage_rows(plan.columns, element) : 0;
  for (const int64_t value : {plan.columns, plan.blocks, plan.slice, plan.stages, plan.shared_bytes, rows}) {
    *out++ = value;
  }
}

EXPORT void hvp_row_plan(int64_t n, int64_t slots, int64_t multiple, int64_t* out) {
  const auto plan = amu_fast::hvp::row_plan(n, slots, multiple);
  for (const int64_t value : {plan.tile_rows, plan.cluster_rows, plan.clusters, plan.tiles}) *out++ = value;
}

EXPORT void hvp_chunk_plan(int64_t n, int64_t d, int64_t element, int64_t* out) {
  const auto plan = amu_fast::hvp::chunk_plan(n, d, element);
  for (const int64_t value :
       {plan.rows, plan.parts, plan.column_tiles, plan.tile_rows, plan.tiles, amu_fast::hvp::chunk_tiles(n, plan)}) {
    *out++ = value;
  }
}

// The doubles that a problem takes from each place, and its sizes.
EXPORT void auditor_storage(int64_t n, int64_t h, int64_t d, int64_t standardize, int64_t parts, int64_t budget,
                            int64_t* out) {
  using namespace amu_fast::auditor;
  Settings set{};
  set.standardize = standardize != 0;
  set.parts = static_cast<int>(parts);
  const Sizes z = block_sizes(n, h, d);
  block::Arrays at{};
  const Storage used = place(z, set, budget, nullptr, nullptr, &at);
  for (const int64_t value : {used.shared, used.global, z.np, z.q, z.ld, z.pp, z.dim, int64_t{z.dual}}) *out++ = value;
}
