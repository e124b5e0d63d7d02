"""Which tokens of a batch count, and for which sequence: rows with padding, or several sequences packed into a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amu_fast.audit.scores import ModelOutputs
from amu_fast.audit.token_statistics import TokenStatistics, token_statistics
from amu_fast.errors import DataError


@dataclass(frozen=True)
class SequenceTokens:
    """The N counted tokens of S sequences, sorted by sequence and then by place, and their statistics.

    Args:
        row: (N,) row of the batch.
        position: (N,) position of the label; the one before it predicts it.
        sequence: (N,) in [0, S).
        counts: (S,) tokens of each sequence.
        fewest, longest: The smallest and the largest of the counts.
        statistics: (N,) each.
    """

    row: Tensor
    position: Tensor
    sequence: Tensor
    counts: Tensor
    fewest: int
    longest: int
    statistics: TokenStatistics

    @classmethod
    def of(cls, outputs: ModelOutputs, need: Sequence[str] = ()) -> SequenceTokens:
        """Find the counted tokens and compute some of their statistics. Waits for the device.

        A token counts if its label is not -100 and it is, like the position before it, unmasked and of one segment.

        Args:
            outputs: Logits (n, T, V) and labels (n, T), not shifted; `mask` (n, T), 0 at padding; in a packed batch
                `extra["segments"]` (n, T) int64, the sequence of each position in [0, S), -1 at padding.
            need: Names of `token_statistics.STATISTICS`.

        Raises:
            DataError: Outputs of a classifier, shapes that do not fit, or labels that are no token.
        """
        logits, labels = outputs.logits, outputs.labels
        if logits.dim() != 3:
            raise DataError(
                f"scores of sequences need logits (n, T, V), got {tuple(logits.shape)}; "
                "for classifiers use log_likelihood or another map of amu_fast.audit.scores"
            )
        segments = outputs.extra.get("segments")
        row, before = _counted(outputs, segments).nonzero(as_tuple=True)
        sequence = row
        if segments is not None:
            sequence, order = segments[row, before].sort(stable=True)
            row, before = row[order], before[order]
        total = len(labels) if segments is None else _sequences(segments)
        counts = torch.bincount(sequence, minlength=total)
        position = before + 1
        fewest, longest = _check(labels[row, position], counts, logits.shape[-1])
        found = token_statistics(logits, labels, need, at=(row, position))
        return cls(row, position, sequence, counts, fewest, longest, found)

    @property
    def log_p(self) -> Tensor:
        """(N,) log p of the label."""
        return self._statistic("log_p")

    @property
    def moment(self) -> Tensor:
        """(N,) μ = Σ p log p."""
        return self._statistic("mean")

    @property
    def deviation(self) -> Tensor:
        """(N,) σ of log p under p."""
        return self._statistic("deviation")

    @property
    def margin(self) -> Tensor:
        """(N,) the label's logit less the largest other."""
        return self._statistic("margin")

    def each_counted(self) -> SequenceTokens:
        """These tokens, if every sequence has one.

        Raises:
            DataError: A sequence has none: its score would be 0/0.
        """
        if self.fewest == 0 and len(self.counts):
            empty = (self.counts == 0).nonzero().flatten().tolist()
            raise DataError(
                f"sequence {empty[0]} has no counted token ({len(empty)} of {len(self.counts)} have none): every label "
                "from its second position on is -100 or masked; leave it out, or truncate its prompt and not its answer"
            )
        return self

    def per_sequence(self, name: str, values: Tensor) -> Tensor:
        """`values` if it is (S,), on the tokens' device; else DataError."""
        if values.shape != self.counts.shape:
            raise DataError(f"{name} must be ({len(self.counts)},), one per sequence, got {tuple(values.shape)}")
        return values.to(self.counts.device)

    def sum(self, values: Tensor) -> Tensor:
        """(S,) sums of (N,) values over each sequence."""
        return self._table(values, 0.0).sum(-1)

    def mean(self, values: Tensor) -> Tensor:
        """(S,) means of (N,) values over each sequence."""
        return self.sum(values) / self.counts

    def lowest(self, values: Tensor, ratio: float) -> Tensor:
        """(S,) means of the max(1, int(ratio · T)) lowest of each sequence's T values; ties go to the earlier token."""
        k = (ratio * self.counts.double()).long().clamp(min=1)
        # descending, because a sort takes NaN for the largest: it must not go unseen
        lowest = -(-self._table(values, torch.inf)).sort(dim=-1, descending=True, stable=True).values
        taken = torch.arange(self.longest, device=k.device) < k.unsqueeze(-1)
        return lowest.where(taken, 0.0).sum(-1) / k

    def pooled(self, hidden: Tensor) -> Tensor:
        """(S, h): mean over the positions of (n, T, h) that predict each sequence's tokens; float32 at least."""
        if hidden.dim() != 3:
            raise DataError(f"hidden must be (n, T, h), one layer's states, got {tuple(hidden.shape)}")
        states = hidden[self.row, self.position - 1]
        states = states if states.dtype == torch.float64 else states.float()
        sums = states.new_zeros(len(self.counts), states.shape[-1]).index_add(0, self.sequence, states)
        return sums / self.counts.unsqueeze(-1)

    def _table(self, values: Tensor, fill: float) -> Tensor:
        """(S, longest): the values of one sequence a row. Unlike atomic sums it repeats bit by bit on any device."""
        starts = self.counts.cumsum(0) - self.counts
        place = torch.arange(len(values), device=values.device) - starts[self.sequence]
        table = values.new_full((len(self.counts), self.longest), fill)
        return table.index_put((self.sequence, place), values)

    def _statistic(self, name: str) -> Tensor:
        value = getattr(self.statistics, name)
        if value is None:
            raise DataError(f"the score map reads {name!r}; put it into its `needs`")
        return value


def _counted(outputs: ModelOutputs, segments: Tensor | None) -> Tensor:
    """(n, T − 1) bool: whether position t counts as predictor of t + 1."""
    labels, mask = outputs.labels, outputs.mask
    counted = labels[:, 1:] != -100
    if segments is not None:
        if segments.shape != labels.shape or segments.dtype != torch.int64:
            raise DataError(
                f"segments must be int64 {tuple(labels.shape)} like labels, got {segments.dtype} "
                f"{tuple(segments.shape)}"
            )
        counted &= (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] >= 0)
    elif mask is not None and mask.shape != labels.shape:
        raise DataError(
            f"mask must be {tuple(labels.shape)} like labels, got {tuple(mask.shape)}; "
            "for a packed batch give extra['segments']"
        )
    if mask is not None and mask.shape == labels.shape:
        counted &= (mask[:, 1:] != 0) & (mask[:, :-1] != 0)
    return counted


def _sequences(segments: Tensor) -> int:
    return int(segments.max()) + 1 if segments.numel() else 0


def _check(targets: Tensor, counts: Tensor, vocabulary: int) -> tuple[int, int]:
    """The smallest and the largest count; DataError if a target is no token."""
    if not len(targets):
        return 0, 0
    low, high, fewest, longest = torch.stack([*targets.aminmax(), *counts.aminmax()]).tolist()
    if low < 0 or high >= vocabulary:
        raise DataError(
            f"labels must be -100 or in [0, {vocabulary}), got {low if low < 0 else high}; "
            "does the tokenizer belong to the model?"
        )
    return fewest, longest
