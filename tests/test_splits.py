from __future__ import annotations

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from amu_fast.errors import DataError
from amu_fast.rows import Rows
from amu_fast.splits import Splits

N = 20


class Pictures(Dataset):
    """A data set that isn't made of tensors."""

    def __init__(self, size: int = N) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3,), float(index)), index % 4


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


def tensors(start: int = 0, size: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.arange(start, start + size).float().unsqueeze(1).expand(size, 3).contiguous()
    return inputs, torch.arange(start, start + size) % 4


PARTS = {"retain": range(10), "forget": [10, 11], "validation": [12, 13, 14, 15], "test": range(16, 20)}


@pytest.mark.parametrize(
    "data", [tensors(), TensorDataset(*tensors()), Pictures()], ids=["tuple", "tensors", "dataset"]
)
def test_from_indices_gives_the_rows_asked_for(data):
    splits = Splits.from_indices(data, **PARTS)
    for name, index in PARTS.items():
        rows = splits.rows(name)
        inputs, labels = rows.fetch(torch.arange(len(rows)))
        assert inputs[:, 0].tolist() == list(index)
        assert labels.tolist() == [i % 4 for i in index]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (tensors(), range(N)),
        (TensorDataset(*tensors()), range(N)),
        (Pictures(), range(N)),
        (Subset(Subset(TensorDataset(*tensors()), [3, 4, 5, 6]), [2, 0]), [5, 3]),
        (Subset(Subset(Pictures(), [3, 4, 5, 6]), [2, 0]), [5, 3]),
        (DataLoader(Subset(Pictures(), [7, 1]), batch_size=1, shuffle=True), [7, 1]),
        (DataLoader(TensorDataset(*tensors()), batch_size=8, drop_last=True), range(N)),
        (DataLoader(Pictures(), sampler=SubsetRandomSampler([4, 2])), [4, 2]),
    ],
)
def test_every_kind_of_part_is_read_in_its_own_order(part, expected):
    rows = Rows.of(part)
    assert len(rows) == len(expected)
    assert rows.fetch(torch.arange(len(rows)))[0][:, 0].tolist() == list(expected)
    assert rows.fetch(torch.tensor([1, 0]))[0][:, 0].tolist() == list(expected)[1::-1]
    assert torch.cat([labels for _, labels in _batches(rows.part())]).tolist() == [i % 4 for i in expected]


def _batches(part):
    return [part] if isinstance(part, tuple) else part


def test_a_collate_function_is_used():
    def doubled(samples):
        return torch.stack([x for x, _ in samples]) * 2, torch.tensor([y for _, y in samples])

    rows = Rows.of(DataLoader(TensorDataset(*tensors()), batch_size=4, collate_fn=doubled))
    assert rows.fetch(torch.tensor([3]))[0].tolist() == [[6.0, 6.0, 6.0]]


