"""Single rows of a unit before and after unlearning: counts for the shared report, names for the private table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from amu_fast.audit.attacks import CalibratedLoss, SplitOutputs
from amu_fast.report.binned import CHANGE_EDGES, Histogram
from amu_fast.report.document import ExampleSummary
from amu_fast.report.private import PrivateTable, forget_rows, keyed_id, regressed_rows

if TYPE_CHECKING:
    from amu_fast.experiments.units import Unit

FORGET_SCORE = "calibrated loss"
RETAIN_SCORE = "logit-scaled confidence"


def row_parts(
    unit: Unit, models: Mapping[str, SplitOutputs], key: bytes, title: str
) -> tuple[ExampleSummary, PrivateTable]:
    """Part 6 of the report and the private table.

    Forget rows are scored by the calibrated loss, since the sure rows of every model look alike; retain rows by
    phi = log p_y - log(1 - p_y).

    Args:
        unit: Of the models.
        models: "unlearned", "retrain" and "original" to their outputs on all parts.
        key: Of the ids.
        title: Of the report.
    """
    before, after, retrained = (models[role] for role in ("original", "unlearned", "retrain"))
    attack = CalibratedLoss(unit.references)
    scores = [attack.run(outputs).member_scores for outputs in (before, after, retrained)]
    confidence = [outputs.require("retain").require("phi") for outputs in (before, after, retrained)]
    right = [np.asarray(outputs.require("retain").correct) for outputs in (before, after, retrained)]
    damaged = right[0] & ~right[1]
    names, kept = (_ids(unit, part, key) for part in ("forget", "retain"))
    table = PrivateTable(
        title,
        FORGET_SCORE,
        RETAIN_SCORE,
        forget=forget_rows(names, scores[0], scores[1], scores[2]),
        regressions=regressed_rows(kept, confidence[0], confidence[1], confidence[2], damaged),
    )
    summary = ExampleSummary(
        score=FORGET_SCORE,
        unlearned=Histogram.of(scores[1] - scores[0], CHANGE_EDGES),
        retrained=Histogram.of(scores[2] - scores[0], CHANGE_EDGES),
        worst=len(table.worst),
        retain_rows=len(damaged),
        regressions=int(damaged.sum()),
        regressions_retrained=int((right[0] & ~right[2]).sum()),
    )
    return summary, table


def _ids(unit: Unit, part: str, key: bytes) -> list[str]:
    return [keyed_id(key, int(row)) for row in unit.splits.rows(part).base_index()]
