"""The leader's update, step by step and by hand."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from digits import PARTS, gradients, loss_on, network, weights
from torch import nn
from torch.nn import functional

from amu_fast.audit import Auditor, ChanceCap, ModelOutputs, log_likelihood, logits_and_loss
from amu_fast.audit.predict import eval_mode
from amu_fast.errors import DataError
from amu_fast.splits import Splits
from amu_fast.unlearn.batch_norm import latest_statistics
from amu_fast.unlearn.game import Game, Leader
from amu_fast.unlearn.methods import FineTune, ScoreMomentMatching, Stackelberg
from amu_fast.unlearn.methods.moments import moment_gap
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import BatchStream, generator

PLAIN = Sgd(lr=0.01, momentum=0.0, weight_decay=0.0, schedule="constant")
CPU = torch.device("cpu")


class Spy:
    """A score map that keeps what it was shown."""

    def __init__(self, scores=log_likelihood) -> None:
        self.scores, self.seen = scores, []

    def __call__(self, outputs: ModelOutputs) -> torch.Tensor:
        self.seen.append(outputs)
        return self.scores(outputs)


def drawn(splits: Splits, method: Stackelberg, seed: int, batches: int = 1):
    """The rows that a run with this seed draws for its auditing batches."""
    game, _ = splits.split_validation(method.split_seed, method.game_fraction)
    streams = [
        BatchStream(rows, method.rows_per_side, generator(seed, name), CPU, distinct=True)
        for name, rows in (("audit_forget", splits.rows("forget")), ("audit_validation", game))
    ]
    return [(streams[0].next(), streams[1].next()) for _ in range(batches)]


def payoff_gradient(model: nn.Module, auditor: Auditor, pair, step: int, parts="full") -> torch.Tensor:
    """∂M/∂θ in eval mode, non-members held constant or not as the auditor says."""
    with eval_mode(model):
        sides = [auditor.scores(ModelOutputs(model(inputs), labels)) for inputs, labels in pair]
    if auditor.hold_nonmembers:
        sides[1] = sides[1].detach()
    groups = tuple(labels for _, labels in pair) if auditor.groups else None
    model.zero_grad()
    auditor.payoff(*sides, groups=groups, step=step, parts=parts).value.backward()
    return gradients(model)


def retain_gradient(model: nn.Module, splits: Splits) -> torch.Tensor:
    inputs, labels = splits.rows("retain").part()
    model.zero_grad()
    functional.cross_entropy(model(inputs), labels).backward()
    return gradients(model)


@pytest.mark.parametrize(
    ("implicit", "parts"), [("full", "full"), ("direct_only", "direct"), ("implicit_only", "implicit")]
)
def test_joint_step_is_retain_gradient_plus_weight_times_payoff_gradient(trained, splits, implicit, parts):
    method = Stackelberg(
        epochs=1.0, weight=7.0, batch_size=300, rows_per_side=50, optimiser=PLAIN, implicit=implicit, cap=None
    )
    result = method.unlearn(trained, splits, seed=3)
    assert result.report.cost.steps == 1
    model = deepcopy(trained).train()
    with latest_statistics(model):
        retain = retain_gradient(model, splits)
        game = payoff_gradient(model, method.auditor, drawn(splits, method, 3)[0], 0, parts)
    assert game.norm() > 1e-3
    taken = (weights(trained) - weights(result.model)) / 0.01
    torch.testing.assert_close(taken, retain + 7.0 * game, rtol=5e-3, atol=5e-4)


def test_alternating_game_step_sums_over_the_auditing_batches(trained, splits):
    """With all of its retain steps at rate ~0, the run moves by the game step alone."""
    still = Sgd(lr=1e-12, momentum=0.0, weight_decay=0.0)
    auditor = Auditor(scores=logits_and_loss, hold_nonmembers=False)
    method = Stackelberg(
        epochs=1.5, weight=2.0, schedule="alternating", batch_size=50, rows_per_side=50, auditor=auditor, cap=None,
        optimiser=still, game_optimiser=PLAIN,
    )  # fmt: skip
    result = method.unlearn(trained, splits, seed=5)
    games = [x is not None for x in result.report.history["payoff"]]
    assert games == [False] * 5 + [True]
    # The game step saw the moving averages after five retain batches: replay them on the unmoved weights.
    model = deepcopy(trained).train()
    stream = BatchStream(splits.rows("retain"), 50, generator(5, "retain"), CPU)
    with torch.no_grad():
        for _ in range(5):
            model(stream.next()[0])
    expected = sum(payoff_gradient(model, auditor, pair, i) for i, pair in enumerate(drawn(splits, method, 5, 2)))
    taken = (weights(trained) - weights(result.model)) / 0.01
    torch.testing.assert_close(taken, 2.0 * expected, rtol=5e-3, atol=5e-4)


def test_alternating_optimisers_share_no_state(trained, splits):
    """Momentum of a game step must not persist into later retain steps: with retain rate 0 nothing else moves."""
    momentum = Sgd(lr=0.01, momentum=0.9, weight_decay=0.0, schedule="constant")
    method = Stackelberg(
        epochs=3.0, weight=2.0, schedule="alternating", batch_size=50, cap=None, game_optimiser=momentum,
        optimiser=Sgd(lr=1e-12, momentum=0.9, weight_decay=0.0),
    )  # fmt: skip
    seen = Recorder()
    replace(method, callbacks=(seen,)).unlearn(trained, splits)
    moved = [float((b - a).norm()) > 1e-6 for a, b in zip(seen.weights, seen.weights[1:], strict=False)]
    games = seen.games[1:]
    assert moved == games
    assert sum(games) == 2


class Recorder:
    """A callback that keeps weights, buffers and modes."""

    def __init__(self) -> None:
        self.weights, self.games, self.modes, self.used = [], [], [], []

    def on_step(self, state):
        self.weights.append(weights(state.model))
        self.games.append("payoff" in state.values)
        self.modes.append([m.training for m in state.model.modules()])
        self.used.append(state.used)


def test_weight_zero_is_fine_tuning_with_the_payoff_on_record(splits):
    model = network(dropout=0.3)
    optimiser = Sgd(lr=0.05, schedule="constant")
    control = Stackelberg(epochs=3.0, weight=0.0, batch_size=64, optimiser=optimiser).unlearn(model, splits, seed=1)
    steps = control.report.cost.steps
    plain = FineTune(epochs=steps * 64 / 300, batch_size=64, optimiser=optimiser).unlearn(model, splits, seed=1)
    assert plain.report.cost.steps == steps
    assert torch.equal(weights(control.model), weights(plain.model))
    assert control.report.history["retain_loss"] == plain.report.history["retain_loss"]
    payoff = control.report.history["payoff"]
    assert [x is not None for x in payoff] == [i % 2 == 0 for i in range(steps)]
    assert all(x < 0 for x in payoff if x is not None)


@pytest.mark.parametrize("schedule", ["joint", "alternating"])
def test_the_control_draws_and_charges_like_the_game(trained, splits, schedule):
    runs = []
    for weight in (0.0, 2.0):
        spy = Spy()
        method = Stackelberg(
            epochs=3.0, weight=weight, schedule=schedule, batch_size=50, auditor=Auditor(scores=spy), cap=None
        )
        result = method.unlearn(trained, splits, seed=2)
        runs.append((result, torch.cat([outputs.labels for outputs in spy.seen])))
    (control, mine), (game, theirs) = runs
    assert torch.equal(mine, theirs)
    assert control.report.history["used"] == game.report.history["used"]
    assert control.report.history["lr"] == game.report.history["lr"]
    assert set(control.report.history["game_on"]) <= {None, 0.0}
    assert set(game.report.history["game_on"]) == {None, 1.0}


def test_held_validation_rows_have_no_graph_and_count_a_third(trained, splits):
    for hold, share in ((True, 1 / 3), (False, 1.0)):
        spy = Spy()
        auditor = Auditor(scores=spy, hold_nonmembers=hold)
        method = Stackelberg(epochs=1.5, every=1, batch_size=50, rows_per_side=50, auditor=auditor, cap=None)
        used = method.unlearn(trained, splits).report.history["used"]
        assert [outputs.logits.requires_grad for outputs in spy.seen[:2]] == [True, not hold]
        assert used[1] - used[0] == pytest.approx(100 + share * 50)


def test_only_forget_and_v_game_rows_are_audited(trained, splits):
    spy = Spy()
    method = Stackelberg(epochs=6.0, every=1, auditor=Auditor(scores=spy), batch_size=32)
    method.unlearn(trained, splits)
    game, tune = splits.split_validation(0, 0.5)
    assert len(spy.seen) >= 20
    assert {len(outputs.labels) for outputs in spy.seen} == {64}
    # A model with an output per row would name the rows; here the labels' counts per side must fit the two pools.
    pools = [torch.bincount(rows.labels(), minlength=10) for rows in (splits.rows("forget"), game)]
    for i, outputs in enumerate(spy.seen):
        assert (torch.bincount(outputs.labels, minlength=10) <= pools[i % 2]).all()
    assert not set(game.base_index().tolist()) & set(tune.base_index().tolist())


class Touched(torch.utils.data.Dataset):
    """A data set that knows which rows were read."""

    def __init__(self, digits) -> None:
        self.digits, self.read = digits, set()

    def __len__(self) -> int:
        return len(self.digits[1])

    def __getitem__(self, index: int):
        self.read.add(index)
        return self.digits[0][index], self.digits[1][index]


@pytest.mark.parametrize("method", [Stackelberg, ScoreMomentMatching])
def test_v_tune_and_test_rows_are_never_read(trained, digits, method):
    data = Touched(digits)
    splits = Splits.from_indices(
        data, retain=range(300), forget=range(300, 400), validation=range(400, 700), test=range(700, 1000)
    )
    game, tune = splits.split_validation(0, 0.5)
    method(epochs=4.0, batch_size=32, every=1).unlearn(trained, splits)
    assert data.read >= set(game.base_index().tolist()) | set(range(400))
    assert not data.read & set(tune.base_index().tolist())
    assert not data.read & set(range(700, 1000))


def test_game_forwards_leave_statistics_and_modes_alone(trained, splits):
    model = deepcopy(trained).train()
    model[1].eval()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    modes = [m.training for m in model.modules()]
    run = _run(model, splits)
    run.model.train()
    run.model[1].eval()
    game = Game(_rows(run), Leader(Auditor(), weight=1.0))
    game.descend()
    assert gradients(run.model).norm() > 0
    for name, value in run.model.named_buffers():
        assert torch.equal(value, buffers[name]), name
    assert [m.training for m in run.model.modules()] == modes


def _run(model, splits):
    from amu_fast.unlearn.training import Run

    return Run(Stackelberg(), model, splits, 0)


def _rows(run):
    from amu_fast.unlearn.auditing import AuditRows

    return AuditRows.of(run, log_likelihood, 64, 0.5, 0, True)


def test_retain_steps_train_every_module_and_the_callers_modes_come_back(trained, splits):
    model = deepcopy(trained)
    model[4].train()
    seen = Recorder()
    result = Stackelberg(epochs=1.0, batch_size=50, callbacks=(seen,)).unlearn(model, splits)
    assert all(all(modes) for modes in seen.modes)
    assert [m.training for m in result.model.modules()] == [m.training for m in model.modules()]


def test_released_statistics_belong_to_the_released_weights(trained, splits):
    """A strong game once left eval mode with a loss ten times that of train mode."""
    method = Stackelberg(epochs=8.0, weight=5.0, every=1, batch_size=32, optimiser=Sgd(lr=0.02))
    model = method.unlearn(trained, splits).model
    inputs, labels = splits.rows("retain").part()
    with torch.no_grad():
        loss = functional.cross_entropy(deepcopy(model).train()(inputs), labels)
    assert loss_on(model, splits, "retain") < 1.2 * float(loss) + 0.05


def test_the_game_forgets_where_fine_tuning_does_not(trained, splits):
    spec = Stackelberg(epochs=8.0, batch_size=32, every=1, weight=5.0, optimiser=Sgd(lr=0.05))
    game = spec.unlearn(trained, splits).model
    control = replace(spec, weight=0.0).unlearn(trained, splits).model
    near, far = (loss_on(m, splits, "test") - loss_on(m, splits, "forget") for m in (game, control))
    assert near < 0.4 * far


def test_the_cap_switches_the_game_off_at_chance_and_charges_forwards(splits):
    """A model that answers the same to everything leaves nothing to find."""
    model = network()
    nn.init.zeros_(model[9].weight)
    nn.init.zeros_(model[9].bias)
    digits = splits.rows("forget").tensors[0]
    zeros = torch.zeros(len(digits), dtype=torch.int64)
    splits = Splits.from_indices((digits, zeros), **PARTS)
    frozen = Sgd(lr=1e-30, momentum=0.0, weight_decay=0.0)
    method = Stackelberg(epochs=16.0, every=1, batch_size=50, optimiser=frozen, cap=ChanceCap(warmup=5))
    history = method.unlearn(model, splits).report.history
    on = history["game_on"]
    assert on[:5] == (1.0,) * 5
    assert set(on[5:]) == {0.0}
    off = 5
    assert history["used"][off] - history["used"][off - 1] == pytest.approx(50 + 2 * 64 / 3)
    assert history["used"][1] - history["used"][0] == pytest.approx(50 + 64 + 64 / 3)
    assert None not in history["permuted_payoff"]


def test_the_cap_stays_on_while_there_is_signal(trained, splits):
    frozen = Sgd(lr=1e-9, momentum=0.0, weight_decay=0.0)
    method = Stackelberg(epochs=8.0, every=1, batch_size=50, optimiser=frozen, cap=ChanceCap(warmup=2))
    assert set(method.unlearn(trained, splits).report.history["game_on"]) == {1.0}


def test_random_labels_base_trains_on_wrong_labels(trained, splits):
    method = Stackelberg(epochs=6.0, weight=0.0, base="random_labels", batch_size=32, optimiser=Sgd(lr=0.05))
    forgot = method.unlearn(trained, splits).model
    kept = replace(method, base="fine_tune").unlearn(trained, splits).model
    assert loss_on(forgot, splits, "forget") > loss_on(kept, splits, "forget") + 0.5


def test_as_published_is_per_class_and_pools_small_classes(trained, splits):
    method = Stackelberg.as_published()
    assert method.auditor.groups == "class"
    assert not method.auditor.hold_nonmembers
    assert method.schedule == "alternating"
    result = replace(method, epochs=2.0, batch_size=50).unlearn(trained, splits)
    payoffs = [x for x in result.report.history["payoff"] if x is not None]
    assert payoffs
    assert all(-3.0 < x < 0.0 for x in payoffs)
    assert loss_on(result.model, splits, "retain") < 1.0


def test_moment_matching_steps_along_its_formula(trained, splits):
    method = ScoreMomentMatching(
        epochs=1.0, weight=0.5, scores=log_likelihood, batch_size=300, rows_per_side=50, optimiser=PLAIN
    )
    result = method.unlearn(trained, splits, seed=3)
    model = deepcopy(trained).train()
    with latest_statistics(model):
        retain = retain_gradient(model, splits)
        model.zero_grad()
        with eval_mode(model):
            member, other = (
                log_likelihood(ModelOutputs(model(inputs), labels)) for inputs, labels in drawn(splits, method, 3)[0]
            )
        moment_gap(member, other.detach()).backward()
    taken = (weights(trained) - weights(result.model)) / 0.01
    torch.testing.assert_close(taken, retain + 0.5 * gradients(model), rtol=5e-3, atol=5e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stackelberg(weight=-1.0), "weight must be >= 0 and finite, got -1.0"),
        (lambda: Stackelberg(weight=float("nan")), "got nan"),
        (lambda: Stackelberg(schedule="both"), r"schedule must be one of \('joint', 'alternating'\), got 'both'"),
        (lambda: Stackelberg(base="labels"), "base must be one of"),
        (lambda: Stackelberg(implicit="none"), "implicit must be one of"),
        (lambda: Stackelberg(every=0), "every must be >= 1, got 0"),
        (lambda: Stackelberg(rows_per_side=0), "rows_per_side must be >= 1, got 0"),
        (lambda: Stackelberg(game_optimiser=PLAIN), "game_optimiser is for schedule='alternating'"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "parts", "message"),
    [
        (Stackelberg(rows_per_side=1), {}, "auditing batch of 1 rows a side is too small"),
        (Stackelberg(), {"forget": [300]}, "1 forget rows"),
        (Stackelberg(), {"validation": [400]}, "fraction 0.5 leaves V_game or V_tune empty"),
        (Stackelberg(schedule="alternating", epochs=0.2), {}, "raise epochs or use schedule='joint'"),
    ],
)
def test_problems_too_small_for_the_game(trained, digits, method, parts, message):
    splits = Splits.from_indices(
        digits, **{"retain": range(300), "forget": range(300, 400), "validation": range(400, 500), **parts}
    )
    with pytest.raises(DataError, match=message):
        method.unlearn(trained, splits)
