"""The outputs that attacks share: every way to make them, and every refusal."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from amu_fast.audit import metrics
from amu_fast.audit.attacks import LossThreshold, Outputs, SplitOutputs
from amu_fast.errors import DataError
from amu_fast.splits import Splits

GENERATOR = torch.Generator().manual_seed(0)
INPUTS, LABELS = torch.randn(60, 5, generator=GENERATOR), torch.randint(0, 3, (60,), generator=GENERATOR)


@pytest.fixture
def splits():
    return Splits.from_indices(
        (INPUTS, LABELS), retain=range(20), forget=range(20, 30), validation=range(30, 45), test=range(45, 60)
    )


def test_model_and_its_logits_give_the_same_outputs(splits):
    model = nn.Linear(5, 3)
    outputs = SplitOutputs.of(model, splits, parts=("forget", "test", "validation"))
    assert (len(outputs.forget), len(outputs.test), len(outputs.validation)) == (10, 15, 15)
    logits, labels = model(INPUTS[20:30]).detach(), LABELS[20:30]
    np.testing.assert_allclose(outputs.forget.loss, metrics.losses(logits, labels))
    np.testing.assert_allclose(outputs.forget.scores[:, :3], logits.double())
    np.testing.assert_allclose(outputs.forget.scores[:, 3], outputs.forget.loss)
    assert outputs.forget.correct.mean() == metrics.accuracy(logits, labels)
    assert SplitOutputs.of(outputs) is outputs


def test_probabilities_equal_logits():
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).double()
    labels = torch.arange(8) % 4
    from_logits, from_p = Outputs.from_logits(logits, labels), Outputs.from_probabilities(logits.softmax(1), labels)
    np.testing.assert_allclose(from_p.phi, from_logits.phi, rtol=1e-12)
    certain = Outputs.from_probabilities([[1.0, 0.0], [0.0, 1.0]], [0, 0])
    assert np.isfinite(certain.phi).all()
    with pytest.raises(DataError, match=r"sum to 1, got row .*pass logits to from_logits"):
        Outputs.from_probabilities(logits, labels)


def test_rows_that_are_taken_keep_everything_that_is_known_of_them():
    logits, labels = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 1, 2, 0, 1, 2])
    outputs = replace(Outputs.from_logits(logits, labels), clusters=np.array(list("aabbcc")))
    chosen = np.array([5, 0, 3])
    taken, direct = outputs.take(chosen), Outputs.from_logits(logits[chosen], labels[chosen])
    for field in fields(Outputs):
        expected = np.array(["c", "a", "b"]) if field.name == "clusters" else getattr(direct, field.name)
        np.testing.assert_array_equal(getattr(taken, field.name), expected)
    bare = Outputs.from_scores(np.ones((4, 2))).take(np.array([1]))
    assert [getattr(bare, field.name) is None for field in fields(Outputs)] == [False, *[True] * 5]


def test_plain_score_arrays_are_a_target():
    rng = np.random.default_rng(2)
    members, nonmembers = rng.normal(1, 1, 50), rng.normal(0, 1, 70)
    result = LossThreshold().run((members, nonmembers))
    assert result.auc.value == metrics.auc(members, nonmembers)
    assert (result.members, result.nonmembers) == (50, 70)
    with pytest.raises(DataError, match="needs loss, which a score matrix lacks"):
        LossThreshold().run((rng.normal(size=(9, 3)), rng.normal(size=(9, 3))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: SplitOutputs.of("model", s), "must be a model, SplitOutputs or a pair .* got str"),
        (lambda s: SplitOutputs.of(nn.Linear(5, 3)), "needs its splits; pass splits="),
        (lambda s: SplitOutputs.of(nn.Linear(5, 3), s, parts=("forgotten",)), r"got \['forgotten'\]"),
        (lambda s: SplitOutputs.of(nn.Linear(5, 2), s), "labels must lie in 0 ... 1, got 2"),
    ],
)
def test_refusals_name_the_value_and_the_fix(splits, call, message):
    with pytest.raises(DataError, match=message):
        call(splits)


def test_a_part_that_is_missing_is_named(splits):
    without_test = Splits(splits.retain, splits.forget, splits.validation)
    with pytest.raises(DataError, match=r"no part 'test'.*pass test="):
        LossThreshold().run(nn.Linear(5, 3), without_test)
    scores = Outputs.from_scores(np.arange(5.0))
    with pytest.raises(DataError, match="needs the validation rows; pass validation="):
        SplitOutputs(scores, scores).require("validation")


def test_nan_weights_are_an_error_not_a_number(splits):
    model = nn.Linear(5, 3)
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    with pytest.raises(DataError, match=r"logits hold nan in row 0; check the model's outputs"):
        LossThreshold().run(model, splits)
