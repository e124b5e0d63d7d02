"""Margins of the claims, fixed before the audit and hashed (S8)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal

from amu_fast.audit.metrics import as_scores
from amu_fast.errors import DataError

AUC_MARGIN = 0.05
AUC_SHARE = 0.2


@dataclass(frozen=True)
class Margins:
    """Largest differences that count as none, as fractions; None leaves the claim out.

    Attributes:
        auc: |AUC - the reference's|.
        tpr: upper bound of the TPR at `tpr_fpr`.
        tpr_fpr: false-positive rate of that bound.
        test_accuracy: how far test accuracy may lie below the reference's.
        retain_accuracy: |retain accuracy - the reference's|.
        forget_accuracy: |forget accuracy - the reference's|.
    """

    auc: float = AUC_MARGIN
    tpr: float | None = 0.03
    tpr_fpr: float = 0.01
    test_accuracy: float | None = 0.01
    retain_accuracy: float | None = 0.01
    forget_accuracy: float | None = 0.03

    def __post_init__(self) -> None:
        for name, value in self.to_plain().items():
            if value is not None and not 0.0 < value < 1.0:
                raise DataError(f"the margin {name} must lie in (0, 1), got {value}; 1 point is 0.01")
        if self.tpr is not None and self.tpr <= self.tpr_fpr:
            raise DataError(
                f"the bound on the TPR, {self.tpr}, must exceed its FPR, {self.tpr_fpr}: chance attains that"
            )

    def to_plain(self) -> dict[str, float | None]:
        """By name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def canonical(self) -> str:
        """Compact JSON with sorted keys, numbers as their shortest decimal strings without exponent.

        >>> Margins(auc=0.04, tpr=None).canonical()[:28]
        '{"auc":"0.04","forget_accura'
        """
        return canonical(self.to_plain())

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, in hexadecimal."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def canonical(margins: Mapping[str, float | None]) -> str:
    """Canonical text of margins by name, as `Margins.canonical`; None is null."""
    texts = {name: None if value is None else _decimal(name, value) for name, value in margins.items()}
    return json.dumps(texts, sort_keys=True, separators=(",", ":"))


def auc_margin(excess: Sequence[float] | float) -> float:
    """min(.05, 20 % of the original's mean excess over retrain), from tuning units only; .05 where there is no excess.

    Args:
        excess: AUC(original) - AUC(retrain) of each tuning unit, as fractions.
    """
    mean = float(as_scores([excess] if isinstance(excess, float) else list(excess), "excess AUCs").mean())
    return min(AUC_MARGIN, AUC_SHARE * mean) if mean > 0.0 else AUC_MARGIN


def _decimal(name: str, value: float) -> str:
    if not math.isfinite(value):
        raise DataError(f"the margin {name} must be finite, got {value}")
    text = format(Decimal(repr(float(value))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
