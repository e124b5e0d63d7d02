"""Scores of sequences, from a language model's logits (n, T, V): one row per sequence.

Higher = member; means are over the counted tokens: label ≠ -100, not padding, and predicted from the same sequence.
Every map takes `ModelOutputs` and returns float32 (float64 for float64 logits), differentiable in the logits, with no
temporary of their size but their gradient. Maps wait for the device, to count tokens and check labels.
Source: docs/game.md, section 9.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from amu_fast.audit.scores import ModelOutputs, ScoreMap
from amu_fast.audit.sequences import SequenceTokens
from amu_fast.audit.token_score import TokenScore, token_score
from amu_fast.errors import DataError


@token_score("log_p")
def sequence_log_likelihood(tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
    """(S, 1): mean log p."""
    return tokens.mean(tokens.log_p)


@token_score("log_p")
def lowest_token(tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
    """(S, 1): the lowest log p."""
    return tokens.lowest(tokens.log_p, 0.0)


@token_score("margin")
def token_margin(tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
    """(S, 1): mean of z_y − max_{j≠y} z_j; differentiable almost everywhere."""
    return tokens.mean(tokens.margin)


@token_score("mean")
def token_entropy(tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
    """(S, 1): minus the mean entropy, Σ_j p_j log p_j."""
    return tokens.mean(tokens.moment)


@token_score("log_p")
def zlib_ratio(tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
    """(S, 1): mean log p over the bytes of the compressed text, `outputs.extra["zlib_lengths"]`, see `zlib_lengths`."""
    lengths = outputs.extra.get("zlib_lengths")
    if lengths is None:
        raise DataError(
            "zlib_ratio needs outputs.extra['zlib_lengths'], (S,) int64, and there is none; "
            "zlib_lengths(texts) makes it, and batches carry it under that key"
        )
    mean = tokens.mean(tokens.log_p)
    return mean / tokens.per_sequence("extra['zlib_lengths']", lengths).to(mean.dtype)


@token_score("log_p")
def reference_log_ratio(tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
    """(S, 1): mean log p less that of a model which never saw the forget rows, `outputs.reference`."""
    if outputs.reference is None:
        raise DataError(
            "reference_log_ratio needs outputs.reference, (S,) mean log p under a model that never saw the forget rows "
            "(the base model before fine-tuning), and there is none; batches carry it under the key 'reference'"
        )
    mean = tokens.mean(tokens.log_p)
    return mean - tokens.per_sequence("reference", outputs.reference).to(mean.dtype)


def _check_ratio(ratio: float) -> None:
    if not 0.0 < ratio <= 1.0:
        raise DataError(f"ratio must be in (0, 1], got {ratio}; 0.2 is usual")


@dataclass(frozen=True)
class MinK(TokenScore):
    """(S, 1): mean of the max(1, int(ratio · T)) lowest log p of T tokens (Shi et al., ICLR 2024).

    Args:
        ratio: Part of the tokens, in (0, 1].
    """

    ratio: float = 0.2

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)

    @property
    def needs(self) -> tuple[str, ...]:
        """Log p."""
        return ("log_p",)

    def of_tokens(self, tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
        """(S, 1) from log p."""
        return tokens.lowest(tokens.log_p, self.ratio).unsqueeze(-1)


@dataclass(frozen=True)
class MinKPlusPlus(TokenScore):
    """(S, 1): mean of the max(1, int(ratio · T)) lowest (log p − μ) / σ of T tokens (Zhang et al., ICLR 2025).

    Args:
        ratio: Part of the tokens, in (0, 1].
    """

    ratio: float = 0.2

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)

    @property
    def needs(self) -> tuple[str, ...]:
        """Log p and its moments."""
        return ("log_p", "mean", "deviation")

    def of_tokens(self, tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
        """(S, 1) from log p and its moments."""
        z = (tokens.log_p - tokens.moment) / tokens.deviation
        return tokens.lowest(z, self.ratio).unsqueeze(-1)


@dataclass(frozen=True)
class HiddenState(TokenScore):
    """(S, min(h, dimensions)): mean hidden state of the positions that predict counted tokens, projected.

    The projection is Gaussian of variance 1/dimensions, drawn from `seed` on the CPU, so it is the same everywhere;
    states of h <= dimensions stay as they are. It needs `outputs.hidden`, which `needs_hidden` asks for.

    Args:
        dimensions: Columns, >= 1.
        seed: Of the projection.
    """

    dimensions: int = 64
    seed: int = 0
    needs_hidden: ClassVar[Literal[True]] = True

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            raise DataError(f"dimensions must be >= 1, got {self.dimensions}; 64 is usual")

    def of_tokens(self, tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
        """(S, d) from the hidden states."""
        hidden = outputs.hidden
        if hidden is None:
            raise DataError("HiddenState needs outputs.hidden, (n, T, h) states of one layer, and there is none")
        pooled = tokens.pooled(hidden)
        if pooled.shape[-1] <= self.dimensions:
            return pooled
        with torch.autocast(pooled.device.type, enabled=False):
            return pooled @ _projection(pooled.shape[-1], self.dimensions, self.seed).to(pooled)


@dataclass(frozen=True, init=False)
class Concatenate(TokenScore):
    """(S, Σ d): the columns of several score maps side by side, from one pass over the logits.

    Args:
        maps: Score maps of this module, which share their statistics, or any others.

    >>> Concatenate(sequence_log_likelihood, MinK(0.4)).needs
    ('log_p',)
    """

    maps: tuple[ScoreMap, ...]

    def __init__(self, *maps: ScoreMap) -> None:
        if not maps:
            raise DataError("Concatenate needs at least one score map, got none")
        object.__setattr__(self, "maps", maps)

    @property
    def needs(self) -> tuple[str, ...]:
        """Statistics of all maps."""
        return tuple(dict.fromkeys(name for one in self.maps if isinstance(one, TokenScore) for name in one.needs))

    @property
    def needs_hidden(self) -> bool:
        """Whether a map reads hidden states."""
        return any(getattr(one, "needs_hidden", False) for one in self.maps)

    def of_tokens(self, tokens: SequenceTokens, outputs: ModelOutputs) -> Tensor:
        """(S, Σ d), in the order of the maps."""
        rows = [one.of_tokens(tokens, outputs) if isinstance(one, TokenScore) else one(outputs) for one in self.maps]
        return torch.cat(rows, -1)

    def __call__(self, outputs: ModelOutputs) -> Tensor:
        """Apply the maps; without a map of tokens, a classifier's outputs will do."""
        if any(isinstance(one, TokenScore) for one in self.maps):
            return super().__call__(outputs)
        return torch.cat([one(outputs) for one in self.maps], -1)


