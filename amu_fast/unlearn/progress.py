"""One line that says how a run is doing: redrawn in a terminal, logged now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from torch import Tensor

    from amu_fast.unlearn.callbacks import StepState

_REDRAW_SECONDS = 0.2
_COLUMNS = (
    ("retain_loss", "retain loss", "{:.4f}"),
    ("forget_loss", "forget loss", "{:.4f}"),
    ("payoff", "payoff", "{:+.4f}"),
    ("moment_gap", "moment gap", "{:.4f}"),
    ("auditor_accuracy", "auditor accuracy", "{:.3f}"),
    ("loss_gap", "forget - validation loss", "{:+.4f}"),
    ("adjoint_residual", "residual", "{:.1e}"),
    ("gradient_bound", "bound", "{:.1e}"),
)


class Progress:
    """Callback that shows step, losses, payoff, the auditor's accuracy, residual and bound, ms a step and time to go.

    Pass it to a method, `FineTune(callbacks=(Progress(),))`. Reads values, and so waits for the device, only when a
    line is due. One object can serve one run after another.

    Args:
        log_seconds: Without a terminal, seconds between two lines.
        stream: Where lines go; None: standard error.
    """

    def __init__(self, log_seconds: float = 10.0, stream: TextIO | None = None) -> None:
        self._log_seconds = log_seconds
        self._stream = sys.stderr if stream is None else stream
        self._live: Any = None
        self._reset()

    def _reset(self) -> None:
        self._began = self._shown = 0.0
        self._latest: dict[str, Tensor] = {}
        self._last: StepState | None = None

    def on_step(self, state: StepState) -> Literal["stop"] | None:
        """Remember the step; show it if a line is due."""
        now = time.monotonic()
        if self._last is None:
            self._began = self._shown = now
        self._last = state
        self._latest.update(state.values)
        if now - self._shown >= (_REDRAW_SECONDS if self._stream.isatty() else self._log_seconds):
            self._shown = now
            self._show(state, now)
        return None

    def on_end(self) -> None:
        """Show the last step and close the line."""
        if self._last is not None:
            self._show(self._last, time.monotonic())
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._reset()

    def _show(self, state: StepState, now: float) -> None:
        line = self.line(state, now - self._began)
        if not self._stream.isatty():
            self._stream.write(line + "\n")
            self._stream.flush()
            return
        if self._live is None:
            self._live = _live_line(self._stream)
            self._live.start()
        self._live.update(line, refresh=True)

    def line(self, state: StepState, seconds: float) -> str:
        """The text for a step reached after `seconds`; waits for the device."""
        share = min(1.0, state.used / state.budget)
        left = seconds * (1.0 - share) / share if share > 0.0 else 0.0
        shown = [
            f"{label} {form.format(float(self._latest[key]))}" for key, label, form in _COLUMNS if key in self._latest
        ]
        pace = f"{1e3 * seconds / state.step:.1f} ms/step"
        return " | ".join([f"{state.method} {share:4.0%} step {state.step}", *shown, pace, f"ETA {left:.0f} s"])


def _live_line(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(file=stream), auto_refresh=False)
