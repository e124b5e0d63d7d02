"""Gaussian poisons, relearn time and interclass confusion: exact statistics, hand-run loops, hand-counted tables."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from torch import nn
from torch.nn import functional

from amu_fast.audit.attacks import GaussianPoison, InterclassConfusion, RelearnTime, mean_loss
from amu_fast.errors import DataError
from amu_fast.splits import Splits


def rows(count, features, classes=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, features, generator=rng)
    return inputs, torch.randint(0, classes, (count,), generator=rng)


def network(features, classes=2, seed=0, width=32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, classes))


def fit(model, inputs, labels, steps=300, lr=0.05):
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    return model


def test_a_model_that_never_saw_the_noise_gives_standard_normals():
    """Over 20 plantings: statistics N(0, 1), p uniform, caught rows 1 %."""
    model, attack = network(20), GaussianPoison()
    results = [attack.run(model, attack.plant(*rows(600, 20), seed=seed)) for seed in range(100, 120)]
    everything = np.concatenate([r.statistic for r in results])
    assert kstest(everything, "norm").pvalue > 0.01
    assert everything.std() == pytest.approx(1.0, abs=0.02)
    assert kstest([r.p for r in results], "uniform").pvalue > 0.01
    assert np.mean([r.tpr.value for r in results]) == pytest.approx(0.01, abs=0.003)


def test_the_statistic_of_a_linear_model_is_exact():
    """Logits (0, <w, x>): the gradient of the loss is -+ w times a positive number, whatever x is."""
    inputs, labels = rows(30, 5)
    poisons = GaussianPoison(variance=0.5).plant(inputs, labels, seed=1)
    model = nn.Linear(5, 2, bias=False)
    w = torch.tensor([0.5, -1.0, 2.0, 0.0, 0.3])
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.zeros(5), w]))
    expected = poisons.noise @ w * (1 - 2 * labels) / (w.norm() * 0.5**0.5)
    result = GaussianPoison(variance=0.5, batch_size=7).run(model, poisons)
    np.testing.assert_allclose(result.statistic, expected.numpy(), rtol=1e-4)
    z = expected.mean().item() * 30**0.5
    assert result.z == pytest.approx(z, rel=1e-4)
    assert result.p == pytest.approx(2 * norm.sf(abs(z)), rel=1e-3)
    assert result.tpr.value == pytest.approx((-expected > norm.ppf(0.99)).double().mean().item())


def test_a_model_that_learned_the_poisons_is_caught_until_it_is_retrained_without():
    """Its loss falls towards x0 + xi, so the statistic is negative; fresh noise at the same rows shows nothing."""
    inputs, labels = rows(40, 1000)
    poisons = GaussianPoison().plant(inputs, labels, seed=2)
    model = fit(network(1000), poisons.poisoned, labels, steps=50)
    learned = GaussianPoison().run(model, poisons)
    assert learned.z < -8
    assert learned.p < 1e-10
    assert learned.tpr.low > 0.2
    fresh = GaussianPoison().plant(inputs, labels, seed=99)
    assert GaussianPoison().run(model, fresh).p > 0.01
    retrained = fit(network(1000), *rows(40, 1000, seed=5), steps=50)
    assert GaussianPoison().run(retrained, poisons).p > 0.01


def test_noise_is_planted_by_seed_and_left_unclipped():
    inputs, labels = torch.full((500, 3, 2, 2), 0.99), torch.zeros(500, dtype=torch.int64)
    one, again, other = (GaussianPoison().plant(inputs, labels, seed) for seed in (0, 0, 1))
    assert torch.equal(one.noise, again.noise)
    assert not torch.equal(one.noise, other.noise)
    torch.testing.assert_close(one.poisoned - inputs, one.noise)
    assert one.noise.var().item() == pytest.approx(0.32, rel=0.05)
    assert one.poisoned.max() > 1


def test_tiny_gradients_do_not_underflow_and_zero_ones_are_refused():
    """A certain model's gradients are near 1e-30: their squares are 0 in float32."""
    inputs, labels = rows(20, 5)
    poisons = GaussianPoison().plant(inputs, labels, seed=1)
    model = nn.Linear(5, 2, bias=False)
    tiny = deepcopy(model)
    with torch.no_grad():
        tiny.weight.mul_(1e-30)
    plain, scaled = GaussianPoison().run(model, poisons), GaussianPoison().run(tiny, poisons)
    np.testing.assert_allclose(scaled.statistic, plain.statistic, rtol=1e-4)
    with torch.no_grad():
        tiny.weight.zero_()
    with pytest.raises(DataError, match=r"gradient of row 0 is 0 .* pass model.double\(\)"):
        GaussianPoison().run(tiny, poisons)


def test_the_test_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    before = deepcopy(model.state_dict())
    GaussianPoison().run(model, GaussianPoison().plant(*rows(9, 4), seed=0))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.fixture
def splits():
    return Splits.from_indices(
        rows(90, 10, 3), retain=range(40), forget=range(40, 60), validation=range(60, 70), test=range(70, 90)
    )


