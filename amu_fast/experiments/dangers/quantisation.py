"""Quantisation: do forgotten rows come back when the weights are rounded?

Unlearning moves weights little; rounding to few bits may round that move away. Here weights are rounded in place to

    q(w) = s · clip(round(w/s), −Q, Q),   s = max |w| / Q per output channel,   Q = 2^(bits−1) − 1,

symmetric round-to-nearest of the weights of linear and convolution layers; biases, norms and activations stay as they
are. Language models: load the saved model with `BitsAndBytesConfig(load_in_4bit=True)` of transformers (package
bitsandbytes) and audit that one. Source of the danger: Zhang et al. (arXiv 2410.16454).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from amu_fast.audit.attacks import LossThreshold
from amu_fast.audit.intervals import Interval
from amu_fast.audit.metrics import accuracy
from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.experiments.dangers.cast import gap_to_reference
from amu_fast.experiments.dangers.report import DangerReport
from amu_fast.protocols import Attack
from amu_fast.splits import Splits

ROUNDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights have the output channel first; transposed convolutions have not and are left alone."""


def quantisation_step(weight: Tensor, bits: int) -> Tensor:
    """The step s per output channel, (channels, 1, …); 0 for a channel of zeros.

    Args:
        weight: (channels, …), floating point.
        bits: 2 … 16.
    """
    if not 2 <= bits <= 16:
        raise DataError(f"bits must lie in 2 ... 16, got {bits}; 8 and 4 are usual")
    largest = weight.detach().abs().flatten(1).amax(1)
    return (largest / (2 ** (bits - 1) - 1)).reshape(-1, *[1] * (weight.ndim - 1))


def quantise(weight: Tensor, bits: int) -> Tensor:
    """The rounded weights, in the weight's own type.

    Accuracy: |q(w) − w| ≤ s/2 up to rounding, and q(q(w)) = q(w) likewise.

    >>> quantise(torch.tensor([[1.0, -0.4, 0.2]]), bits=3)
    tensor([[ 1.0000, -0.3333,  0.3333]])
    """
    step = quantisation_step(weight, bits)
    limit = 2 ** (bits - 1) - 1
    safe = torch.where(step > 0, step, torch.ones_like(step))
    return (weight.detach() / safe).round().clamp(-limit, limit) * step


def quantised(model: nn.Module, bits: int) -> nn.Module:
    """A copy of the model with rounded weights.

    Raises:
        DataError: The model has no linear or convolution layer.
    """
    copy = deepcopy(model)
    layers = [module for module in copy.modules() if isinstance(module, ROUNDED)]
    if not layers:
        raise DataError(f"{type(model).__name__} has no linear or convolution layer, so there is nothing to round")
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(quantise(layer.weight, bits))
    return copy


@dataclass(frozen=True)
class QuantisationAudit:
    """Attack a model before and after rounding, against a retrained model rounded alike.

    QUANTISATION_REVEALS where, at some number of bits, the AUC exceeds the rounded retrained model's by more than
    `margin` with its whole interval, and in full precision did not.

    Args:
        bits: Numbers of bits to try.
        attack: Judges forget against test rows; a score of fixed direction.
        margin: On the AUC.
        level: Of the intervals.
    """

    bits: tuple[int, ...] = (8, 4)
    attack: Attack = field(default_factory=LossThreshold)
    margin: float = 0.05
    level: float = 0.95

    def __call__(self, unlearned: nn.Module, retrain: nn.Module, splits: Splits) -> DangerReport:
        """Audit one model."""
        figures: dict[str, float] = {}
        gaps: dict[str, Interval] = {}
        warnings = []
        full = self._judge("full", unlearned, retrain, splits, figures, gaps)
        for bits in self.bits:
            mine, theirs = (quantised(model, bits) for model in (unlearned, retrain))
            gap = self._judge(f"{bits}_bit", mine, theirs, splits, figures, gaps)
            if gap.low > self.margin and not full.low > self.margin:
                warnings.append(
                    f"QUANTISATION_REVEALS: rounded to {bits} bits the forget rows show, AUC {gap.value:+.3f} above "
                    f"the rounded retrain's ({full.value:+.3f} in full precision); audit the model that you ship"
                )
        return DangerReport("quantisation", figures, gaps, tuple(warnings))

    def _judge(
        self,
        name: str,
        unlearned: nn.Module,
        retrain: nn.Module,
        splits: Splits,
        figures: dict[str, float],
        gaps: dict[str, Interval],
    ) -> Interval:
        gap, (mine, theirs) = gap_to_reference(self.attack, unlearned, retrain, splits, self.level)
        gaps[f"{name}_auc_difference"] = gap
        figures |= {f"{name}_auc": mine, f"{name}_retrain_auc": theirs}
        for part in ("forget", "test"):
            figures[f"{name}_{part}_accuracy"] = accuracy(*predict(unlearned, splits.rows(part)))
            figures[f"{name}_retrain_{part}_accuracy"] = accuracy(*predict(retrain, splits.rows(part)))
        return gap
