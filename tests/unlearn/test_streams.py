from __future__ import annotations

import pytest
import torch

from amu_fast.errors import DataError
from amu_fast.rows import Rows
from amu_fast.unlearn.streams import BatchStream, Joined, Relabelled, generator, relabel

CPU = torch.device("cpu")


def rows(size: int, start: int = 0) -> Rows:
    return Rows.of((torch.arange(start, start + size).float().unsqueeze(1), torch.arange(start, start + size) % 3))


def drawn(stream: BatchStream, batches: int) -> list[int]:
    return [int(x) for _ in range(batches) for x in stream.next()[0][:, 0]]


def test_every_pass_sees_every_row_once_and_all_batches_are_full():
    stream = BatchStream(rows(10), 4, generator(0, "a"), CPU)
    seen = drawn(stream, 5)
    assert len(seen) == 20
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_distinct_batches_never_hold_a_row_twice_yet_reach_all_rows():
    stream = BatchStream(rows(10), 4, generator(0, "a"), CPU, distinct=True)
    batches = [drawn(stream, 1) for _ in range(40)]
    assert all(len(set(batch)) == 4 for batch in batches)
    assert all(not set(first) & set(second) for first, second in zip(batches[::2], batches[1::2], strict=True))
    assert {x for batch in batches for x in batch} == set(range(10))
    assert stream.batches_per_pass == 2


def test_a_batch_larger_than_the_part_is_the_part():
    stream = BatchStream(rows(3), 64, generator(0, "a"), CPU, distinct=True)
    assert sorted(drawn(stream, 1)) == [0, 1, 2]


def test_order_depends_on_seed_and_name_only():
    def order(seed: int, name: str) -> list[int]:
        return drawn(BatchStream(rows(50), 50, generator(seed, name), CPU), 1)

    torch.manual_seed(1)
    first = order(0, "retain")
    torch.manual_seed(2)
    assert order(0, "retain") == first
    assert order(0, "forget") != first
    assert order(1, "retain") != first


def test_joined_rows_keep_their_inputs_with_the_new_labels():
    joined = Joined(rows(4), Relabelled(rows(3, start=10), torch.tensor([7, 8, 9])))
    assert len(joined) == 7
    inputs, labels = joined.fetch(torch.tensor([5, 0, 4, 3]))
    pairs = dict(zip(inputs[:, 0].tolist(), labels.tolist(), strict=True))
    assert pairs == {11.0: 8, 0.0: 0, 10.0: 7, 3.0: 0}
    assert joined.fetch(torch.tensor([6]))[1].tolist() == [9]
    assert joined.fetch(torch.tensor([1]))[1].tolist() == [1]


def test_random_labels_are_never_true_and_cover_the_other_classes():
    labels = torch.arange(4000) % 4
    new = relabel(labels, 4, generator(0, "labels"))
    assert not (new == labels).any()
    counts = torch.bincount(new[labels == 0], minlength=4)
    assert counts[0] == 0
    assert ((counts[1:] - 1000 / 3).abs() < 80).all()
    assert torch.equal(new, relabel(labels, 4, generator(0, "labels")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchStream(rows(3), 0, generator(0, "a"), CPU), "batch_size must be >= 1, got 0"),
        (lambda: generator(-1, "a"), "seed must be >= 0, got -1"),
        (lambda: relabel(torch.zeros(3).long(), 1, generator(0, "a")), "at least 2 classes"),
    ],
)
def test_bad_streams(make, message):
    with pytest.raises(DataError, match=message):
        make()
