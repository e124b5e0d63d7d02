from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from digits import gradients, weights
from torch.nn import functional

from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.splits import Splits
from amu_fast.unlearn.methods import ReGUn
from amu_fast.unlearn.methods.regun import HeldOutAnswers
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.training import Run

PLAIN = Sgd(lr=0.01, momentum=0.0, weight_decay=0.0, schedule="constant")


def test_the_target_is_the_mean_answer_on_held_out_rows_of_the_batchs_classes(trained, splits):
    answers = HeldOutAnswers(Run(ReGUn(), trained, splits, 0), 0, 0.5)
    logits, labels = predict(trained, splits.split_validation(0, 0.5)[0])
    p = logits.softmax(1)
    threes = p[labels == 3]
    target = answers.target(torch.full((4000,), 3))
    torch.testing.assert_close(target[0], threes.mean(0), rtol=0, atol=0.02)  # not the mean over all classes
    assert (target[0] - p.mean(0)).abs().max() > 0.3
    mixed = answers.target(torch.tensor([3, 8]).repeat(2000))
    torch.testing.assert_close(mixed[0], (threes.mean(0) + p[labels == 8].mean(0)) / 2, rtol=0, atol=0.02)


def test_one_step_follows_both_terms(trained, splits):
    """All rows in one batch; the target by the same draws."""
    spec = ReGUn(epochs=1.0, weight=0.3, batch_size=300, optimiser=PLAIN)
    model = spec.unlearn(trained, splits, seed=1).model
    reference = deepcopy(trained).train()
    inputs, labels = splits.rows("retain").part()
    (0.7 * functional.cross_entropy(reference(inputs), labels)).backward()
    run = Run(spec, trained, splits, 1)
    forget_inputs, forget_labels = run.stream("forget", run.rows("forget")).next()
    q = HeldOutAnswers(run, 0, 0.5).target(forget_labels)
    log_p = functional.log_softmax(reference(forget_inputs), 1)
    (0.3 * (q * (q.log() - log_p)).sum(1).mean()).backward()
    step = (weights(trained) - weights(model)) / 0.01
    torch.testing.assert_close(step, gradients(reference), rtol=5e-3, atol=5e-4)


def test_forget_rows_come_to_be_answered_like_held_out_rows(trained, splits):
    spec = ReGUn(epochs=8.0, weight=0.5, batch_size=30, optimiser=Sgd(lr=0.02, weight_decay=0.0))
    model = spec.unlearn(trained, splits).model

    def confidence(of, part):
        logits, labels = predict(of, splits.rows(part))
        return float(logits.softmax(1).gather(1, labels[:, None]).mean())

    before = confidence(trained, "forget") - confidence(trained, "test")
    after = confidence(model, "forget") - confidence(model, "test")
    assert before > 0.2
    assert abs(after) < 0.4 * before


def test_a_forget_class_without_held_out_rows_is_named(trained, digits):
    labels = digits[1]
    zeros, others = (labels == 0).nonzero().flatten(), (labels != 0).nonzero().flatten()
    splits = Splits.from_indices(digits, retain=others[:200], forget=zeros[:40], validation=others[200:300])
    with pytest.raises(DataError, match=r"the forget classes \[0\] have no held-out row"):
        ReGUn().unlearn(trained, splits)


def test_the_weight_is_checked():
    with pytest.raises(DataError, match=r"weight must lie in \[0, 1\], got 2"):
        ReGUn(weight=2.0)
