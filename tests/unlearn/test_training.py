"""What all methods share: budget, seeds, modes, record, callbacks, refusals."""

from __future__ import annotations

import io
from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from digits import PARTS, loss_on, network, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from amu_fast.errors import DataError, SolveError
from amu_fast.splits import Splits
from amu_fast.unlearn.methods import (
    FineTune,
    GradientAscent,
    NegGradPlus,
    Retrain,
    ScoreMomentMatching,
    Stackelberg,
)
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.progress import Progress

FAST = Sgd(lr=0.02)
METHODS = [
    Retrain(epochs=1.0, batch_size=32, optimiser=FAST),
    FineTune(epochs=1.0, batch_size=32, optimiser=FAST),
    GradientAscent(epochs=1.0, batch_size=32),
    NegGradPlus(epochs=1.0, batch_size=32),
    ScoreMomentMatching(epochs=1.0, batch_size=32, optimiser=FAST),
    Stackelberg(epochs=1.0, batch_size=32, optimiser=FAST),
    Stackelberg(epochs=1.0, batch_size=32, optimiser=FAST, base="random_labels", weight=0.0),
    replace(Stackelberg.as_published(), epochs=1.5, batch_size=32, name="as_published"),
]
by_name = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


@by_name
def test_same_seed_same_bits_other_seed_other_weights_and_the_original_untouched(method, splits):
    model = network(dropout=0.2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    first = method.unlearn(model, splits, seed=7)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    second = method.unlearn(model, splits, seed=7)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator must be left as it was"
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert first.report.history == second.report.history
    assert not torch.equal(weights(first.model), weights(method.unlearn(model, splits, seed=8).model))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in (*model.parameters(), *first.model.parameters()))


@by_name
@pytest.mark.parametrize("epochs", [1.0, 1.7])
def test_the_budget_is_met_within_one_step(method, trained, splits, epochs):
    result = replace(method, epochs=epochs).unlearn(trained, splits)
    cost, used = result.report.cost, result.report.history["used"]
    assert cost.budget == pytest.approx(300 * epochs)
    assert used[-1] == cost.gradient_samples >= cost.budget * (1 - 1e-9)
    assert used[-2] < cost.budget
    assert list(result.report.history["step"]) == list(range(1, cost.steps + 1))


def test_learning_rate_follows_the_budget(trained, splits):
    history = FineTune(epochs=2.0, batch_size=30, optimiser=Sgd(lr=0.1)).unlearn(trained, splits).report.history
    spec = Sgd(lr=0.1)
    assert history["lr"] == pytest.approx([spec.rate(30 * i / 600) for i in range(20)])


@dataclass
class Scribe:
    """A callback that counts steps, disturbs modes and random numbers, and may stop."""

    stop_at: int = 10**9
    steps: int = 0
    ended: int = 0

    def on_step(self, state):
        self.steps += 1
        state.model.eval()
        torch.rand(3)
        assert isinstance(state.value("retain_loss"), float)
        assert state.value("payoff") is None
        return "stop" if state.step >= self.stop_at else None

    def on_end(self):
        self.ended += 1


def test_callbacks_move_nothing_and_may_stop(splits):
    model = network(dropout=0.3)
    spec = FineTune(epochs=1.0, batch_size=32, optimiser=FAST)
    watch, stop = Scribe(), Scribe(stop_at=3)
    plain = spec.unlearn(model, splits)
    watched = replace(spec, callbacks=(watch,)).unlearn(model, splits)
    assert torch.equal(weights(plain.model), weights(watched.model))
    assert (watch.steps, watch.ended) == (plain.report.cost.steps, 1)
    stopped = replace(spec, callbacks=(stop,)).unlearn(model, splits).report.cost
    assert (stopped.steps, stopped.stopped, plain.report.cost.stopped) == (3, True, False)


def test_callbacks_are_closed_after_an_error(splits):
    watch = Scribe()
    with pytest.raises(SolveError):
        FineTune(optimiser=Sgd(lr=1e30), callbacks=(watch,)).unlearn(network(), splits)
    assert watch.ended == 1


def test_progress_logs_plain_lines_without_a_terminal(trained, splits):
    stream = io.StringIO()
    Stackelberg(epochs=1.0, batch_size=50, callbacks=(Progress(0.0, stream),)).unlearn(trained, splits)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("stackelberg")
    for word in ("retain loss", "payoff", "auditor accuracy", "forget - validation loss", "residual", "bound",
                 "ms/step", "ETA"):  # fmt: skip
        assert word in lines[-1]
    assert "100%" in lines[-1]


def test_progress_draws_one_line_in_a_terminal(trained, splits):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    FineTune(epochs=1.0, batch_size=50, callbacks=(Progress(stream=stream),)).unlearn(trained, splits)
    assert "fine_tune" in stream.getvalue()


