"""Diagonals of Fisher matrices of a classifier, in the two forms that methods use; always in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit.predict import eval_mode
from amu_fast.errors import DataError
from amu_fast.unlearn.door import class_logits, device_of

if TYPE_CHECKING:
    from amu_fast.rows import Rows

Named = dict[str, Tensor]


def trained_parameters(model: nn.Module) -> Named:
    """Parameters that require gradients, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def in_order(rows: Rows, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """All rows once, in their order, in batches."""
    for chunk in torch.arange(len(rows)).split(batch_size):
        inputs, labels = rows.fetch(chunk)
        yield inputs.to(device), labels.to(device)


def batch_gradients(model: nn.Module, rows: Rows, batch_size: int) -> Iterator[tuple[int, Named]]:
    """Per batch its size and the gradient of its mean cross-entropy, in eval mode; `.grad` is left alone."""
    parameters = trained_parameters(model)
    with eval_mode(model), torch.enable_grad():
        for inputs, labels in in_order(rows, batch_size, device_of(model)):
            loss = functional.cross_entropy(class_logits(model(inputs), len(labels)), labels)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
            yield len(labels), dict(zip(parameters, found, strict=True))


def batch_fisher(model: nn.Module, rows: Rows, batch_size: int) -> Named:
    """Mean over batches of the squared gradient of the batch's mean cross-entropy, by parameter.

    With batches of one row this is the empirical Fisher's diagonal; larger ones are what selective dampening uses.
    """
    total = {name: torch.zeros_like(p) for name, p in trained_parameters(model).items()}
    batches = 0
    for _, gradient in batch_gradients(model, rows, batch_size):
        batches += 1
        for name, part in gradient.items():
            total[name].addcmul_(part, part)
    return {name: value / batches for name, value in total.items()}


def fisher(model: nn.Module, rows: Rows, batch_size: int) -> Named:
    """Mean over rows of Σ_y p_y (∂(−log p_y)/∂θ)², the Fisher matrix's diagonal, by parameter; labels are not used.

    C gradients a row, each of one row alone; those of `batch_size` rows are held at once.

    Raises:
        DataError: The model cannot be vectorised over rows by `torch.func.vmap`.
    """
    parameters = trained_parameters(model)
    rest = {n: t for n, t in (*model.named_parameters(), *model.named_buffers()) if n not in parameters}
    classes = class_logits(model(rows.fetch(torch.arange(1))[0].to(device_of(model))), 1).shape[1]

    def loss(values: Named, row: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        output = torch.func.functional_call(model, {**rest, **values}, (row.unsqueeze(0),))
        log_p = functional.log_softmax(class_logits(output, 1)[0], 0)
        surprise = -log_p.gather(0, label.reshape(1))[0]
        return surprise, (-surprise.detach()).exp()

    gradients = torch.func.vmap(torch.func.grad(loss, has_aux=True), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    with eval_mode(model):
        for inputs, _ in in_order(rows, batch_size, device_of(model)):
            for label in range(classes):
                labels = torch.full((len(inputs),), label, device=inputs.device)
                try:
                    found, p = gradients(parameters, inputs, labels)
                except RuntimeError as error:
                    raise DataError(
                        f"gradients of single rows failed ({error}); this method needs a model that torch.func.vmap "
                        "can take: no in-place changes, no control flow on values"
                    ) from error
                for name, g in found.items():
                    total[name] += torch.einsum("n,n...->...", p, g.square()).detach()
    return {name: value / len(rows) for name, value in total.items()}
