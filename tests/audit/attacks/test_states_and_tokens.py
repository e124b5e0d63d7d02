"""The probe of hidden states, halves by person, and attacks on token logits, against known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from amu_fast.audit.attacks import (
    HiddenStateProbe,
    LinearSvmAttack,
    LossThreshold,
    MinKAttack,
    MinKPlusPlusAttack,
    Outputs,
    PaperAttack,
    SplitOutputs,
    extraction_strength,
    privleak,
)
from amu_fast.audit.attacks.halves import halves
from amu_fast.audit.metrics import auc
from amu_fast.audit.scores import ModelOutputs
from amu_fast.errors import DataError
from amu_fast.protocols import Attack
from amu_fast.splits import Splits


class Hides(nn.Module):
    """The second layer drops the mark that the first one carries."""

    def __init__(self):
        super().__init__()
        self.first = nn.Identity()
        self.block = nn.Identity()
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        states = self.block(self.first(x))
        return self.last(states[:, :3])


class Twice(Hides):
    def forward(self, x):
        return super().forward(self.block(x))


def marked(shift, members=60):
    """Inputs whose fourth column betrays the members 40 ... 99; the model's answers ignore it."""
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 4, generator=rng)
    inputs[40 : 40 + members, 3] += shift
    labels = torch.randint(0, 2, (300,), generator=rng)
    return Splits.from_indices(
        (inputs, labels), retain=range(40), forget=range(40, 100), validation=range(100, 200), test=range(200, 300)
    )


def test_the_probe_sees_what_the_outputs_hide():
    model, splits = Hides(), marked(4.0)
    assert HiddenStateProbe("first").run(model, splits).auc.low > 0.9
    assert LossThreshold().run(model, splits).auc.contains(0.5)
    assert LinearSvmAttack().run(model, splits).auc.contains(0.5)
    assert HiddenStateProbe("last").run(model, splits).auc.contains(0.5)
    assert isinstance(HiddenStateProbe("first"), Attack)


def test_the_probe_of_nothing_is_a_coin_and_judges_the_other_half():
    result = HiddenStateProbe("first").run(Hides(), marked(0.0))
    assert result.auc.contains(0.5)
    assert (result.members, result.nonmembers) == (30, 100)


def test_the_probe_is_the_linear_svm_on_the_layers_outputs():
    model, splits = Hides(), marked(1.0)
    states = {p: splits.rows(p).fetch(torch.arange(len(splits.rows(p))))[0] for p in ("forget", "validation", "test")}
    outputs = SplitOutputs(**{part: Outputs.from_scores(x) for part, x in states.items()})
    direct = LinearSvmAttack(seed=4).run(outputs)
    for probe in (HiddenStateProbe("first", seed=4), HiddenStateProbe("first", seed=4, batch_size=7)):
        np.testing.assert_array_equal(probe.run(model, splits).member_scores, direct.member_scores)
    np.testing.assert_array_equal(HiddenStateProbe("first", seed=4).run(outputs).member_scores, direct.member_scores)


