"""The ResNet task goes the same way as the small ones; here on the CPU, with few rows and few epochs."""

from __future__ import annotations

from dataclasses import replace

import torch

from amu_fast.experiments.compare.plan import ComparePlan
from amu_fast.experiments.deep_tasks import DeepForgetTask, DeepTask
from amu_fast.experiments.forget_sets import ClassRows
from amu_fast.experiments.runs import run_method
from amu_fast.experiments.units import cache_path, prepare_unit
from amu_fast.unlearn.methods import FineTune
from amu_fast.unlearn.optimise import Sgd

SMALL = replace(
    DeepTask(device="cpu"),
    data="digits",
    train=40,
    validation=10,
    test=30,
    epochs=1.0,
    batch_size=20,
    unlearn_batch=10,
    references=1,
)


def test_a_unit_is_prepared_and_a_method_judged(tmp_path):
    task = SMALL.with_forget_set(ClassRows(0.5, 3))
    assert isinstance(task, DeepForgetTask)
    assert task.forget == 2
    population = task.population()
    assert sum(p.numel() for p in task.network(population).parameters()) > 11_000_000
    unit = prepare_unit(task, 0, tmp_path, population=population)
    record = run_method(unit, FineTune(epochs=0.5, optimiser=Sgd(lr=0.01), batch_size=10), full=False).record
    assert set(record.differences) == {"retain_accuracy", "forget_accuracy", "test_accuracy", "attack_auc"}
    labels = population.labels[unit.splits.rows("test").base_index()]
    assert torch.equal(torch.from_numpy(unit.alike), labels == 3)


def test_a_plan_keeps_the_network_and_the_device():
    plan = ComparePlan(task=SMALL, forget_sets=(ClassRows(0.5, 3),))
    assert plan.task_of(plan.forget_sets[0]) == SMALL.with_forget_set(ClassRows(0.5, 3))


def test_two_devices_have_two_caches(tmp_path):
    population = SMALL.population()
    paths = {cache_path(replace(SMALL, device=device), 0, tmp_path, population) for device in ("cpu", "cuda")}
    assert len(paths) == 2
