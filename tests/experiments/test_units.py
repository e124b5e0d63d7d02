from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from amu_fast.audit.metrics import auc
from amu_fast.errors import DataError, SolveError
from amu_fast.experiments import runs
from amu_fast.experiments.evaluate import HEADLINE, Controls, headline, panel
from amu_fast.experiments.models import SmallCnn
from amu_fast.experiments.runs import run_method
from amu_fast.experiments.tasks import Task
from amu_fast.experiments.units import cache_path, original_path, prepare_unit, roles
from amu_fast.unlearn.methods import FineTune
from amu_fast.unlearn.optimise import Sgd

pytest.importorskip("safetensors")

METHOD = FineTune(epochs=1.0, optimiser=Sgd(lr=0.01), batch_size=20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("units")


@pytest.fixture(scope="module")
def population(tiny_task):
    return tiny_task.population()


@pytest.fixture(scope="module")
def unit(tiny_task, cache, population):
    return prepare_unit(tiny_task, 3, cache, population=population)


def test_the_original_memorised_and_retrain_did_not_see_the_forget_rows(unit):
    original, retrain = (headline(unit.outputs[name], unit.references) for name in ("original", "retrain"))
    assert original["forget_accuracy"] > 0.9
    assert retrain["forget_accuracy"] < original["forget_accuracy"] - 0.1
    assert original["attack_auc"] > 0.6
    controls = Controls.of(unit.outputs, unit.references)
    assert controls.positive.value == pytest.approx(original["attack_auc"])
    floor = headline(unit.outputs["floor"], unit.references)
    assert controls.negative.value == pytest.approx(floor["attack_auc"] - retrain["attack_auc"])


def test_the_attack_is_phi_minus_the_mean_phi_of_the_references(unit):
    def scores(part):
        phi = [unit.outputs[role].require(part).phi for role in ("original", "reference_0", "reference_1")]
        return phi[0] - (phi[1] + phi[2]) / 2.0

    expected = auc(scores("forget"), scores("test"))
    assert headline(unit.outputs["original"], unit.references)["attack_auc"] == pytest.approx(expected, abs=1e-12)


def test_the_cache_gives_the_same_unit_without_training(tiny_task, unit, cache, population, monkeypatch):
    monkeypatch.setattr(Task, "training", lambda self: pytest.fail("trained again"))
    again = prepare_unit(tiny_task, 3, cache, population=population)
    for name, value in unit.original.state_dict().items():
        assert torch.equal(value, again.original.state_dict()[name])
    for role in roles(tiny_task):
        np.testing.assert_array_equal(unit.outputs[role].test.scores, again.outputs[role].test.scores)
    model_outputs = unit.outputs_of(again.original)
    np.testing.assert_allclose(model_outputs.test.scores, unit.outputs["original"].test.scores, atol=1e-5)


def test_the_cache_key_knows_what_was_trained(tiny_task, cache, population):
    path = cache_path(tiny_task, 3, cache, population)
    assert cache_path(replace(tiny_task, unlearn_batch=64), 3, cache, population) == path
    assert cache_path(replace(tiny_task, epochs=16.0), 3, cache, population) != path
    assert cache_path(tiny_task, 4, cache, population) != path
    assert cache_path(tiny_task, 3, cache, population.with_noise(0.3)) != path


def test_a_damaged_cache_is_named(tiny_task, unit, population, cache, tmp_path):
    path = cache_path(tiny_task, 3, tmp_path, population)
    whole = cache_path(tiny_task, 3, cache, population).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"unit-3-.* is damaged .* delete it"):
        prepare_unit(tiny_task, 3, tmp_path, population=population)


def test_interrupted_training_leaves_what_is_whole_and_nothing_else(tiny_task, population, tmp_path):
    def stop(message):
        if "floor" in message:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_unit(tiny_task, 5, tmp_path, population=population, notify=stop)
    assert list(tmp_path.iterdir()) == [original_path(tiny_task, 5, tmp_path, population)]


def test_a_run_is_judged_against_retrain_and_repeats_bitwise(unit):
    first, second = (run_method(unit, METHOD, parameters={"lr": 0.01}) for _ in range(2))
    record = first.record
    retrain = headline(unit.outputs["retrain"], unit.references)
    assert set(record.headline) == set(HEADLINE)
    for name in HEADLINE:
        assert record.differences[name] == pytest.approx(record.headline[name] - retrain[name])
    assert record.gap == pytest.approx(25.0 * sum(abs(d) for d in record.differences.values()))
    assert record.budget == 140.0
    assert 140.0 <= record.gradient_samples < 160.0
    assert replace(record, seconds=0.0) == replace(second.record, seconds=0.0)
    assert record.panel == panel(first.outputs)
    other = run_method(unit, replace(METHOD, optimiser=Sgd(lr=0.02)), repeat=1, full=False).record
    assert other.fingerprint != record.fingerprint
    assert other.panel == {}
    assert other.seed == record.seed + 1


def test_a_diverged_run_counts_as_a_guess(unit, monkeypatch):
    def diverge(self, model, splits, *, seed=0):
        raise SolveError("retain_loss is nan at step 7")

    monkeypatch.setattr(FineTune, "unlearn", diverge)
    run = run_method(unit, METHOD, full=False)
    assert run.result is None
    assert run.record.diverged == "retain_loss is nan at step 7"
    assert run.record.collapsed
    assert run.record.headline["attack_auc"] == pytest.approx(0.5, abs=0.15)
    assert run.record.headline["test_accuracy"] < 0.2


def test_seeds_of_trainings_and_unlearning_are_disjoint(tiny_task, unit):
    trainings = {unit.training_seed(k) for k in range(len(roles(tiny_task)))}
    unlearning = {unit.training_seed(runs.UNLEARNING_ROLE + k) for k in range(10)}
    assert not trainings & unlearning
    assert not (trainings | unlearning) & {replace(unit, seed=4).training_seed(k) for k in range(200)}


def test_networks_are_seeded_and_leave_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a, b, c = SmallCnn(side=8, seed=0), SmallCnn(side=8, seed=0), SmallCnn(side=8, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    first, same, other = (next(m.parameters()) for m in (a, b, c))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert SmallCnn(side=9, classes=3, width=2, hidden=4)(torch.zeros(2, 1, 9, 9)).shape == (2, 3)
    with pytest.raises(DataError, match="sizes must be >= 1"):
        SmallCnn(width=0)
