"""An audit document in which every part is there, from random numbers; one in which nothing is."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pytest

from amu_fast.audit.attacks import LossThreshold, PaperAttack
from amu_fast.audit.intervals import TOST_LEVEL, accuracy_difference, accuracy_interval
from amu_fast.report import AttackRecord, Comparison, Cost, MethodRecord, MethodRuns, Metric, Provenance
from amu_fast.report.binned import CHANGE_EDGES, Histogram, LossHistograms, RocRecord
from amu_fast.report.document import (
    PARTS,
    AuditDocument,
    CostRecord,
    ExampleSummary,
    PanelRow,
    RobustnessRecord,
    Subject,
)
from amu_fast.report.private import PrivateTable, forget_rows, keyed_id, regressed_rows
from amu_fast.report.verdict_record import ClaimRecord, ReasonRecord, VerdictRecord

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"
SHIFTS = {"unlearned": 0.1, "retrained": 0.0, "original": 1.0, "another retrain": 0.05}


class Case:
    """Scores of the forget and the test rows of four models, and everything that is made of them."""

    def __init__(self, method: str = "toy") -> None:
        rng = np.random.default_rng(0)
        self.method = MethodRecord(method, {"type": "Toy", "note": method, "weight": 5.0})
        self.members = {name: rng.normal(shift, 1.0, 120) for name, shift in SHIFTS.items()}
        self.nonmembers = {name: rng.normal(0.0, 1.0, 300) for name in SHIFTS}
        self.correct = {name: rng.random(200) < 0.9 for name in SHIFTS}
        self.losses = {
            name: {"forget": np.exp(-self.members[name]), "test": np.exp(-self.nonmembers[name])} for name in SHIFTS
        }

    def attacked(self, attack, name):
        return attack.run((self.members[name], self.nonmembers[name]))

    def panel_row(self, attack):
        results = {name: self.attacked(attack, name) for name in SHIFTS}
        retrained = results["retrained"]
        return PanelRow(
            AttackRecord.of(results["unlearned"], retrained),
            "Looks at the loss.",
            retrained.auc,
            results["original"].difference_to(retrained),
            results["another retrain"].difference_to(retrained, level=TOST_LEVEL),
        )

    def row(self, name):
        pair = self.correct[name], self.correct["retrained"]
        wide, tost = accuracy_difference(*pair), accuracy_difference(*pair, level=TOST_LEVEL)
        return MethodRuns(
            name, {"test_accuracy": (wide.value,)}, (1.5,), 0, {"test_accuracy": wide}, {"test_accuracy": tost}
        )

    def comparison(self):
        rows = [self.row(name) for name in ("unlearned", "original", "another retrain")]
        margins = {"test_accuracy": 1.0}
        return Comparison(tuple(rows[:2]), rows[2], ("test_accuracy",), "Differences", {}, margins)

    def verdict(self):
        interval = self.attacked(LossThreshold(), "unlearned").difference_to(
            self.attacked(LossThreshold(), "retrained"), level=TOST_LEVEL
        )
        reason = ReasonRecord("interval_crosses_margin", "The 90 % interval reaches beyond the margin.")
        claim = ClaimRecord("loss: AUC", "auc", "UNDECIDED", 0.05, "both", True, False, interval, interval, (reason,))
        skipped = ClaimRecord("svm: AUC", "auc", "NOT_EVALUABLE", 0.05, "both", False, True, None, None, (reason,))
        return VerdictRecord("inconclusive", 3, (reason,), {"auc": 0.05, "tpr": 0.03}, (claim, skipped))

    def history(self):
        steps = np.arange(40.0)
        return {
            "step": tuple(steps),
            "used": tuple(64 * steps),
            "retain_loss": tuple(np.exp(-steps / 10)),
            "payoff": tuple(None if s % 2 else -0.9 for s in steps),
            "permuted_payoff": tuple(None if s % 2 else -0.95 for s in steps),
            "adjoint_residual": (*(1e-15,) * 39, float("nan")),
            "gradient_bound": (1e-9,) * 40,
        }

    @cached_property
    def document(self):
        change = Histogram.of(self.members["unlearned"] - self.members["original"], CHANGE_EDGES)
        curves = [RocRecord.of(self.attacked(LossThreshold(), name), name) for name in ("unlearned", "retrained")]
        accuracy = Metric.of(accuracy_interval(self.correct["unlearned"]))
        unmeasured = Metric(None, reason="peak memory was not measured")
        return AuditDocument(
            title=f"Toy rows, {self.method.name}",
            subject=Subject(self.method, 7, "toy", {"forget": 120, "test": 300}, "1 retrained model"),
            verdict=self.verdict(),
            comparison=self.comparison(),
            losses=LossHistograms.of({n: self.losses[n] for n in ("original", "unlearned", "retrained")}),
            roc=tuple(curves),
            history=self.history(),
            examples=ExampleSummary("toy score", change, change, 2, 200, 5, 1),
            attacks=(self.panel_row(LossThreshold()), self.panel_row(PaperAttack(in_game=True))),
            robustness=(RobustnessRecord("relearning on 10 rows", "Ten steps.", "loss AUC", accuracy, accuracy),),
            cost=CostRecord(Cost(10.0, 20.0, 1.5, 3), Metric(1.5), Metric(30.0), Metric(20.0), unmeasured),
            provenance=Provenance.collect(self.method.config),
            values={"unlearned": {"test_accuracy": accuracy}, "retrained": {"test_accuracy": accuracy}},
        )

    @cached_property
    def private(self):
        ids = [keyed_id(bytes(32), row) for row in range(120)]
        three = [self.members[name] for name in ("original", "unlearned", "retrained")]
        damaged = np.arange(120) < 3
        return PrivateTable("toy", "loss", "loss", forget_rows(ids, *three), regressed_rows(ids, *three, damaged))


def empty_document():
    """Every part is missing, each for its own reason."""
    subject = Subject(MethodRecord("toy", {}), None, "toy", {}, "none")
    return AuditDocument("Nothing", subject, missing={part: f"no {part} in this <test>" for part in PARTS})


@pytest.fixture(scope="session")
def case():
    return Case()


@pytest.fixture(scope="session")
def hostile_case():
    return Case(HOSTILE)


@pytest.fixture(scope="session")
def empty():
    return empty_document()
