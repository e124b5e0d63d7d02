"""From finished shadow models to what the attacks take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from amu_fast.audit import metrics
from amu_fast.audit.attacks.outputs import Outputs
from amu_fast.audit.attacks.shadows import ShadowScores
from amu_fast.audit.metrics import Array
from amu_fast.errors import DataError
from amu_fast.fleet.fleet import Shadow
from amu_fast.fleet.specs import RowNumbers
from amu_fast.rows import Part, Rows


def shadow_scores(shadows: Sequence[Shadow], data: Part, rows: RowNumbers) -> ShadowScores:
    """Phi of every model on these rows, in their order, with who saw which.

    A model that was made to forget is inside for the rows it forgot, and neither inside nor outside for those it kept;
    a plain one is inside for its training rows. A model is outside for rows that it never trained on.

    Args:
        shadows: of one fleet.
        data: the fleet's.
        rows: numbers of rows that the models were asked about.
    """
    numbers = torch.as_tensor(rows if isinstance(rows, Tensor) else list(rows)).long()
    learned = [torch.isin(numbers, shadow.spec.train) for shadow in shadows]
    forgot = [torch.isin(numbers, shadow.spec.forget) for shadow in shadows]
    inside = [f if len(s.spec.forget) else t for s, f, t in zip(shadows, forgot, learned, strict=True)]
    outside = np.stack([(~mask).numpy() for mask in learned])
    return ShadowScores(phi_of(shadows, data, rows), np.stack([mask.numpy() for mask in inside]), outside)


def phi_of(shadows: Sequence[Shadow], data: Part, rows: RowNumbers) -> Array:
    """(k, n) phi = log p_y - log(1 - p_y) of every model on these rows, in their order."""
    numbers = torch.as_tensor(rows if isinstance(rows, Tensor) else list(rows)).long()
    if not shadows:
        raise DataError("there are no shadow models; run the fleet with at least 1 spec")
    labels = Rows.of(data, "data").take(numbers).labels()
    return np.stack([metrics.phi(_answers(shadow, numbers), labels) for shadow in shadows])


def outputs_of(shadow: Shadow, data: Part, rows: RowNumbers) -> Outputs:
    """One model's `Outputs` on these rows, for attacks that take references."""
    numbers = torch.as_tensor(rows if isinstance(rows, Tensor) else list(rows)).long()
    return Outputs.from_logits(_answers(shadow, numbers), Rows.of(data, "data").take(numbers).labels())


def _answers(shadow: Shadow, numbers: Tensor) -> Tensor:
    place = torch.searchsorted(shadow.rows, numbers).clamp_max(len(shadow.rows) - 1)
    strange = numbers[shadow.rows[place] != numbers]
    if len(strange):
        raise DataError(f"{shadow.path} has no answer for row {int(strange[0])}; add it to the fleet's `ask`")
    return shadow.logits[place]