BASE = tensors()
LOADED = Pictures()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Splits.from_indices(BASE, **{**PARTS, "forget": []}), "forget is empty"),
        (lambda: Splits(tensors(), tensors(size=0), tensors()), "forget is empty"),
        (
            lambda: Splits.from_indices(BASE, **{**PARTS, "forget": [8, 9, 10]}),
            r"retain and forget share 2 rows.*\[8, 9\]",
        ),
        (lambda: Splits.from_indices(LOADED, **{**PARTS, "test": [12]}), r"validation and test share 1 rows.*\[12\]"),
        (
            lambda: Splits(Subset(LOADED, [0, 1]), DataLoader(Subset(LOADED, [1])), Subset(LOADED, [5])),
            r"share 1.*\[1\]",
        ),
        (lambda: Splits(BASE, BASE, tensors()), "retain and forget share 20 rows"),
        (lambda: Splits(BASE, TensorDataset(*BASE), tensors()), "retain and forget share 20 rows"),
        (
            lambda: Splits.from_indices(BASE, **{**PARTS, "forget": [10, 10, 11]}),
            r"forget lists 1 rows more than.*\[10\]",
        ),
        (
            lambda: Splits.from_indices(BASE, **{**PARTS, "test": [19, 20, 21]}),
            r"test indices \[20, 21\] lie outside.*20 rows",
        ),
        (lambda: Splits.from_indices(BASE, **{**PARTS, "test": [-1]}), r"test indices \[-1\]"),
        (lambda: Splits.from_indices(BASE, **{**PARTS, "test": torch.ones(N, dtype=torch.bool)}), "nonzero"),
        (lambda: Splits.from_indices(BASE, **{**PARTS, "test": [0.5]}), "whole numbers"),
        (lambda: Splits.from_indices((BASE[0],), **PARTS), "pair of tensors"),
        (lambda: Splits.from_indices((BASE[0], BASE[1][:-1]), **PARTS), "20 inputs and 19 labels"),
        (lambda: Splits((BASE[0], BASE[1].float()), tensors(), tensors()), "labels have dtype torch.float32"),
        (lambda: Splits((BASE[0], BASE[1].unsqueeze(1)), tensors(), tensors()), r"shape \(20, 1\)"),
        (
            lambda: Splits(BASE, (torch.zeros(2, 4), torch.zeros(2).long()), tensors()),
            r"\(3,\).*forget rows are.*\(4,\)",
        ),
        (lambda: Splits(BASE, (tensors()[0].double(), BASE[1]), tensors()), "float64"),
        (lambda: Splits(Stream(), tensors(), tensors()), "retain is a Stream"),
        (lambda: Splits({"x": 1}, tensors(), tensors()), "retain is a dict"),
        (lambda: Splits(DataLoader(Pictures(), batch_size=None), tensors(), tensors()), "batch_size=None"),
        (lambda: Splits(DataLoader(Stream()), tensors(), tensors()), "no numbers"),
        (lambda: Splits(DataLoader(Pictures(), sampler=WeightedRandomSampler([1.0] * N, 5)), BASE, BASE), "Weighted"),
        (
            lambda: Splits(
                DataLoader(Pictures(), batch_sampler=type("Own", (BatchSampler,), {})(RandomSampler(LOADED), 2, False)),
                BASE,
                tensors(),
            ),
            "with Own",
        ),
    ],
)
def test_bad_splits_are_refused_with_the_value_and_the_fix(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_absent_part_is_named():
    splits = Splits.from_indices(BASE, **{**PARTS, "test": None})
    with pytest.raises(DataError, match=r"no part 'test'.*retain, forget, validation"):
        splits.rows("test")


@pytest.mark.parametrize("data", [BASE, LOADED], ids=["tensors", "dataset"])
def test_labels_outside_the_models_range_are_named(data):
    rows = Splits.from_indices(data, **PARTS).rows("forget")
    rows.with_classes(4).fetch(torch.tensor([0, 1]))
    with pytest.raises(DataError, match=r"forget label 3 at row 11 lies outside \[0, 3\)"):
        rows.with_classes(3).fetch(torch.tensor([0, 1]))


def test_a_batch_that_is_no_pair_is_refused():
    rows = Rows.of(DataLoader(Pictures(), collate_fn=lambda samples: {"x": samples}), "retain")
    with pytest.raises(DataError, match="retain batches are a dict"):
        rows.fetch(torch.tensor([0]))


def test_validation_splits_into_disjoint_halves_by_its_own_seed():
    splits = Splits.from_indices(BASE, retain=[0], forget=[1], validation=range(2, 20))
    game, tune = splits.split_validation(0, 0.5)
    mine, other = game.base_index().tolist(), tune.base_index().tolist()
    assert sorted(mine + other) == list(range(2, 20))
    assert len(mine) == 9
    assert splits.split_validation(0, 0.5)[0].base_index().tolist() == mine
    assert splits.split_validation(1, 0.5)[0].base_index().tolist() != mine
    assert game.fetch(torch.tensor([0]))[0][0, 0] == mine[0]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 0.01])
def test_a_cut_without_rows_on_a_side_is_refused(fraction):
    splits = Splits.from_indices(BASE, **PARTS)
    with pytest.raises(DataError, match=f"fraction {fraction}"):
        splits.split_validation(0, fraction)
