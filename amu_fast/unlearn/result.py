"""What a method hands back: the unlearned model with the frozen record of how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from amu_fast.audit.roc import NONMEMBERS_PER_FPR, roc_curve
from amu_fast.errors import BackendError
from amu_fast.report import figures as draw
from amu_fast.report.plain_report import document_of
from amu_fast.report.report import Report
from amu_fast.report.writing import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from amu_fast.audit.metrics import Array

MODEL_FILE = "model.safetensors"
REPORT_FILE = "report.json"
AUDIT_FILE = "audit.json"
HTML_FILE = "report.html"


@dataclass(frozen=True)
class Result:
    """An unlearned model and its report.

    Args:
        model: The unlearned copy, in the modes in which the original was given; the original is unchanged.
        report: Configuration, seed, history, cost, provenance, and metrics and attacks where they were measured.
        losses: "before" and "after" to part to loss per row, for the figures; None where nothing was measured. No
            report holds them: single losses reveal membership.
    """

    model: nn.Module
    report: Report
    losses: Mapping[str, Mapping[str, Array]] | None = None

    def save(self, directory: str | Path, *, figures: bool = True) -> Path:
        """Write `model.safetensors`, figures, `report.html`, and last `report.json`: a folder with it is complete.

        `report.html` is one page without network or script, for people; `audit.json` holds what it shows, with losses
        in bins, so that `amu-fast report` can write it again. Both need jinja2 and are left out without it.

        Each file is written whole or not at all. Tied weights are stored once under each name. Load with
        `model.load_state_dict(safetensors.torch.load_file(...))`.

        Args:
            directory: Made if missing; files of these names are replaced.
            figures: Draw both players' curves and, where measured, losses and ROC before and after, as PNG files and
                in the page; without figures there is no page.

        Returns:
            The directory.

        Raises:
            DataError: The system refused to write.
            BackendError: safetensors, or matplotlib for figures, isn't installed; nothing was written.
        """
        directory = Path(directory)
        files = {MODEL_FILE: _weights(self.model.state_dict())}
        if figures:
            files |= self._figures() | self._page()
        files[REPORT_FILE] = self.report.to_json().encode()
        for name, data in files.items():
            write_atomic(directory / name, data)
        return directory

    def _figures(self) -> dict[str, bytes]:
        drawn = {"players.png": draw.player_curves(self.report.history, f"Both players: {self.report.method.name}")}
        if self.losses is None:
            return drawn
        drawn["losses.png"] = draw.loss_histograms(self.losses)
        if all(len(parts["test"]) > 2 * NONMEMBERS_PER_FPR for parts in self.losses.values()):
            curves = {name: roc_curve(-parts["forget"], -parts["test"]) for name, parts in self.losses.items()}
            drawn["roc.png"] = draw.roc(curves, "ROC of the loss, forget against test")
        return drawn

    def _page(self) -> dict[str, bytes]:
        if find_spec("jinja2") is None:
            return {}
        from amu_fast.report.html import render

        document = document_of(self.report, self.losses)
        return {AUDIT_FILE: document.to_json().encode(), HTML_FILE: render(document).encode()}


def _weights(state: dict[str, Tensor]) -> bytes:
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise BackendError("saving a model needs safetensors; pip install safetensors") from error
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})