#: The eight statistics of a sequence that an attack from outside the game looks at.
EIGHT: Mapping[str, TokenScore] = MappingProxyType(
    {
        "log_p": sequence_log_likelihood,
        "min_k_20": MinK(0.2),
        "min_k_40": MinK(0.4),
        "min_k_plus_plus_20": MinKPlusPlus(0.2),
        "zlib": zlib_ratio,
        "margin": token_margin,
        "entropy": token_entropy,
        "lowest": lowest_token,
    }
)

#: (S, 8): the columns of `EIGHT`, in its order.
eight_scores = Concatenate(*EIGHT.values())


def sequence_statistics(outputs: ModelOutputs) -> dict[str, Tensor]:
    """Every statistic of each sequence by name, (S,) each, without graph: what judges and reports look at.

    The names are those of `EIGHT` and "reference"; "zlib" and "reference" are there if the outputs have what they need.
    """
    maps = {**EIGHT, "reference": reference_log_ratio}
    if "zlib_lengths" not in outputs.extra:
        del maps["zlib"]
    if outputs.reference is None:
        del maps["reference"]
    with torch.no_grad():
        return dict(zip(maps, Concatenate(*maps.values())(outputs).unbind(-1), strict=True))


def sequence_sums(outputs: ModelOutputs) -> tuple[Tensor, Tensor]:
    """Summed log p and number of counted tokens of each sequence, (S,) each; 0 and 0 where none counts."""
    tokens = SequenceTokens.of(outputs, ("log_p",))
    return tokens.sum(tokens.log_p), tokens.counts.to(tokens.log_p.dtype)


def zlib_lengths(texts: Iterable[str]) -> Tensor:
    """(S,) int64: bytes of each text compressed by zlib at its default level.

    >>> zlib_lengths(["", "a" * 100]).tolist()
    [8, 12]
    """
    return torch.tensor([len(zlib.compress(text.encode())) for text in texts], dtype=torch.int64)


@functools.lru_cache(maxsize=8)
def _projection(inputs: int, dimensions: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(inputs, dimensions, dtype=torch.float64, generator=generator) / dimensions**0.5
