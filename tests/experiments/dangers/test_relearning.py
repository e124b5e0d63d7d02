from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amu_fast.audit.attacks import RelearnTime, mean_loss
from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.experiments.dangers import Cast, FastRelearning, RelearningAttack
from amu_fast.splits import Splits
from amu_fast.unlearn.methods import FineTune
from amu_fast.unlearn.optimise import Sgd

FAST = Sgd(lr=0.05, weight_decay=0.0, schedule="constant")


@pytest.fixture(scope="module")
def cast(tiny_task):
    return Cast.of(replace(tiny_task, references=1), tiny_task.population(), 0)


def test_the_cast_saw_what_it_says(cast, tiny_task):
    used = torch.cat([cast.splits.rows(part).base_index() for part in ("retain", "forget", "validation", "test")])
    assert not torch.isin(cast.outsiders.base_index(), used).any()
    assert len(cast.outsiders) == tiny_task.train
    assert len(cast.references) == 1

    def accuracy(model, rows):
        logits, labels = predict(model, rows)
        return float((logits.argmax(1) == labels).float().mean())

    forget = cast.splits.rows("forget")
    assert accuracy(cast.original, forget) > accuracy(cast.retrain, forget) + 0.1
    assert accuracy(cast.references[0], cast.outsiders) > accuracy(cast.original, cast.outsiders) + 0.1


def test_the_original_needs_no_pass_and_retrain_needs_some(cast):
    compare = FastRelearning(lr=0.05, batch_size=20, margin=2.0)
    report = compare(cast.original, cast.retrain, cast.original, cast.splits)
    assert report.figures["passes"] == 0
    assert 1 <= report.figures["retrain_passes"] <= 31
    assert report.codes == ("FAST_RELEARNING",)
    assert compare(cast.retrain, cast.retrain, cast.original, cast.splits).codes == ()


def test_both_models_are_timed_as_the_attack_times_them(cast):
    goal = mean_loss(cast.original, cast.splits)
    report = FastRelearning(batch_size=20, margin=1.0)(cast.original, cast.retrain, cast.original, cast.splits, seed=3)
    alone = RelearnTime(goal, batch_size=20, margin=1.0, seed=3).run(cast.retrain, cast.splits)
    assert report.figures["goal_loss"] == alone.threshold == 2.0 * goal
    assert report.figures["retrain_passes"] == alone.epochs > 1
    given_up = FastRelearning(batch_size=20, margin=1.0, cap=alone.epochs - 1)
    late = given_up(cast.original, cast.retrain, cast.original, cast.splits, seed=3)
    assert late.figures["retrain_passes"] == alone.epochs  # cap + 1: later than the cap


def test_relearning_judges_other_rows_than_it_trains_on(cast, monkeypatch):
    seen = []
    original = FineTune.unlearn
    monkeypatch.setattr(
        FineTune, "unlearn", lambda self, m, s, seed=0: seen.append(s) or original(self, m, s, seed=seed)
    )
    report = RelearningAttack(share=0.25)(cast.original, cast.retrain, cast.splits)
    held = seen[0].rows("retain").base_index()
    assert len(held) == 15 == report.figures["held_rows"]
    assert report.intervals["after"].sizes == (45, 400)
    assert torch.isin(held, cast.splits.rows("forget").base_index()).all()


def test_a_retrained_model_is_not_flagged_and_hidden_rows_are():
    """Labels are coin tosses, so what a model knows it has memorised; a factor of 0 on the logits hides it all."""
    rng = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(500, 300, generator=rng), torch.randint(2, (500,), generator=rng)
    rows = range(100), range(100, 200), range(200, 300), range(300, 500)
    names = ("retain", "forget", "validation", "test")
    splits = Splits.from_indices((inputs, labels), **dict(zip(names, rows, strict=True)))

    def memorised(n: int) -> torch.nn.Module:
        model = torch.nn.Linear(300, 2)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(100):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[:n]), labels[:n]).backward()
            optimiser.step()
        return model

    original, retrain = memorised(200), memorised(100)
    attack = RelearningAttack(share=0.2, tuning=FineTune(5.0, FAST, 10))
    assert attack(retrain, retrain, splits).codes == ()
    report = attack(HidingModel(original), retrain, splits)
    assert report.codes == ("RELEARNED",)
    assert report.figures["accuracy_after"] == 1.0
    assert report.intervals["before"].low < 0.05 < 0.15 < report.intervals["after"].low
    # What was never hidden does not come back.
    assert attack(original, retrain, splits).codes == ()


class HidingModel(torch.nn.Module):
    """The original, its logits times a factor that begins at 0."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.factor = model, torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.factor * self.model(inputs)


def test_bad_options():
    with pytest.raises(DataError, match="share must lie"):
        RelearningAttack(share=1.0)
    with pytest.raises(DataError, match="share must lie"):
        FastRelearning(share=0.0)
