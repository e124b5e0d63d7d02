"""Several auditors at once: other score maps, other followers, one payoff."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from amu_fast.audit.auditor import Auditor, Pair
from amu_fast.audit.step import Bounds, Parts, Payoff
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.bank import MemoryBank
    from amu_fast.audit.scores import ModelOutputs, ScoreMap

Combine = Literal["sum", "strongest", "softmax"]


class JoinedScores:
    """The columns of several score maps side by side; a map that occurs twice is evaluated once.

    It remembers how many columns each map made, which is how an `EnsembleAuditor` finds them again.
    """

    def __init__(self, maps: tuple[ScoreMap, ...]) -> None:
        self.maps = tuple(dict.fromkeys(maps))
        self.columns: tuple[int, ...] | None = None

    @property
    def needs_hidden(self) -> bool:
        """Whether a map wants hidden states."""
        return any(getattr(scores, "needs_hidden", False) for scores in self.maps)

    def __call__(self, outputs: ModelOutputs) -> Tensor:
        """(n, d), d the columns of all maps."""
        blocks = [scores(outputs) for scores in self.maps]
        self.columns = tuple(block.shape[1] for block in blocks)
        return torch.cat(blocks, -1)

    def of(self, scores: ScoreMap, width: int) -> slice:
        """The columns of one map among `width`.

        Raises:
            DataError: No scores were made yet, or not by this map.
        """
        if self.columns is None or sum(self.columns) != width:
            made = "none yet" if self.columns is None else f"{self.columns} columns"
            raise DataError(
                f"scores with {width} columns do not come from this ensemble's score map, which made {made}; call "
                "ensemble.scores(outputs), or set columns to the number of columns of each auditor's scores"
            )
        at = self.maps.index(scores)
        start = sum(self.columns[:at])
        return slice(start, start + self.columns[at])


@dataclass(frozen=True, eq=False)
class EnsemblePayoff:
    """What an ensemble earned, A auditors.

    Attributes:
        value: The combined payoff, differentiable once.
        values: (A,) each auditor's own M, without gradient.
        shares: (A,) d value / d values, without gradient.
        payoffs: The auditors' own payoffs.
    """

    value: Tensor
    values: Tensor
    shares: Tensor
    payoffs: tuple[Payoff, ...]

    @property
    def accuracy(self) -> Tensor:
        """(A,) mean over an auditor's problems of its share of held-out rows on the right side."""
        return torch.stack([p.accuracy.nanmean() for p in self.payoffs])

    @property
    def status(self) -> Tensor:
        """Statuses of all problems, auditor after auditor, int8."""
        return torch.cat([p.status.flatten() for p in self.payoffs])

    @property
    def gradient_norms(self) -> Tensor:
        """(A,) largest |dg(w)|."""
        return torch.stack([p.gradient_norms.max() for p in self.payoffs])

    @property
    def residual_norms(self) -> Tensor:
        """(A,) largest residual of an adjoint solve."""
        return torch.stack([p.residual_norms.max() for p in self.payoffs])

    @property
    def bounds(self) -> Bounds:
        """(A,) each: the largest of an auditor's problems, their gradient bounds added up; NaN where there are none."""
        bounds = [p.bounds for p in self.payoffs]
        return Bounds(
            torch.stack([b.param_bound.max() for b in bounds]),
            torch.stack([b.adjoint_bound.max() for b in bounds]),
            torch.stack([b.gradient_bound.sum() for b in bounds]),
            torch.stack([b.uncertain_rows.sum() for b in bounds]),
        )


