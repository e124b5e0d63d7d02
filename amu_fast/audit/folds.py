"""Balanced, stratified folds of an auditing set, drawn from (seed, step) alone: the same on every rank and device.

A group keeps equally many member and non-member rows, at random. Each fold is an independent shuffle split, stratified
by (group, membership): of q units in a cell, min(q - 1, max(1, (7q + 5) // 10)) train and the others are held out. A
unit is a row, or all rows of one person where clusters are given. Source: docs/game.md, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """Labels (N,), groups (N,) with -1 for dropped rows, train and held-out masks (K, N); all on the CPU."""

    labels: Tensor
    groups: Tensor
    train_masks: Tensor
    held_out_masks: Tensor


def generator_of(seed: int, step: int) -> torch.Generator:
    """A CPU generator for one step of one run."""
    # Two odd 64-bit constants (splitmix64's) keep neighbouring seeds and steps apart.
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) % 2**63
    return torch.Generator().manual_seed(mixed)


def draw(
    labels: Tensor,
    groups: Tensor,
    folds: int,
    generator: torch.Generator,
    *,
    clusters: Tensor | None = None,
    bank: Tensor | None = None,
    permute: bool = False,
) -> Plan:
    """Draw one step's plan. All arguments on the CPU; rows are N.

    Args:
        labels: (N,) +1 or -1.
        groups: (N,) int64; -1 leaves a row out.
        folds: K.
        generator: Source of every random choice.
        clusters: (N,) int64 person of each row; None: every row is its own.
        bank: (N,) bool rows that only ever train; None: none.
        permute: Permute labels among the units of each group first: the null of the cap (docs/statistics.md, S15).

    Returns:
        Plan.
    """
    bank = torch.zeros_like(labels, dtype=torch.bool) if bank is None else bank
    units = _units(labels, groups, clusters, bank)
    if permute:
        # Balanced before, so that both labels are equally frequent among what is permuted; and after, below.
        groups = _balance(labels, groups, bank, generator)
        labels = _permute(labels, groups, units, bank, generator)
    groups = _balance(labels, groups, bank, generator)
    train = torch.stack([_train(labels, groups, units, bank, generator) for _ in range(folds)])
    present = groups >= 0
    return Plan(labels, groups, (train | bank) & present, ~train & ~bank & present)


def _cells(labels: Tensor, groups: Tensor) -> Tensor:
    return 2 * groups + (labels < 0)


def _units(labels: Tensor, groups: Tensor, clusters: Tensor | None, bank: Tensor) -> Tensor:
    """(N,) unit of each row; a person's rows in different cells are different units."""
    if clusters is None:
        return torch.arange(labels.numel())
    keys = torch.stack([clusters, _cells(labels, groups), bank.long()], -1)
    return torch.unique(keys, dim=0, return_inverse=True)[1]


def _rank_in_cell(cell: Tensor, generator: torch.Generator) -> Tensor:
    """A random rank 0, 1, ... of each element within its cell."""
    shuffled = torch.randperm(cell.numel(), generator=generator)
    order = shuffled[torch.argsort(cell[shuffled], stable=True)]
    in_order = cell[order]
    first = torch.searchsorted(in_order, in_order)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(cell.numel()) - first
    return rank


def _balance(labels: Tensor, groups: Tensor, bank: Tensor, generator: torch.Generator) -> Tensor:
    """Groups with rows of the larger side dropped to -1 at random; bank rows are balanced among themselves."""
    present = groups >= 0
    cell = 2 * _cells(labels, groups) + bank
    cell = torch.where(present, cell, -1)
    rank = _rank_in_cell(cell, generator)
    count = torch.bincount(cell[present], minlength=4 * (int(groups.max()) + 1) if labels.numel() else 0)
    # A cell's opposite differs in the membership bit, which is bit 1.
    opposite = torch.where(present, cell ^ 2, 0)
    keep = present & (rank < count[opposite])
    return torch.where(keep, groups, -1)


def _permute(labels: Tensor, groups: Tensor, units: Tensor, bank: Tensor, generator: torch.Generator) -> Tensor:
    """Labels permuted among the units of each group; bank and other rows apart."""
    present = groups >= 0
    first_row, unit = _first_rows(units[present])
    rows = present.nonzero().squeeze(-1)[first_row]
    strata = 2 * groups[rows] + bank[rows]
    by_stratum = torch.argsort(strata, stable=True)
    at_random = torch.randperm(rows.numel(), generator=generator)
    shuffled = at_random[torch.argsort(strata[at_random], stable=True)]
    unit_labels = labels[rows].clone()
    unit_labels[by_stratum] = labels[rows][shuffled]
    out = labels.clone()
    out[present] = unit_labels[unit]
    return out


def _train(labels: Tensor, groups: Tensor, units: Tensor, bank: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) bool: the training rows of one fold, bank rows apart."""
    present = (groups >= 0) & ~bank
    first_row, unit = _first_rows(units[present])
    cell = _cells(labels, groups)[present][first_row]
    q = torch.bincount(cell)[cell]
    quota = torch.minimum(q - 1, ((7 * q + 5) // 10).clamp_min(1))
    train = torch.zeros_like(present)
    train[present] = (_rank_in_cell(cell, generator) < quota)[unit]
    return train


def _first_rows(units: Tensor) -> tuple[Tensor, Tensor]:
    """Of (n,) unit ids: the first row of each unit that occurs, and each row's position among these units."""
    _, unit = torch.unique(units, return_inverse=True)
    count = int(unit.max()) + 1 if unit.numel() else 0
    first = torch.full((count,), units.numel()).scatter_reduce(0, unit, torch.arange(units.numel()), "amin")
    return first, unit
