"""A linear probe of one layer: what the outputs hide, the hidden states may still tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from amu_fast.audit.attacks.outputs import Outputs, SplitOutputs
from amu_fast.audit.attacks.result import FPRS, AttackResult
from amu_fast.audit.attacks.svm import LinearSvmAttack
from amu_fast.audit.predict import eval_mode
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.rows import Rows
    from amu_fast.splits import Splits


@dataclass(frozen=True)
class HiddenStateProbe:
    """`LinearSvmAttack` on the output of one submodule: trained on F1 and V, judged on F2 and T.

    Attributes:
        layer: name of the submodule, as `named_modules()` has it.
        pool: from the layer's output (n, ...) to states (n, h); None: flattened. For blocks of a transformer
            (n, T, h) a mean over T, for convolutions a mean over space.
        l2: strength of the regularisation of (mean loss + l2/2 |w|^2), on standardised states.
        batch_size: rows per forward pass.
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the halves and of the bootstrap.
        in_game: whether hidden states of this layer were scores of the game.
        name: name in tables.
    """

    layer: str
    pool: Callable[[Tensor], Tensor] | None = None
    l2: float = 1e-2
    batch_size: int = 256
    fprs: tuple[float, ...] = FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "probe of hidden states"

    def run(self, target: Any, splits: Splits | None = None) -> AttackResult:
        """Attack a model on its splits, or `SplitOutputs` made of states by `Outputs.from_scores`."""
        if isinstance(target, nn.Module):
            if splits is None:
                raise DataError("a probe of a model needs its splits; pass splits=Splits(...)")
            parts = ("forget", "test", "validation")
            target = SplitOutputs(*(Outputs.from_scores(self.states(target, splits.rows(p))) for p in parts))
        svm = LinearSvmAttack(self.l2, self.fprs, self.level, self.seed, self.in_game, self.name)
        return svm.run(target)

    @torch.no_grad()
    def states(self, model: nn.Module, rows: Rows) -> Tensor:
        """(n, h) states of the layer, in eval mode; waits for the device.

        Raises:
            DataError: no such layer, or one that is not called exactly once in a forward pass.
        """
        known = dict(model.named_modules())
        if self.layer not in known:
            raise DataError(f"the model has no submodule {self.layer!r}; it has {', '.join(n for n in known if n)}")
        caught: list[Tensor] = []
        hook = known[self.layer].register_forward_hook(lambda module, inputs, output: caught.append(_tensor(output)))
        parameter = next(model.parameters(), None)
        states = []
        try:
            with eval_mode(model):
                for index in torch.arange(len(rows)).split(self.batch_size):
                    inputs = rows.fetch(index)[0]
                    model(inputs if parameter is None else inputs.to(parameter.device))
                    states.append(self._pooled(caught, len(index)))
                    caught.clear()
        finally:
            hook.remove()
        return torch.cat(states)

    def _pooled(self, caught: list[Tensor], rows: int) -> Tensor:
        if len(caught) != 1:
            raise DataError(f"{self.layer!r} was called {len(caught)} times in one forward pass; name one called once")
        state = caught[0].flatten(1) if self.pool is None else self.pool(caught[0])
        if state.ndim != 2 or len(state) != rows:
            raise DataError(f"pooled states must be (n, h) for {rows} rows, got {tuple(state.shape)}; change pool")
        return state.cpu()


def _tensor(output: Any) -> Tensor:
    """The output itself, or the first of several, as transformer blocks give."""
    return output[0] if isinstance(output, tuple) else output
