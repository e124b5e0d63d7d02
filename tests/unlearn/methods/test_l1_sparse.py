from __future__ import annotations

import pytest
import torch
from digits import weights

from amu_fast.errors import DataError
from amu_fast.unlearn.methods import FineTune, L1Sparse
from amu_fast.unlearn.optimise import Sgd

PLAIN = Sgd(lr=0.01, momentum=0.0, weight_decay=0.0, schedule="constant")


def test_the_first_step_is_fine_tunings_minus_lr_gamma_sign(trained, splits):
    tuned = FineTune(epochs=1.0, batch_size=300, optimiser=PLAIN).unlearn(trained, splits).model
    sparse = L1Sparse(epochs=1.0, weight=0.02, batch_size=300, optimiser=PLAIN).unlearn(trained, splits).model
    expected = weights(tuned) - 0.01 * 0.02 * weights(trained).sign()
    torch.testing.assert_close(weights(sparse), expected, rtol=0, atol=1e-6)


def test_the_penalty_falls_linearly_to_nothing(trained, splits):
    """Two steps of 1/2 of the budget each: the second weighs gamma/2; the retain gradient is taken away by weight 0."""

    def moved(weight):
        spec = L1Sparse(epochs=2.0, weight=weight, batch_size=300, optimiser=PLAIN)
        return weights(spec.unlearn(trained, splits).model)

    tiny = 1e-4  # so small that the retain gradient of the second step is the same
    shift = (moved(0.0) - moved(tiny)) / (0.01 * tiny)
    sign = weights(trained).sign()
    settled = weights(trained).abs() > 1e-3
    torch.testing.assert_close(shift[settled].median() / sign[settled].median(), torch.tensor(1.5), rtol=0.2, atol=0)


def test_more_weight_leaves_smaller_norms(trained, splits):
    norms = []
    for weight in (0.0, 1e-3, 1e-2):
        spec = L1Sparse(epochs=5.0, weight=weight, batch_size=30, optimiser=Sgd(lr=0.02))
        norms.append(float(weights(spec.unlearn(trained, splits).model).abs().sum()))
    assert norms[0] > 1.02 * norms[1] > 1.02**2 * norms[2]


def test_a_negative_weight_is_refused():
    with pytest.raises(DataError, match="weight must be >= 0 and finite, got -1"):
        L1Sparse(weight=-1.0)
