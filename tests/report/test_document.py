"""The audit document: round trip, parts that are missing, and that no single row can be read from it."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from amu_fast.audit.attacks import LossThreshold
from amu_fast.errors import DataError
from amu_fast.report.binned import CHANGE_EDGES, LOSS_EDGES, Histogram, LossHistograms, RocRecord
from amu_fast.report.document import PARTS, AuditDocument
from amu_fast.report.private import PrivateTable, keyed_id
from amu_fast.report.verdict_record import VerdictRecord


@pytest.fixture(scope="module")
def document(case):
    return case.document


def test_round_trip_restores_everything(document, tmp_path):
    again = AuditDocument.from_json(document.save(tmp_path / "audit.json").read_bytes())
    assert math.isnan(again.history["adjoint_residual"][-1])
    assert replace(again, history=document.history) == document
    assert again.to_json() == document.to_json()
    assert json.loads(document.to_json())["schema"] == "amu-fast-audit/1"


def test_the_ten_parts_are_fields_in_the_order_of_the_report(document):
    keys = [key for key in json.loads(document.to_json()) if key in PARTS]
    assert tuple(keys) == PARTS
    assert len(PARTS) == 10


def test_missing_parts_are_null_with_their_reason(empty):
    written = json.loads(empty.to_json())
    assert [written[part] for part in PARTS] == [None] * 10
    assert written["missing"]["roc"] == "no roc in this <test>"
    assert AuditDocument.from_json(empty.to_json()) == empty


def test_a_part_is_there_or_explained_and_never_both(document, empty):
    with pytest.raises(DataError, match=r"the parts \['roc'\] are empty; pass missing=\{'roc': 'why'\}"):
        replace(document, roc=None)
    with pytest.raises(DataError, match=r"missing names \['cost'\], which are there"):
        replace(document, missing={"cost": "forgotten"})
    with pytest.raises(DataError, match=r"missing names \['costs'\]"):
        replace(empty, missing={**empty.missing, "costs": "?"})


def test_a_verdict_without_a_reason_is_refused():
    with pytest.raises(DataError, match="'fails' needs at least one reason"):
        VerdictRecord("fails", 1, (), {}, ())


def numbers(value):
    """Every number of a JSON document."""
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, float) else []


def test_no_row_of_any_model_can_be_read_from_the_document(case, document):
    """Neither a score, nor a loss, nor the change of a score; the private table holds exactly these."""
    scores = [case.members[name] for name in case.members] + [case.nonmembers[name] for name in case.nonmembers]
    losses = [values for parts in case.losses.values() for values in parts.values()]
    change = case.members["unlearned"] - case.members["original"]
    secret = np.round(np.abs(np.concatenate([*scores, *losses, change])), 9)
    shared = np.round(np.abs(numbers(json.loads(document.to_json()))), 9)
    assert not np.isin(secret, shared).any()
    private = np.round(np.abs(numbers(json.loads(case.private.to_json()))), 9)
    assert np.isin(np.round(np.abs(case.members["unlearned"]), 9), private).all()


def test_the_document_has_no_ids_and_the_private_table_no_row_numbers(case, document):
    private = case.private
    ids = {row.id for row in private.forget}
    assert len(ids) == 120
    text = document.to_json()
    assert not any(name in text for name in ids)
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in ids)


def test_edges_do_not_depend_on_the_rows():
    """An edge at the largest loss would give that loss away."""
    first, second = (LossHistograms.of({"a": {"forget": [loss, 1.0]}}) for loss in (0.01, 500.0))
    assert first.models["a"]["forget"].edges == second.models["a"]["forget"].edges == LOSS_EDGES
    assert LOSS_EDGES[0] == 1e-6
    assert LOSS_EDGES[-1] == 100.0


def test_histograms_count_every_row_once_those_outside_too():
    histogram = Histogram.of([-100.0, -0.5, 0.25, 0.75, 100.0], CHANGE_EDGES)
    assert histogram.rows == 5
    assert histogram.counts[0] == histogram.counts[-1] == 1
    assert histogram.counts[19:21] == (1, 2)
    assert sum(histogram.shares) == pytest.approx(1.0)


@pytest.mark.parametrize(("edges", "counts"), [((0.0, 1.0), (1, 2)), ((0.0, 0.0, 1.0), (1, 2)), ((1.0, 0.0), (1,))])
def test_histograms_with_edges_that_do_not_fit(edges, counts):
    with pytest.raises(DataError, match="increasing edges"):
        Histogram(edges, counts)


def test_roc_records_hold_the_curve_to_four_digits(case):
    from amu_fast.audit.roc import roc_curve

    result = case.attacked(LossThreshold(in_game=True), "original")
    record = RocRecord.of(result, "original")
    curve = roc_curve(result.member_scores, result.nonmember_scores)
    np.testing.assert_allclose(record.curve().tpr, curve.tpr, atol=5e-5)
    np.testing.assert_allclose(record.curve().low, curve.low, atol=5e-5)
    assert (record.in_game, record.members, record.nonmembers) == (True, 120, 300)


def test_no_roc_where_less_than_half_the_axis_is_left():
    assert RocRecord.of(LossThreshold().run((np.arange(20.0), np.arange(20.0))), "toy") is None


def test_private_rows_are_in_order_and_the_worst_percent_is_marked(case):
    private = case.private
    after = [row.after for row in private.forget]
    assert after == sorted(after, reverse=True)
    assert [row.worst for row in private.forget] == [True, True] + [False] * 118  # ceil(1.2)
    assert private.worst == private.forget[:2]
    assert len(private.regressions) == 3
    assert PrivateTable.from_json(private.to_json()) == private


def test_ids_are_an_hmac_and_short_keys_are_refused():
    key = b"k" * 32
    assert keyed_id(key, 12) == hmac.new(key, b"12", hashlib.sha256).hexdigest()[:16]
    assert keyed_id(key, 12) != keyed_id(b"l" * 32, 12)
    with pytest.raises(DataError, match="the key has 8 bytes; use at least 16"):
        keyed_id(b"k" * 8, 12)
