"""Which rows a micro-batch has, and how they become tensors."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from amu_fast.errors import DataError
from amu_fast.integrations import MicroBatches, Order, PadRows, PartCollator, UnlearnDatasets
from amu_fast.unlearn.objectives import GameObjective

ROWS = {"retain": 23, "forget": 17, "validation": 19}


def order(**options):
    given = {"retain_batch": 6, "audit_batch": 4, "accumulation": 3, "seed": 5}
    return Order(ROWS, GameObjective(every=2).needs, **{**given, **options})


def test_retain_rows_are_seen_equally_often_and_the_order_is_the_seeds():
    one, two, other = order(), order(), order(seed=6)
    epochs = 23 * 6 // 4  # so many epochs of 4 batches are whole passes of 23 rows
    seen = [one.batch(e, p)["retain"].tolist() for e in range(epochs) for p in range(one.epoch_length)]
    counts = Counter(row for batch in seen for row in batch)
    assert len(counts) == 23
    assert max(counts.values()) - min(counts.values()) <= 1
    # a run that starts in the middle sees what one from the start sees
    assert [two.batch(7, p)["retain"].tolist() for p in range(4)] == seen[28:32]
    assert [other.batch(0, p)["retain"].tolist() for p in range(4)] != seen[:4]


@pytest.mark.parametrize("pooled", [False, True])
def test_auditing_rows_are_distinct_and_seen_equally_often(pooled):
    one = order(pooled=pooled)
    drawn = []
    for epoch in range(24):
        steps: dict[int, list[int]] = {}
        for position in range(one.epoch_length):
            batch = one.batch(epoch, position)
            step = one.step(epoch, position)
            assert set(batch) == ({"retain"} if step % 2 else set(ROWS))
            if "forget" in batch:
                assert len(set(batch["forget"].tolist())) == len(batch["forget"])
                steps.setdefault(step, []).extend(batch["forget"].tolist())
        if pooled:
            assert all(len(rows) == len(set(rows)) for rows in steps.values())
        drawn += [row for rows in steps.values() for row in rows]
    counts = Counter(drawn)
    assert set(counts) == set(range(17))
    assert max(counts.values()) <= 2.5 * min(counts.values())
    again = order(pooled=pooled)
    assert again.batch(20, 0)["forget"].tolist() == one.batch(20, 0)["forget"].tolist()


@pytest.mark.parametrize("pooled", [False, True])
def test_ranks_hold_slices_of_the_whole(pooled):
    """One after another, the rows of 2 ranks in all micro-batches of a step are those of 1 rank."""
    one, two = (
        order(pooled=pooled, retain_batch=7, audit_batch=5),
        order(pooled=pooled, retain_batch=7, audit_batch=5, ranks=2),
    )
    for epoch in range(3):
        for position in range(one.epoch_length):
            whole, halves = one.batch(epoch, position), [two.batch(epoch, position, rank) for rank in range(2)]
            names = ["retain"] if pooled else list(whole)
            for name in names:
                assert torch.equal(torch.cat([half[name] for half in halves]), whole[name])
        if pooled and "forget" in one.batch(epoch, 0):
            window = range(one.window(0))
            rows = torch.cat([one.batch(epoch, p)["forget"] for p in window])
            ranks = [torch.cat([two.batch(epoch, p, rank)["forget"] for p in window]) for rank in range(2)]
            assert torch.equal(torch.cat(ranks), rows)


def test_an_epochs_last_step_may_have_fewer_micro_batches():
    one = order(accumulation=3)
    assert one.epoch_length == 4
    assert [one.window(position) for position in range(4)] == [3, 3, 3, 1]
    assert [one.step(1, position) for position in range(4)] == [2, 2, 2, 3]
    sampler = MicroBatches(one)
    sampler.set_epoch(1)
    keys = list(sampler)
    assert len(keys) == len(sampler) == 4
    assert [row for name, row in keys[0] if name == "retain"] == one.batch(1, 0)["retain"].tolist()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"retain_batch": 0}, "retain_batch must be >= 1"),
        ({"audit_batch": 1, "ranks": 2}, "1 forget rows is too small for 2 ranks"),
        ({"retain_batch": 2, "ranks": 3}, "2 retain rows is too small"),
        ({"audit_batch": 6, "accumulation": 9, "pooled": True, "ranks": 2}, "17 forget rows is too small"),
    ],
)
def test_sizes_that_cannot_be(options, named):
    with pytest.raises(DataError, match=named):
        order(**options)


def test_each_part_is_padded_by_itself():
    def row(length, **extra):
        ids = torch.arange(3, 3 + length)
        return {"input_ids": ids, "labels": ids, "clusters": 7, "reference": -0.5, **extra}

    batch = PartCollator(PadRows(pad_token_id=1))([("retain", row(3)), ("forget", row(5)), ("forget", row(2))])
    assert batch["retain"]["input_ids"].tolist() == [[3, 4, 5]]
    assert "attention_mask" not in batch["retain"]
    assert batch["forget"]["input_ids"][1].tolist() == [3, 4, 1, 1, 1]
    assert batch["forget"]["labels"][1].tolist() == [3, 4, -100, -100, -100]
    assert batch["forget"]["attention_mask"][1].tolist() == [1, 1, 0, 0, 0]
    assert batch["forget"]["clusters"].tolist() == [7, 7]
    assert batch["forget"]["clusters"].dtype == torch.int64
    assert batch["forget"]["reference"].dtype == torch.float32


def test_packed_rows_number_their_sequences_anew():
    rows = [
        {
            "input_ids": [3, 4, 5],
            "labels": [3, 4, 5],
            "segments": [0, 0, 1],
            "clusters": [8, 9],
            "zlib_lengths": [4, 5],
        },
        {
            "input_ids": [6, 7, 8, 9],
            "labels": [6, 7, 8, 9],
            "segments": [0, 0, 0, -1],
            "clusters": [6],
            "zlib_lengths": [7],
        },
    ]
    batch = PartCollator(PadRows()).part(rows)
    assert batch["segments"].tolist() == [[0, 0, 1, -1], [2, 2, 2, -1]]
    assert batch["clusters"].tolist() == [8, 9, 6]
    assert batch["zlib_lengths"].tolist() == [4, 5, 7]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"x": torch.zeros(2, 3)}, {"x": torch.zeros(2, 4)}], "x has rows of shapes"),
        ([{"x": 1, "y": 2}, {"x": 1}], "1 of 2 rows have no 'y'"),
        ([{"text": "hello"}], "text of a row is a str"),
    ],
)
def test_rows_that_do_not_fit(rows, named):
    with pytest.raises(DataError, match=named):
        PadRows()(rows)


def test_validation_is_cut_by_persons():
    rows = [{"labels": 0, "clusters": k // 3} for k in range(30)]
    cut = UnlearnDatasets(rows, rows, rows).with_tune(0.4)
    game, tune = ({row["clusters"] for row in part} for part in (cut.validation, cut.tune))
    assert len(game) == 4
    assert game | tune == set(range(10))
    assert not game & tune
    assert len(cut.validation) + len(cut.tune) == 30
    with pytest.raises(DataError, match="have tune rows already"):
        cut.with_tune()
    with pytest.raises(DataError, match="leaves V_game or V_tune empty"):
        UnlearnDatasets(rows, rows, rows[:3]).with_tune()
    with pytest.raises(DataError, match="there are no test rows"):
        cut.part("test")
    with pytest.raises(DataError, match="forget is a generator without length"):
        UnlearnDatasets(rows, (row for row in rows), rows)
    with pytest.raises(DataError, match="forget is empty"):
        UnlearnDatasets(rows, [], rows)
