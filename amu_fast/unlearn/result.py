"""What a method hands back: the unlearned model with the frozen record of how it came about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from amu_fast.errors import DataError
from amu_fast.report.report import Report
from amu_fast.report.writing import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

MODEL_FILE = "model.safetensors"
REPORT_FILE = "report.json"


@dataclass(frozen=True)
class Result:
    """An unlearned model and its report.

    Args:
        model: The unlearned copy, in the modes in which the original was given; the original is unchanged.
        report: Configuration, seed, history, cost, provenance, and metrics and attacks where they were measured.
    """

    model: nn.Module
    report: Report

    def save(self, directory: str | Path) -> Path:
        """Write `model.safetensors` and then `report.json`: a folder with a report is complete.

        Each file is written whole or not at all. Tied weights are stored once under each name. Load with
        `model.load_state_dict(safetensors.torch.load_file(...))`.

        Returns:
            The directory.

        Raises:
            DataError: The system refused, or safetensors isn't installed.
        """
        directory = Path(directory)
        report = self.report.to_json().encode()
        write_atomic(directory / MODEL_FILE, _weights(self.model.state_dict()))
        write_atomic(directory / REPORT_FILE, report)
        return directory


def _weights(state: dict[str, Tensor]) -> bytes:
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise DataError("saving a model needs safetensors, which isn't installed; pip install safetensors") from error
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})
