"""Both sides of an auditing batch, scored alike and gathered from all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amu_fast.audit.gather import gather_sides
from amu_fast.audit.scores import ModelOutputs, ScoreMap
from amu_fast.errors import DataError
from amu_fast.unlearn.meter import cost
from amu_fast.unlearn.objectives.batch import Part, UnlearningBatch, audit_mode, labels_of, outputs_of, rows_of

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AuditScores:
    """Scores of one auditing batch.

    Args:
        members: (n, d) of forget rows.
        nonmembers: (m, d) of validation rows.
        clusters: Person of each row of either side; None: every row is its own.
        groups: Class of each row of either side; None: one attack for all.
        gradient_samples: This rank's work.
    """

    members: Tensor
    nonmembers: Tensor
    clusters: Pair | None = None
    groups: Pair | None = None
    gradient_samples: float = 0.0

    def gathered(self, group: Any = None) -> AuditScores:
        """The rows of all ranks in rank order; this very object on one rank."""
        sides = gather_sides(self.members, self.nonmembers, self.groups, self.clusters, group)
        return AuditScores(
            sides.member_scores, sides.nonmember_scores, sides.clusters, sides.groups, self.gradient_samples
        )


def score_sides(
    model: nn.Module,
    batch: UnlearningBatch,
    scores: ScoreMap,
    *,
    gradient: bool,
    hold_nonmembers: bool,
    by_class: bool = False,
) -> AuditScores:
    """Score the forget and validation rows of a batch in eval mode.

    Args:
        model: Any wrapper around it may need a forward on every rank: one is made even if this rank has no rows.
        batch: With forget and validation rows.
        scores: Score map; one with a true attribute `needs_hidden` gets the last hidden states.
        gradient: Keep the graph (of the member side only with `hold_nonmembers`).
        hold_nonmembers: Validation rows go forward without graph.
        by_class: Return the labels as groups.

    Raises:
        DataError: A missing part, or outputs or a score map that do not fit.
    """
    forget, validation = batch.part("forget"), batch.part("validation")
    hidden = bool(getattr(scores, "needs_hidden", False))
    both = gradient and not hold_nonmembers

    def side(part: Part, other: Part, keep: bool) -> Tensor:
        stand_in = part if rows_of(part) else other if rows_of(other) else _stand_in(batch.part("retain"))
        rows = _scored(scores, outputs_of(model, stand_in, gradient=keep, hidden=hidden))
        # no rows of its own: the graph of another row, of which nothing is used
        return rows if rows_of(part) else rows[:0]

    with audit_mode(model):
        members = side(forget, validation, gradient)
        nonmembers = side(validation, forget, both)
    work = cost(rows_of(forget), backward=gradient) + cost(rows_of(validation), backward=both)
    groups = (labels_of(forget), labels_of(validation)) if by_class else None
    return AuditScores(members, nonmembers, _clusters(forget, validation), groups, work)


def _stand_in(retain: Part) -> Part:
    """Retain rows with what a score map may read of forget rows, whatever its values."""
    ones = torch.ones(rows_of(retain), device=labels_of(retain).device)
    return {"zlib_lengths": ones.long(), "reference": ones, **retain}


def _clusters(forget: Part, validation: Part) -> Pair | None:
    given = [name for name, part in (("forget", forget), ("validation", validation)) if "clusters" in part]
    if len(given) == 1:
        raise DataError(f"only the {given[0]} rows have 'clusters'; give the persons of both sides, or of none")
    return (forget["clusters"], validation["clusters"]) if given else None


def _scored(scores: Callable[[ModelOutputs], Tensor], outputs: ModelOutputs) -> Tensor:
    # The follower's moments and margins are sums over rows: half precision would be their largest error.
    with torch.autocast(outputs.logits.device.type, enabled=False):
        rows = scores(outputs)
    if rows.dim() != 2:
        raise DataError(f"the score map must return (n, d), got {tuple(rows.shape)}; use unsqueeze(-1) for one score")
    return rows
