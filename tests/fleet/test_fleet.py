"""Shadow models from end to end: what they saw, files that name themselves, resuming, damage, processes, a cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from amu_fast.audit.attacks import Lira, Outputs, Shadows, SplitOutputs, ULira
from amu_fast.errors import DataError
from amu_fast.fleet import (
    Fleet,
    ShadowSpec,
    leave_out_specs,
    lira_specs,
    outputs_of,
    phi_of,
    shadow_scores,
    ulira_specs,
)
from amu_fast.fleet import fleet as module
from amu_fast.splits import Splits
from amu_fast.unlearn.methods import FineTune, Retrain
from amu_fast.unlearn.optimise import Sgd

ROWS = 120


def data(rows=ROWS):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(rows, 6, generator=rng), torch.randint(0, 3, (rows,), generator=rng)


def template():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(6, 3)


RECIPE = Retrain(epochs=2, batch_size=16, optimiser=Sgd(lr=0.1))


@pytest.fixture
def fleet(tmp_path):
    return Fleet(template(), data(), RECIPE, tmp_path / "fleet")


def test_a_shadow_is_the_model_that_training_alone_gives(fleet):
    """Bitwise: the same rows, seed and recipe by hand."""
    spec = ShadowSpec(7, range(40, 90))
    shadow = fleet.run([spec])[0]
    splits = Splits.from_indices(data(), retain=range(40, 90), forget=[0], validation=range(1, 40))
    model = RECIPE.unlearn(template(), splits, seed=7).model.eval()
    torch.testing.assert_close(shadow.logits, model(data()[0]).detach(), rtol=0, atol=0)
    assert shadow.rows.tolist() == list(range(ROWS))


def test_unlearning_follows_training_and_weights_are_kept(fleet):
    tune = FineTune(epochs=1, batch_size=16)
    spec = ShadowSpec(3, range(60), range(50, 60))
    made = replace(fleet, unlearn=tune, keep_weights=True, ask=[100, 2, 55]).run([spec])[0]
    first = Splits.from_indices(data(), retain=range(60), forget=[60], validation=range(61, 120))
    second = Splits.from_indices(data(), retain=range(50), forget=range(50, 60), validation=range(60, 120))
    original = RECIPE.unlearn(template(), first, seed=3).model
    model = tune.unlearn(original, second, seed=3).model
    assert made.rows.tolist() == [2, 55, 100]
    torch.testing.assert_close(made.weights, dict(model.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(made.logits, model(data()[0][[2, 55, 100]]).detach(), rtol=0, atol=0)


def test_a_stopped_run_goes_on_where_it_stopped(fleet, monkeypatch):
    specs = lira_specs(range(60), 6, always=range(60, 70))
    made = []
    genuine = module.make

    def counted(*arguments):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(arguments[1].seed)
        genuine(*arguments)

    monkeypatch.setattr(module, "make", counted)
    with pytest.raises(KeyboardInterrupt):
        fleet.run(specs)
    assert len(list((fleet.directory).iterdir())) == 3
    made.clear()
    monkeypatch.setattr(module, "make", lambda *a: (made.append(a[1].seed), genuine(*a))[1])
    shadows = fleet.run(specs)
    assert made == [s.seed for s in specs[3:]]
    made.clear()
    again = replace(fleet).run(specs)
    assert made == []
    for first, second in zip(shadows, again, strict=True):
        assert torch.equal(first.logits, second.logits)


@pytest.mark.parametrize(
    "change",
    [
        {"train": replace(RECIPE, epochs=3)},
        {"unlearn": FineTune(epochs=1)},
        {"model": nn.Sequential(template())},
        {"data": (data()[0], (data()[1] + 1) % 3)},
        {"ask": [0, 1]},
        {"validation": [118, 119]},
        {"keep_weights": True},
    ],
)
def test_whatever_determines_a_model_is_in_its_name(fleet, change):
    spec = ShadowSpec(0, range(30))
    assert replace(fleet, **change).key(spec) != fleet.key(spec)
    assert replace(fleet, jobs=2, directory="elsewhere", batch_size=1).key(spec) == fleet.key(spec)


def test_rows_seed_and_torch_are_in_the_name_too(fleet, monkeypatch):
    specs = [
        ShadowSpec(0, range(30)),
        ShadowSpec(1, range(30)),
        ShadowSpec(0, range(31)),
        ShadowSpec(0, range(30), [1]),
    ]
    keys = {fleet.key(spec) for spec in specs}
    monkeypatch.setattr(torch, "__version__", "3.0")
    keys.add(replace(fleet).key(specs[0]))
    assert len(keys) == 5


def test_a_damaged_or_renamed_file_is_refused(fleet):
    first, second = fleet.run([ShadowSpec(0, range(30)), ShadowSpec(1, range(30))])
    intact = first.path.read_bytes()
    flipped = bytearray(intact)
    flipped[-1] ^= 1
    cases = {
        "its bytes are not those written; delete it": bytes(flipped),
        "cannot be read": intact[:-7],
        "holds model .* and not .*; it was renamed": second.path.read_bytes(),
    }
    for message, content in cases.items():
        first.path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            fleet.run([first.spec])
    first.path.unlink()
    assert torch.equal(fleet.run([first.spec])[0].logits, first.logits)


def test_files_are_safetensors_and_nothing_else(fleet):
    fleet.run([ShadowSpec(0, range(30))])
    names = [path.name for path in fleet.directory.rglob("*")]
    assert len(names) == 1
    assert names[0].endswith(".safetensors")
    assert (fleet.directory / names[0]).read_bytes()[8:9] == b"{"


@dataclass(frozen=True)
class Memory:
    """A model that knows its training rows by heart: its answer is a table, and unlearning blurs the forget rows."""

    bump: float = 3.0
    left: float = 0.0
    noise: float = 1.0
    name: str = "memory"

    def unlearn(self, model, splits, *, seed=0):
        made = Table(model)
        rows = splits.rows("retain").base_index()
        if model.shift is None:
            made.shift = self.noise * torch.randn(ROWS, generator=torch.Generator().manual_seed(seed))
            made.shift[rows] += self.bump
        else:
            made.shift = model.shift.clone()
            made.shift[splits.rows("forget").base_index()] += self.left - self.bump
        return Outcome(made)


@dataclass(frozen=True)
class Outcome:
    model: nn.Module
    report: None = None


class Table(nn.Module):
    """phi of row i (its input is i, its label 0) is easiness(i) + shift(i)."""

    def __init__(self, other=None):
        super().__init__()
        self.shift = None
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        row = x[:, 0].long()
        easiness = 4 * torch.sin(37.0 * row)
        shift = torch.zeros_like(easiness) if self.shift is None else self.shift[row]
        return functional.pad((self.scale * (easiness + shift)).unsqueeze(1), (0, 1))


def table_data():
    return torch.arange(ROWS).float().unsqueeze(1), torch.zeros(ROWS, dtype=torch.int64)


def attacked(directory, unlearn, attack, models=64):
    """Target trained on rows 0-79 (and made to forget 40-79); members 40-79, non-members 80-119."""
    judged, forget, test = range(40, 120), range(40, 80), range(80, 120)
    fleet = Fleet(Table(), table_data(), Memory(), directory, unlearn=unlearn)
    specs = ulira_specs(judged, models, retain=range(40)) if unlearn else lira_specs(judged, models, always=range(40))
    shadows = fleet.run(specs)
    parts = [shadow_scores(shadows, table_data(), part) for part in (forget, test)]
    target = fleet.run([ShadowSpec(2**40, range(80), forget if unlearn else ())])
    outputs = SplitOutputs(*(outputs_of(target[0], table_data(), part) for part in (forget, test)))
    return attack(Shadows(*parts)).run(outputs)


def test_lira_catches_a_model_that_remembers(tmp_path):
    result = attacked(tmp_path, None, Lira)
    assert result.auc.low > 0.9


def test_ulira_sees_what_unlearning_left_and_nothing_where_nothing_is_left(tmp_path):
    remembered = attacked(tmp_path, Memory(left=3.0), ULira)
    perfect = attacked(tmp_path, Memory(left=0.0), ULira)
    assert remembered.auc.low > 0.9
    assert perfect.auc.contains(0.5)
    overdone = attacked(tmp_path, Memory(left=-3.0), ULira)
    assert overdone.auc.low > 0.8, "both worlds are known, so over-unlearning is a trace like any other"


def test_who_is_inside_outside_and_neither(tmp_path):
    fleet = Fleet(Table(), table_data(), Memory(), tmp_path, unlearn=Memory())
    shadows = fleet.run([ShadowSpec(0, range(10), range(5)), ShadowSpec(1, range(10))])
    scores = shadow_scores(shadows, table_data(), [7, 2, 11])
    assert scores.inside.tolist() == [[False, True, False], [True, True, False]]
    assert scores.never.tolist() == [[False, False, True], [False, False, True]]
    np.testing.assert_allclose(scores.phi[1], shadows[1].logits[[7, 2, 11], 0], rtol=1e-6)
    np.testing.assert_array_equal(phi_of(shadows, table_data(), [2]), scores.phi[:, 1:2])


def test_references_never_see_the_forget_rows(fleet):
    shadows = fleet.run(leave_out_specs(range(60), range(50, 60), 2))
    assert not shadow_scores(shadows, data(), range(50, 60)).inside.any()
    assert isinstance(outputs_of(shadows[0], data(), range(50, 60)), Outputs)


@pytest.mark.parametrize(
    ("change", "spec", "message"),
    [
        ({}, ShadowSpec(4, range(30), [1]), "seed 4 forgets 1 rows; pass Fleet\\(unlearn=method\\)"),
        ({}, ShadowSpec(4, range(119)), "trains on 119 of 120 rows; leave at least 2 outside"),
        ({}, ShadowSpec(4, [120]), "train must hold row numbers below 120"),
        ({"ask": []}, ShadowSpec(4, [1]), "ask must hold row numbers below 120, at least one"),
        ({"validation": [5, 119]}, ShadowSpec(4, range(9)), "share 1 rows"),
    ],
)
def test_refusals(fleet, change, spec, message):
    with pytest.raises(DataError, match=message):
        replace(fleet, **change).run([spec])
    assert not fleet.directory.exists()


def test_a_diverged_model_and_an_unasked_row_are_refused(fleet, tmp_path):
    made = replace(fleet, ask=[0, 5]).run([ShadowSpec(0, range(30))])
    with pytest.raises(DataError, match="has no answer for row 3; add it to the fleet's `ask`"):
        phi_of(made, data(), [5, 3])
    wild = Fleet(Table(), table_data(), Memory(noise=float("inf")), tmp_path / "wild")
    with pytest.raises(DataError, match=r"the model of seed 9 answers -?(inf|nan); it diverged"):
        wild.run([ShadowSpec(9, range(30))])
    assert not list(tmp_path.glob("wild/*"))


@pytest.mark.slow
def test_two_processes_make_the_files_of_one(fleet, tmp_path):
    specs = lira_specs(range(60), 4)
    alone = fleet.run(specs)
    together = replace(fleet, directory=tmp_path / "two", jobs=2).run(specs)
    for first, second in zip(alone, together, strict=True):
        assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.slow
def test_a_dask_cluster_makes_the_files_of_one_process(fleet, tmp_path):
    """The same call inside `parallel_config`: the models are made by the cluster's two workers, not here."""
    joblib = pytest.importorskip("joblib")
    distributed = pytest.importorskip("distributed", reason="needs the extra 'cluster'")
    specs = lira_specs(range(60), 8)
    alone = fleet.run(specs)
    settings = {"processes": True, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        with distributed.get_task_stream(client) as stream, joblib.parallel_config("dask"):
            together = replace(fleet, directory=tmp_path / "cluster").run(specs)
        workers = set(client.scheduler_info()["workers"])
    done = [task["worker"] for task in stream.data if "make" in task["key"]]
    assert len(done) == 8
    assert set(done) == workers
    assert len(workers) == 2
    for first, second in zip(alone, together, strict=True):
        assert first.path.read_bytes() == second.path.read_bytes()
