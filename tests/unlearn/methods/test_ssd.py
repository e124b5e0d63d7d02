from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from digits import loss_on, weights

from amu_fast.errors import DataError
from amu_fast.unlearn.curvature import batch_fisher
from amu_fast.unlearn.methods import SelectiveDampening


def flat(named):
    return torch.cat([value.flatten() for value in named.values()])


def test_only_weights_that_matter_more_to_the_forget_rows_are_dampened(trained, splits):
    """F_D is over the retain and the forget rows; one batch a part, so that the formula can be written out."""
    method = SelectiveDampening(epochs=3.0, selection=2.0, dampening=1.0, batch_size=300)
    result = method.unlearn(trained, splits)
    of_retain, of_forget = (flat(batch_fisher(trained, splits.rows(part), 300)) for part in ("retain", "forget"))
    of_all = (of_retain + of_forget) / 2
    chosen = of_forget > 2.0 * of_all
    assert not chosen.any()  # with two batches F_f <= 2 F_D always
    assert torch.equal(weights(result.model), weights(trained))

    method = SelectiveDampening(epochs=3.0, selection=1.5, dampening=1.2, batch_size=300)
    result = method.unlearn(trained, splits)
    chosen = of_forget > 1.5 * of_all
    factor = torch.where(chosen, (1.2 * of_all / of_forget).clamp_max(1.0), 1.0)
    torch.testing.assert_close(weights(result.model), weights(trained) * factor, rtol=1e-4, atol=1e-7)
    assert result.report.history["dampened"][0] == pytest.approx(float(chosen.float().mean()), abs=1e-6)
    assert 0 < int(chosen.sum()) < len(chosen)


def test_it_harms_the_forget_rows_more(trained, splits):
    model = SelectiveDampening(epochs=3.0, selection=1.3, batch_size=20).unlearn(trained, splits).model
    rise = {part: loss_on(model, splits, part) - loss_on(trained, splits, part) for part in ("retain", "forget")}
    assert rise["forget"] > 1.3 * rise["retain"] > 0


def test_a_small_budget_looks_at_fewer_retain_rows(trained, splits):
    report = SelectiveDampening(epochs=1.0, batch_size=20).unlearn(trained, splits).report
    assert report.cost.gradient_samples == 300
    with pytest.raises(DataError, match="the 100 forget rows take"):
        SelectiveDampening(epochs=0.7, batch_size=20).unlearn(deepcopy(trained), splits)


def test_options_are_checked():
    with pytest.raises(DataError, match="selection must be > 0 and finite, got 0"):
        SelectiveDampening(selection=0.0)
