"""The auditor: a score map, a follower and folds; its payoff is one differentiable term of anybody's loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from amu_fast.audit import folds as fold_plans
from amu_fast.audit.bank import MemoryBank
from amu_fast.audit.neural import neural_step
from amu_fast.audit.scores import ModelOutputs, log_likelihood
from amu_fast.audit.step import HingePayoff, LogisticPayoff, Parts, Payoff, auditor_step
from amu_fast.errors import DataError
from amu_fast.followers import LinearFollower, NeuralFollower, SquaredHinge
from amu_fast.status import Status

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Auditor:
    """Trains membership-inference attacks on a model's scores and reports what they earn on held-out rows.

    Args:
        follower: The attack; by default a squared hinge with l2 = 0.1, on standardised scores. A `NeuralFollower` is
            trained problem by problem, without bounds.
        scores: Score map, used by the methods of `amu_fast.unlearn` to make score rows from model outputs.
        payoff: Hinge (equation (5)) or logistic.
        groups: None for one attack over all rows (the default), "class" for one attack per class.
        folds: K, independent stratified shuffle splits, >= 1.
        hold_nonmembers: No gradient into the non-member scores, which may then come from a forward without graph.
        standardize: Standardise each problem by its training rows; l2 means nothing without a scale.
        min_rows_per_side: Groups with fewer rows on a side after balancing are pooled into one group; at 13 rows a side
            the payoff of a per-class attack is noise and harms the model (docs/game.md, section 8).
        on_degenerate: What to do with a problem that has fewer than 2 rows in a membership cell: "skip" (status
            SKIPPED, payoff and gradient 0) or "raise" (which waits for the device).
        seed: With `step`, fixes subsampling and folds.

    Raises:
        DataError: An option is out of range.

    >>> members, others = torch.randn(40, 1) + 1, torch.randn(40, 1)
    >>> payoff = Auditor().payoff(members.requires_grad_(), others)
    >>> payoff.value.backward()
    >>> payoff.per_problem.shape, members.grad.shape
    (torch.Size([3, 1]), torch.Size([40, 1]))
    """

    follower: LinearFollower | NeuralFollower = field(default_factory=lambda: SquaredHinge(l2=0.1))
    scores: Callable[[ModelOutputs], Tensor] = log_likelihood
    payoff_kind: HingePayoff | LogisticPayoff = field(default_factory=HingePayoff)
    groups: Literal["class"] | None = None
    folds: int = 3
    hold_nonmembers: bool = True
    standardize: bool = True
    min_rows_per_side: int = 30
    on_degenerate: Literal["skip", "raise"] = "skip"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 1:
            raise DataError(f"folds must be >= 1, got {self.folds}; 3 is the default")
        if self.groups not in (None, "class"):
            raise DataError(f"groups must be None or 'class', got {self.groups!r}")
        if self.on_degenerate not in ("skip", "raise"):
            raise DataError(f"on_degenerate must be 'skip' or 'raise', got {self.on_degenerate!r}")
        if self.min_rows_per_side < 2:
            raise DataError(f"min_rows_per_side must be >= 2, got {self.min_rows_per_side}; 30 is the default")

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
    ) -> Payoff:
        """The auditor's payoff on one auditing set: the thin API. Lower is better for the unlearner.

        Waits for the device once to check values, and once more if groups or clusters live on an accelerator.

        Args:
            member_scores: (n, d) of forget rows.
            nonmember_scores: (m, d) of validation rows, from the forget rows' own distribution.
            groups: Group of each member and non-member row, int64 (n,) and (m,); None: a single group.
            clusters: Person of each row, int64; a person's rows stay on one side of every split.
            bank: Earlier rows to train on as well.
            step: Number of this step; with `seed` it fixes the folds, identically on every rank.
            permute: Permute labels first: what an attack earns with no signal (docs/statistics.md, S15).
            parts: Which part of the gradient, or "value" for none, see `auditor_step`.

        Returns:
            Payoff; `.value` is the term of the loss. Its columns are the groups; with more than one, an extra last
            column holds the pooled rows, and groups without rows of their own are SKIPPED.

        Raises:
            DataError: Shapes or dtypes do not fit, or a problem is degenerate and `on_degenerate="raise"`.
        """
        _check_sides(member_scores, nonmember_scores, groups, clusters)
        if self.groups == "class" and groups is None:
            raise DataError("groups must be (member classes, non-member classes) for groups='class', got None")
        held = nonmember_scores.detach() if self.hold_nonmembers else nonmember_scores
        sides = _Sides.collect(member_scores, held, groups, clusters, bank)
        ids, num_groups = self._group_ids(sides)
        plan = fold_plans.draw(
            sides.labels, ids, self.folds, fold_plans.generator_of(self.seed, step),
            clusters=sides.clusters, bank=sides.bank, permute=permute,
        )  # fmt: skip
        device = member_scores.device
        judged = int(((plan.groups >= 0) & ~sides.bank).sum())
        problems: dict[str, Any] = {
            "groups": plan.groups.to(device),
            "num_groups": num_groups,
            "train_masks": plan.train_masks.to(device),
            "held_out_masks": plan.held_out_masks.to(device),
            "payoff": self.payoff_kind,
            "standardize": self.standardize,
            "normaliser": max(judged, 1),
            "parts": parts,
        }
        labels = plan.labels.to(device)
        if isinstance(self.follower, NeuralFollower):
            payoff = neural_step(sides.scores, labels, follower=self.follower, **problems)
        else:
            payoff = auditor_step(sides.scores, labels, follower=self.follower, **problems)
        if self.on_degenerate == "raise":
            _raise_degenerate(payoff.status, torch.bincount(ids[~sides.bank], minlength=num_groups) > 0)
        return payoff

    def _group_ids(self, sides: _Sides) -> tuple[Tensor, int]:
        """Group of each row, those with too few rows pooled into the last one."""
        ids, num_groups = sides.groups, int(sides.groups.max()) + 1
        if num_groups == 1:
            return ids, 1
        live = ~sides.bank
        count = [torch.bincount(ids[live & (sides.labels == y)], minlength=num_groups) for y in (1, -1)]
        small = torch.minimum(*count) < self.min_rows_per_side
        return torch.where(small[ids], num_groups, ids), num_groups + 1


@dataclass(frozen=True)
class _Sides:
    """Both sides and the bank in one batch: scores on their device, everything else on the CPU."""

    scores: Tensor
    labels: Tensor
    groups: Tensor
    clusters: Tensor | None
    bank: Tensor

    @classmethod
    def collect(
        cls,
        members: Tensor,
        others: Tensor,
        groups: Pair | None,
        clusters: Pair | None,
        bank: MemoryBank | None,
    ) -> _Sides:
        blocks, labels = [members, others.to(members.dtype)], [1, -1]
        group_blocks = [torch.zeros(b.shape[0], dtype=torch.int64) for b in blocks]
        if groups is not None:
            group_blocks = [g.cpu() for g in groups]
        cluster_blocks = [c.cpu() for c in clusters] if clusters is not None else []
        if bank is not None and bank.members.scores.numel() and bank.nonmembers.scores.numel():
            for side, label in ((bank.members, 1), (bank.nonmembers, -1)):
                blocks.append(side.scores.to(members))
                labels.append(label)
                group_blocks.append(side.groups)
                cluster_blocks += [side.clusters] if clusters is not None else []
        sizes = [b.shape[0] for b in blocks]
        repeat = torch.tensor(sizes)
        return cls(
            scores=torch.cat(blocks),
            labels=torch.tensor(labels).repeat_interleave(repeat),
            groups=torch.cat(group_blocks),
            clusters=torch.cat(cluster_blocks) if clusters is not None else None,
            bank=(torch.arange(len(blocks)) >= 2).repeat_interleave(repeat),
        )


def _check_sides(members: Tensor, others: Tensor, groups: Pair | None, clusters: Pair | None) -> None:
    for name, scores in (("member_scores", members), ("nonmember_scores", others)):
        if scores.dim() != 2 or not scores.is_floating_point():
            raise DataError(f"{name} must be (n, d) floating point, got {tuple(scores.shape)} {scores.dtype}")
        if scores.shape[0] == 0:
            raise DataError(f"{name} must have at least one row, got {tuple(scores.shape)}")
    if members.shape[1] != others.shape[1] or members.device != others.device:
        raise DataError(
            f"member_scores and nonmember_scores must have equal columns and device, got {tuple(members.shape)} on "
            f"{members.device} and {tuple(others.shape)} on {others.device}"
        )
    for name, pair in (("groups", groups), ("clusters", clusters)):
        if pair is None:
            continue
        for ids, scores in zip(pair, (members, others), strict=True):
            if ids.dtype != torch.int64 or ids.shape != scores.shape[:1]:
                raise DataError(
                    f"{name} must be int64 with one entry per row {scores.shape[0]}, got {ids.dtype} {tuple(ids.shape)}"
                )
            if name == "groups" and ids.numel() and int(ids.min()) < 0:
                raise DataError(f"groups must be >= 0, got {int(ids.min())}; leave rows out before the call")
    if clusters is not None:
        shared = clusters[0].cpu()[torch.isin(clusters[0].cpu(), clusters[1].cpu())]
        if shared.numel():
            raise DataError(
                f"cluster {int(shared[0])} has both member and non-member rows; a person is on one side, "
                "leave the other rows out"
            )


def _raise_degenerate(status: Tensor, present: Tensor) -> None:
    """Waits for the device. Groups without rows (`present` (G,) False) are not degenerate, only empty."""
    skipped = ((status == Status.SKIPPED).cpu() & present).nonzero()
    if skipped.numel():
        fold, group = skipped[0].tolist()
        raise DataError(f"{len(skipped)} problem(s) SKIPPED, first fold {fold}, group {group}. {Status.SKIPPED.advice}")
