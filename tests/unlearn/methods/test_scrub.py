from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from digits import gradients, loss_on, weights
from torch.nn import functional

from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.splits import Splits
from amu_fast.unlearn.methods import Scrub
from amu_fast.unlearn.methods.scrub import softened_divergence
from amu_fast.unlearn.optimise import Sgd

PLAIN = Sgd(lr=0.01, momentum=0.0, weight_decay=0.0, schedule="constant")
SMALL = {"batch_size": 50, "forget_batch_size": 50}


def test_the_divergence_is_of_the_teacher_from_the_student_times_t_squared():
    teacher, student = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    p, q = (z.div(3.0).softmax(1) for z in (teacher, student))
    expected = (p * (p / q).log()).sum(1).mean() * 9.0
    torch.testing.assert_close(softened_divergence(teacher, student, 3.0), expected)
    other_way = (q * (q / p).log()).sum(1).mean() * 9.0
    assert abs(float(softened_divergence(teacher, student, 3.0) - other_way)) > 1e-3


def test_each_of_the_first_rounds_climbs_before_it_descends(trained, splits):
    report = Scrub(epochs=4.0, rounds=3, max_rounds=2, optimiser=Sgd(lr=1e-3), **SMALL).unlearn(trained, splits).report
    climbs = [loss is not None for loss in report.history["forget_loss"]]
    kinds = "".join("f" if climb else "r" for climb in climbs)
    assert kinds == "ff" + "rrrr" + "ff" + "rrrr" + "rrrrrr"  # 1200 of budget; a step costs 50 and 50/3


def test_a_retain_step_follows_gamma_ce_plus_alpha_kl(trained, splits):
    """The student in train mode, the teacher in eval mode, both from the trained weights."""
    spec = Scrub(
        epochs=1.2, rounds=1, max_rounds=0, retain_share=0.7, distillation=0.4, batch_size=300, optimiser=PLAIN
    )
    model = spec.unlearn(trained, splits).model
    student, teacher = deepcopy(trained).train(), deepcopy(trained).eval()
    inputs, labels = splits.rows("retain").part()
    logits = student(inputs)
    divergence = softened_divergence(teacher(inputs).detach(), logits, 4.0)
    (0.7 * functional.cross_entropy(logits, labels) + 0.4 * divergence).backward()
    step = (weights(trained) - weights(model)) / 0.01
    torch.testing.assert_close(step, gradients(student), rtol=5e-3, atol=5e-4)


def test_the_model_leaves_its_teacher_on_forget_rows_and_stays_on_retain_rows(trained, splits):
    spec = Scrub(epochs=12.0, rounds=6, max_rounds=4, distillation=0.5, optimiser=Sgd(lr=0.02), **SMALL)
    model = spec.unlearn(trained, splits).model

    def moved(part):
        (after, _), (before, _) = (predict(m, splits.rows(part)) for m in (model, trained))
        return float(softened_divergence(before, after, 1.0))

    assert moved("forget") > 1.5 * moved("retain")
    assert loss_on(model, splits, "forget") > loss_on(trained, splits, "forget") + 0.08


def test_rewinding_returns_the_round_whose_forget_error_is_nearest_to_validations(trained, splits):
    """Every round's model is made again by runs that end there, and the choice is checked by hand."""
    options = {"retain_share": 1.0, "distillation": 0.5, "max_rounds": 5, "optimiser": Sgd(lr=6e-3)} | SMALL
    spec = Scrub(epochs=10.0, rounds=5, rewind=True, **options)
    seen = []

    class Watch:
        def on_step(self, state):
            seen.append((state.used / state.budget, deepcopy(state.model)))

    result = Scrub(epochs=10.0, rounds=5, rewind=True, callbacks=(Watch(),), **options).unlearn(trained, splits)
    again = spec.unlearn(trained, splits)
    assert torch.equal(weights(result.model), weights(again.model))

    def error(model, rows):
        logits, labels = predict(model, rows)
        return float((logits.argmax(1) != labels).double().mean())

    ends = [max((s for s in seen if s[0] <= k / 5 + 1e-9), key=lambda s: s[0])[1] for k in range(1, 6)]
    game = splits.split_validation(0, 0.5)[0]
    target = error(seen[-1][1], game)  # the forget rows are of all classes
    best = min([*ends[:-1], seen[-1][1]], key=lambda m: abs(error(m, splits.rows("forget")) - target))
    assert error(result.model, splits.rows("forget")) == pytest.approx(error(best, splits.rows("forget")), abs=0.021)


def test_rewinding_without_validation_rows_of_the_classes_is_refused(trained, digits):
    labels = digits[1]
    zeros, others = (labels == 0).nonzero().flatten(), (labels != 0).nonzero().flatten()
    splits = Splits.from_indices(digits, retain=others[:200], forget=zeros[:40], validation=others[200:300])
    with pytest.raises(DataError, match="rewinding needs validation rows of the forget rows' classes"):
        Scrub(rewind=True).unlearn(trained, splits)


def test_temperature_is_checked():
    with pytest.raises(DataError, match="temperature must be > 0, got 0"):
        Scrub(temperature=0.0)
