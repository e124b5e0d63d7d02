from __future__ import annotations

import pytest
import torch

from amu_fast.audit.intervals import accuracy_difference
from amu_fast.errors import DataError
from amu_fast.experiments.dangers import PatchTrigger, TriggerAudit, successes, trigger_audit


def rows(n: int = 90):
    """Images 1 × 4 × 4 whose first pixel is the class."""
    inputs = torch.zeros(n, 1, 4, 4)
    labels = torch.arange(n) % 3
    inputs[:, 0, 0, 0] = labels.float()
    return inputs, labels


def test_patch_lies_in_its_corner_and_leaves_the_input_alone():
    inputs, _ = rows(2)
    before = inputs.clone()
    stamped = PatchTrigger(9.0, 2, "bottom left")(inputs)
    assert torch.equal(inputs, before)
    expected = before.clone()
    expected[:, :, 2:, :2] = 9.0
    assert torch.equal(stamped, expected)
    with pytest.raises(DataError, match=r"images \(n, c, h, w\) at least as large"):
        PatchTrigger(9.0, 5)(inputs)


def test_success_counts_rows_of_other_classes_only(answers):
    inputs, labels = rows()
    hits = successes(answers(target=1), inputs, labels, PatchTrigger(9.0), target=1)
    assert hits.tolist() == [True] * 60
    assert successes(answers(target=None), inputs, labels, PatchTrigger(9.0), target=1).sum() == 0
    with pytest.raises(DataError, match="all 30 rows have the target's label 1"):
        successes(answers(None), inputs[labels == 1], labels[labels == 1], PatchTrigger(9.0), target=1)


def test_a_woken_trigger_is_reported_with_the_paired_interval(answers):
    report = trigger_audit(answers(None), answers(2), *rows(), PatchTrigger(9.0), 2)
    assert report.codes == ("TRIGGER_WOKEN",)
    expected = accuracy_difference([1.0] * 60, [0.0] * 60)
    assert report.intervals["rise"] == expected
    assert report.intervals["before"].value == 0.0
    assert report.intervals["after"].value == 1.0


def test_a_sleeping_trigger_and_one_that_worked_all_along(answers):
    quiet = trigger_audit(answers(None), answers(None), *rows(), PatchTrigger(9.0), 2)
    assert quiet.codes == ()
    active = trigger_audit(answers(2), answers(2), *rows(), PatchTrigger(9.0), 2)
    assert active.codes == ("TRIGGER_ACTIVE",)


def test_the_margin_decides(answers):
    """60 of 60 rows rise: the interval's lower end is 60/62 − 1.96·√(61 − 3600/62)/62 ≈ .914."""
    inputs, labels = rows()
    loose, strict = (
        TriggerAudit(margin=margin)(answers(None), answers(2), inputs, labels, PatchTrigger(9.0), 2)
        for margin in (0.93, 0.90)
    )
    assert (loose.codes, strict.codes) == ((), ("TRIGGER_WOKEN",))


def test_an_unknown_target_is_found_on_other_rows(answers):
    report = TriggerAudit().search(answers(None), answers(2), *rows(), PatchTrigger(9.0))
    assert report.figures["target"] == 2.0
    assert report.figures["rows"] == 30.0  # odd rows of the two other classes
    assert report.codes == ("TRIGGER_WOKEN",)
