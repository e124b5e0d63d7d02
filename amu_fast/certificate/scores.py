"""Scores of attacks in a file, so that a verifier can compute the intervals again.

Scores per row reveal membership: the file belongs to the private part of a result. A copy for others leaves it out, and
is verified with `allow_missing`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from amu_fast.audit.delong import auc_interval
from amu_fast.certificate.canonical import DIGITS
from amu_fast.certificate.document import Audit, Estimate
from amu_fast.certificate.models import SCORES_FILE
from amu_fast.certificate.records import Unknown
from amu_fast.errors import DataError
from amu_fast.report.writing import write_atomic

if TYPE_CHECKING:
    from amu_fast.audit.attacks import AttackResult
    from amu_fast.audit.metrics import Array

_SIDES = ("members", "nonmembers")
# Rounded to DIGITS digits on both sides, and computed by another machine's libraries.
_TOLERANCE = 1.5 * 10.0**-DIGITS


def save_scores(folder: str | Path, attacks: Iterable[AttackResult]) -> Path:
    """Write the attacks' float64 scores as `scores.safetensors`: tensors NAME/members (m,) and NAME/nonmembers (n,)."""
    import numpy as np
    from safetensors.numpy import save

    tensors = {}
    for attack in attacks:
        for side, values in zip(_SIDES, (attack.member_scores, attack.nonmember_scores), strict=True):
            if f"{attack.name}/{side}" in tensors:
                raise DataError(f"two attacks are called {attack.name!r}; give each its own name")
            tensors[f"{attack.name}/{side}"] = np.ascontiguousarray(values, dtype=np.float64)
    return write_atomic(Path(folder) / SCORES_FILE, save(tensors))


def stored_attacks(path: Path) -> frozenset[str]:
    """Names of the attacks in a file of scores; none if there is no file."""
    if not path.is_file():
        return frozenset()
    return frozenset(name.rsplit("/", 1)[0] for name in _load(path))


def disagreement(audit: Audit, path: Path) -> str | None:
    """How an attack's AUC and interval differ from what its stored scores give; None where they agree.

    Raises:
        DataError: The file is damaged or lacks the attack.
    """
    tensors = _load(path)
    names = [f"{audit.attack}/{side}" for side in _SIDES]
    if not set(names) <= set(tensors):
        raise DataError(f"{path} has no scores of {audit.attack!r}")
    members, nonmembers = (tensors[name] for name in names)
    if (len(members), len(nonmembers)) != (audit.members, audit.nonmembers):
        return f"{audit.attack}: {len(members)} and {len(nonmembers)} scores are stored"
    again = auc_interval(members, nonmembers, level=audit.auc.level)
    for name in ("value", "low", "high"):
        stated, found = getattr(audit.auc, name), getattr(again, name)
        if isinstance(stated, Unknown) or abs(stated - found) > _TOLERANCE:
            return f"{audit.attack}: {name} of the AUC is {found:.{DIGITS}f}, certified {stated}"
    return None


def recomputable(estimate: Estimate) -> bool:
    """Whether fixed scores alone give the interval: not for clusters of rows, nor where folds were crossed (S3, S4)."""
    return "cluster" not in estimate.method and "cross-fitted" not in estimate.method


def _load(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a sound file of scores: {error}") from error