def test_pooling_and_hooks():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 1, 6, 6))
    rows = Splits(*[(torch.randn(5, 1, 6, 6), torch.zeros(5, dtype=torch.int64)) for _ in range(3)]).rows("forget")
    assert HiddenStateProbe("0").states(model, rows).shape == (5, 64)
    pooled = HiddenStateProbe("0", pool=lambda x: x.mean((2, 3))).states(model, rows)
    torch.testing.assert_close(pooled, model[0](rows.fetch(torch.arange(5))[0]).mean((2, 3)).detach())
    assert all(not module._forward_hooks for module in model.modules())
    with pytest.raises(DataError, match=r"must be \(n, h\) for 5 rows, got \(5, 4, 4, 4\)"):
        HiddenStateProbe("0", pool=lambda x: x).states(model, rows)
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: HiddenStateProbe("second").run(Hides(), s), "no submodule 'second'; it has first, block, last"),
        (lambda s: HiddenStateProbe("block").run(Twice(), s), "'block' was called 2 times"),
        (lambda s: HiddenStateProbe("first").run(Hides()), "needs its splits"),
        (lambda s: MinKAttack().run(ModelOutputs(torch.zeros(1, 2, 3), torch.zeros(1, 2).long())), "takes a pair"),
        (lambda s: halves(3, 0), "halves the forget rows and needs at least 4, got 3"),
        (lambda s: halves(8, 0, np.arange(8) // 3), "halves the forget persons and needs at least 4, got 3"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(DataError, match=message):
        call(marked(0.0))


def test_halves_keep_persons_together_and_rows_as_they_were():
    people = np.repeat(np.arange(10), 3)
    first, second = halves(30, 5, people)
    assert set(people[first]).isdisjoint(people[second])
    assert len(first) == len(second) == 15
    order = np.random.default_rng(5).permutation(31)
    np.testing.assert_array_equal(halves(31, 5)[0], np.sort(order[:15]))


def test_a_trained_attack_splits_persons_and_judges_by_them():
    rng = np.random.default_rng(0)
    forget, validation, test = (rng.normal(size=(n, 3)) for n in (48, 60, 40))
    sides = [Outputs(x, clusters=np.arange(len(x)) // 4) for x in (forget, test)]
    result = LinearSvmAttack().run(SplitOutputs(*sides, validation=Outputs(validation)))
    assert set(result.clusters[0]).isdisjoint(np.arange(48)[halves(48, 0, sides[0].clusters)[0]] // 4)
    assert result.auc.method.startswith("cluster DeLong")


def test_the_published_attack_refuses_persons():
    rng = np.random.default_rng(1)
    phi = [rng.normal(size=20) for _ in range(2)]
    sides = [Outputs(p[:, None], -p, p, clusters=np.arange(20) // 2) for p in phi]
    with pytest.raises(DataError, match=r"folds by row.* \(S4\)"):
        PaperAttack().run(SplitOutputs(*sides))


def token_outputs(rng, count, gain):
    """Sequences of 9 tokens over 7; the true next token's logit is raised by `gain`."""
    labels = torch.tensor(rng.integers(0, 7, (count, 9)))
    logits = torch.tensor(rng.normal(size=(count, 9, 7)))
    logits[:, :-1].scatter_add_(2, labels[:, 1:, None], torch.full((count, 8, 1), gain, dtype=logits.dtype))
    return ModelOutputs(logits, labels)


@pytest.mark.parametrize("attack", [MinKAttack(0.3), MinKPlusPlusAttack(0.3)])
def test_min_k_attacks_on_batches(attack):
    rng = np.random.default_rng(2)
    members, others = token_outputs(rng, 50, 2.5), token_outputs(rng, 60, 0.0)
    whole = attack.run((members, others))
    assert whole.auc.low > 0.9
    batches = [ModelOutputs(members.logits[i], members.labels[i]) for i in (slice(20), slice(20, 50))]
    np.testing.assert_allclose(attack.run((batches, others)).member_scores, whole.member_scores)
    log_p = members.logits[:, :-1].log_softmax(-1)
    value = log_p.gather(2, members.labels[:, 1:, None])[..., 0]
    if isinstance(attack, MinKPlusPlusAttack):
        p = log_p.exp()
        mean = (p * log_p).sum(-1)
        value = (value - mean) / ((p * (log_p - mean[..., None]) ** 2).sum(-1) + 1e-6).sqrt()
    expected = value.sort(1).values[:, :2].mean(1)  # int(.3 x 8) = 2 tokens
    np.testing.assert_allclose(whole.member_scores, expected, rtol=1e-3)
    assert attack.run((token_outputs(rng, 50, 0.0), others)).auc.contains(0.5)
    ids = np.arange(50) // 5, np.arange(60) // 5
    assert attack.run((token_outputs(rng, 50, 0.5), others), clusters=ids).auc.method.startswith("cluster DeLong")


def answers(rights, end=6):
    """One sequence whose teacher-forced argmax is right where `rights` says so; the last token is the end token."""
    labels = torch.tensor([[0, *range(1, 1 + len(rights) - 1), end]])
    logits = torch.zeros(1, len(rights) + 1, 7)
    for place, right in enumerate(rights):
        target = int(labels[0, place + 1])
        logits[0, place, target if right else (target + 1) % 7] = 1.0
    return ModelOutputs(logits, labels)


@pytest.mark.parametrize(
    ("rights", "with_end", "without_end"),
    [
        ([1, 1, 1, 1], 1.0, 1.0),
        ([1, 0, 1, 1], 0.5, 1 / 3),
        ([1, 1, 1, 0], 0.0, 1.0),  # only the end token is wrong
        ([0, 0, 0, 1], 0.25, 0.0),  # only the end token is right: nothing is extracted
        ([0, 0, 0, 0], 0.0, 0.0),
    ],
)
def test_extraction_strength_by_hand(rights, with_end, without_end):
    outputs = answers(rights)
    assert extraction_strength(outputs)[0] == pytest.approx(with_end)
    assert extraction_strength([outputs, outputs], end=6).tolist() == pytest.approx([without_end] * 2)


def test_extraction_strength_of_ties_is_not_extraction():
    flat = ModelOutputs(torch.zeros(1, 4, 7), torch.zeros(1, 4).long())
    assert extraction_strength(flat).tolist() == [0.0]
    with pytest.raises(DataError, match="no counted token but the end token 0"):
        extraction_strength(flat, end=0)


def test_privleak_by_hand():
    rng = np.random.default_rng(3)
    others = token_outputs(rng, 60, 0.0)
    attack = MinKAttack(0.4)
    known, retrained = (attack.run((token_outputs(rng, 50, gain), others)) for gain in (2.0, 0.1))
    a, b = (auc(r.member_scores, r.nonmember_scores) for r in (known, retrained))
    assert privleak(known, retrained) == pytest.approx(100 * ((1 - a) - (1 - b)) / (1 - b))
    assert privleak(known, retrained) < -50 < privleak(retrained, retrained) == 0.0
    with pytest.raises(DataError, match="one attack on two models"):
        privleak(known, MinKAttack(0.4, name="other").run((others, others)))
