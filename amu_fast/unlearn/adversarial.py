"""Nearby inputs that the model answers otherwise: untargeted gradient ascent in an l2 ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit.predict import eval_mode
from amu_fast.errors import DataError
from amu_fast.unlearn.door import class_logits

if TYPE_CHECKING:
    from amu_fast.rows import Rows
    from amu_fast.unlearn.training import Run


@dataclass(frozen=True)
class Perturbation:
    """Steps of radius/10 along the l2-normalised gradient of CE, projected to the ball and the box; no random start.

    A row stops at its first change of answer and takes the new answer as its label. Rows that did not change start
    again from the input with twice the radius. (The release goes on from where it was.)

    Source: Ebrahimpour-Boroojeny et al., "AMUN: Adversarial Machine Unlearning", ICML 2025 (arXiv 2503.00917), with
    radius .04 for CIFAR-10 and 50 steps, inputs in [0, 1].

    Args:
        radius: First radius, > 0, in the inputs' own unit.
        steps: Steps a radius, >= 1.
        doublings: Times that the radius is doubled at most, >= 0.
        low: Smallest allowed input; None: none.
        high: Largest allowed input; None: none.
    """

    radius: float = 0.04
    steps: int = 50
    doublings: int = 10
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.radius < float("inf"):
            raise DataError(f"radius must be > 0 and finite, got {self.radius}; it is in the inputs' own unit")
        if self.steps < 1 or self.doublings < 0:
            raise DataError(f"steps must be >= 1 and doublings >= 0, got {self.steps} and {self.doublings}")

    def of(self, run: Run, rows: Rows, batch_size: int, allowance: float) -> Perturbed:
        """Attack the rows, spending at most `allowance` gradient samples of the run's budget; each step waits.

        Args:
            run: Whose model is attacked, in eval mode, and whose meter is charged.
            rows: Rows to move.
            batch_size: Rows at once.
            allowance: When it is used up the rows that have not changed yet are left out.

        Raises:
            DataError: Inputs that are not floating point, or no row changed.
        """
        end = run.meter.used + allowance
        moved, answers, kept = [], [], []
        with eval_mode(run.model):
            for chunk in torch.arange(len(rows)).split(batch_size):
                inputs, labels = (t.to(run.device) for t in rows.fetch(chunk))
                if not inputs.is_floating_point():
                    raise DataError(f"inputs of dtype {inputs.dtype} have no neighbours; this needs floating point")
                found, answer, flipped = self._batch(run, inputs, labels, end)
                moved.append(found[flipped])
                answers.append(answer[flipped])
                kept.append(chunk[flipped.cpu()])
        if sum(len(a) for a in answers) == 0:
            raise DataError(
                f"none of {len(rows)} rows changed its answer within {allowance:.0f} gradient samples, radius up to "
                f"{self.radius * 2**self.doublings:g}; raise radius, steps, doublings or epochs"
            )
        return Perturbed(torch.cat(moved), torch.cat(answers), torch.cat(kept))

    def _batch(self, run: Run, inputs: Tensor, labels: Tensor, end: float) -> tuple[Tensor, Tensor, Tensor]:
        """Moved inputs, their answers, and which rows changed."""
        found, answer = inputs.clone(), labels.clone()
        flipped = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        for doubling in range(self.doublings + 1):
            left = (~flipped).nonzero().flatten()
            start = inputs[left]
            x, radius = start.clone(), self.radius * 2.0**doubling
            active = torch.arange(len(left), device=left.device)
            for _ in range(self.steps):
                if len(active) == 0 or run.meter.used + len(active) > end:
                    break
                run.meter.add(len(active))
                x[active] = self._step(run.model, x[active], labels[left[active]], start[active], radius)
                with torch.no_grad():
                    run.meter.add(len(active), backward=False)
                    said = class_logits(run.model(x[active]), len(active)).argmax(1)
                changed = said != labels[left[active]]
                rows = left[active[changed]]
                found[rows], answer[rows], flipped[rows] = x[active[changed]], said[changed], True
                active = active[~changed]
            if bool(flipped.all()) or run.meter.used + 1 > end:
                break
        return found, answer, flipped

    def _step(self, model: nn.Module, x: Tensor, labels: Tensor, start: Tensor, radius: float) -> Tensor:
        x = x.detach().requires_grad_()
        loss = functional.cross_entropy(class_logits(model(x), len(labels)), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, x)
        moved = x.detach() + radius / 10.0 * slope / _norms(slope)
        offset = moved - start
        moved = start + offset * (radius / _norms(offset)).clamp_max(1.0)
        return moved if self.low is None and self.high is None else moved.clamp(self.low, self.high)


@dataclass(frozen=True)
class Perturbed:
    """Rows whose answer changed.

    Args:
        inputs: (k, ...) moved inputs.
        answers: (k,) the model's answers to them, none of them the true class.
        rows: (k,) which rows they are, by position.
    """

    inputs: Tensor
    answers: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.answers)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Moved inputs and answers at these positions."""
        indices = indices.to(self.answers.device)
        return self.inputs[indices], self.answers[indices]


def _norms(x: Tensor) -> Tensor:
    """(n, 1, ...) l2 norms of the rows, never 0."""
    return x.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *(1,) * (x.ndim - 1))
