"""Does a forget set look like camouflage: rows that share a pattern which ordinary rows do not have?

Two questions that need no model, both answered by permuting which rows are "forget" and which "validation" inside
each class (S3, p = (1 + #)/(B + 1)), so that on a forget set drawn at random the false alarms are at most `alpha`:

    pattern      is there a patch of pixels at which all forget rows agree and validation rows differ?
    separable    can a ridge classifier of the inputs tell forget from validation rows?

The first also hands out the pattern, to be tried as a trigger. The second sees mixtures of clean and stamped rows.
A forget set that was *not* drawn at random (one person's pictures) may be separable without any malice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit.metrics import Array
from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.experiments.dangers.permutations import MatchedSample, concentration, cross_fitted_auc, p_value
from amu_fast.experiments.dangers.report import DangerReport
from amu_fast.rows import Part, Rows


@dataclass(frozen=True, eq=False)
class RecoveredPattern:
    """A pattern found in a forget set, usable as a trigger.

    Attributes:
        mask: (...,) bool, the pixels that the forget rows share.
        values: (...,) their means over the forget rows.
    """

    mask: Tensor
    values: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Stamped copy of the inputs (n, ...)."""
        return torch.where(self.mask, self.values, inputs)


@dataclass(frozen=True, eq=False)
class CamouflageFindings:
    """Report, and the pattern where one was found."""

    report: DangerReport
    pattern: RecoveredPattern | None


