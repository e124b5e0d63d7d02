"""A memory of earlier score rows, for auditing batches too small to fit an attack on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amu_fast.errors import DataError


class MemoryBank:
    """The latest score rows of either side; the auditor trains on them and never judges or differentiates them.

    Its rows count in n, the Hessian and the moments, not in the payoff's normaliser; they get no gradient, so the
    implicit term shrinks by the share of training rows that are not bank rows. Mutable, part of a checkpoint.

    Args:
        capacity: Rows kept per side, >= 1; the oldest leave first.

    Raises:
        DataError: capacity < 1.

    >>> bank = MemoryBank(capacity=2)
    >>> bank.add(torch.ones(3, 1), torch.zeros(1, 1))
    >>> len(bank.members.scores), len(bank.nonmembers.scores)
    (2, 1)
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise DataError(f"capacity must be >= 1, got {capacity}")
        self.capacity = capacity
        self.members = _Side.empty()
        self.nonmembers = _Side.empty()

    def add(
        self,
        member_scores: Tensor,
        nonmember_scores: Tensor,
        groups: tuple[Tensor, Tensor] | None = None,
        clusters: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Append rows (n, d) and (m, d), detached, with their groups and clusters, and drop the oldest."""
        group_pair = groups or (None, None)
        cluster_pair = clusters or (None, None)
        self.members = self.members.append(member_scores, group_pair[0], cluster_pair[0], self.capacity)
        self.nonmembers = self.nonmembers.append(nonmember_scores, group_pair[1], cluster_pair[1], self.capacity)

    def columns(self, chosen: slice) -> MemoryBank:
        """A bank with some columns of these rows, for one auditor of several."""
        part = MemoryBank(self.capacity)
        part.members, part.nonmembers = (
            _Side(s.scores[:, chosen], s.groups, s.clusters) for s in (self.members, self.nonmembers)
        )
        return part

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers."""
        return {
            "capacity": self.capacity,
            "members": self.members.tensors(),
            "nonmembers": self.nonmembers.tensors(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            DataError: The capacities differ.
        """
        if state["capacity"] != self.capacity:
            raise DataError(f"capacity must be {self.capacity} as in this bank, got a state with {state['capacity']}")
        self.members, self.nonmembers = _Side(*state["members"]), _Side(*state["nonmembers"])


class _Side:
    """Rows of one side: scores (n, d), groups (n,), clusters (n,)."""

    def __init__(self, scores: Tensor, groups: Tensor, clusters: Tensor) -> None:
        self.scores, self.groups, self.clusters = scores, groups, clusters

    @classmethod
    def empty(cls) -> _Side:
        none = torch.zeros(0, dtype=torch.int64)
        return cls(torch.zeros(0, 0), none, none)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.scores, self.groups, self.clusters

    def append(self, scores: Tensor, groups: Tensor | None, clusters: Tensor | None, capacity: int) -> _Side:
        scores = scores.detach()
        none = torch.zeros(scores.shape[0], dtype=torch.int64)
        new = (
            scores,
            none if groups is None else groups.cpu(),
            none - 1 if clusters is None else clusters.cpu(),
        )
        if self.scores.numel() == 0:
            old = (scores[:0], none[:0], none[:0])
        elif self.scores.shape[1] != scores.shape[1]:
            raise DataError(f"scores must have {self.scores.shape[1]} columns as in the bank, got {scores.shape[1]}")
        else:
            # a state that was loaded is on the CPU, wherever the run is
            old = (self.scores.to(scores), self.groups, self.clusters)
        return _Side(*(torch.cat([a, b.clone()])[-capacity:] for a, b in zip(old, new, strict=True)))
