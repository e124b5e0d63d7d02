"""Poisoned requests: a requester names rows in order to damage the model, not to be forgotten.

kind          what is named                                  what the audit looks at
honest        training rows at random                        nothing to see
non_members   rows that were never trained on                membership of the named rows, by references
mislabelled   training images under another class            the same: (x, y') was never a training row
one_class     training rows of one class only                share of each class in the request

and after unlearning, whatever the kind, the accuracy of each class. Who still has the training set first looks the
rows up (`missing_rows`): that is exact, and needs no statistics.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from amu_fast.audit.attacks import Outputs
from amu_fast.audit.intervals import Interval, normal_quantile
from amu_fast.audit.metrics import Array, placements
from amu_fast.errors import DataError
from amu_fast.experiments.dangers.permutations import MIN_ROWS, same_mix
from amu_fast.experiments.dangers.report import DangerReport
from amu_fast.rows import Part, Rows
from amu_fast.unlearn.streams import generator, relabel

Kind = Literal["honest", "non_members", "mislabelled", "one_class"]
_MEMBERSHIP = "membership of the request"
KINDS: tuple[Kind, ...] = get_args(Kind)


def request_of(
    kind: Kind, train: tuple[Tensor, Tensor], outside: tuple[Tensor, Tensor], size: int, classes: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """A request of one kind.

    Args:
        kind: One of `KINDS`.
        train: Training rows (n, ...) and their classes.
        outside: Rows that were never trained on.
        size: Rows that are named; for one_class at most those of the most frequent class.
        classes: C.
        seed: Of the choice.

    Raises:
        DataError: Another kind, or more rows than there are.
    """
    if kind not in KINDS:
        raise DataError(f"kind must be one of {KINDS}, got {kind!r}")
    inputs, labels = outside if kind == "non_members" else train
    rng = generator(seed, "request")
    order = torch.randperm(len(labels), generator=rng)
    if kind == "one_class":
        common = int(torch.bincount(labels).argmax())
        order = order[labels[order] == common]
    if not 0 < size <= len(order):
        raise DataError(f"a request of kind {kind} can name 1 to {len(order)} rows, got {size}")
    rows = order[:size]
    named = relabel(labels[rows], classes, rng) if kind == "mislabelled" else labels[rows]
    return inputs[rows], named


def missing_rows(request: tuple[Tensor, Tensor], train: tuple[Tensor, Tensor]) -> tuple[int, ...]:
    """Numbers of requested rows (x, y) of which the training set has no bitwise equal copy."""
    known = set(_hashes(*train))
    return tuple(number for number, digest in enumerate(_hashes(*request)) if digest not in known)


def _hashes(inputs: Tensor, labels: Tensor) -> list[bytes]:
    rows = np.ascontiguousarray(inputs.cpu().numpy()).reshape(len(inputs), -1)
    return [
        hashlib.sha256(row.tobytes() + int(label).to_bytes(8, "little", signed=True)).digest()
        for row, label in zip(rows, labels.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class MembershipAudit:
    """Were the named rows trained on? The scores are calibrated: φ on the model minus the mean φ on references.

    Retain and validation rows are drawn in the request's mix of classes, as easy classes are memorised less. If a share
    π of the request are members like the retain rows, and the rest non-members like the validation rows, then

        AUC(request, validation) − ½ = π · (AUC(retain, validation) − ½).

    Warnings: NOT_MEMBERS where the upper end of π lies below 1 − tolerance; MEMBERSHIP_NOT_EVALUABLE where the attack
    does not see the retain rows either (S11), or fewer than 10 of them or of the validation rows are left.

    Args:
        tolerance: Share of non-members that is let pass.
        assay: Least lower bound of AUC(retain, validation).
        doubt: A row is doubtful if at most this share of the retain rows scores as low.
        level: Of the intervals.
    """

    tolerance: float = 0.2
    assay: float = 0.55
    doubt: float = 0.01
    level: float = 0.95

    def scores(self, model: nn.Module, references: Sequence[nn.Module], rows: Part) -> Array:
        """Calibrated φ per row, (n,); higher for members."""
        if not references:
            raise DataError("calibrated membership needs at least 1 reference, trained on none of the rows; got 0")
        phi, *others = (Outputs.of_model(m, rows).require("phi") for m in (model, *references))
        return np.asarray(phi - np.mean(others, axis=0))

    def __call__(
        self,
        model: nn.Module,
        references: Sequence[nn.Module],
        request: Part,
        retain: Part,
        validation: Part,
        seed: int = 0,
    ) -> DangerReport:
        """Audit a request.

        Args:
            model: As it is, before unlearning.
            references: Models trained on none of the rows below.
            request: The named rows, under the labels under which they were named.
            retain: Rows that were trained on for certain.
            validation: Rows that were not.
            seed: Of the draw of retain and validation rows.
        """
        named = Rows.of(request, "request")
        others = [_alike(named, part, name, seed) for name, part in (("retain", retain), ("validation", validation))]
        if min(map(len, others)) < MIN_ROWS:
            warning = (
                f"MEMBERSHIP_NOT_EVALUABLE: in the request's mix of classes only {len(others[0])} retain and "
                f"{len(others[1])} validation rows are left, need {MIN_ROWS}; look the rows up instead"
            )
            return DangerReport(_MEMBERSHIP, {"rows": float(len(named))}, {}, (warning,))
        return self._judge(*(self.scores(model, references, rows) for rows in (named, *others)))

    def _judge(self, mine: Array, kept: Array, fresh: Array) -> DangerReport:
        share, control = member_share(mine, kept, fresh, self.level)
        doubtful = row_p_values(mine, kept) <= self.doubt
        figures = {"rows": float(len(mine)), "doubtful_share": float(doubtful.mean())}
        warnings = []
        if not control.low >= self.assay:
            warnings.append(
                f"MEMBERSHIP_NOT_EVALUABLE: on rows that were trained on for certain the attack has AUC "
                f"{control.value:.3f}, lower bound {control.low:.3f} < {self.assay}; look the rows up instead"
            )
        elif share.high < 1.0 - self.tolerance:
            warnings.append(
                f"NOT_MEMBERS: about {max(0.0, share.value):.0%} of the {len(mine)} named rows behave as trained ones "
                f"(at most {max(0.0, share.high):.0%}); ask for proof before unlearning them"
            )
        return DangerReport(_MEMBERSHIP, figures, {"member_share": share, "control": control}, tuple(warnings))


def _alike(request: Rows, part: Part, name: str, seed: int) -> Rows:
    """Rows of a part in the request's mix of classes."""
    rows = Rows.of(part, name)
    return rows.take(torch.from_numpy(same_mix(request.labels().numpy(), rows.labels().numpy(), seed)))


