"""Second-derivative operators of whole networks on one flat vector, for the solvers of this package.

    HessianOperator           H = sum_j weight_j d2 loss(w, batch_j)/dw2
    GaussNewtonOperator       G = sum_j weight_j J_j^T B_j J_j          B: the Hessian of the loss in the outputs
    EmpiricalFisherOperator   F = (1/n) sum_i g_i g_i^T                 g_i: the gradient of one row's loss

Batches are weighed by their rows, so that micro-batches and ranks make the same operator as one large batch. All three
take any `nn.Module` (wrapped in DistributedDataParallel or not) or a mapping of tensors, and any of its parameters.

| mode | flops a product (H; G and F) | kept between products | needs |
|---|---|---|---|
| "double_backward" | 12 n p; 8 n p | the graphs of all batches | derivatives of derivatives |
| "jvp" | 18 n p; 12 n p | nothing | forward mode too |
| "finite_difference" | 12 n p; 10 n p | nothing | first derivatives: any attention kernel, FSDP2 |

Common arguments:
    batches: iterable again and again (a list, a loader), with the same rows each time.
    parameters: names of parameters or of modules that hold them, the parameters themselves, or a predicate of (name,
        parameter); None: those that require gradients. The others are constants.
    rows: a batch's weight; None: the length of its first tensor. For a mean over tokens, the tokens counted.
    group: the ranks whose batches belong to the operator; "auto": all, where torch.distributed is initialised; None:
        this process alone. Every rank makes the same products at the same time and gets the same results.

A module in train mode is refused where that makes the loss random or no mean over rows; `docs/game.md`, section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from amu_fast.linalg.flat import Choice
from amu_fast.linalg.module_checks import Mode, Sighting, outputs, scalar
from amu_fast.linalg.module_function import Function, Group, ModuleFunction, Reduction, Subject, leading_size
from amu_fast.linalg.module_operator import Kind, ModuleOperator
from amu_fast.linalg.output_losses import Averaged, OutputLoss
from amu_fast.linalg.products import CentralDifference, ForwardOverReverse, KeptGraphs, Route, gradient_at, steps
from amu_fast.linalg.sandwich import ForwardSandwich, KeptSandwich, ShiftedSandwich, along, pulled_back

__all__ = ["EmpiricalFisherOperator", "GaussNewtonOperator", "HessianOperator"]


@final
class HessianOperator(ModuleOperator):
    """The Hessian of a mean loss in the chosen parameters; indefinite in general, so damp it for a solver.

    Args:
        subject: a module, or a mapping of tensors by name.
        loss: `loss(subject, batch)`, a scalar: the mean over the batch's rows (its sum with `reduction="sum"`). A
            module that is passed to it holds the parameters that it is to be evaluated at.
        batches: see above.
        parameters: see above.
        mode: see above.
        rows: see above.
        reduction: what `loss` returns.
        group: see above.

    Raises:
        DataError: arguments are unusable, batch normalisation or dropout are in train mode, or parameters are sharded
            in a mode other than "finite_difference".
        BackendError: a layer (fused attention) has no derivative that the mode needs; says what has.

    Warns:
        UserWarning: half precision occurs and makes products that are noise.

    Accuracy: exact up to rounding; by finite differences about eps^{2/3} of the scales of the gradient.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    >>> h = HessianOperator(model, lambda model, x: model(x).square().mean() / 2, [x[:1], x[1:]])
    >>> h.matvec(torch.tensor([1.0, 1.0])).tolist()
    [2.0, 3.0]
    """

    def __init__(
        self,
        subject: Subject,
        loss: Function,
        batches: Iterable[Any],
        *,
        parameters: Choice | None = None,
        mode: Mode = "double_backward",
        rows: Callable[[Any], float] | None = None,
        reduction: Reduction = "mean",
        group: Group = "auto",
    ) -> None:
        function = ModuleFunction.of(subject, loss, batches, parameters, rows, group, reduction)
        super().__init__(function, mode, Kind(_hessian_route, _hessian_reference, scalar))


@final
class GaussNewtonOperator(ModuleOperator):
    """J^T B J: positive semidefinite for a loss that is convex in the outputs, the Fisher matrix for cross-entropy.

    Args:
        subject: a module, or a mapping of tensors by name.
        outputs: `outputs(subject, batch)`, one tensor, such as logits.
        loss: `CrossEntropy(labels)`, `MeanSquaredError(targets)`, or any `loss(outputs, batch)`: the mean over the
            batch's rows, whose Hessian in the outputs is then found by double backward.
        batches: see above.
        parameters: see above.
        mode: see above.
        rows: see above; None: what `loss` counts, if it can.
        group: see above.

    Raises:
        DataError: as `HessianOperator`.
        BackendError: as `HessianOperator`.

    Warns:
        UserWarning: as `HessianOperator`.

    Source: Schraudolph, Neural Computation 14 (2002).

    >>> import torch
    >>> from amu_fast.linalg import MeanSquaredError
    >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    >>> loss = MeanSquaredError(targets=lambda x: torch.zeros(len(x), 1))
    >>> GaussNewtonOperator(model, lambda model, x: model(x), loss, [x]).matvec(torch.tensor([1.0, 1.0])).tolist()
    [4.0, 6.0]
    """

    def __init__(
        self,
        subject: Subject,
        outputs: Function,
        loss: OutputLoss | Callable[[Tensor, Any], Tensor],
        batches: Iterable[Any],
        *,
        parameters: Choice | None = None,
        mode: Mode = "double_backward",
        rows: Callable[[Any], float] | None = None,
        group: Group = "auto",
    ) -> None:
        count = loss.rows if rows is None and isinstance(loss, OutputLoss) else rows
        function = ModuleFunction.of(subject, outputs, batches, parameters, count, group)
        super().__init__(function, mode, _sandwich(loss))


@final
class EmpiricalFisherOperator(ModuleOperator):
    """(1/n) sum_i g_i g_i^T, by c_i = <g_i, v> and then sum_i c_i g_i: no gradient of a single row is ever stored.

    Args:
        subject: a module, or a mapping of tensors by name.
        losses: `losses(subject, batch)`, `(n,)`: one loss per row, none of which depends on other rows.
        batches: see above.
        parameters: see above.
        mode: see above.
        rows: see above.
        group: see above.

    Raises:
        DataError: as `HessianOperator`.
        BackendError: as `HessianOperator`.

    Warns:
        UserWarning: as `HessianOperator`.

    >>> import torch
    >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    >>> f = EmpiricalFisherOperator(model, lambda model, x: model(x)[:, 0], [x])
    >>> f.matvec(torch.tensor([1.0, 1.0])).tolist()
    [2.0, 3.0]
    """

    def __init__(
        self,
        subject: Subject,
        losses: Function,
        batches: Iterable[Any],
        *,
        parameters: Choice | None = None,
        mode: Mode = "double_backward",
        rows: Callable[[Any], float] | None = None,
        group: Group = "auto",
    ) -> None:
        function = ModuleFunction.of(subject, losses, batches, parameters, rows, group)
        super().__init__(function, mode, _sandwich(Averaged(leading_size if rows is None else rows)))


def _hessian_route(function: ModuleFunction, mode: Mode, sighting: Sighting | None) -> Route:
    if mode == "double_backward":
        return KeptGraphs(function, sighting)
    return ForwardOverReverse(function) if mode == "jvp" else CentralDifference(function)


def _hessian_reference(
    function: ModuleFunction,
    values: Sequence[Tensor],
    parts: Sequence[Tensor],
    batch: Any,
    constants: Mapping[str, Tensor],
) -> Sequence[Tensor]:
    h, inverse = _coarse_steps(values, parts)
    ahead, behind = (
        gradient_at(function, [w + s * part for w, part in zip(values, parts, strict=True)], batch, constants)
        for s in (h, -h)
    )
    return [(a - b) * (inverse / 2) for a, b in zip(ahead, behind, strict=True)]


def _sandwich(loss: Any) -> Kind:
    def route(function: ModuleFunction, mode: Mode, sighting: Sighting | None) -> Route:
        if mode == "double_backward":
            return KeptSandwich(function, loss, sighting)
        return (ForwardSandwich if mode == "jvp" else ShiftedSandwich)(function, loss)

    return Kind(route, partial(_sandwich_reference, loss), outputs)


def _sandwich_reference(
    loss: Any,
    function: ModuleFunction,
    values: Sequence[Tensor],
    parts: Sequence[Tensor],
    batch: Any,
    constants: Mapping[str, Tensor],
) -> Sequence[Tensor]:
    jv = along(function, values, parts, batch, *_coarse_steps(values, parts), constants)
    return pulled_back(function, values, jv, loss, batch, constants)


def _coarse_steps(values: Sequence[Tensor], parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Steps for float32, in which layers may compute some of what they do whatever their input."""
    size = torch.linalg.vector_norm(torch.cat([w.reshape(-1) for w in values]))
    return steps(size, parts, torch.finfo(torch.float32).eps)