def test_relearn_time_is_the_first_epoch_of_a_hand_run_loop(splits):
    """Whole-set batches, so that the order of rows plays no part."""
    inputs, labels = splits.rows("forget").fetch(torch.arange(20))
    original = fit(network(10, 3), inputs, labels, steps=15)
    attack = RelearnTime(mean_loss(original, splits), lr=0.1, batch_size=100, momentum=0.5)
    start = network(10, 3, seed=1)
    result = attack.run(start, splits)
    by_hand, losses = deepcopy(start), []
    optimiser = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.5)
    for _ in range(30):
        optimiser.zero_grad()
        loss = functional.cross_entropy(by_hand(inputs), labels)
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
    np.testing.assert_allclose(result.losses, losses[: len(result.losses)], rtol=1e-5)
    first = next((m for m, loss in enumerate(losses) if loss <= 1.05 * attack.original_loss), None)
    assert result.epochs == first
    assert 5 < first < 30
    assert result.name == "relearn time (forget rows, lr 0.1, batch 100)"


def test_a_model_that_still_knows_needs_no_epoch_and_a_slow_one_hits_the_cap(splits):
    inputs, labels = splits.rows("forget").fetch(torch.arange(20))
    original = fit(network(10, 3), inputs, labels)
    loss = mean_loss(original, splits)
    assert RelearnTime(loss).run(original, splits).epochs == 0
    slow = RelearnTime(loss, lr=1e-6, cap=3).run(network(10, 3, seed=1), splits)
    assert (slow.epochs, len(slow.losses)) == (None, 4)
    hidden = deepcopy(original)
    with torch.no_grad():
        hidden[2].weight.mul_(-0.3)
    quick, fresh = (RelearnTime(0.3, lr=0.05).run(m, splits).epochs for m in (hidden, network(10, 3, seed=1)))
    assert 1 <= quick < fresh, "a hidden memory comes back sooner"


def test_relearning_with_retain_rows_uses_both_and_repeats_by_seed(splits):
    model = network(10, 3, seed=1)
    before = deepcopy(model.state_dict())
    attack = RelearnTime(0.0, lr=0.1, batch_size=16, cap=2, with_retain=True)
    first, again = attack.run(model, splits), attack.run(model, splits)
    assert first == again
    assert first.losses != RelearnTime(0.0, lr=0.1, batch_size=16, cap=2).run(model, splits).losses
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    inputs, labels = (
        torch.cat(x)
        for x in zip(
            *(splits.rows(p).fetch(torch.arange(len(splits.rows(p)))) for p in ("retain", "forget")), strict=True
        )
    )
    one = RelearnTime(0.0, lr=0.1, batch_size=60, cap=1, with_retain=True).run(model, splits)
    assert one.losses[1] == pytest.approx(mean_loss(fit(deepcopy(model), inputs, labels, 1, 0.1), splits), rel=1e-5)


class Says(nn.Module):
    """The class written in the input."""

    def forward(self, x):
        return functional.one_hot(x[:, 0].long(), 4).float()


def spoken(answers, labels):
    return torch.tensor(answers).float().unsqueeze(1), torch.tensor(labels)


def test_confusion_is_counted_by_hand():
    """Test rows: A = 1 taken for 2 twice, B = 2 taken for 1 once, other confusions do not count."""
    test = spoken([2, 2, 1, 1, 2, 0, 2, 1], [1, 1, 1, 2, 2, 1, 3, 0])
    # swapped rows: given label 2 is truly 1; the model still says the swapped label for two of the four
    forget = spoken([2, 1, 1, 3], [2, 2, 1, 1])
    splits = Splits(retain=spoken([0], [0]), forget=forget, validation=spoken([0], [0]), test=test)
    result = InterclassConfusion(1, 2).run(Says(), splits)
    assert (result.test, result.test_rows) == (3, 6)
    assert (result.forget, result.forget_rows) == (2, 4)


def test_swapping_exchanges_exactly_n_labels_of_each_class():
    labels = torch.tensor([0, 1, 2] * 20)
    swapped, rows_to_forget = InterclassConfusion(0, 2).plant(labels, 5, seed=1)
    changed = (swapped != labels).nonzero().flatten()
    assert torch.equal(changed, rows_to_forget)
    assert sorted(zip(labels[changed].tolist(), swapped[changed].tolist(), strict=True)) == [(0, 2)] * 5 + [(2, 0)] * 5
    assert labels.tolist() == [0, 1, 2] * 20
    assert torch.equal(InterclassConfusion(0, 2).plant(labels, 5, seed=1)[0], swapped)
    assert not torch.equal(InterclassConfusion(0, 2).plant(labels, 5, seed=2)[0], swapped)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: GaussianPoison(variance=0.0), "variance must be > 0"),
        (lambda s: GaussianPoison().plant(torch.ones(3, 2).long(), torch.ones(3).long(), 0), "floating-point inputs"),
        (lambda s: RelearnTime(float("nan")), "original_loss must be >= 0, got nan"),
        (lambda s: RelearnTime(1.0, lr=0.0), "lr must be > 0"),
        (lambda s: InterclassConfusion(1, 1), "two different classes"),
        (lambda s: InterclassConfusion(0, 1).plant(torch.tensor([0, 1, 1]), 2, 0), "class 0 has 1 rows, and 2"),
        (lambda s: InterclassConfusion(0, 1).run(network(10, 3), s), r"swapped ones, of classes 0 and 1, got 2"),
    ],
)
def test_refusals(splits, call, message):
    with pytest.raises(DataError, match=message):
        call(splits)