def member_share(request: Array, retain: Array, validation: Array, level: float = 0.95) -> tuple[Interval, Interval]:
    """Share π of members in a request, and AUC(retain, validation), from scores that are higher for members.

    π = (A_f − ½)/(A_r − ½); with DeLong's components V the variance of A_f − π A_r is

        var(V10_f)/n_f + π² var(V10_r)/n_r + var(V01_f − π V01_r)/n_v,

    divided by (A_r − ½)² (delta method). π is not clipped: an over-unlearned or mislabelled request lies below 0.
    """
    (f10, f01), (r10, r01) = placements(request, validation), placements(retain, validation)
    lift = float(r10.mean()) - 0.5
    z = normal_quantile(level)
    sizes = (len(request), len(retain), len(validation))
    half = z * math.sqrt(r10.var(ddof=1) / len(r10) + r01.var(ddof=1) / len(r01))
    control = Interval(lift + 0.5, lift + 0.5 - half, lift + 0.5 + half, level, "this model", "DeLong", sizes[1:])
    share = (float(f10.mean()) - 0.5) / lift if lift else math.nan
    variance = f10.var(ddof=1) / sizes[0] + share**2 * r10.var(ddof=1) / sizes[1]
    variance += (f01 - share * r01).var(ddof=1) / sizes[2]
    half = z * math.sqrt(variance) / abs(lift) if lift else math.nan
    return Interval(share, share - half, share + half, level, "this model", "delta method, DeLong", sizes), control


def row_p_values(request: Array, retain: Array) -> Array:
    """Per requested row, (1 + retain rows that score as low)/(1 + retain rows): small for a row that looks unseen."""
    below = np.searchsorted(np.sort(retain), request, side="right")
    return np.asarray((1.0 + below) / (1.0 + len(retain)))
