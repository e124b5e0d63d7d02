"""How confident a model was of each row along its training: what it needed to learn by heart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amu_fast.audit.predict import predict
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.rows import Rows
    from amu_fast.unlearn.callbacks import StepState


class ConfidenceAlongTraining:
    """A callback that averages p_y of each row over a training, looking once an epoch.

    Args:
        rows: (n) the training rows.

    Source: Jiang et al., "Characterizing Structural Regularities of Labeled Data in Overparameterized Models", ICML
    2021 (arXiv 2002.03206): the cumulative confidence, a stand-in for leave-one-out memorisation.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._sum = torch.zeros(len(rows))
        self._looks = 0

    def on_step(self, state: StepState) -> None:
        """Look at the model when another epoch of gradient samples is used up."""
        if state.used < (self._looks + 1) * len(self._rows):
            return
        logits, labels = predict(state.model, self._rows, batch_size=1000)
        self._sum += logits.softmax(-1).gather(1, labels[:, None])[:, 0].cpu()
        self._looks += 1

    def mean(self) -> Tensor:
        """(n,) mean confidence.

        Raises:
            DataError: The training ended before its first epoch did.
        """
        if not self._looks:
            raise DataError(f"the training ended before {len(self._rows)} rows were seen; train for an epoch at least")
        return self._sum / self._looks