@dataclass(frozen=True)
class CamouflageAudit:
    """Compare a forget set with validation rows.

    Warnings: SHARED_PATTERN where the pattern's p ≤ alpha/2 and its concentration ≥ `ratio`; FORGET_SET_STANDS_OUT
    where the classifier's p ≤ alpha/2 and its AUC ≥ `auc`. The sizes keep large but harmless differences quiet.

    Args:
        alpha: Share of false alarms on forget sets drawn at random.
        permutations: B ≥ 2/alpha − 1.
        window: Side of the patch, in pixels; inputs that are no images are compared feature by feature.
        ratio: How much nearer to each other forget rows must be than validation rows are to them (variances).
        auc: Least AUC that counts.
        floor: Added to the forget rows' variance of a pixel, as a share of the variance of all pixels.
        l2: Ridge of the classifier.
    """

    alpha: float = 0.01
    permutations: int = 999
    window: int = 3
    ratio: float = 5.0
    auc: float = 0.6
    floor: float = 0.1
    l2: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0 or self.permutations < math.ceil(2.0 / self.alpha) - 1:
            raise DataError(
                f"alpha {self.alpha} needs 0 < alpha < 1 and at least 2/alpha - 1 permutations, got {self.permutations}"
            )
        if self.window < 1 or not self.ratio > 1.0 or not self.floor > 0.0 or not self.l2 > 0.0:
            raise DataError(
                f"need window >= 1, ratio > 1, floor > 0 and l2 > 0, got {self.window}, {self.ratio}, {self.floor}, "
                f"{self.l2}"
            )

    def __call__(
        self, forget: Part, validation: Part, *, model: nn.Module | None = None, seed: int = 0
    ) -> CamouflageFindings:
        """Audit a forget set.

        Args:
            forget: The rows that somebody asks to be forgotten.
            validation: Rows that were never trained on, from the ordinary distribution.
            model: The model as it is; the pattern, where found, is tried on it as a trigger.
            seed: Of the matching and of the permutations.

        Raises:
            DataError: Rows of different shapes, or fewer than 10 that match by class.
        """
        mine, theirs = (_all(part, name) for part, name in ((forget, "forget"), (validation, "validation")))
        if mine[0].shape[1:] != theirs[0].shape[1:]:
            raise DataError(f"forget rows are {tuple(mine[0].shape[1:])}, validation rows {tuple(theirs[0].shape[1:])}")
        sample = MatchedSample.of(mine[1].numpy(), theirs[1].numpy(), seed)
        inputs = torch.cat([mine[0], theirs[0]])[torch.from_numpy(sample.rows)].double()
        features = inputs.flatten(1).numpy()
        memberships = sample.memberships(self.permutations, seed)
        spread = concentration(features, memberships, self.floor * float(features.var()))
        peaks = self._peaks(spread, inputs.shape[1:])
        aucs = cross_fitted_auc(features, memberships, sample.half, self.l2)
        return self._findings(sample, spread, peaks, aucs, inputs, model, theirs)

    def _peaks(self, spread: Array, shape: torch.Size) -> Array:
        """(B + 1,) largest mean log-concentration over windows."""
        logs = torch.from_numpy(np.log(np.maximum(spread, 1e-12)))
        if len(shape) != 3 or min(shape[1:]) < self.window:
            return np.asarray(logs.amax(1).numpy())
        pooled = functional.avg_pool2d(logs.reshape(-1, *shape).mean(1, keepdim=True), self.window, stride=1)
        return np.asarray(pooled.flatten(1).amax(1).numpy())

    def _findings(
        self,
        sample: MatchedSample,
        spread: Array,
        peaks: Array,
        aucs: Array,
        inputs: Tensor,
        model: nn.Module | None,
        validation: tuple[Tensor, Tensor],
    ) -> CamouflageFindings:
        figures = {
            "matched_rows": float(sample.member.sum()),
            "concentration": math.exp(float(peaks[0])),
            "pattern_p": p_value(peaks),
            "auc": float(aucs[0]),
            "auc_p": p_value(aucs),
        }
        warnings = []
        pattern = None
        if figures["pattern_p"] <= self.alpha / 2 and figures["concentration"] >= self.ratio:
            pattern = self._pattern(spread[0], inputs, sample)
            pixels = int(pattern.mask.sum())
            warnings.append(
                f"SHARED_PATTERN: the forget rows share {pixels} pixels that validation rows do not have "
                f"(concentration {figures['concentration']:.1f}, p {figures['pattern_p']:.3f}); they may hide a "
                "backdoor: try the pattern as a trigger before and after unlearning"
            )
            if model is not None:
                figures |= {"pattern_pixels": float(pixels), **_tried(model, pattern, *validation)}
        if figures["auc_p"] <= self.alpha / 2 and figures["auc"] >= self.auc:
            warnings.append(
                f"FORGET_SET_STANDS_OUT: inputs alone tell forget from validation rows of the same classes (AUC "
                f"{figures['auc']:.2f}, p {figures['auc_p']:.3f}); look at the rows before obeying the request"
            )
        return CamouflageFindings(DangerReport("camouflage", figures, {}, tuple(warnings)), pattern)

    def _pattern(self, spread: Array, inputs: Tensor, sample: MatchedSample) -> RecoveredPattern:
        shape = inputs.shape[1:]
        mask = torch.from_numpy(spread >= self.ratio).reshape(shape)
        return RecoveredPattern(mask, inputs[torch.from_numpy(sample.member)].mean(0).float())


def camouflage_audit(
    model: nn.Module | None, forget: Part, validation: Part, *, alpha: float = 0.01, seed: int = 0
) -> CamouflageFindings:
    """`CamouflageAudit(alpha)` of one forget set."""
    return CamouflageAudit(alpha, max(999, math.ceil(2.0 / alpha) - 1))(forget, validation, model=model, seed=seed)


def _tried(model: nn.Module, pattern: RecoveredPattern, inputs: Tensor, labels: Tensor) -> dict[str, float]:
    """Class to which stamping the pattern turns most rows of other classes, and their share."""
    logits, _ = predict(model, (pattern(inputs), labels))
    answers = logits.argmax(1).cpu()
    shares = [
        float((answers[labels != target] == target).double().mean()) if bool((labels != target).any()) else 0.0
        for target in range(logits.shape[1])
    ]
    best = int(np.argmax(shares))
    return {"pattern_target": float(best), "pattern_success": shares[best]}


def _all(part: Part, name: str) -> tuple[Tensor, Tensor]:
    rows = Rows.of(part, name)
    inputs, labels = rows.fetch(torch.arange(len(rows)))
    return inputs.cpu(), labels.cpu()