@dataclass(frozen=True)
class EnsembleAuditor:
    """Auditors with score maps and followers of their own; stands wherever an `Auditor` does.

    All are fitted on the rows of the same auditing batch, in one backward pass through the model. With one `seed` they
    are judged on the same folds.

        "sum"        sum_a p_a M_a
        "strongest"  max_a M_a                              gradient of the largest alone
        "softmax"    T log sum_a p_a exp(M_a / T)           between the two; a convex combination of the gradients

    Args:
        auditors: At least one.
        combine: See above.
        weights: p, >= 0 with a positive sum, scaled to sum to 1, so that the game's weight keeps its meaning; None:
            equal. Not for "strongest".
        temperature: T, > 0, in units of the payoff.
        columns: Columns of each auditor's scores, for scores that were not made by `scores`; auditors with the same map
            have columns of their own then. None: as `scores` made them.

    Raises:
        DataError: An option is out of range, or payoffs that would be compared are on different scales (folds and
            `payoff_kind` must agree, except for "sum").

    >>> from amu_fast.audit import Auditor, confidence, log_likelihood
    >>> ensemble = EnsembleAuditor((Auditor(), Auditor(scores=confidence)), columns=(1, 1))
    >>> payoff = ensemble.payoff(torch.randn(40, 2, requires_grad=True), torch.randn(40, 2))
    >>> payoff.value.requires_grad, payoff.values.shape, bool((payoff.shares.sum() - 1).abs() < 1e-12)
    (True, torch.Size([2]), True)
    """

    auditors: tuple[Auditor, ...]
    combine: Combine = "softmax"
    weights: tuple[float, ...] | None = None
    temperature: float = 0.1
    columns: tuple[int, ...] | None = None
    scores: JoinedScores = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.auditors:
            raise DataError("auditors must name at least one Auditor, got ()")
        if self.combine not in ("sum", "strongest", "softmax"):
            raise DataError(f"combine must be 'sum', 'strongest' or 'softmax', got {self.combine!r}")
        if not 0 < self.temperature < math.inf:
            raise DataError(f"temperature must be > 0 and finite, got {self.temperature}; 0.1 is the default")
        self._check_weights()
        scales = {(a.folds, a.payoff_kind) for a in self.auditors}
        if self.combine != "sum" and len(scales) > 1:
            raise DataError(f"auditors must agree in folds and payoff_kind to be compared, got {len(scales)} kinds")
        if self.columns is not None and (len(self.columns) != len(self.auditors) or min(self.columns) < 1):
            raise DataError(f"columns must be {len(self.auditors)} numbers >= 1, got {self.columns}")
        object.__setattr__(self, "scores", JoinedScores(tuple(a.scores for a in self.auditors)))

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        usable = all(math.isfinite(w) and w >= 0 for w in self.weights) and sum(self.weights) > 0
        if self.combine == "strongest" or len(self.weights) != len(self.auditors) or not usable:
            raise DataError(
                f"weights must be {len(self.auditors)} numbers >= 0 with a positive sum, and None for 'strongest', got "
                f"{self.weights}"
            )

    @property
    def groups(self) -> Literal["class"] | None:
        """Whether an auditor wants classes."""
        return "class" if any(a.groups == "class" for a in self.auditors) else None

    @property
    def hold_nonmembers(self) -> bool:
        """Whether no auditor takes a gradient into non-member scores."""
        return all(a.hold_nonmembers for a in self.auditors)

    @property
    def seed(self) -> int:
        """The first auditor's."""
        return self.auditors[0].seed

    def payoff(
        self,
        member_scores: Tensor,
        nonmember_scores: Tensor,
        groups: Pair | None = None,
        clusters: Pair | None = None,
        bank: MemoryBank | None = None,
        step: int = 0,
        permute: bool = False,
        parts: Parts = "full",
    ) -> EnsemblePayoff:
        """The combined payoff on one auditing set; see `Auditor.payoff` for the arguments.

        Args:
            member_scores: (n, d), the columns of all score maps.
            nonmember_scores: (m, d).
            groups: Handed to the auditors with groups="class"; to all if there are none.
            clusters: Person of each row.
            bank: Earlier rows, with the columns of all score maps.
            step: Number of this step.
            permute: Permute labels first.
            parts: Which part of the gradient.

        Raises:
            DataError: As `Auditor.payoff`; or the columns are not those of this ensemble's score map.
        """
        payoffs = []
        for auditor, columns in zip(self.auditors, self._slices(member_scores.shape[-1]), strict=True):
            mine = groups if auditor.groups == self.groups else None
            kept = None if bank is None else bank.columns(columns)
            payoffs.append(
                auditor.payoff(
                    member_scores[:, columns], nonmember_scores[:, columns], mine, clusters, kept, step, permute, parts
                )
            )
        values = torch.stack([p.value for p in payoffs])
        shares = self._shares(values.detach())
        return EnsemblePayoff(self._combined(values), values.detach(), shares, tuple(payoffs))

    def _slices(self, width: int) -> list[slice]:
        if self.columns is None:
            return [self.scores.of(a.scores, width) for a in self.auditors]
        if sum(self.columns) != width:
            raise DataError(f"scores must have {sum(self.columns)} columns for columns={self.columns}, got {width}")
        ends = torch.tensor(self.columns).cumsum(0).tolist()
        return [slice(end - count, end) for end, count in zip(ends, self.columns, strict=True)]

    def _weights(self, values: Tensor) -> Tensor:
        weights = values.new_tensor(self.weights or (1.0,) * len(self.auditors))
        return weights / weights.sum()

    def _combined(self, values: Tensor) -> Tensor:
        if self.combine == "sum":
            return (self._weights(values) * values).sum()
        if self.combine == "strongest":
            return values[values.detach().argmax()]
        return self.temperature * torch.logsumexp(values / self.temperature + self._weights(values).log(), 0)

    def _shares(self, values: Tensor) -> Tensor:
        if self.combine == "sum":
            return self._weights(values)
        if self.combine == "strongest":
            return torch.nn.functional.one_hot(values.argmax(), len(values)).to(values)
        return torch.softmax(values / self.temperature + self._weights(values).log(), 0)
