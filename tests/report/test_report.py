"""The record of a run: round trip, undefined numbers, and documents that are not one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from amu_fast.audit.attacks import LossThreshold, PaperAttack
from amu_fast.audit.intervals import t_interval
from amu_fast.audit.scores import log_likelihood
from amu_fast.errors import DataError
from amu_fast.report import AttackRecord, Cost, MethodRecord, Metric, Provenance, Report


@dataclass(frozen=True)
class Inner:
    """Part of a method."""

    l2: float = 1e-2
    scores: object = log_likelihood


@dataclass(frozen=True)
class Toy:
    """A method."""

    inner: Inner = Inner()
    epochs: float = 2.5
    ratios: tuple[float, ...] = (0.1, math.inf)
    name: str = "toy"


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(0)
    ours, retrain = (PaperAttack().run((rng.normal(s, 1, 60), rng.normal(0, 1, 60))) for s in (1, 0))
    return Report(
        method=MethodRecord.of(Toy()),
        seed=3,
        history={"step": (1.0, 2.0, 3.0), "payoff": (None, -0.5, float("nan")), "lr": (0.1, math.inf, -math.inf)},
        cost=Cost(1234.0, 2000.0, 1.5, 3, stopped=True),
        provenance=Provenance.collect(Toy()),
        metrics={
            "test accuracy": Metric.of(t_interval([0.9, 0.91, 0.92])),
            "ks": None,
            "svm": Metric(None, reason="no validation rows"),
        },
        attacks=(AttackRecord.of(ours, retrain), AttackRecord.of(ours)),
    )


def test_round_trip_restores_everything(report):
    again = Report.from_json(report.to_json())
    assert math.isnan(again.history["payoff"][2])
    assert again.history["payoff"][0] is None
    assert again.history["lr"] == (0.1, math.inf, -math.inf)
    without_nan = {**again.history, "payoff": report.history["payoff"]}
    assert replace(again, history=without_nan) == report
    assert again.to_json() == report.to_json()


def test_json_is_strict_and_says_why_a_number_is_missing(report):
    document = json.loads(report.to_json(), parse_constant=lambda token: pytest.fail(f"{token} in the JSON"))
    assert document["schema"] == "amu-fast-report/1"
    assert document["history"]["payoff"] == [None, -0.5, None]
    assert document["undefined"] == {"/history/payoff/2": "nan", "/history/lr/1": "inf", "/history/lr/2": "-inf"}


def test_save_and_load(report, tmp_path):
    path = report.save(tmp_path / "out" / "report.json")
    assert Report.load(path).to_json() == report.to_json()
    with pytest.raises(DataError, match=r"cannot read .*nowhere.json: No such file"):
        Report.load(tmp_path / "nowhere.json")


def test_configuration_is_plain_and_names_its_types(report):
    assert report.method.config == {
        "type": "Toy",
        "inner": {"type": "Inner", "l2": 0.01, "scores": "amu_fast.audit.scores.log_likelihood"},
        "epochs": 2.5,
        "ratios": [0.1, "inf"],
        "name": "toy",
    }


def test_attack_records_hold_the_difference_to_retrain_and_no_scores(report):
    with_retrain, alone = report.attacks
    assert with_retrain.difference.value > 0.2
    assert alone.difference is None
    assert with_retrain.members == 60
    assert "member_scores" not in report.to_json()


def test_metrics_added_afterwards(report):
    rng = np.random.default_rng(1)
    result = LossThreshold(in_game=True).run((rng.normal(1, 1, 50), rng.normal(0, 1, 50)))
    judged = replace(report, attacks=(*report.attacks, AttackRecord.of(result)))
    assert Report.from_json(judged.to_json()).attacks[-1].in_game
    assert Report.from_json(judged.to_json()).attacks[-1].tpr[0.05] == result.tpr[0.05]


def edited(report, change):
    document = json.loads(report.to_json())
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema="other/1"), "expected a amu-fast-report/1 document, got 'other/1'"),
        (lambda d: d.pop("seed"), "/seed is missing in this document"),
        (lambda d: d.update(extra=1), "/extra is unknown in this document"),
        (lambda d: d.update(seed="3"), "/seed must be int, got '3'"),
        (lambda d: d.update(seed=True), "/seed must be int, got True"),
        (lambda d: d["cost"].update(seconds=None), "/cost/seconds must be float, got None"),
        (lambda d: d.update(attacks={}), "/attacks must be a list"),
        (lambda d: d["history"].update(step=3), "/history/step must be a list, got 3"),
        (lambda d: d["attacks"][0]["auc"].update(scope="all"), "/attacks/0/auc/scope must be one of"),
        (lambda d: d["history"].update(lr=[1.0]), "equal lengths, got"),
    ],
)
def test_edited_documents_are_refused_by_path(report, change, message):
    with pytest.raises(DataError, match=message):
        Report.from_json(edited(report, change))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": "amu-fast-report/1", "seed": NaN}'])
def test_what_is_not_a_report(text):
    with pytest.raises(DataError, match=r"document|NaN is not JSON"):
        Report.from_json(text)


def test_a_metric_without_value_or_reason():
    with pytest.raises(DataError, match="needs a reason"):
        Metric(None)


def test_values_that_no_report_can_hold(report):
    bad = replace(report, method=MethodRecord("toy", {"weights": torch.zeros(2)}))
    with pytest.raises(DataError, match="/method/config/weights holds a Tensor"):
        bad.to_json()
