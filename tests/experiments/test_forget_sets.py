from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amu_fast.errors import DataError
from amu_fast.experiments.compare.judge import more
from amu_fast.experiments.evaluate import headline
from amu_fast.experiments.forget_sets import ClassRows, MemorisedRows, MislabelledRows, RandomRows
from amu_fast.experiments.memorisation import ConfidenceAlongTraining
from amu_fast.experiments.tasks import ForgetTask
from amu_fast.experiments.units import prepare_unit
from amu_fast.splits import PARTS, Rows
from amu_fast.unlearn.methods import Retrain
from amu_fast.unlearn.optimise import Sgd


@pytest.fixture(scope="module")
def population(tiny_task):
    return tiny_task.population()


def drawn(tiny_task, population, kind, seed=3, memorisation=None, **changes):
    task = ForgetTask.of(replace(tiny_task, **changes), kind)
    return task, task.draw(population, seed, memorisation)


def check_parts(task, parts):
    sets = [set(getattr(parts, name)) for name in PARTS]
    assert sum(map(len, sets)) == len(set.union(*sets))
    assert len(parts.retain) + len(parts.forget) == task.train


def test_random_rows_are_the_plain_draw_and_everything_is_alike(tiny_task, population):
    share = tiny_task.forget / tiny_task.train
    task, parts = drawn(tiny_task, population, RandomRows(share))
    check_parts(task, parts)
    plain = tiny_task.draw(population, 3)
    assert set(parts.forget) == set(plain.forget)
    assert set(parts.retain) == set(plain.retain)
    assert task.forget == tiny_task.forget
    assert task.alike(population, torch.arange(9)).all()


def test_half_of_a_class_leaves_the_other_half_and_validates_on_that_class(tiny_task, population):
    task, parts = drawn(tiny_task, population, ClassRows(0.5, label=4), validation=20)
    check_parts(task, parts)
    labels = population.labels
    assert (labels[list(parts.forget)] == 4).all()
    left = int((labels[list(parts.retain)] == 4).sum())
    assert abs(left - len(parts.forget)) <= 1
    assert (labels[list(parts.validation)] == 4).all()
    assert len(labels[list(parts.test)].unique()) == 10


def test_a_whole_class_leaves_nothing_of_it(tiny_task, population):
    _, parts = drawn(tiny_task, population, ClassRows(1.0, label=4), validation=20)
    assert not (population.labels[list(parts.retain)] == 4).any()


def test_memorised_rows_are_those_of_largest_memorisation(tiny_task, population):
    task = ForgetTask.of(tiny_task, MemorisedRows(0.1))
    train, _ = task.training_rows(population, 3)
    scores = torch.rand(len(train), generator=torch.Generator().manual_seed(0))
    parts = task.draw(population, 3, lambda: scores)
    assert set(parts.forget) == set(train[scores.argsort(descending=True)[: task.forget]].tolist())
    with pytest.raises(DataError, match="needs the rows' memorisation"):
        task.draw(population, 3)


def test_mislabelled_rows_have_mislabelled_non_members(tiny_task, population):
    noisy = population.with_noise(0.2)
    _, parts = drawn(tiny_task, noisy, MislabelledRows(0.05), validation=20)
    wrong = noisy.labels != noisy.clean_labels
    assert wrong[list(parts.forget)].all()
    assert wrong[list(parts.validation)].all()
    assert int(wrong[list(parts.retain)].sum()) > 0
    with pytest.raises(DataError, match=r"are mislabelled and .* are to be forgotten"):
        drawn(tiny_task, noisy, MislabelledRows(0.5), validation=20)


def test_too_few_rows_that_are_alike_are_named(tiny_task, population):
    with pytest.raises(DataError, match="that are like the forget rows for validation"):
        drawn(tiny_task, population, ClassRows(0.5, label=4), validation=500)
    with pytest.raises(DataError, match=r"label must lie in \[0, 10\), got 10"):
        drawn(tiny_task, population, ClassRows(0.5, label=10))
    with pytest.raises(DataError, match=r"share of forgotten rows must lie in \(0, 1\), got 1"):
        RandomRows(1.0)


def test_attacks_are_judged_on_rows_that_are_alike_and_accuracy_on_all(tiny_task, population, tmp_path):
    task = ForgetTask.of(replace(tiny_task, validation=20), ClassRows(0.5, label=4))
    unit = prepare_unit(task, 3, tmp_path, population=population)
    test = unit.splits.rows("test").labels()
    assert len(unit.attacked(unit.outputs["original"]).test) == int((test == 4).sum())
    figures = headline(unit.outputs["original"], unit.references, unit.attacked)
    assert figures["test_accuracy"] == pytest.approx(float(unit.outputs["original"].test.correct.mean()))
    further = more(unit, unit.outputs["original"])
    assert further["rmia_auc"] > 0.5  # of the class's own rows, which the original knows
    assert further.keys() == {"tow", "modified_entropy_auc", "rmia_auc", "mia_efficacy"}
    tuning = unit.tuning(unit.outputs["original"])
    game, tune = unit.splits.split_validation()
    assert len(tuning.test) == len(tune) == 20 - len(game)
    expected = unit.outputs_of(unit.original).validation.loss
    position = {int(row): k for k, row in enumerate(unit.splits.rows("validation").base_index())}
    chosen = [expected[position[int(row)]] for row in tune.base_index()]
    assert tuning.test.loss == pytest.approx(chosen, abs=1e-6)
    files = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert files == ["original", "unit"]
    prepare_unit(ForgetTask.of(tiny_task, RandomRows(0.1)), 3, tmp_path, population=population)
    files = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert files == ["original", "unit", "unit"]  # the original is shared


def test_mislabelled_training_rows_are_the_most_memorised():
    """The known answer: a network is confident of a wrong label late or never."""
    from digits import network, noisy_digits

    inputs, labels = noisy_digits()
    clean = noisy_digits_clean()
    rows = Rows.of((inputs[:400], labels[:400]))
    watch = ConfidenceAlongTraining(rows)
    from amu_fast.splits import Splits

    splits = Splits.from_indices((inputs, labels), retain=range(400), forget=[400], validation=[401, 402])
    Retrain(epochs=10, batch_size=40, optimiser=Sgd(lr=0.05, weight_decay=0.0), callbacks=(watch,)).unlearn(
        network(), splits
    )
    memorised = 1.0 - watch.mean()
    wrong = labels[:400] != clean[:400]
    top = memorised.topk(int(wrong.sum())).indices
    assert wrong[top].float().mean() > 0.8


def noisy_digits_clean():
    """The digits' true labels in the order of `noisy_digits`."""
    from sklearn.datasets import load_digits

    target = load_digits().target
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(target)[order]
