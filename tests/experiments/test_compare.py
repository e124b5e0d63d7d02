"""The comparison: equal searches that can be stopped, budgets that pay, records that are found again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from amu_fast.errors import DataError
from amu_fast.experiments.compare import engine, search
from amu_fast.experiments.compare.engine import make_comparison, stretched
from amu_fast.experiments.compare.judge import tug_of_war
from amu_fast.experiments.compare.plan import ComparePlan, forget_set
from amu_fast.experiments.compare.spaces import OURS, Axis, Space, spaces
from amu_fast.experiments.compare.table import summarise
from amu_fast.experiments.forget_sets import ClassRows, MemorisedRows, MislabelledRows, RandomRows
from amu_fast.experiments.records import Trial
from amu_fast.report.pareto import MarginPoint, front
from amu_fast.unlearn import methods
from amu_fast.unlearn.methods import FineTune
from amu_fast.unlearn.plugins import named_methods

pytest.importorskip("optuna")
pytest.importorskip("safetensors")

BOWL = Space(
    "bowl", "bowl", lambda p, e, t: None, {"a": Axis(0.01, 1.0), "k": Axis(1, 5, whole=True)}, {"a": 0.5, "k": 2}, "a"
)


def trial(parameters, gap):
    return Trial(parameters, 0, (gap,), ({},), 0, 0.0)


def searched(trials, figure, stop=None):
    done = []
    for number in range(trials if stop is None else stop):
        parameters = search.propose(BOWL, done, number, trials)
        done.append(trial(parameters, figure(parameters)))
    return done


def figure(p):
    return abs(p["a"] - 0.08) * 10 + abs(p["k"] - 4)


def test_a_search_starts_at_the_usual_point_stays_on_its_axes_and_repeats():
    done = searched(10, figure)
    assert done[0].parameters == BOWL.start
    for t in done:
        assert 0.01 <= t.parameters["a"] <= 1.0
        assert t.parameters["k"] in (1, 2, 3, 4, 5)
    assert [t.parameters for t in searched(10, figure)] == [t.parameters for t in done]
    assert len({tuple(t.parameters.items()) for t in done}) >= 9


def test_a_search_that_was_stopped_proposes_what_it_would_have():
    whole, part = searched(10, figure), searched(10, figure, stop=7)
    assert search.propose(BOWL, part, 7, 10) == whole[7].parameters


def test_later_proposals_look_at_figures():
    """The same search of another figure proposes other points once it has looked, and not before."""
    one, other = searched(16, figure), searched(16, lambda p: abs(p["a"] - 0.9) * 10 + abs(p["k"] - 1))
    assert [t.parameters for t in one[:8]] == [t.parameters for t in other[:8]]
    assert [t.parameters for t in one[8:]] != [t.parameters for t in other[8:]]
    assert min(figure(t.parameters) for t in one[8:]) < min(figure(t.parameters) for t in one[:8])


def test_every_method_of_the_package_is_in_the_table(tiny_task):
    built = {type(s.build(s.start, 1.0, tiny_task)) for s in OURS}
    assert built == {getattr(methods, name) for name in methods.__all__} - {methods.Retrain}
    for s in OURS:
        assert s.build(s.start, 1.0, tiny_task).epochs <= 1.5
        for factor in (0.5, 2.0):
            assert s.build(stretched(s, s.start, factor), 1.0, tiny_task).name in named_methods() | {"scrub_r": 0}


def test_weights_are_stretched_as_far_as_they_may():
    space = replace(BOWL, axes={"a": Axis(0.01, 1.0, most=0.8), "k": BOWL.axes["k"]})
    assert stretched(space, {"a": 0.5, "k": 2}, 2.0) == {"a": 0.8, "k": 2}
    assert stretched(space, {"a": 0.5, "k": 2}, 0.5) == {"a": 0.25, "k": 2}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("random:0.02", RandomRows(0.02)),
        ("class:6:0.5", ClassRows(0.5, 6)),
        ("memorised:.1", MemorisedRows(0.1)),
        ("mislabelled:.1", MislabelledRows(0.1)),
    ],
)
def test_forget_sets_by_word(text, kind):
    assert forget_set(text) == kind


@pytest.mark.parametrize("text", ["random", "class:6", "class:six:.5", "all:.5", "random:two", "random:.1:.2"])
def test_words_that_are_no_forget_set_are_refused(text):
    with pytest.raises(DataError, match=f"forget set '{text}'"):
        forget_set(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("magic",)}, "methods must be among .*, got magic"),
        ({"methods": ()}, "got none"),
        ({"units": (0, 900)}, r"units \[900\] are tuned on and judged"),
        ({"units": (0,)}, "at least 2 judged units"),
        ({"shares": (0.0,)}, r"budgets are shares of retraining in \(0, 1\]"),
    ],
)
def test_plans_that_cannot_be_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        ComparePlan(**changes)


def test_tug_of_war_of_retrain_itself_is_one():
    same = dict.fromkeys(("retain_accuracy", "forget_accuracy", "test_accuracy"), 0.0)
    assert tug_of_war(same) == 1.0
    assert tug_of_war({**same, "attack_auc": 0.5}) == 1.0


def test_the_front_keeps_what_nothing_beats():
    points = [
        MarginPoint(n, u, m) for n, u, m in (("a", 0.05, 4.0), ("b", 0.05, 6.0), ("c", 0.1, 4.0), ("d", 0.5, 1.0))
    ]
    assert [p.name for p in front(points)] == ["a", "d"]


PLAN = ComparePlan(
    forget_sets=(RandomRows(0.1),),
    units=(0, 1),
    tuning_units=(900,),
    shares=(0.1,),
    methods=("fine_tune", "stackelberg", "influence"),
    trials=2,
    sensitivity=0.1,
)


@pytest.fixture(scope="module")
def made(tiny_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    plan = replace(PLAN, task=tiny_task)
    return plan, folder, make_comparison(plan, folder, jobs=1, notify=lambda line: None)


def test_the_document_has_everything(made):
    _, folder, compared = made
    (table,) = compared.tables
    assert [(r.name, r.share) for r in table.rows] == [
        ("original", None),
        ("floor", None),
        ("fine_tune", 0.1),
        ("stackelberg", 0.1),
    ]
    assert table.unaffordable == {"0.1": ("influence",)}
    assert [len(s.trials) for s in table.searches] == [2, 2]
    assert [s.method for s in table.sensitivity] == ["fine_tune", "stackelberg"]
    assert {c.second for c in table.comparisons} == {"fine_tune"}
    assert table.configurations["stackelberg at 0.1"]["auditor"]["folds"] == 3
    assert all(0.0 <= t.value <= 1.0 for t in table.tow)
    assert table.rows[2].panel.keys() >= {"rmia_auc", "mia_efficacy", "modified_entropy_auc", "peak_mib"}
    text = (folder / "compare.md").read_text()
    assert "Not run, as the budget does not pay for it: influence." in text
    assert (folder / f"pareto-{table.forget_set}.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((folder / "compare.json").read_text())["schema"] == "amu-fast-compare/1"


def test_what_is_done_is_not_done_again(made, monkeypatch):
    plan, folder, compared = made

    def never(*args, **kwargs):
        raise AssertionError("ran again")

    monkeypatch.setattr(engine, "run_method", never)
    monkeypatch.setattr(search, "run_method", never)
    again = make_comparison(plan, folder, jobs=1, notify=lambda line: None)
    assert again.tables == compared.tables
    assert summarise(plan, folder).tables == compared.tables


def test_searches_are_judged_by_v_tune_never_by_test_rows(made, monkeypatch):
    plan, folder, _ = made
    seen = []
    original = search.run_method

    def watch(unit, method, **options):
        seen.append(options["tuning"])
        return original(unit, method, **options)

    monkeypatch.setattr(search, "run_method", watch)
    unit = engine._Place(plan, folder, plan.forget_sets[0], None).unit(900)
    tiny = folder / "elsewhere"
    search.tune(tiny, spaces()["fine_tune"], 0.1, [unit], 1)
    assert seen == [True]


def test_records_of_another_configuration_are_refused(made):
    plan, folder, _ = made
    with pytest.raises(DataError, match="was written for another task"):
        make_comparison(replace(plan, task=replace(plan.task, noise=0.3)), folder, jobs=1, notify=lambda line: None)


@dataclass(frozen=True)
class Point:
    name: str
    value: str
    group: str
    thing: object

    def load(self):
        return self.thing


def test_third_parties_add_spaces(monkeypatch):
    from amu_fast.experiments.compare import spaces as module

    mine = Space("mine", "Mine", lambda p, e, t: FineTune(epochs=e), {"lr": Axis(0.1, 1.0)}, {"lr": 0.5}, "lr")
    points = [Point("mine", "x:mine", "amu_fast.spaces", mine)]
    monkeypatch.setattr(module, "entry_points", lambda group: points)
    assert spaces()["mine"] is mine
    points.append(Point("again", "x:again", "amu_fast.spaces", replace(mine, name="scrub")))
    with pytest.raises(DataError, match=r"again = x:again must be a Space with a new name"):
        spaces()
