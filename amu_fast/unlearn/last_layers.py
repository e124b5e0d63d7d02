"""The last k layers of a network, trained while everything before them stands still."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.unlearn.result import Result
    from amu_fast.unlearn.training import Run, Values

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""What counts as a layer; normalisations belong to the layer that they follow."""


@dataclass(frozen=True)
class LastLayers:
    """A copy of a model of which only the last layers train.

    Args:
        model: The copy; parameters before the first of the last k layers do not require gradients.
        layers: Names of the k convolution and linear layers, in the order of registration, which for all usual
            networks is that of the forward pass.
        frozen: Modules before them; they stay in eval mode, so that statistics of batch-norm stand still too.
        were_trained: Parameters that required gradients in the model as given.
    """

    model: nn.Module
    layers: tuple[str, ...]
    frozen: tuple[nn.Module, ...]
    were_trained: frozenset[str]

    @staticmethod
    def of(model: nn.Module, k: int) -> LastLayers:
        """Freeze a copy of `model` before its last k layers.

        Raises:
            DataError: k < 1, or more than the model has.
        """
        if not isinstance(model, nn.Module):
            raise DataError(f"model is a {type(model).__name__}; methods train weights, so pass a torch.nn.Module")
        copy = deepcopy(model)
        named = list(copy.named_modules())
        places = [at for at, (_, module) in enumerate(named) if isinstance(module, LAYERS)]
        if not 1 <= k <= len(places):
            raise DataError(f"k must lie in 1 to {len(places)}, the model's convolution and linear layers, got {k}")
        first = places[-k]
        layers = tuple(named[at][0] for at in places[-k:])
        were_trained = frozenset(name for name, p in copy.named_parameters() if p.requires_grad)
        leaves = [module for _, module in named[:first] if not list(module.children())]
        for module in leaves:
            module.requires_grad_(False)
        return LastLayers(copy, layers, tuple(leaves), were_trained)

    def train(self, run: Run, step: Callable[[], Values]) -> Result:
        """Train with the frozen part in eval mode; afterwards every parameter may train that could before."""
        twins = dict(zip(self.model.modules(), run.model.modules(), strict=True))
        frozen = [twins[module] for module in self.frozen]

        def with_frozen_part() -> Values:
            for module in frozen:
                module.training = False
            return step()

        result = run.train(with_frozen_part)
        for name, parameter in result.model.named_parameters():
            parameter.requires_grad_(name in self.were_trained)
        return result
