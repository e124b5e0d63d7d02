"""The Stackelberg game: the unlearner leads, the auditor best-responds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from amu_fast.audit.auditor import Auditor
from amu_fast.audit.cap import ChanceCap
from amu_fast.audit.scores import confidence, logits_and_loss
from amu_fast.errors import DataError
from amu_fast.followers import SquaredHinge
from amu_fast.unlearn.auditing import AuditRows
from amu_fast.unlearn.batch_norm import latest_statistics
from amu_fast.unlearn.game import Game, Leader
from amu_fast.unlearn.optimise import Optimiser, Sgd
from amu_fast.unlearn.streams import BatchStream, Joined, Relabelled, generator, relabel
from amu_fast.unlearn.training import Augment, Run, Values

if TYPE_CHECKING:
    from torch import nn

    from amu_fast.audit.step import Parts
    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result

Implicit = Literal["full", "direct_only", "implicit_only"]
_PARTS: dict[Implicit, Parts] = {"full": "full", "direct_only": "direct", "implicit_only": "implicit"}
_SCHEDULES = ("joint", "alternating")
_BASES = ("fine_tune", "random_labels")


@dataclass(frozen=True)
class Stackelberg:
    """min L_base(θ) + α · M(θ, w*(θ)), w* the auditor's best response: equation (1) of docs/game.md.

    M ≤ 0 is the auditor's payoff; the auditor wants it high, the leader lowers it. The defaults are the recommended
    preset (section 10): the loss alone as score, in its bounded form p_y, non-member scores held constant, one group,
    joint schedule, every second step, no momentum (a game step's pull must not persist when its sign has changed).
    `as_published()` is the other preset. Weight 0 is the control "α = 0 with the game's forward passes": same rows,
    same random numbers, same charge, payoff recorded, no gradient from it.

    Source: Di, Yu, Vorobeychik, Liu, "Adversarial Machine Unlearning", ICLR 2025 (arXiv 2406.07687), with the total
    derivative, batch-norm, schedule and selection faults of its release corrected (docs/game.md sections 4 and 7).

    Args:
        epochs: Budget in retain-set sizes; auditing rows count too.
        auditor: Score map, follower, groups (classes with few rows are pooled), folds; with `hold_nonmembers`
            validation rows go forward without gradient and count a third.
        weight: α ≥ 0.
        schedule: "joint": every `every`-th step adds the gradient of α · M of one auditing batch to the retain
            batch's. "alternating": about an epoch of retain steps, then one step along the gradients of α · M summed
            over the auditing batches of one pass over the forget rows, with an optimiser of its own.
        every: Joint schedule: an auditing batch at every `every`-th step.
        rows_per_side: Forget rows and V_game rows of an auditing batch, at most.
        base: L_base: "fine_tune" is CE on retain rows; "random_labels" is CE on retain rows and on forget rows with
            labels drawn once, never the true one, shuffled together.
        cap: Switches the game off while the payoff is at chance (S15); None: never.
        game_optimiser: Alternating schedule: the game step's own SGD. None: the retain steps' largest rate throughout,
            without momentum and weight decay.
        implicit: "full" gradient, or one of its two terms alone, for the ablation.
        game_fraction: Share of the validation rows that is V_game; the rest, V_tune, is never read (S16).
        split_seed: Seed of that cut, the same for every run so that V_tune stays untouched.
        optimiser: SGD of the retain steps (joint: of all steps).
        batch_size: Rows of a retain batch.
        augment: Changes retain inputs, `augment(inputs, generator)`; auditing rows are never augmented.
        callbacks: Called after every step.
    """

    epochs: float = 5.0
    auditor: Auditor = field(default_factory=lambda: Auditor(scores=confidence))
    weight: float = 5.0
    schedule: Literal["joint", "alternating"] = "joint"
    every: int = 2
    rows_per_side: int = 64
    base: Literal["fine_tune", "random_labels"] = "fine_tune"
    cap: ChanceCap | None = field(default_factory=ChanceCap)
    game_optimiser: Sgd | None = None
    implicit: Implicit = "full"
    game_fraction: float = 0.5
    split_seed: int = 0
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.15, momentum=0.0))
    batch_size: int = 64
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "stackelberg"

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight < float("inf"):
            raise DataError(f"weight must be >= 0 and finite, got {self.weight}; 0 runs the control without the game")
        for option, value, allowed in (
            ("schedule", self.schedule, _SCHEDULES),
            ("base", self.base, _BASES),
            ("implicit", self.implicit, tuple(_PARTS)),
        ):
            if value not in allowed:
                raise DataError(f"{option} must be one of {allowed}, got {value!r}")
        for option, number in (("every", self.every), ("rows_per_side", self.rows_per_side)):
            if number < 1:
                raise DataError(f"{option} must be >= 1, got {number}")
        if self.game_optimiser is not None and self.schedule == "joint":
            raise DataError("game_optimiser is for schedule='alternating'; the joint schedule has one optimiser")

    @classmethod
    def as_published(cls) -> Stackelberg:
        """Logits and loss, one attack per class, both sides differentiated, alternating; made well-posed.

        The follower has an l2 > 0 instead of a plain linear program, classes with too few rows are pooled, and the
        game step has its own optimiser state.
        """
        auditor = Auditor(
            follower=SquaredHinge(l2=1e-2),
            scores=logits_and_loss,
            groups="class",
            hold_nonmembers=False,
            standardize=False,
        )
        return cls(
            auditor=auditor,
            weight=1.0,
            schedule="alternating",
            rows_per_side=1000,
            optimiser=Sgd(lr=0.01),
            batch_size=128,
        )

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` on which the auditor does no better than chance, as far as the budget and weight allow.

        Raises:
            DataError: Unusable model or splits.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        base = self._base(run)
        run.refresh_at_end(base)
        hold = self.auditor.hold_nonmembers
        rows = AuditRows.of(run, self.auditor.scores, self.rows_per_side, self.game_fraction, self.split_seed, hold)
        game = Game(rows, Leader(self.auditor, self.weight, parts=_PARTS[self.implicit], cap=self.cap))
        if self.schedule == "joint":
            return run.train(lambda: run.update(lambda: self._joint_gradient(run, base, game)))
        return run.train(_Alternating(self, run, base, game).step)

    def _base(self, run: Run) -> BatchStream:
        retain = run.rows("retain")
        if self.base == "fine_tune":
            return run.stream("retain", retain)
        forget = run.rows("forget")
        labels = relabel(forget.labels(), run.classes, generator(run.seed, "random_labels"))
        return run.stream("retain", Joined(retain, Relabelled(forget, labels)))

    def _joint_gradient(self, run: Run, base: BatchStream, game: Game) -> Values:
        """Retain batch first: the game then freezes the batch-norm statistics of that batch."""
        if run.steps % self.every:
            return run.descend(base)
        with latest_statistics(run.model):
            return {**run.descend(base), **game.descend()}


class _Alternating:
    """Retain steps, and a game step at the end of each of k equal shares of the budget, about an epoch each."""

    def __init__(self, method: Stackelberg, run: Run, base: BatchStream, game: Game) -> None:
        spec = method.game_optimiser or Sgd(method.optimiser.lr, momentum=0.0, weight_decay=0.0, schedule="constant")
        self._run, self._base, self._game = run, base, game
        self._optimiser = Optimiser(spec, run.model.parameters())
        epoch = len(run.splits.rows("retain")) + game.pass_cost
        self._share = run.meter.budget / max(1, round(run.meter.budget / epoch))
        self._game_steps = 0
        if game.pass_cost >= self._share:
            raise DataError(
                f"a game step costs {game.pass_cost:.0f} gradient samples and its share of the budget is "
                f"{self._share:.0f}, retain steps included; raise epochs or use schedule='joint'"
            )

    def step(self) -> Values:
        """The next retain step, or the game step if its turn has come."""
        if self._run.meter.used < (self._game_steps + 1) * self._share - self._game.pass_cost:
            return self._run.update(lambda: self._run.descend(self._base))
        self._game_steps += 1
        return self._run.update(self._game_gradient, self._optimiser)

    def _game_gradient(self) -> Values:
        """Sum over the batches of a pass, as released; records the last one."""
        for _ in range(self._game.batches_per_pass - 1):
            self._game.descend()
        return self._game.descend()