class Counted(nn.Module):
    """Records batch sizes; answers with an object that has logits, as language-model libraries do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor):
        return type("Output", (), {"logits": self.inner(x)})()


def test_outputs_with_logits_are_understood(trained, splits):
    spec = Stackelberg(epochs=1.0, batch_size=32)
    wrapped, bare = (spec.unlearn(model, splits).model for model in (Counted(trained), trained))
    assert torch.equal(weights(wrapped), weights(bare))


class Pictures(Dataset):
    def __init__(self, digits) -> None:
        self.digits = digits

    def __len__(self) -> int:
        return len(self.digits[1])

    def __getitem__(self, index: int):
        return self.digits[0][index], int(self.digits[1][index])


@pytest.mark.parametrize("method", METHODS[4:6], ids=lambda m: m.name)
def test_datasets_loaders_and_tensors_give_the_same_bits(method, trained, digits, splits):
    parts = {name: torch.utils.data.Subset(Pictures(digits), index) for name, index in PARTS.items()}
    parts["forget"] = DataLoader(parts["forget"], batch_size=7, shuffle=True)
    other = method.unlearn(trained, Splits(**parts)).model
    assert torch.equal(weights(other), weights(method.unlearn(trained, splits).model))


def test_augmentation_touches_training_rows_by_its_own_seed(trained, splits):
    calls = []

    def shift(inputs: Tensor, rng: torch.Generator) -> Tensor:
        calls.append(len(inputs))
        return inputs + 0.1 * torch.rand(1, generator=rng)

    spec = Stackelberg(epochs=1.0, batch_size=50, rows_per_side=20, augment=shift)
    first, second = (spec.unlearn(trained, splits, seed=1).model for _ in range(2))
    assert torch.equal(weights(first), weights(second))
    assert set(calls) == {50}
    plain = replace(spec, augment=None).unlearn(trained, splits, seed=1).model
    assert not torch.equal(weights(first), weights(plain))


def with_nan(model: nn.Module) -> nn.Module:
    model = deepcopy(model)
    with torch.no_grad():
        model[4].weight[0, 0, 0, 0] = float("nan")
    return model


class Answers(nn.Module):
    """Answers in a form of choice."""

    def __init__(self, form) -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(64, 10), form

    def forward(self, x: Tensor):
        return self.form(self.layer(x.flatten(1)))


def frozen() -> nn.Module:
    return network().requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: with_nan(network()), r"NaN or infinity in 4\.weight; load a sound"),
        (lambda: lambda x: x, "model is a function"),
        (frozen, "requires_grad=True"),
        (lambda: Answers(lambda z: (z, z)), "returned a tuple"),
        (lambda: Answers(lambda z: {"out": z}), "returned a dict"),
        (lambda: Answers(lambda z: z[0]), r"shape \(10,\)"),
        (lambda: Answers(lambda z: z.unsqueeze(1)), r"shape \(1, 1, 10\)"),
        (lambda: Answers(lambda z: z.argmax(1, keepdim=True)), "dtype torch.int64"),
        (lambda: nn.Linear(64, 10), r"cannot take a retain row of dtype torch.float32 and shape \(1, 1, 8, 8\)"),
        (lambda: network().double(), "cannot take a retain row of dtype torch.float32"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), r"label \d at row \d+ lies outside \[0, 3\)"),
    ],
)
@pytest.mark.parametrize("method", [FineTune(epochs=0.1), Stackelberg(epochs=0.1)], ids=lambda m: m.name)
def test_models_refused_at_the_door(model, message, method, splits):
    with pytest.raises(DataError, match=message):
        method.unlearn(model(), splits)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (FineTune(epochs=0.0), "epochs must be > 0 and finite, got 0.0"),
        (FineTune(batch_size=0), "batch_size must be >= 1, got 0"),
    ],
)
def test_options_refused_at_the_door(method, message, trained, splits):
    with pytest.raises(DataError, match=message):
        method.unlearn(trained, splits)


def test_negative_seeds_are_refused(trained, splits):
    with pytest.raises(DataError, match="seed must be >= 0, got -1"):
        FineTune(epochs=0.1).unlearn(trained, splits, seed=-1)


def poisoned(digits, part: str) -> Splits:
    inputs = digits[0].clone()
    inputs[list(PARTS[part])] = float("nan")
    return Splits.from_indices((inputs, digits[1]), **PARTS)


@pytest.mark.parametrize(
    ("method", "part", "message"),
    [
        (FineTune(epochs=1.0), "retain", "retain_loss is nan at step 1 of fine_tune"),
        (GradientAscent(), "forget", "forget_loss is nan at step 1"),
        (NegGradPlus(epochs=1.0), "forget", "forget_loss is nan at step 1"),
        (ScoreMomentMatching(epochs=1.0), "validation", "moment_gap is nan at step 1"),
        (Stackelberg(epochs=1.0), "forget", "payoff is nan at step 1 of stackelberg"),
        (Stackelberg(epochs=1.0), "validation", "payoff is nan at step 1 of stackelberg"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_nan_scores_are_errors_that_name_the_step(method, part, message, trained, digits):
    with pytest.raises(SolveError, match=message):
        method.unlearn(trained, poisoned(digits, part))


def test_divergence_names_the_step_and_the_fix(trained, splits):
    with pytest.raises(SolveError, match=r"at step \d+ of fine_tune.*lower optimiser\.lr"):
        FineTune(epochs=3.0, batch_size=32, optimiser=Sgd(lr=1e6, schedule="constant")).unlearn(trained, splits)


def test_weights_that_break_in_the_last_step_are_found(trained, splits):
    with pytest.raises(SolveError, match=r"after step 1 of fine_tune the weights hold NaN or infinity in 0\.weight"):
        FineTune(epochs=0.5, batch_size=150, optimiser=Sgd(lr=1e38, weight_decay=1e4)).unlearn(trained, splits)


def test_fine_tuning_lowers_the_retain_loss(splits):
    model = FineTune(epochs=4.0, batch_size=32, optimiser=Sgd(lr=0.05)).unlearn(network(), splits).model
    assert loss_on(model, splits, "retain") < 0.7 * loss_on(network(), splits, "retain")


@pytest.mark.gpu
@by_name
def test_models_on_a_device_take_rows_from_the_host(method, trained, splits):
    result = method.unlearn(deepcopy(trained).cuda(), splits)
    assert all(tensor.is_cuda for tensor in result.model.state_dict().values())
    assert result.report.cost.steps == method.unlearn(trained, splits).report.cost.steps
