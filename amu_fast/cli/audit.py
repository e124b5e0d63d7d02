"""`amu-fast audit`: arrays of scores in, AUC and TPR at low FPR with their intervals out; no model needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from amu_fast.audit.delong import auc_interval
from amu_fast.audit.metrics import ks_statistic, phi
from amu_fast.audit.roc import tpr_interval
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.intervals import Interval

_FPRS = (0.01, 0.05)
Array = NDArray[np.float64]


def run_audit(
    members: Path,
    nonmembers: Path,
    member_labels: Path | None,
    nonmember_labels: Path | None,
    *,
    seed: int,
    as_json: bool,
) -> None:
    """Print the figures of two files of scores, or of logits with their labels.

    Raises:
        DataError: A file is missing, unreadable or of the wrong shape.
    """
    inside = _scores(read_array(members), member_labels, "--member-labels")
    outside = _scores(read_array(nonmembers), nonmember_labels, "--nonmember-labels")
    auc = auc_interval(inside, outside)
    tprs = {f"{fpr:g}": tpr_interval(inside, outside, fpr, seed=seed) for fpr in _FPRS}
    ks = ks_statistic(inside, outside)
    if as_json:
        document = {
            "scope": "this model",
            "members": len(inside),
            "nonmembers": len(outside),
            "auc": _plain(auc),
            "tpr_at_fpr": {fpr: _plain(interval) for fpr, interval in tprs.items()},
            "ks": ks,
        }
        print(json.dumps(document, indent=2))
        return
    print(f"{len(inside)} members, {len(outside)} non-members; intervals are for this model (rows resampled), 95 %")
    print(f"AUC           {_text(auc)}")
    for fpr, interval in tprs.items():
        print(f"TPR at {float(fpr):.0%} FPR {_text(interval)}")
    print(f"KS            {ks:.3f} (biased upward without any signal: compare it with a retrained model's)")


def read_array(path: Path) -> Array:
    """Numbers of a .npy or .csv file; nothing is ever unpickled.

    Raises:
        DataError: The file is missing, has another ending, or does not hold numbers.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a .npy or .csv file")
    if path.suffix not in (".npy", ".csv"):
        raise DataError(f"{path} must end in .npy or .csv, got {path.suffix!r}; save it with numpy.save")
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",")
        return np.asarray(values, dtype=np.float64)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} does not hold numbers ({error}); save it with numpy.save or numpy.savetxt") from error


def _scores(values: Array, labels: Path | None, option: str) -> Array:
    """Scores as given, or the logit of the true class's probability for logits."""
    if values.ndim == 1:
        return values
    if values.ndim != 2:
        raise DataError(f"scores must be (n,) or logits (n, C), got shape {values.shape}")
    if labels is None:
        raise DataError(f"logits of shape {values.shape} need their classes; add {option} FILE")
    classes = read_array(labels)
    whole = classes.astype(np.int64)
    if (whole != classes).any():
        raise DataError(f"{labels} must hold whole class numbers, got {classes[whole != classes][0]}")
    return phi(values, whole)


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _text(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
