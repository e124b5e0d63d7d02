"""How work is cut for a device: every column and row once, within the device's limits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

VECTOR, THREADS, WARPS = 16, 512, 16
MAX_GRID_Y = 65535


@settings(max_examples=300, deadline=None)
@given(d=st.integers(0, 200_000), element=st.sampled_from([2, 4]), h200=st.booleans())
def test_clusters_cover_the_columns(emulator, d, element, h200):
    blocks_allowed, limit = (8, 232448) if h200 else (1, 166912)
    columns, blocks, slice_, stages, shared, rows = emulator.sizes(
        "hvp_cluster_plan", 6, d, element, blocks_allowed, limit
    )
    if columns == 0:
        assert d == 0 or d > THREADS * 32 * blocks_allowed
        return
    assert 1 <= blocks <= blocks_allowed
    assert slice_ * element % VECTOR == 0
    assert slice_ <= THREADS * columns
    assert slice_ * blocks >= d
    assert slice_ * (blocks - 1) < d, "a block without columns"
    assert 2 <= stages <= 3
    assert shared == 2 * rows * blocks * WARPS * 8 + stages * rows * slice_ * element <= limit


@pytest.mark.parametrize(("element", "limit"), [(8, 232448), (4, 101376)])
def test_no_clusters_for_doubles_or_small_shared_memory(emulator, element, limit):
    assert emulator.sizes("hvp_cluster_plan", 6, 16384, element, 8, limit)[0] == 0


@settings(max_examples=300, deadline=None)
@given(n=st.integers(1, 2**40), slots=st.integers(1, 148), multiple=st.sampled_from([1, 2, 4]))
def test_clusters_share_the_rows(emulator, n, slots, multiple):
    tile_rows, cluster_rows, clusters, tiles = emulator.sizes("hvp_row_plan", 4, n, slots, multiple)
    assert 1 <= clusters <= slots
    assert tile_rows % multiple == 0
    assert tile_rows <= 256
    assert cluster_rows % tile_rows == 0
    assert (clusters - 1) * cluster_rows < n <= clusters * cluster_rows
    assert (tiles - 1) * tile_rows < n <= tiles * tile_rows
    # The busiest cluster has at most a tile's rounding more than its share.
    assert cluster_rows <= n / slots + (cluster_rows / tile_rows) * multiple


@settings(max_examples=300, deadline=None)
@given(n=st.integers(0, 2**33), d=st.integers(0, 2**20), element=st.sampled_from([2, 4, 8]))
def test_chunks_stay_in_the_cache(emulator, n, d, element):
    rows, parts, column_tiles, tile_rows, tiles, lines = emulator.sizes("hvp_chunk_plan", 6, n, d, element)
    assert 1 <= rows <= max(n, 1)
    assert rows == 1 or rows * d * element <= 2**24
    assert parts * 2**14 >= d
    assert column_tiles * 256 >= d
    assert 1 <= tile_rows <= 256
    assert (tiles - 1) * tile_rows < rows <= tiles * tile_rows
    assert parts <= MAX_GRID_Y
    assert tiles <= MAX_GRID_Y
    whole, rest = divmod(n, rows)
    assert lines == whole * tiles + -(-rest // tile_rows)


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(2, 3000),
    h=st.integers(0, 1000),
    d=st.integers(0, 500),
    standardize=st.booleans(),
    parts=st.sampled_from([0, 3]),
    budget=st.integers(0, 29000),
)
def test_a_problem_is_cut_between_shared_and_global_memory(emulator, n, h, d, standardize, parts, budget):
    cut = emulator.sizes("auditor_storage", 8, n, h, d, standardize, parts, budget)
    whole = emulator.sizes("auditor_storage", 8, n, h, d, standardize, parts, 2**40)
    nothing = emulator.sizes("auditor_storage", 8, n, h, d, standardize, parts, 0)
    assert whole[1] == nothing[0] == 0
    assert cut[0] + cut[1] == whole[0] == nothing[1]
    assert cut[0] <= budget
    rows, all_rows, stride, columns, dim, dual = cut[2:]
    assert dual == (n < d + 1)
    assert n <= rows <= n + 1
    assert all_rows == rows + h
    assert d + 1 <= columns <= d + 2
    assert dim == (rows if dual else columns)
    # Lanes along a row, and along a row of the factor, meet every bank.
    assert stride % 2 == dim % 2 == 1
    assert stride >= all_rows
    assert whole[0] >= stride * columns + 2 * dim * dim + 7 * all_rows
