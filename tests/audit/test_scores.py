"""Score maps against hand-computed values, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from amu_fast.audit import (
    ModelOutputs,
    TopK,
    confidence,
    log_likelihood,
    logits_and_loss,
    margin,
    modified_entropy,
)
from amu_fast.errors import DataError

P = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]
OUTPUTS = ModelOutputs(torch.tensor(P, dtype=torch.float64).log() + 3.0, torch.tensor([0, 2]))


def test_values_by_hand_with_unequal_labels_in_one_batch():
    assert torch.allclose(log_likelihood(OUTPUTS).exp().flatten(), torch.tensor([0.7, 0.3], dtype=torch.float64))
    assert torch.allclose(confidence(OUTPUTS).flatten(), torch.tensor([0.7, 0.3], dtype=torch.float64))
    assert torch.allclose(margin(OUTPUTS).flatten(), torch.tensor([0.5, -0.3], dtype=torch.float64))
    first = -(-0.3 * math.log(0.7) - 0.2 * math.log(0.8) - 0.1 * math.log(0.9))
    second = -(-0.7 * math.log(0.3) - 0.1 * math.log(0.9) - 0.6 * math.log(0.4))
    expected = torch.tensor([first, second], dtype=torch.float64)
    assert torch.allclose(modified_entropy(OUTPUTS).flatten(), expected)
    assert torch.allclose(TopK(2)(OUTPUTS).exp()[1], torch.tensor([0.6, 0.3], dtype=torch.float64))


def test_logits_and_loss_is_the_published_vector():
    scores = logits_and_loss(OUTPUTS)
    assert scores.shape == (2, 4)
    assert torch.equal(scores[:, :3], OUTPUTS.logits)
    assert scores[0, 3] == pytest.approx(-math.log(0.7))


@pytest.mark.parametrize("score", [log_likelihood, logits_and_loss, confidence, margin, modified_entropy, TopK(2)])
def test_every_map_is_differentiable_and_widens_half_precision(score):
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0])
    assert torch.autograd.gradcheck(lambda z: score(ModelOutputs(z, labels)), (logits,))
    assert score(ModelOutputs(logits.detach().bfloat16(), labels)).dtype == torch.float32


def test_certain_predictions_give_finite_scores_and_gradients():
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    outputs = ModelOutputs(logits, torch.tensor([0, 0]))
    for score in (log_likelihood, margin, modified_entropy):
        value = score(outputs)
        assert torch.isfinite(value).all()
        assert torch.isfinite(torch.autograd.grad(value.sum(), logits)[0]).all()


def test_higher_means_member():
    sure = ModelOutputs(torch.tensor([[5.0, 0.0]]), torch.tensor([0]))
    wrong = ModelOutputs(torch.tensor([[5.0, 0.0]]), torch.tensor([1]))
    for score in (log_likelihood, confidence, margin, modified_entropy):
        assert score(sure) > score(wrong)


def test_bad_input():
    with pytest.raises(DataError, match=r"labels must be \(2,\).*got \(3,\)"):
        ModelOutputs(torch.zeros(2, 4), torch.zeros(3).long())
    with pytest.raises(DataError, match="k must be at most the number of classes 3, got 5"):
        TopK(5)(OUTPUTS)
    with pytest.raises(DataError, match="k must be >= 1, got 0"):
        TopK(0)
