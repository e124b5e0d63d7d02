"""Audits every k steps, and the end of a run when an attack from outside the game finds no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from amu_fast.audit.language import sequence_log_likelihood
from amu_fast.audit.scores import ScoreMap, log_likelihood
from amu_fast.errors import DataError
from amu_fast.integrations.audits import Audit, figures, judge, score_rows, usual_score
from amu_fast.report.provenance import plain

if TYPE_CHECKING:
    from amu_fast.integrations.trainer import UnlearnTrainer
    from amu_fast.unlearn.objectives import Objective


@dataclass(frozen=True)
class EarlyStop:
    """Stop at the first step whose audit passes and where accuracy held: least intervention (docs/statistics.md S16).

    An attack on a ruined model passes too: so the accuracy on the audit's non-members, V_tune, must not be lower than
    the original's by more than a margin, at the lower end of its 90 % interval. With m members the smallest margin of
    the attack's that a test can pass is .060 (m = 200), .038 (500), .027 (1,000): S7.

    Args:
        patience: Audits in a row that must pass, >= 1.
        after: No stop before this many steps.
        accuracy_margin: Of the accuracy, > 0; None: it is not looked at.

    Raises:
        DataError: An option out of range.
    """

    patience: int = 1
    after: int = 0
    accuracy_margin: float | None = 0.02

    def __post_init__(self) -> None:
        if self.accuracy_margin is not None and not self.accuracy_margin > 0.0:
            raise DataError(f"accuracy_margin must be > 0 or None, got {self.accuracy_margin}; 0.02 is the default")
        if self.patience < 1:
            raise DataError(f"patience must be >= 1, got {self.patience}; 1 stops at the first audit that passes")

    def stops(self, audits: list[Audit]) -> bool:
        """Whether the run ends after the last of these audits of one attack."""
        latest = audits[-self.patience :]
        return (
            len(latest) == self.patience
            and latest[-1].step >= self.after
            and all(a.step > 0 and a.equivalent and self._holds(a) for a in latest)
        )

    def _holds(self, audit: Audit) -> bool:
        if self.accuracy_margin is None:
            return True
        return audit.accuracy_change is not None and audit.accuracy_change.low > -self.accuracy_margin


class AuditCallback(TrainerCallback):
    """An attack on the forget rows against rows that the game never saw, every `every` steps and at both ends.

    The audits are in `UnlearnTrainer.audits`, in the log as audit_{against}_{attack}_auc, _low, _high, _gap,
    _equivalent, _accuracy and _accuracy_low (of its change), and the last one in the report. All ranks audit.

    Args:
        every: Steps between two audits; None: only before and after the run.
        against: Non-members: "tune" (V_tune), or "test" (T, which is opened once: then only after the run).
        score: Score map whose first column is the attack's score; None: log-likelihood. Fixed, not trained.
        calibrated: Subtract the rows' key "reference", the log-likelihood under a model that saw neither side.
        name: Of the attack; None: from the score.
        margin: Of the equivalence test on the AUC, fixed before the run (S8).
        reference: The AUC that a model retrained without the forget rows has; .5 only for a forget set drawn at random
            from the non-members' distribution (S6).
        stop: Ends the run early; None: never.

    Raises:
        DataError: An option out of range, or T used for stopping.
    """

    def __init__(
        self,
        every: int | None = 50,
        *,
        against: str = "tune",
        score: ScoreMap | None = None,
        calibrated: bool = False,
        name: str | None = None,
        margin: float = 0.05,
        reference: float = 0.5,
        stop: EarlyStop | None = None,
    ) -> None:
        if every is not None and every < 1:
            raise DataError(f"every must be >= 1 or None, got {every}; 50 is usual")
        if against not in ("tune", "test"):
            raise DataError(f"against must be 'tune' or 'test', got {against!r}; the game's own rows say nothing (S12)")
        if against == "test" and (stop is not None or every is not None):
            raise DataError("test rows are opened once (S16): pass every=None and stop=None, or audit against 'tune'")
        if not 0.0 < margin < 0.5 or not 0.0 < reference < 1.0:
            raise DataError(f"margin must be in (0, .5) and reference in (0, 1), got {margin} and {reference}")
        self.every, self.against, self.stop = every, against, stop
        self.score, self.calibrated = usual_score if score is None else score, calibrated
        self.margin, self.reference = margin, reference
        self.name = _name_of(score, calibrated) if name is None else name
        self._trainer: UnlearnTrainer | None = None

    def set_trainer(self, trainer: UnlearnTrainer) -> None:
        """Whose model is audited."""
        trainer.splits.part(self.against)
        self._trainer = trainer

    def config(self) -> dict[str, Any]:
        """The options as plain values."""
        named = ("name", "every", "against", "calibrated", "margin", "reference", "score", "stop")
        return {name: plain(getattr(self, name)) for name in named}

    def audit(self) -> Audit:
        """Audit now, and log it."""
        if self._trainer is None:
            raise DataError("AuditCallback audits an UnlearnTrainer; pass it in callbacks=[...]")
        trainer = self._trainer
        members, others = (
            score_rows(trainer, part, self.score, calibrated=self.calibrated) for part in ("forget", self.against)
        )
        first = trainer.first_guesses.get(self.against)
        if first is None and trainer.state.global_step == 0:
            trainer.first_guesses[self.against] = others.correct.tolist()
        found = judge(
            members,
            others,
            step=trainer.state.global_step,
            attack=self.name,
            against=self.against,
            reference=self.reference,
            margin=self.margin,
            in_game=self._seen_by(trainer.objective),
            first=None if first is None else np.asarray(first),
        )
        trainer.audits.append(found)
        due = trainer.control.should_log
        trainer.log(figures(found))
        # logging is taken as done after any log; training's own may still be due at this step
        trainer.control.should_log = due
        return found

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Audit the original; not again when a run goes on, whose checkpoint has what that audit saw."""
        if self.against == "tune" and state.global_step == 0:
            self.audit()
        looks = self.stop is not None and self.stop.accuracy_margin is not None
        if looks and self._trainer is not None and self.against not in self._trainer.first_guesses:
            raise DataError(
                "the run that goes on has no audit of the original's accuracy, so it would never stop early; start it "
                "anew, or pass EarlyStop(accuracy_margin=None)"
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Audit every `every` steps."""
        if self.every is None or state.global_step % self.every:
            return None
        self.audit()
        if self.stop is not None and self.stop.stops(self._mine()):
            assert self._trainer is not None
            self._trainer.stopped = control.should_training_stop = True
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Audit the result, unless the last step was audited."""
        mine = self._mine()
        if not mine or mine[-1].step != state.global_step:
            self.audit()

    def _seen_by(self, objective: Objective) -> bool:
        """Whether the game's auditor sees this very score."""
        scores = getattr(getattr(objective, "auditor", objective), "scores", None)
        usual = self.score is usual_score and scores in (log_likelihood, sequence_log_likelihood)
        return not self.calibrated and (usual or self.score is scores)

    def _mine(self) -> list[Audit]:
        audits = [] if self._trainer is None else self._trainer.audits
        return [audit for audit in audits if (audit.attack, audit.against) == (self.name, self.against)]


class BudgetStop(TrainerCallback):
    """Ends a run whose gradient samples are used up; waits for the device at each step."""

    def __init__(self, trainer: UnlearnTrainer, budget: float) -> None:
        self._trainer, self._budget = trainer, budget

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Stop at the first step at which they are."""
        if self._trainer.recorder.used() >= self._budget * (1.0 - 1e-6):
            control.should_training_stop = True
        return control


def _name_of(score: ScoreMap | None, calibrated: bool) -> str:
    plain = "loss" if score is None else getattr(score, "__name__", type(score).__name__)
    return f"calibrated_{plain}" if calibrated else plain
