// How the product with a wide matrix is cut into clusters, blocks and tiles. Sizes only: tested without a device.
#pragma once

#include <algorithm>
#include <cstdint>

namespace amu_fast::hvp {

constexpr int64_t kThreads = 512;  // of a block in the cluster form
constexpr int64_t kWarps = kThreads / 32;
constexpr int64_t kVectorBytes = 16;      // of one asynchronous copy
constexpr int64_t kMaxBlocks = 8;         // the portable size of a cluster
constexpr int64_t kMaxStages = 3;         // row groups in flight
constexpr int64_t kStageBytes = 1 << 16;  // most bytes of a stage
constexpr int64_t kTileRows = 256;        // rows summed in the narrow type before widening

constexpr int64_t kChunkThreads = 256;      // of a block in the chunk form
constexpr int64_t kChunkColumns = 1 << 14;  // columns of one block's part of a row's product
constexpr int64_t kChunkBytes = 1 << 24;    // of the rows that are read twice: they stay in the second-level cache
constexpr int64_t kChunkBlocks = 1 << 9;    // blocks that keep a large device busy
constexpr int64_t kMaxChunkRows = 1 << 15;  // bounds the rows' products where d is small

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Rows of one stage: they share a barrier.
constexpr int64_t stage_rows(int64_t columns, int64_t element) { return kStageBytes / (kThreads * columns * element); }

// A cluster of blocks owns some rows, each of its blocks a slice of their columns; x is read once.
struct ClusterPlan {
  int64_t columns = 0;  // of one thread, 16 or 32; 0: this form does not serve these sizes
  int64_t blocks = 0;   // of a cluster
  int64_t slice = 0;    // columns of a block, whole vectors
  int64_t stages = 0;
  int64_t shared_bytes = 0;
};

// Rows of clusters and tiles; a cluster's rows are whole tiles, except at the end of the matrix.
struct RowPlan {
  int64_t tile_rows = 0;
  int64_t cluster_rows = 0;
  int64_t clusters = 0;
  int64_t tiles = 0;
};

// d columns of `element` bytes; `max_blocks` 1 where the device has no clusters; `shared_limit` bytes of a block.
inline ClusterPlan cluster_plan(int64_t d, int64_t element, int64_t max_blocks, int64_t shared_limit) {
  constexpr int64_t kWidest = 32;
  const int64_t blocks = ceil_div(d, kThreads * kWidest);
  if (element > 4 || blocks < 1 || blocks > std::min(max_blocks, kMaxBlocks)) return {};
  const int64_t slice = round_up(ceil_div(d, blocks), kVectorBytes / element);
  const int64_t columns = slice <= kThreads * kWidest / 2 ? kWidest / 2 : kWidest;
  const int64_t rows = stage_rows(columns, element);
  // One slot per warp of the cluster, for each row of a stage, of two stages.
  const int64_t slots = 2 * rows * blocks * kWarps * static_cast<int64_t>(sizeof(double));
  const int64_t stages = std::min(kMaxStages, (shared_limit - slots) / (rows * slice * element));
  if (stages < 2) return {};
  return {columns, blocks, slice, stages, slots + stages * rows * slice * element};
}

// n > 0 rows over at most `slots` clusters that run at once; `multiple` rows of a stage.
inline RowPlan row_plan(int64_t n, int64_t slots, int64_t multiple) {
  const int64_t rounds = ceil_div(n, slots * kTileRows);
  const int64_t tile_rows = round_up(ceil_div(n, slots * rounds), multiple);
  const int64_t cluster_rows = tile_rows * rounds;
  return {tile_rows, cluster_rows, ceil_div(n, cluster_rows), ceil_div(n, tile_rows)};
}

// Rows are multiplied and then read again from the cache, a chunk at a time; serves any size, type and alignment.
struct ChunkPlan {
  int64_t rows = 0;   // of a chunk
  int64_t parts = 0;  // of a row's product
  int64_t column_tiles = 0;
  int64_t tile_rows = 0;
  int64_t tiles = 0;  // of a whole chunk
};

inline ChunkPlan chunk_plan(int64_t n, int64_t d, int64_t element) {
  const int64_t fit = kChunkBytes / std::max<int64_t>(1, d * element);
  const int64_t rows = std::max<int64_t>(1, std::min({n, fit, kMaxChunkRows}));
  const int64_t column_tiles = std::max<int64_t>(1, ceil_div(d, kChunkThreads));
  const int64_t tile_rows = std::min(kTileRows, std::max<int64_t>(8, ceil_div(rows * column_tiles, kChunkBlocks)));
  return {rows, std::max<int64_t>(1, ceil_div(d, kChunkColumns)), column_tiles, tile_rows, ceil_div(rows, tile_rows)};
}

// Tiles of all chunks together: rows of the partial sums.
inline int64_t chunk_tiles(int64_t n, const ChunkPlan& plan) {
  return n / plan.rows * plan.tiles + ceil_div(n % plan.rows, plan.tile_rows);
}

}  // namespace amu_fast::hvp
