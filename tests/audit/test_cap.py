"""The cap of docs/statistics.md, S15."""

from __future__ import annotations

import math

import pytest
import torch

from amu_fast.audit import ChanceCap
from amu_fast.errors import DataError


def feed(cap: ChanceCap, differences) -> ChanceCap:
    for difference in differences:
        cap = cap.update(-1 + float(difference), -1)
    return cap


def test_average_and_error_are_those_of_the_definition():
    differences = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.3
    cap = feed(ChanceCap(decay=0.9), differences)
    weights = 0.9 ** torch.arange(29, -1, -1, dtype=torch.float64)
    weights = weights / weights.sum()
    mean = (weights * differences).sum()
    deviation = (weights * (differences - mean).square()).sum().sqrt()
    assert cap.excess == pytest.approx(float(mean), rel=1e-12)
    assert cap.standard_error == pytest.approx(float(deviation * weights.square().sum().sqrt()), rel=1e-10)


def test_error_tends_to_the_stationary_formula():
    differences = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cap = feed(ChanceCap(decay=0.95), differences)
    variance = cap.square - cap.mean**2
    assert cap.standard_error == pytest.approx(math.sqrt(variance) * math.sqrt(0.05 / 1.95), rel=1e-9)


def test_signal_keeps_the_game_on_and_its_absence_turns_it_off():
    noise = 0.1 * torch.randn(200, generator=torch.Generator().manual_seed(2))
    assert feed(ChanceCap(), 0.3 + noise).active
    assert not feed(ChanceCap(), noise - 0.1).active
    again = feed(feed(ChanceCap(), noise - 0.1), 0.5 + noise)
    assert again.active


def test_null_steps_are_mostly_off_unlike_a_hard_cap():
    noise = 0.1 * torch.randn(2000, generator=torch.Generator().manual_seed(3))
    cap, on = ChanceCap(), 0
    for difference in noise:
        cap = cap.update(float(difference), 0.0)
        on += cap.active
    assert on / 2000 < 0.3


def test_the_warm_up_is_on_whatever_it_shows():
    cap = ChanceCap(warmup=3)
    assert cap.active
    assert feed(cap, [-1, -1]).active
    assert not feed(cap, [-1, -1, -1]).active


def test_a_payoff_that_is_not_finite_changes_nothing():
    cap = feed(ChanceCap(), [0.1, 0.2])
    assert cap.update(math.nan, -1.0) == cap


@pytest.mark.parametrize(("options", "message"), [({"decay": 1.0}, "decay.*got 1.0"), ({"warmup": 0}, "warmup.*got 0")])
def test_bad_options(options, message):
    with pytest.raises(DataError, match=message):
        ChanceCap(**options)
