"""The game as an objective for anybody's training loop, with a loop's gradient accumulation in mind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from amu_fast.audit.auditor import Auditor
from amu_fast.audit.cap import ChanceCap
from amu_fast.audit.language import sequence_log_likelihood
from amu_fast.errors import DataError
from amu_fast.unlearn.game import Leader
from amu_fast.unlearn.objectives.auditing import AuditScores, score_sides
from amu_fast.unlearn.objectives.base import RetainLoss, Summed, Terms, retain_term
from amu_fast.unlearn.objectives.batch import UnlearningBatch

if TYPE_CHECKING:
    from amu_fast.audit.bank import MemoryBank
    from amu_fast.audit.ensemble import EnsembleAuditor
    from amu_fast.audit.step import Parts

DEFAULT_CAP = ChanceCap()


@dataclass(frozen=True)
class Cotangent:
    """d (weight · M) / d scores of one micro-batch's rows: what `GameObjective.replay` pulls back through the model.

    Args:
        members: (n, d).
        nonmembers: (m, d); None if non-member scores are held constant.
    """

    members: Tensor
    nonmembers: Tensor | None


class GameObjective(Summed):
    """NLL of the retain rows + α · M(θ, w*(θ)), equation (1) of docs/game.md, every `every`-th step.

    First-order in the model: DDP, FSDP2, ZeRO and PEFT may wrap it. Scores are gathered from all ranks with their
    graph, every rank solves the same follower, and each pulls its own rows back. Mutable: see `Leader`.

    Args:
        auditor: Score map, follower, folds; one auditor or an ensemble. None: mean token log p, one
            group, non-member scores held constant.
        weight: α >= 0; 0 is the control with the game's forward passes and no gradient from it.
        every: An auditing batch at every `every`-th step.
        cap: Switches the game off while the payoff is at chance (S15); None: never.
        bank: Rows of earlier steps that the auditor trains on as well: for batches of fewer than 32 rows a side.
        parts: "full" gradient, or one of its two terms, for ablations.
        group: Process group of the ranks; None: all of them.

    Raises:
        DataError: weight or every is out of range.

    >>> game = GameObjective(weight=2.0, every=2)
    >>> game.needs(0), game.needs(1)
    (('retain', 'forget', 'validation'), ('retain',))
    """

    name = "game"

    def __init__(
        self,
        auditor: Auditor | EnsembleAuditor | None = None,
        *,
        weight: float = 5.0,
        every: int = 2,
        cap: ChanceCap | None = DEFAULT_CAP,
        bank: MemoryBank | None = None,
        parts: Parts = "full",
        group: Any = None,
    ) -> None:
        if every < 1:
            raise DataError(f"every must be >= 1, got {every}; 1 audits at each step")
        self.auditor: Auditor | EnsembleAuditor = (
            Auditor(scores=sequence_log_likelihood) if auditor is None else auditor
        )
        self.leader = Leader(self.auditor, weight, parts=parts, cap=cap, bank=bank)
        self.every, self.group = every, group

    def needs(self, step: int) -> tuple[str, ...]:
        """All parts at an auditing step, else retain rows."""
        return ("retain",) if step % self.every else ("retain", "forget", "validation")

    def audits(self, step: int) -> bool:
        """Whether this step has an auditing batch."""
        return step % self.every == 0

    def terms(self, model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None = None) -> Iterator[Terms]:
        """The retain loss; at an auditing step then α · M. With a cap, waits for the device there."""
        yield retain_term(model, batch, retain_loss, group=self.group)
        if self.audits(batch.step):
            yield self.play(self.score(model, batch, gradient=self.leader.takes_gradient))

    def score(self, model: nn.Module, batch: UnlearningBatch, *, gradient: bool) -> AuditScores:
        """Score this rank's auditing rows."""
        return score_sides(
            model,
            batch,
            self.auditor.scores,
            gradient=gradient,
            hold_nonmembers=self.auditor.hold_nonmembers,
            by_class=self.auditor.groups == "class",
        )

    def play(self, scores: AuditScores) -> Terms:
        """α · M on the rows of all ranks; records score_gap too, the members' mean first score less the others'."""
        sides = scores.gathered(self.group)
        term, values = self.leader.term(sides.members, sides.nonmembers, groups=sides.groups, clusters=sides.clusters)
        gap = sides.members.detach()[:, 0].mean() - sides.nonmembers.detach()[:, 0].mean()
        return Terms(term, {**values, "score_gap": gap}, scores.gradient_samples)

    def solve(self, micro: Sequence[AuditScores]) -> tuple[Terms, list[Cotangent]]:
        """Exact accumulation, second of three: one game on the scores of all micro-batches of a step.

        The first is `score(..., gradient=False)` on each micro-batch, the third `replay` on each with its cotangent:
        together the gradient of one big batch, for one forward more of the member rows.

        Args:
            micro: Scores without graph, in the order of the micro-batches.

        Returns:
            The term without gradient, and a cotangent for each micro-batch (zeros while the game is off).
        """
        sizes = [(len(s.members), len(s.nonmembers)) for s in micro]
        whole = _joined(micro)
        members = whole.members.detach().requires_grad_()
        others = whole.nonmembers.detach().requires_grad_(not self.auditor.hold_nonmembers)
        played = self.play(replace(whole, members=members, nonmembers=others))
        wanted = (members, others) if others.requires_grad else (members,)
        if played.loss.requires_grad:
            gradients: Sequence[Tensor] = torch.autograd.grad(played.loss, wanted)
        else:
            gradients = [torch.zeros_like(tensor) for tensor in wanted]
        first = gradients[0].split([n for n, _ in sizes])
        second = gradients[1].split([m for _, m in sizes]) if len(gradients) == 2 else [None] * len(sizes)
        cotangents = [Cotangent(a, b) for a, b in zip(first, second, strict=True)]
        return Terms(played.loss.detach(), played.values, played.gradient_samples), cotangents

    def replay(self, model: nn.Module, batch: UnlearningBatch, cotangent: Cotangent) -> Terms:
        """Exact accumulation, third of three: <cotangent, scores of this micro-batch>, whose gradient is the game's."""
        scores = self.score(model, batch, gradient=True)
        loss = (cotangent.members * scores.members).sum()
        if cotangent.nonmembers is not None:
            loss = loss + (cotangent.nonmembers * scores.nonmembers).sum()
        return Terms(loss, {}, scores.gradient_samples)

    def state_dict(self) -> dict[str, Any]:
        """The game's state, see `Leader.state_dict`."""
        return self.leader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; DataError if it does not fit."""
        self.leader.load_state_dict(state)


def _joined(micro: Sequence[AuditScores]) -> AuditScores:
    """The rows of all micro-batches, in order."""
    if not micro:
        raise DataError("exact accumulation got no micro-batches; score at least one before solve()")

    def pair(name: str) -> tuple[Tensor, Tensor] | None:
        pairs = [getattr(scores, name) for scores in micro]
        if any(p is None for p in pairs):
            return None
        return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])

    return AuditScores(
        torch.cat([scores.members for scores in micro]),
        torch.cat([scores.nonmembers for scores in micro]),
        pair("clusters"),
        pair("groups"),
        sum(scores.gradient_samples for scores in micro),
    )
