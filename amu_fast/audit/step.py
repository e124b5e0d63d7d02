"""`auditor_step`, the functional core of the game: scores in, the auditor's payoff out, differentiable.

All (group, fold) attacks are fitted, judged on their held-out rows and differentiated through their optimum in one
operator. Source: equations (2)-(9), (S) of docs/game.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.followers import LinearFollower
from amu_fast.ops import auditor_chunk as columns
from amu_fast.ops import auditor_step as operator
from amu_fast.ops import losses

Parts = Literal["full", "direct", "implicit", "value"]
_PARTS = dict(zip(get_args(Parts), (columns.FULL, columns.DIRECT, columns.IMPLICIT, columns.VALUE_ONLY), strict=True))


@dataclass(frozen=True)
class HingePayoff:
    """-(1/N) sum max(0, 1 - m): equation (5)."""

    kind = losses.HINGE_PAYOFF


@dataclass(frozen=True)
class LogisticPayoff:
    """-(1/N) sum log(1 + e^-m): equation (5) without a kink."""

    kind = losses.LOGISTIC_PAYOFF


@dataclass(frozen=True)
class Bounds:
    """Error bounds of each problem, (K, G): docs/game.md, section 5.

    Attributes:
        param_bound: On |w - w*|.
        adjoint_bound: On |u - u*|.
        gradient_bound: On the 2-norm of the error of d per_problem / d scores; NaN for an ablated gradient. All three
            bounds are NaN where no gradient was asked for.
        uncertain_rows: Rows that may lie on the other side of a kink, int64.
    """

    param_bound: Tensor
    adjoint_bound: Tensor
    gradient_bound: Tensor
    uncertain_rows: Tensor


@dataclass(frozen=True)
class Payoff:
    """What the auditor earned, K folds x G groups.

    Attributes:
        per_problem: (K, G) float64, differentiable once under any cotangent (not with parts="value"); 0 for SKIPPED,
            NaN for NONFINITE problems.
        params: (K, G, d + 1) attacks, intercept last, in the coordinates in which they were fitted.
        status: (K, G) int8, values of `amu_fast.status.Status`.
        accuracy: (K, G) share of held-out rows on the right side; NaN where there are none.
        bounds: Error bounds.
        gradient_norms: (K, G) |dg(w)| at the attacks.
        residual_norms: (K, G) |v - H u|, true residuals of the adjoint solves.
        steps: (K, G) Newton steps.
    """

    per_problem: Tensor
    params: Tensor
    status: Tensor
    accuracy: Tensor
    bounds: Bounds
    gradient_norms: Tensor
    residual_norms: Tensor
    steps: Tensor

    @property
    def value(self) -> Tensor:
        """M of equation (5): the sum of `per_problem`."""
        return self.per_problem.sum()


def auditor_step(
    scores: Tensor,
    labels: Tensor,
    *,
    follower: LinearFollower,
    groups: Tensor | None = None,
    num_groups: int | None = None,
    train_masks: Tensor,
    held_out_masks: Tensor | None = None,
    payoff: HingePayoff | LogisticPayoff | None = None,
    standardize: bool = False,
    normaliser: float | None = None,
    parts: Parts = "full",
) -> Payoff:
    """Fit every (group, fold) attack and judge it on its held-out rows.

    Deterministic; runs outside autocast; works under `torch.compile(fullgraph=True)` when `num_groups` is given. In
    eager mode it checks values on the host once per call.

    Args:
        scores: (N, d) floating; the gradient flows here.
        labels: (N,) +1 (member) or -1 (non-member).
        follower: The attack, for example `SquaredHinge(l2=1e-2)`.
        groups: (N,) int64, one attack per group; -1 leaves a row out. None: a single group.
        num_groups: G; None: the largest group + 1.
        train_masks: (K, N) bool, the rows each fold trains on.
        held_out_masks: (K, N) bool, the rows it is judged on; None: all rows that do not train. Rows in neither part
            of a fold are not in its problem.
        payoff: `HingePayoff()` (default) or `LogisticPayoff()`.
        standardize: Standardise each problem by its training rows, with the moments differentiated.
        normaliser: N of equation (5); None: the number of rows whose group is not -1.
        parts: "full", or only the "direct" term (8) or the "implicit" term (7) of the gradient, for ablations;
            "value": the payoff alone, without gradient and bounds (NaN), in less time.

    Returns:
        Payoff.

    Raises:
        DataError: Shapes, dtypes, labels, groups or masks do not fit. Too few rows and non-finite scores do not raise:
            they are the statuses SKIPPED and NONFINITE of their problems.

    Accuracy: float64 throughout; `Payoff.bounds` bounds the gradient's error. The gradient has the dtype of `scores`.

    Source: equations (2)-(9), (S) of docs/game.md; Di et al., ICLR 2025 (arXiv 2406.07687).

    >>> from amu_fast.followers import SquaredHinge
    >>> scores = torch.linspace(2, -2, 8).unsqueeze(-1).requires_grad_()
    >>> labels = torch.tensor([1, 1, 1, 1, -1, -1, -1, -1])
    >>> train = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 0]], dtype=torch.bool)
    >>> step = auditor_step(scores, labels, follower=SquaredHinge(), train_masks=train)
    >>> step.value.backward()
    >>> step.accuracy, scores.grad.shape
    (tensor([[1.]], dtype=torch.float64), torch.Size([8, 1]))
    """
    if not isinstance(follower, LinearFollower):
        raise DataError(f"follower must be a follower of amu_fast.followers, got {follower!r}; SquaredHinge() is usual")
    if payoff is not None and not isinstance(payoff, (HingePayoff, LogisticPayoff)):
        raise DataError(f"payoff must be HingePayoff() or LogisticPayoff(), got {payoff!r}")
    if scores.dim() != 2 or not scores.is_floating_point():
        raise DataError(f"scores must be (N, d) floating point, got {tuple(scores.shape)} {scores.dtype}")
    n = scores.shape[0]
    if n == 0 or scores.shape[1] == 0:
        raise DataError(f"scores must have at least one row and one column, got {tuple(scores.shape)}")
    if groups is None:
        groups = torch.zeros(n, dtype=torch.int64, device=scores.device)
        num_groups = 1 if num_groups is None else num_groups
    if held_out_masks is None:
        held_out_masks = ~train_masks if train_masks.dtype == torch.bool else train_masks
    _check_shapes(scores, labels, groups, train_masks, held_out_masks, num_groups, normaliser, parts)
    if not torch.compiler.is_compiling():
        _check_values(labels, groups, train_masks, held_out_masks, num_groups)
    if num_groups is None:
        num_groups = max(int(groups.max()) + 1, 1)
    if normaliser is None:
        total = (groups >= 0).sum().double()
    else:
        total = torch.full((), float(normaliser), dtype=torch.float64, device=scores.device)
    kind = losses.HINGE_PAYOFF if payoff is None else payoff.kind
    per_problem, params, status, measures, counts, *_ = operator.auditor_step(
        scores.detach() if parts == "value" else scores, labels, groups, train_masks, held_out_masks, total, num_groups,
        follower.kind, float(follower.l2), float(follower.width), kind, standardize,
        float(follower.rtol), follower.max_steps, _PARTS[parts],
    )  # fmt: skip
    measured, counted = measures.unbind(-1), counts.unbind(-1)
    return Payoff(
        per_problem=per_problem,
        params=params,
        status=status,
        accuracy=measured[columns.ACCURACY],
        bounds=Bounds(
            param_bound=measured[columns.PARAM_BOUND],
            adjoint_bound=measured[columns.ADJOINT_BOUND],
            gradient_bound=measured[columns.GRADIENT_BOUND],
            uncertain_rows=counted[operator.UNCERTAIN_ROWS],
        ),
        gradient_norms=measured[columns.GRADIENT_NORM],
        residual_norms=measured[columns.ADJOINT_RESIDUAL],
        steps=counted[operator.STEPS],
    )


def _check_shapes(
    scores: Tensor,
    labels: Tensor,
    groups: Tensor,
    train: Tensor,
    held: Tensor,
    num_groups: int | None,
    normaliser: float | None,
    parts: str,
) -> None:
    n = scores.shape[0]
    for name, tensor in (("labels", labels), ("groups", groups)):
        if tensor.shape != (n,):
            raise DataError(f"{name} must be ({n},) for scores {tuple(scores.shape)}, got {tuple(tensor.shape)}")
    if groups.dtype != torch.int64:
        raise DataError(f"groups must be int64, got {groups.dtype}; use groups.long()")
    if labels.dtype == torch.bool:
        raise DataError("labels must be +1 or -1, got bool; use torch.where(labels, 1, -1)")
    for name, mask in (("train_masks", train), ("held_out_masks", held)):
        if mask.dtype != torch.bool:
            raise DataError(f"{name} must be bool, got {mask.dtype}; use {name}.bool()")
        if mask.dim() != 2 or mask.shape[1] != n or mask.shape != train.shape:
            raise DataError(f"{name} must be (K, {n}), got {tuple(mask.shape)}")
    if train.shape[0] == 0:
        raise DataError(f"train_masks must have at least one fold, got {tuple(train.shape)}")
    for name, tensor in (
        ("labels", labels),
        ("groups", groups),
        ("train_masks", train),
        ("held_out_masks", held),
    ):
        if tensor.device != scores.device:
            raise DataError(f"{name} must be on {scores.device} like scores, got {tensor.device}")
    if num_groups is not None and num_groups < 1:
        raise DataError(f"num_groups must be >= 1, got {num_groups}")
    if normaliser is not None and not (math.isfinite(normaliser) and normaliser > 0):
        raise DataError(f"normaliser must be > 0, got {normaliser}; None takes the number of rows")
    if parts not in _PARTS:
        raise DataError(f"parts must be one of {list(_PARTS)}, got {parts!r}")


def _check_values(labels: Tensor, groups: Tensor, train: Tensor, held: Tensor, num_groups: int | None) -> None:
    """Waits for the device once."""
    limit = torch.iinfo(torch.int64).max if num_groups is None else num_groups
    rows = (labels.abs() != 1) | (groups < -1) | (groups >= limit)
    # One question covers the usual case; rows left out may lie in both masks.
    if not bool((rows | (train & held)).any()):
        return
    both = train & held & (groups >= 0)
    faults = torch.stack([(labels.abs() != 1).any(), (groups < -1).any(), (groups >= limit).any(), both.any()])
    bad_label, bad_group, too_large, in_both = faults.tolist()
    if bad_label:
        wrong = labels[labels.abs() != 1][:5].tolist()
        raise DataError(f"labels must be +1 (member) or -1 (non-member), got {wrong}")
    if bad_group:
        raise DataError(f"groups must be >= -1, got {int(groups.min())}; -1 leaves a row out")
    if too_large:
        raise DataError(f"groups must be below num_groups = {num_groups}, got {int(groups.max())}")
    if in_both:
        fold, row = both.nonzero()[0].tolist()
        raise DataError(f"row {row} both trains and is held out in fold {fold}; the masks must be disjoint")
