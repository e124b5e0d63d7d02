"""One auditor step: fit every (group, fold) attack, solve its adjoint, return payoffs, gradient rows and bounds.

Per problem, in float64 (equation numbers of docs/game.md):

    w  = argmin g(w; training rows)                                                                       (2)
    M  = -(1/N) sum over held-out rows of h(m_j)                                                          (5)
    H u = v = dM/dw                                                                                       (6)
    training row: -(1/n) [y l'(m) u + l''(m) <x, u> w]        held-out row: -(1/N) h'(m) y w          (7), (8)

and, where the scores are standardised by the training rows' moments, the gradient through these moments     (S).
Gradient rows leave the operator in factors, three numbers a row and a few vectors a problem; `auditor_rows` multiplies
them out under any cotangent. This file is the plain PyTorch reference of the operator; `amu_fast.audit.auditor_step`
is its public door.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amu_fast.ops.auditor_chunk import ACCURACY, Chunk, Settings
from amu_fast.ops.auditor_rows import auditor_rows, directions
from amu_fast.ops.registry import define
from amu_fast.status import Status

UNCERTAIN_ROWS, STEPS = range(2)

# Doubles of one chunk's rows (128 MiB); a chunk holds about six such temporaries.
_CHUNK = 2**24
_CAST = {torch.float64: 0.0, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def auditor_step_reference(
    scores: Tensor,
    labels: Tensor,
    groups: Tensor,
    train_masks: Tensor,
    held_out_masks: Tensor,
    normaliser: Tensor,
    num_groups: int,
    loss: int,
    l2: float,
    width: float,
    payoff: int,
    standardize: bool,
    rtol: float,
    max_steps: int,
    parts: int,
) -> tuple[Tensor, ...]:
    """The step on N rows of d scores, K folds, G groups.

    Synchronises: group sizes go to the host once, and Newton reports to it (`newton.minimise`).

    Args:
        scores: (N, d), any floating dtype.
        labels: (N,) +1 (member) or -1.
        groups: (N,) int64; -1 leaves a row out.
        train_masks: (K, N) bool.
        held_out_masks: (K, N) bool, disjoint from `train_masks`.
        normaliser: () float64, N of equation (5).
        num_groups: G.
        loss: kind of the follower's loss, a constant of `losses`.
        l2: its regulariser.
        width: of the Huberised hinge.
        payoff: HINGE_PAYOFF or LOGISTIC_PAYOFF.
        standardize: standardise per problem by the training rows.
        rtol: of Newton.
        max_steps: of Newton.
        parts: FULL, or only the DIRECT term (8) or the IMPLICIT term (7), as an ablation; VALUE_ONLY: neither
            gradient (it is NaN) nor bounds.

    Returns:
        per_problem (K, G) float64; params (K, G, d + 1) float64; status (K, G) int8; measures (K, G, 6) float64 and
        counts (K, G, 2) int64, indexed by this module's constants; coefficients (K, N, 3) and directions
        (K, G, 2 or 5, d) float64: d per_problem[k, g of row i] / d scores[i] in factors, see `auditor_rows`.
    """
    n_rows, d = scores.shape
    folds = train_masks.shape[0]
    settings = Settings(loss, l2, width, payoff, standardize, rtol, max_steps, parts)
    outputs = _shapes(scores, train_masks, num_groups, standardize)
    per_problem, params, status, measures, counts, coefficients, vectors = (part.zero_() for part in outputs)
    status.fill_(Status.SKIPPED)
    measures[..., ACCURACY] = torch.nan
    order = torch.argsort(groups, stable=True)
    sizes = torch.bincount(groups[groups >= 0], minlength=num_groups)
    starts = (groups < 0).sum() + sizes.cumsum(0) - sizes
    for members, width_of_chunk, dual in _chunks(sizes.tolist(), folds, d + 1):
        index = torch.tensor(members, device=scores.device)
        offsets = torch.arange(width_of_chunk, device=scores.device)
        present = offsets < sizes[index, None]
        rows = order[(starts[index, None] + offsets).clamp_max(n_rows - 1)]
        chunk = Chunk.gather(scores, labels, train_masks, held_out_masks, rows, present)
        out = chunk.solve(settings, normaliser, dual, _CAST[scores.dtype])
        per_problem[:, index] = out.payoff
        params[:, index] = out.params
        status[:, index] = out.status
        measures[:, index] = out.measures
        counts[:, index] = out.counts
        coefficients[:, rows[present]] = out.coefficients[:, present]
        vectors[:, index] = out.directions
    return per_problem, params, status, measures, counts, coefficients, vectors


def _chunks(sizes: list[int], folds: int, p: int) -> list[tuple[list[int], int, bool]]:
    """Groups of similar size together: (group ids, rows per group, whether the dual form is cheaper)."""
    classes: dict[tuple[int, bool], list[int]] = {}
    for group, size in enumerate(sizes):
        if size:
            # The padded size decides, so that a problem's arithmetic does not depend on which form its peers need.
            classes.setdefault((1 << (size - 1).bit_length(), size < p), []).append(group)
    chunks = []
    for (_, dual), members in sorted(classes.items()):
        longest = max(sizes[g] for g in members)
        step = max(1, _CHUNK // (folds * longest * max(p, longest if dual else 0)))
        chunks += [(members[i : i + step], longest, dual) for i in range(0, len(members), step)]
    return chunks


def _shapes(scores: Tensor, train_masks: Tensor, num_groups: int, standardize: bool) -> tuple[Tensor, ...]:
    shape, (n, d) = (train_masks.shape[0], num_groups), scores.shape

    def empty(*size: Any, dtype: torch.dtype = torch.float64) -> Tensor:
        return scores.new_empty(size, dtype=dtype)

    return (
        empty(*shape),
        empty(*shape, d + 1),
        empty(*shape, dtype=torch.int8),
        empty(*shape, 6),
        empty(*shape, 2, dtype=torch.int64),
        empty(shape[0], n, 3),
        empty(*shape, directions(standardize), d),
    )


def _fake(
    scores: Tensor,
    labels: Tensor,
    groups: Tensor,
    train_masks: Tensor,
    held: Tensor,
    normaliser: Tensor,
    num_groups: int,
    loss: int,
    l2: float,
    width: float,
    payoff: int,
    standardize: bool,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return _shapes(scores, train_masks, num_groups, standardize)


def _gradient(
    inputs: tuple[Any, ...], saved: tuple[Any, ...], cotangents: tuple[Any, ...], needs: tuple[bool, ...]
) -> tuple[Any, ...]:
    """Rows of the gradient, weighted by their problems' cotangents and added over folds, cast once."""
    gradient = auditor_rows.bare(cotangents[0], inputs[0], inputs[2], *saved)
    return (gradient,) + (None,) * (len(needs) - 1)


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """One step per batch entry: steps share nothing, and more problems a step is what groups are for."""
    outputs = [
        auditor_step.bare(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    return tuple(torch.stack(part) for part in zip(*outputs, strict=True)), (0,) * len(outputs[0])


#: The operator `amu_fast::auditor_step`.
auditor_step = define(
    "auditor_step",
    reference=auditor_step_reference,
    fake=_fake,
    gradient=_gradient,
    vmap=_vmap,
    saved_outputs=(5, 6),
    non_differentiable=(1, 3, 5, 6),
)
