"""ZS-PAG: unlearning from the model and the forget rows alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from amu_fast.audit.predict import eval_mode
from amu_fast.errors import DataError
from amu_fast.unlearn.adversarial import Perturbation, Perturbed
from amu_fast.unlearn.curvature import in_order, trained_parameters
from amu_fast.unlearn.door import class_logits
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import Relabelled
from amu_fast.unlearn.subspaces import basis, layer_inputs, project_out
from amu_fast.unlearn.training import Run, Values

if TYPE_CHECKING:
    from amu_fast.rows import Rows
    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result


@dataclass(frozen=True)
class ZsPag:
    """min CE of the forget rows under pseudo-labels, along gradients that leave the other classes' subspaces alone.

    1. Neighbours of the forget rows that the model answers otherwise stand in for the retain data.
    2. A forget row's pseudo-label is the wrong class on which training it would, to first order in the last layer,
       lower the stand-ins' loss most: argmin over c ≠ y of (G h)_c, with h the row's input to the last layer and G
       the gradient of the stand-ins' mean loss there.
    3. The gradient of each linear or convolution weight is projected onto the complement of the subspace that carries
       `energy` of its inputs from the stand-ins; nothing else moves, and the model stays in eval mode.

    Source: "Zero-Shot Machine Unlearning with Proxy Adversarial Data Generation" (arXiv 2507.21738, IJCAI 2025): its
    abstract and figure. How subspaces and pseudo-labels are computed there is not public: criterion, thresholds and
    constants here are ours.

    Args:
        epochs: Budget in *retain-set* sizes, stand-ins included.
        perturbation: How stand-ins are found.
        search_share: Share of the budget that this may take, in (0, 1).
        energy: In (0, 1]; larger protects more and moves less.
        optimiser: SGD options.
        batch_size: Forget rows a batch.
        callbacks: Called after every step.
    """

    epochs: float = 1.0
    perturbation: Perturbation = field(default_factory=Perturbation)
    search_share: float = 0.5
    energy: float = 0.95
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.01, weight_decay=0.0))
    batch_size: int = 64
    callbacks: tuple[Callback, ...] = ()
    name: str = "zs_pag"

    augment = None

    def __post_init__(self) -> None:
        if not 0.0 < self.energy <= 1.0:
            raise DataError(f"energy must lie in (0, 1], got {self.energy}; .95 is our default")
        if not 0.0 < self.search_share < 1.0:
            raise DataError(f"search_share must lie in (0, 1), got {self.search_share}; .5 is usual")

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` that gives the forget rows other answers; no retain or validation row is read.

        Raises:
            DataError: Unusable model or splits, no stand-in found, or a model whose last layer is not linear.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        forget = run.rows("forget")
        stand_ins = self.perturbation.of(run, forget, self.batch_size, self.search_share * run.meter.budget)
        labels = pseudo_labels(run.model, forget, stand_ins)
        run.meter.add(len(forget) + 2 * len(stand_ins), backward=False)
        moments = layer_inputs(run.model, iter(stand_ins.inputs.split(256)))
        kept = {f"{name}.weight" if name else "weight": basis(m, self.energy) for name, m in moments.items()}
        stream = run.stream("forget", Relabelled(forget, labels))

        def gradient() -> Values:
            with eval_mode(run.model):
                values = {"forget_loss": run.descend(stream)["retain_loss"]}
            for name, parameter in trained_parameters(run.model).items():
                if parameter.grad is not None:
                    parameter.grad = project_out(parameter.grad, kept[name]) if name in kept else None
            return values

        return run.train(lambda: run.update(gradient))


def pseudo_labels(model: nn.Module, forget: Rows, stand_ins: Perturbed) -> Tensor:
    """(n,) the wrong class of least influence on the stand-ins' loss, per forget row.

    Training a row on class c moves the last layer along −(p − e_c) hᵀ, which changes the stand-ins' mean loss by
    −⟨G, (p − e_c) hᵀ⟩ = (G h)_c − pᵀ G h.
    """
    layer, device = _last_linear(model), stand_ins.answers.device
    slope = torch.zeros_like(layer.weight)
    chosen = []
    with eval_mode(model), torch.no_grad():
        for chunk in torch.arange(len(stand_ins)).split(256):
            inputs, answers = stand_ins.fetch(chunk)
            hidden, logits = _hidden(model, layer, inputs)
            error = logits.softmax(1)
            error[torch.arange(len(answers), device=device), answers] -= 1.0
            slope += error.T @ hidden / len(stand_ins)
        for inputs, true in in_order(forget, 256, device):
            hidden, _ = _hidden(model, layer, inputs)
            score = hidden @ slope.T
            score[torch.arange(len(true), device=device), true] = torch.inf
            chosen.append(score.argmin(1))
    return torch.cat(chosen).cpu()


def _last_linear(model: nn.Module) -> nn.Linear:
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise DataError("pseudo-labels need a model that ends in a linear layer; this one has none")
    return linear[-1]


def _hidden(model: nn.Module, layer: nn.Linear, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What the last layer sees of a batch, (n, d), and the logits."""
    seen: list[Tensor] = []

    def watch(_: nn.Module, given: Any) -> None:
        seen.append(given[0])

    handle = layer.register_forward_pre_hook(watch)
    try:
        logits = class_logits(model(inputs), len(inputs))
    finally:
        handle.remove()
    if not seen or seen[-1].ndim != 2:
        raise DataError("pseudo-labels need a last linear layer that sees one vector a row")
    return seen[-1], logits
